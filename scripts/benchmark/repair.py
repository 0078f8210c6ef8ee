"""How long a route stays away that somebody deleted, and what `nft flush ruleset` took.

Both times are between two messages of the router's own kernel: that it is gone, and that it is
back.  BIRD and babeld have no tables of their own in nftables, so only the route is compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Final

from benchmark.choice import add_systems, described, for_each
from benchmark.events import Events
from benchmark.report import Figure, Report
from benchmark.systems import Fleet, System, staged
from netlab import Zone

NAME: Final = "repair"
HELP: Final = "a route deleted by hand, a flushed ruleset: until they are back"

DEFAULT: Final = ("meshd", "bird-scan1", "bird", "babeld")

REST_S: Final = 1.0
"""Between two deletions, and a share of it by chance: or they would keep step with a scan."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which systems, and how patiently."""
    add_systems(parser, DEFAULT)
    parser.add_argument("--zones", type=int, default=3, metavar="N", help="routers (default: 3)")
    parser.add_argument(
        "--patience", type=float, default=70, metavar="S",
        help="seconds after which what is not back counts as that (default: 70, more than BIRD's "
        "60 between scans)",
    )  # fmt: skip


def run(options: argparse.Namespace, say: Callable[[str], None]) -> Report:
    """All runs of a system on one mesh of it, which is as it was after each."""

    def measure(system: System) -> list[Figure]:
        with staged(system, options.zones, nat=("docker",)) as fleet:
            return _measured(fleet, system, options, say)

    figures, failed = for_each(options.systems, measure, say)
    settings = {
        "runs": options.runs,
        "zones": options.zones,
        "patience_s": options.patience,
        "systems": described(options.systems),
        "failed": failed,
    }
    return Report(NAME, tuple(figures), settings)


def _measured(
    fleet: Fleet, system: System, options: argparse.Namespace, say: Callable[[str], None]
) -> list[Figure]:
    routes, tables, late = [], [], 0
    here, far = fleet.lab.zone(1), fleet.lab.zone(2)
    for number in range(options.runs):
        say(f"{system.name}: run {number + 1} of {options.runs}")
        time.sleep(REST_S * (1 + (number * 0.618) % 1))  # the golden ratio spreads evenly
        took = deleted_route(here, far, system, options.patience)
        late += took >= options.patience
        routes.append(took)
        if took >= options.patience:  # back by hand of ours, for the next run
            fleet[1].stop()
            fleet[1].start()
            fleet.whole()
        if system.name == "meshd":
            tables.append(flushed_ruleset(here, options.patience))
    name = f"{system.name}: a deleted route"
    if late:
        name += f" ({late} of {options.runs} not back)"
    found = [Figure(name, "s", tuple(routes))]
    if tables:
        found.append(Figure(f"{system.name}: a flushed ruleset", "s", tuple(tables)))
    return found


def deleted_route(here: Zone, far: Zone, system: System, patience: float) -> float:
    """Seconds from the kernel's word that the route to ``far`` is gone until it is back."""
    with Events((here.router,)) as events:
        here.router.configure([f"route del {far.prefix4} proto {system.protocol}"])

        def times(what: str) -> list[float]:
            return [
                event.when
                for event in events.routes(here.router)
                if event.what == what and event.prefix == far.prefix4
            ]

        events.wait(lambda: bool(times("deleted")), 5)
        gone = times("deleted")[0]
        if not events.wait(lambda: bool(times("added")), patience):
            return patience
        return times("added")[0] - gone


def flushed_ruleset(here: Zone, patience: float) -> float:
    """Seconds from the kernel's word that meshd's table is gone until it is back, whole."""
    with Events((here.router,)) as events:
        here.router.run(["nft", "flush", "ruleset"])

        def times(what: str) -> list[float]:
            return [
                event.when
                for event in events.tables(here.router)
                if event.what == what and event.name == "meshd"
            ]

        if not events.wait(lambda: bool(times("deleted") and times("added")), patience):
            return patience
        return times("added")[0] - times("deleted")[0]
