"""The same prefix behind two routers: how long packets are lost when the active one is cut off, and
when its daemon is killed.

A flow of a datagram a millisecond goes from a third zone to an address that both have.  The outage
is the longest time between two arrivals, by the kernel's time stamps.  Each run cuts or kills
whichever router carries the flow then, and waits until all is whole again.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from benchmark.choice import add_systems, described, for_each
from benchmark.report import Figure, Report
from benchmark.systems import Fleet, System, staged
from netlab import PacedFlow, until
from netlab.lab import INSIDE, UPLINK

NAME: Final = "failover"
HELP: Final = "a prefix behind two routers, the active one cut off or its daemon killed"

DEFAULT: Final = ("meshd", "bird-bfd", "bird-bfd-fast", "bird-fast", "babeld-fast")

SHARED: Final = IPv4Network("10.200.0.0/24")
ADDRESS: Final = IPv4Address("10.200.0.1")
ORIGINS: Final = (2, 3)

WARM_S: Final = 0.3
"""Of the flow before anything happens."""

PATIENCE_S: Final = 60.0
"""For the flow to come back."""

KINDS: Final = ("cut", "kill")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which systems, how many routers."""
    add_systems(parser, DEFAULT)
    add = parser.add_argument
    add("--zones", type=int, default=4, metavar="N", help="routers (default: 4)")
    add(
        "--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND",
        help=f"what happens to the active one: {', '.join(KINDS)} (default: each)",
    )  # fmt: skip
    add(
        "--rest", type=float, default=3, metavar="S",
        help="seconds in which nothing happens, between runs (default: 3)",
    )  # fmt: skip


def run(options: argparse.Namespace, say: Callable[[str], None]) -> Report:
    """All runs of a system on one mesh of it."""

    def measure(system: System) -> list[Figure]:
        with staged(system, options.zones, shared=(SHARED,)) as fleet:
            _share(fleet, system)
            found = []
            for kind in options.kinds:
                found += _measured(fleet, system, kind, options, say)
            return found

    figures, failed = for_each(options.systems, measure, say)
    settings = {
        "runs": options.runs,
        "zones": options.zones,
        "systems": described(options.systems),
        "failed": failed,
    }
    return Report(NAME, tuple(figures), settings)


def _share(fleet: Fleet, system: System) -> None:
    """Both origins have the prefix behind them and announce it."""
    for number in ORIGINS:
        zone = fleet.lab.zone(number)
        zone.router.configure([f"addr add {SHARED[254]}/24 dev {INSIDE}"])
        zone.private.configure([f"addr add {ADDRESS}/24 dev {UPLINK}"])
        fleet[number].announce([SHARED])
    client = fleet.lab.zone(1)
    until(lambda: SHARED in fleet.routed(client), 30, f"{system.name}: the shared prefix is there")


def _measured(
    fleet: Fleet,
    system: System,
    kind: str,
    options: argparse.Namespace,
    say: Callable[[str], None],
) -> list[Figure]:
    outages, moves = [], []
    for number in range(options.runs):
        say(f"{system.name}: {kind}, run {number + 1} of {options.runs}")
        time.sleep(options.rest)
        outage, moved = _once(fleet, kind)
        outages.append(outage)
        moves.append(moved)
    words = {"cut": "cable of the active one cut", "kill": "daemon of the active one killed"}[kind]
    found = [Figure(f"{system.name}: {words}, nothing arrives for", "ms", tuple(outages))]
    if kind == "kill":
        told = f"{system.name}: {words}, until the other carries it"
        found.append(Figure(told, "ms", tuple(moves)))
    return found


def _once(fleet: Fleet, kind: str) -> tuple[float, float]:
    """Milliseconds without an arrival, and until the first one through the other."""
    lab = fleet.lab
    targets = tuple(lab.private(number) for number in ORIGINS)
    with PacedFlow(lab.private(1), targets, ADDRESS) as flow:
        until(lambda: bool(flow.arrivals), 10, "the flow arrives")
        time.sleep(WARM_S)
        active, other = _roles(fleet)
        there = lab.private(other).name
        began = time.time()
        if kind == "cut":
            lab.cut(active)
        else:
            fleet[active].stop(signal.SIGKILL)
        until(lambda: len(flow.since(began, there)) > 100, PATIENCE_S, "the other carries it")
        outage = flow.outage(began)
        first = flow.since(began, there)[0].when
    if kind == "cut":
        lab.heal(active)
    else:
        fleet[active].start()
    fleet.whole()
    return 1000 * outage, 1000 * (first - began)


def _roles(fleet: Fleet) -> tuple[int, int]:
    """The origin that the first router sends to now, and the other."""
    zones = [fleet.lab.zone(number) for number in ORIGINS]
    shown = fleet.lab.router(1).ip("-4", "route", "get", str(ADDRESS))
    hop = IPv4Address(shown[0]["gateway"])
    first, second = zones if hop == zones[0].uplink4.ip else zones[::-1]
    return first.number, second.number
