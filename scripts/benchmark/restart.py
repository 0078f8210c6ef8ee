"""Packets that are lost of a flow of 1,000 a second while a daemon restarts: the near one or the
far one, stopped by SIGTERM or killed.

The flow crosses both routers, and goes on until the mesh has had time to notice.  A BIRD that is
configured to restart gracefully is told to on its control socket where others get SIGTERM.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable
from typing import Final

from benchmark.choice import add_systems, described, for_each
from benchmark.report import Figure, Report
from benchmark.systems import Fleet, System, staged
from netlab import PacedFlow

NAME: Final = "restart"
HELP: Final = "packets lost of 1,000 a second while a daemon restarts, at either end"

DEFAULT: Final = ("meshd", "bird-graceful", "bird")

RATE: Final = 1000

ENDS: Final = {"near": 1, "far": 2}
HOW: Final = {"SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which systems, how long the daemon is away."""
    add_systems(parser, DEFAULT)
    add = parser.add_argument
    add("--zones", type=int, default=3, metavar="N", help="routers (default: 3)")
    add(
        "--away", type=float, default=0.5, metavar="S",
        help="seconds between its end and its next start (default: 0.5)",
    )  # fmt: skip
    add(
        "--linger", type=float, default=4, metavar="S",
        help="seconds that the flow goes on after all routes are there (default: 4)",
    )  # fmt: skip


def run(options: argparse.Namespace, say: Callable[[str], None]) -> Report:
    """In each run four restarts on the system's mesh: both ends, both ways."""

    def measure(system: System) -> list[Figure]:
        lost: dict[str, list[float]] = {}
        outages: dict[str, list[float]] = {}
        with staged(system, options.zones) as fleet:
            for number in range(options.runs):
                say(f"{system.name}: run {number + 1} of {options.runs}")
                for end, zone in ENDS.items():
                    for name, how in HOW.items():
                        flow = _restarted(fleet, zone, how, options.away, options.linger)
                        what = f"{system.name}: {end} daemon, {name}"
                        lost.setdefault(what, []).append(flow.lost)
                        outages.setdefault(what, []).append(1000 * flow.outage_s)
        figures = []
        for what, counts in lost.items():
            figures.append(Figure(f"{what}: packets lost", "", tuple(counts)))
            figures.append(Figure(f"{what}: longest gap", "ms", tuple(outages[what])))
        return figures

    figures, failed = for_each(options.systems, measure, say)
    settings = {
        "runs": options.runs,
        "restarts_of_each_system": len(ENDS) * len(HOW) * options.runs,
        "rate": RATE,
        "away_s": options.away,
        "systems": described(options.systems),
        "failed": failed,
    }
    return Report(NAME, tuple(figures), settings)


def _restarted(
    fleet: Fleet, number: int, how: signal.Signals, away: float, linger: float
) -> PacedFlow:
    near, far = fleet.lab.zone(1), fleet.lab.zone(2)
    with PacedFlow(near.private, far.private, far.private4, RATE) as flow:
        time.sleep(0.5)
        fleet[number].stop(how)
        time.sleep(away)
        fleet[number].start()
        fleet.whole()
        time.sleep(linger)
    return flow
