"""The loop: faults, until all has settled, what must be true; again."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, Final

import attrs

from netlab import Lab, Mesh, Namespace
from netlab.lab import INSIDE, UPLINK
from netlab.traffic import Address
from soaking.checks import SETTLE_S, Checker, keep_state
from soaking.deeds import Doer, break_for_good
from soaking.faults import Drawer, Fault
from soaking.traffic import Traffic
from soaking.world import World, extras

LEAST_ZONES: Final = 6
"""With one of six down, the others still have four peers, so that one which is cut off knows that
it is isolated (DESIGN 6)."""

LEAST_ROUND_S: Final = 2.0
"""A round takes this long at least, so that what the rounds promise (faults.REST) is so."""

DRAIN_S: Final = 0.2
"""Until what is under way to a subnet, and the answer, has arrived."""

EXCUSING: Final = frozenset({"reload", "delete-elements"})
"""Faults by which somebody else takes the exclusion away while masquerade rules stand."""


@attrs.frozen
class Settings:
    """What a soak is told."""

    zones: int
    seconds: float
    seed: int
    rate: float
    """Datagrams a second, over all pairs."""
    patience: float = SETTLE_S
    """Seconds that everything may take to settle after a round."""
    breaks: str = ""
    """What is broken for good after the first round; see deeds.BREAKS."""


@attrs.define(eq=False)
class Outcome:
    """What came of it."""

    settings: Settings
    rounds: int = 0
    faults: dict[str, int] = attrs.field(factory=dict)
    settled: list[float] = attrs.field(factory=list)
    """Seconds from the last fault of each round until all was right."""
    seconds: float = 0.0
    sent: int = 0
    arrived: int = 0
    answered: int = 0
    leaked: int = 0
    translated: int = 0
    """... when nobody had taken the exclusion away."""
    excused: int = 0
    unheld: int = 0
    """Routes that routers which were cut off did not hold, though they might have."""
    broken: list[str] = attrs.field(factory=list)
    """What differed. Empty: no rule was broken."""
    history: list[str] = attrs.field(factory=list)

    def as_json(self) -> dict[str, Any]:
        """One object for programs."""
        found = attrs.asdict(self, filter=lambda attribute, _: attribute.name != "settled")
        waits = self.settled or [0.0]
        median, longest = round(statistics.median(waits), 3), round(max(waits), 3)
        return {**found, "settled_s": {"median": median, "max": longest}}


def soak(settings: Settings, directory: Path, say: Callable[[str], None]) -> Outcome:
    """Soak a mesh in a lab of its own; logs and what differed are left in ``directory``."""
    outcome = Outcome(settings)
    lab = Lab(settings.zones, name=f"soak{os.getpid()}", second_uplink=True)
    with lab, Mesh(lab, directory) as mesh:
        say(f"a mesh of {settings.zones} zones; logs are in {directory}")
        _grow(mesh)
        try:
            _Soak(mesh, settings, outcome, say).run()
        finally:
            if outcome.broken:
                for zone in lab.zones:
                    text = keep_state(zone.router)
                    (directory / f"{zone.router.name}.kernel").write_text(text)
                history = "\n".join([*outcome.history, *outcome.broken, ""])
                (directory / "history").write_text(history)
    return outcome


def _grow(mesh: Mesh) -> None:
    """All zones, each reached only at its uplink to the mesh's switch, with all its subnets."""

    def here(number: int) -> list[str]:
        zone = mesh.lab.zone(number)
        return ["--advertise", str(zone.uplink4.ip), "--advertise", str(zone.uplink6.ip)]

    for zone in mesh.lab.zones:
        for net in extras(zone):
            length = net.prefixlen
            zone.router.configure([f"addr add {net[1]}/{length} dev {INSIDE} nodad"])
            zone.private.configure([f"addr add {net[2]}/{length} dev {UPLINK} nodad"])
    mesh.found(1, options=here(1))
    others = [zone.number for zone in mesh.lab.zones[1:]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda number: mesh.join(number, options=here(number)), others))
    mesh.converge(120)


class _Soak:
    def __init__(
        self, mesh: Mesh, settings: Settings, outcome: Outcome, say: Callable[[str], None]
    ) -> None:
        self.mesh, self.settings, self.outcome, self.say = mesh, settings, outcome, say
        self.world = World.of(mesh.lab.zones)
        self.doer = Doer(mesh, self.world, {})
        self.drawer = Drawer(self.world, Random(settings.seed))
        self.began = time.monotonic()
        self.pairs: set[tuple[Address, Address]] = set()

    def run(self) -> None:
        places: dict[Address, Namespace] = {}
        for zone in self.mesh.lab.zones:
            for address in (zone.private4, zone.private6, *(net[2] for net in extras(zone))):
                places[address] = zone.private
        traffic = Traffic(places, self.settings.rate, Random(self.settings.seed))
        with self.mesh.lab.capture_leaks() as leaks, traffic:
            patience = self.settings.patience
            checker = Checker(self.mesh, self.world, traffic, leaks, patience, self.doer.restore)
            try:
                self._rounds(checker)
            finally:
                found = self.outcome
                found.seconds = round(time.monotonic() - self.began, 1)
                found.sent, found.arrived = traffic.sent, traffic.arrived
                found.answered = traffic.answered
                found.unheld = self.world.unheld
                found.leaked, found.excused = len(leaks.packets), checker.excused
                found.translated = len(traffic.translated) - checker.excused

    def _rounds(self, checker: Checker) -> None:
        self._check(checker, [])
        breaks = self.settings.breaks
        while not self.outcome.broken and self._passed() < self.settings.seconds:
            began = time.monotonic()
            self._remember()
            done = []
            for fault in self.drawer.round():
                self._carry_out(fault, checker)
                done.append(fault)
            if breaks:
                self._log(break_for_good(self.doer, breaks))
                breaks = ""
            self.outcome.rounds += 1
            self._check(checker, done)
            time.sleep(max(0.0, LEAST_ROUND_S - (time.monotonic() - began)))
        if not self.outcome.broken:
            self._remember()
            for fault in self._mending():
                self._carry_out(fault, checker)
            self._check(checker, [])

    def _mending(self) -> Iterator[Fault]:
        for router in self.world.impaired():
            if not router.cable:
                yield Fault("heal", router.number)
            if not router.up:
                yield Fault("interface-up", router.number)
            if not router.running:
                yield Fault("start", router.number)

    def _remember(self) -> None:
        now = time.monotonic()
        self.doer.before = {
            number: self.world.ways(router, now) for number, router in self.world.routers.items()
        }

    def _carry_out(self, fault: Fault, checker: Checker) -> None:
        self._log(str(fault))
        self.outcome.faults[fault.kind] = self.outcome.faults.get(fault.kind, 0) + 1
        if fault.kind == "withdraw":
            doomed = {net[2] for net in fault.prefixes}
            self.pairs = {pair for pair in self.pairs if pair[1] not in doomed}
            checker.traffic.among(self.pairs)
            time.sleep(DRAIN_S)
        if fault.kind in EXCUSING:
            checker.excuse(fault.zone)
        self.doer.do(fault)

    def _check(self, checker: Checker, done: list[Fault]) -> None:
        began = time.monotonic()
        wrong = checker.settle()
        took = time.monotonic() - began
        self.outcome.settled.append(took)
        self.outcome.broken = wrong
        self._flows(checker)
        self._log(f"{'settled' if not wrong else 'not settled'} after {took:.1f} s")
        words = ", ".join(f"{fault.kind} r{fault.zone}" for fault in done)
        self.say(
            f"{self._passed():5.0f} s  round {self.outcome.rounds:3}  "
            f"{words or 'all mended'}: settled in {took:.1f} s"
        )

    def _flows(self, checker: Checker) -> None:
        """All is settled: what may flow until it is again.

        Between all zones always; to a subnet that comes and goes while it is announced, from
        where that is known: elsewhere there is nothing yet that would keep it from leaking."""
        now, pairs = time.monotonic(), set[tuple[Address, Address]]()
        for router in self.world.routers.values():
            own: dict[int, Address] = {4: router.zone.private4, 6: router.zone.private6}
            ways = self.world.ways(router, now)
            for other in self.world.routers.values():
                if other is not router:
                    pairs |= {(own[4], other.zone.private4), (own[6], other.zone.private6)}
                    for net in other.announced & other.told & ways.keys():
                        if self.world.knows(router, net, now):
                            pairs.add((own[net.version], net[2]))
        self.pairs = pairs
        checker.traffic.among(pairs)

    def _passed(self) -> float:
        return time.monotonic() - self.began

    def _log(self, line: str) -> None:
        self.outcome.history.append(f"{self._passed():8.2f} {line}")
