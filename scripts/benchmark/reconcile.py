"""A full reconcile with nothing to do: what it costs to look, and what of that is the kernel's own.

`meshd plan` makes the daemon do just that: read the whole kernel, decide anew about every prefix
and compare.  It is asked over the control socket, so no command's start is in the time.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmark.many import Supply, make_room, spread, zones_for
from benchmark.report import Figure, Report
from benchmark.systems import SYSTEMS, staged
from benchmark.systems.meshd import MeshdDaemon
from meshd.kernel.linux import Linux
from netlab import Member, Namespace

NAME: Final = "reconcile"
HELP: Final = "a full reconcile with nothing to do at 10,000 prefixes, beside dumps of ip and nft"


def arguments(parser: argparse.ArgumentParser) -> None:
    """How many prefixes."""
    parser.add_argument(
        "--prefixes", type=int, default=10_000, metavar="N", help="how many (default: 10000)"
    )


def run(options: argparse.Namespace, say: Callable[[str], None]) -> Report:
    """One mesh, and in each run each thing once."""
    whole, cpu, routes, table, read = [], [], [], [], []
    with staged(SYSTEMS["meshd"], zones_for(options.prefixes)) as fleet:
        make_room(fleet)
        say(f"announcing {options.prefixes} prefixes")
        spread(fleet, Supply().take(options.prefixes))
        time.sleep(3)
        daemon = fleet[1]
        assert isinstance(daemon, MeshdDaemon)
        router = daemon.zone.router
        for number in range(options.runs):
            say(f"run {number + 1} of {options.runs}")
            routes.append(_timed(router, ["ip", "-j", "route", "show", "table", "all"]))
            table.append(_timed(router, ["nft", "-j", "list", "table", "inet", "meshd"]))
            read.append(_read(router))
            used, began = _cpu(daemon.member), time.perf_counter()
            answer = daemon.member.ask("plan", 60)
            whole.append(1000 * (time.perf_counter() - began))
            cpu.append(1000 * (_cpu(daemon.member) - used))
            if answer["steps"]:
                raise RuntimeError(f"there was something to do: {answer['steps'][:3]}")
    floor = "ip -j route alone"
    figures = (
        Figure(floor, "ms", tuple(routes)),
        Figure("nft -j list table alone", "ms", tuple(table)),
        Figure("meshd's backend alone: read", "ms", tuple(read), floor),
        Figure("meshd: read, decide, compare", "ms", tuple(whole), floor),
        Figure("meshd: processor time of that, with what else it did meanwhile", "ms", tuple(cpu)),
    )
    settings = {
        "runs": options.runs,
        "prefixes": options.prefixes,
        "zones": zones_for(options.prefixes),
    }
    return Report(NAME, figures, settings)


def _timed(router: Namespace, command: Sequence[str]) -> float:
    with router.entered():
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return 1000 * (time.perf_counter() - began)


def _read(router: Namespace) -> float:
    """What the daemon's backend takes for it, in this process."""
    with router.entered():
        backend = Linux()
        try:
            began = time.perf_counter()
            backend.read()
            return 1000 * (time.perf_counter() - began)
        finally:
            backend.close()


def _cpu(member: Member) -> float:
    """Processor seconds of all its threads so far (sum of /proc/PID/task/*/schedstat, in ns)."""
    assert member.process is not None
    total = 0
    for task in Path(f"/proc/{member.process.pid}/task").iterdir():
        total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return total / 1e9
