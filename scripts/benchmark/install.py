"""Many prefixes at once: from the command at who announces them until all are in another kernel,
and what of that is the kernel's own.

meshd announces at most 1,000 a node, so 10,000 come from ten routers, with every system.  Alone:
`ip -batch` with as many routes, and meshd's backend carrying out the same plan; beside a route,
that plan has a guard and an element of the exclusion set for each prefix.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network
from typing import Final

from benchmark.choice import add_systems, described, for_each
from benchmark.many import Supply, make_room, spread, zones_for
from benchmark.report import Figure, Report
from benchmark.systems import System, staged
from meshd.kernel.linux import Linux
from meshd.kernel.plan import diff
from meshd.kernel.state import KernelState, NextHops
from netlab import Lab, Zone
from netlab.lab import UPLINK
from protocol.address import Prefix

NAME: Final = "install"
HELP: Final = "1,000 and 10,000 prefixes into a kernel, beside ip -batch alone and BIRD"

DEFAULT: Final = ("meshd", "bird")
SIZES: Final = (1000, 10_000)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which systems, how many prefixes."""
    add_systems(parser, DEFAULT)
    parser.add_argument(
        "--prefixes", type=int, nargs="+", default=list(SIZES), metavar="N",
        help=f"how many (default: {' '.join(map(str, SIZES))})",
    )  # fmt: skip


def run(options: argparse.Namespace, say: Callable[[str], None]) -> Report:
    """Each size: first what is alone, then each system on a mesh of its own."""
    figures: list[Figure] = []
    failed: dict[str, str] = {}
    for size in options.prefixes:
        figures += alone(size, options.runs, say)

        def measure(system: System, size: int = size) -> list[Figure]:
            return [_announced(system, size, options.runs, say)]

        found, lost = for_each(options.systems, measure, say)
        figures += found
        failed |= lost
    settings = {
        "runs": options.runs,
        "prefixes": options.prefixes,
        "systems": described(options.systems),
        "failed": failed,
    }
    return Report(NAME, tuple(figures), settings)


def alone(size: int, runs: int, say: Callable[[str], None]) -> list[Figure]:
    """`ip -batch`, and the backend's apply, in turns."""
    batch, backend = [], []
    prefixes = Supply().take(size)
    with Lab(2, name=f"bench{os.getpid()}", nat=("none",)) as lab:
        for number in range(runs):
            say(f"{size} alone: run {number + 1} of {runs}")
            batch.append(_batch(lab.zone(1), lab.zone(2), prefixes))
            backend.append(_backend(lab.zone(1), lab.zone(2), prefixes))
    floor = f"ip -batch alone: {size:,} routes"
    return [
        Figure(floor, "ms", tuple(batch)),
        Figure(f"meshd's backend alone: {size:,} prefixes", "ms", tuple(backend), floor),
    ]


def _announced(
    system: System, size: int, runs: int, say: Callable[[str], None]
) -> Figure:  # fmt: skip
    took, supply = [], Supply()
    with staged(system, zones_for(size)) as fleet:
        make_room(fleet)
        for number in range(runs):
            say(f"{system.name}, {size}: run {number + 1} of {runs}")
            prefixes = supply.take(size)
            took.append(1000 * spread(fleet, prefixes))
            spread(fleet, prefixes, gone=True)
    floor = f"ip -batch alone: {size:,} routes"
    nodes = zones_for(size) - 1 if size > 1000 else 1
    what = f"{system.name}: {size:,} announced by {nodes} {'routers' if nodes > 1 else 'router'}"
    return Figure(what, "ms", tuple(took), floor)


def _batch(here: Zone, far: Zone, prefixes: Sequence[IPv4Network]) -> float:
    """Milliseconds of one process with as many routes, its start included."""
    text = "".join(
        f"route add {prefix} via {far.uplink4.ip} proto 142 metric 142\n" for prefix in prefixes
    )
    with here.router.entered():
        began = time.perf_counter()
        subprocess.run(["ip", "-batch", "-"], input=text, text=True, check=True)
        took = time.perf_counter() - began
    here.router.run(["ip", "route", "flush", "proto", "142"])
    return 1000 * took


def _backend(here: Zone, far: Zone, nets: Sequence[IPv4Network]) -> float:
    """Milliseconds of carrying out the plan; reading and planning are not in it."""
    own, prefixes = frozenset({Prefix.of(here.prefix4)}), [Prefix.of(each) for each in nets]
    hops = NextHops.via(far.uplink4.ip, UPLINK, here.router4)
    with here.router.entered():
        backend = Linux()
        try:
            backend.apply(diff(KernelState(local=own), backend.read()))
            wanted = KernelState(
                routes=dict.fromkeys(prefixes, hops),
                guards=frozenset(prefixes),
                local=own,
                mesh=frozenset(prefixes),
            )
            plan = diff(wanted, backend.read())
            began = time.perf_counter()
            failures = backend.apply(plan)
            took = time.perf_counter() - began
            backend.purge()
        finally:
            backend.close()
    if failures:
        raise RuntimeError(f"{len(failures)} steps failed: {failures[0]}")
    return 1000 * took
