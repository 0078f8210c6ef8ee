"""A lab with one system's daemons on it, and what all of them hold."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Final

import attrs

from benchmark.comparison.neighbours import room
from benchmark.holdings import Holdings, Outcome, Watch, key
from benchmark.systems import Daemon, System
from benchmark.systems.common import install
from netlab import Lab, Namespace
from netlab.lab import UPLINK

AT_A_TIME: Final = os.cpu_count() or 2
"""Daemons that start at once where it is not the start that is measured."""

QUIET_S: Final = 3.0
SETTLE_S: Final = 45.0
"""A fleet is warm when no route has changed for so long; or after so long all the same."""

LOSSY_S: Final = 5.0
"""Of loss before anything is measured under it."""

READY_POLL_S: Final = 0.01

COMING_UP: Final = 2
"""Times the usual patience for a fleet to come up: it is not what is measured."""

Number = int


class NotHeld(Exception):
    """The system did not come up, or did not stay, with so many nodes."""


class Late(Exception):
    """What was waited for did not happen in time; the message says what."""


@attrs.define(eq=False)
class Stage:
    """Context manager: a lab, daemons that do not run yet, and a watch over them.

    spares: routers beyond `nodes`, which are configured everywhere and come later.
    home: directory of the whole benchmark; what was made there for as many routers is used again.
    patience: seconds for anything that is waited for.
    """

    system: System
    nodes: int
    home: Path
    patience: float
    say: Callable[[str], None]
    spares: int = 0
    lab: Lab = attrs.field(init=False)
    daemons: dict[Number, Daemon] = attrs.field(factory=dict, init=False)
    holdings: Holdings = attrs.field(init=False)
    running: set[Number] = attrs.field(factory=set, init=False)
    own: dict[Number, set[bytes]] = attrs.field(factory=dict, init=False)
    """What each announces."""
    watch: Watch = attrs.field(init=False)
    _exits: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack, init=False)
    _loss: float = attrs.field(default=0.0, init=False)

    def __enter__(self) -> Stage:
        with contextlib.ExitStack() as stack:
            install(self.system.packages)
            zones = self.nodes + self.spares
            stack.enter_context(room(zones, self.say))
            self.lab = stack.enter_context(Lab(zones, name=f"bench{os.getpid()}", nat=("none",)))
            directory = self.home / "state"
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            self._prepare(directory, zones)
            stack.callback(self._kill)
            self.watch = stack.enter_context(self.system.watch(self.daemons))
            self.holdings = Holdings(self.watch, list(self.daemons))
            self._exits = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exits.__exit__(kind, error, traceback)

    def _prepare(self, directory: Path, zones: int) -> None:
        template = self.home / f"{self.system.name}-{zones}"
        shutil.rmtree(directory, ignore_errors=True)
        if template.exists():
            shutil.copytree(template, directory)
        else:
            self.say(f"{self.system.name}: configuring {zones} routers")
            directory.mkdir()
        made = self.system.daemons(self.lab.zones, directory)
        self.daemons = {each.zone.number: each for each in made}
        self.own = {number: {key(each.zone.prefix4)} for number, each in self.daemons.items()}
        if not template.exists():
            shutil.copytree(directory, template)

    def _kill(self) -> None:
        for daemon in self.daemons.values():
            if daemon.process is not None:
                daemon.stop(signal.SIGKILL)

    # Daemons

    def start(self, numbers: Iterable[Number], *, at_once: bool = False) -> tuple[float, float]:
        """Start some, and wait until each answers; when the first was spawned, the last ready."""
        waiting = list(numbers)
        limit = len(waiting) if at_once else AT_A_TIME
        began, last = time.monotonic(), 0.0
        starting: list[Number] = []
        while waiting or starting:
            while waiting and len(starting) < limit:
                number = waiting.pop(0)
                self.daemons[number].start()
                self.running.add(number)
                starting.append(number)
            for number in starting[:]:
                if self.daemons[number].ready():
                    last = time.monotonic()
                    starting.remove(number)
                elif self._dead(number):
                    raise NotHeld(f"{self._who(number)} did not start")
            if starting and time.monotonic() > began + self.patience * (1 + self.nodes / 64):
                raise NotHeld(f"{self._who(starting[0])} does not answer")
            time.sleep(READY_POLL_S)
        return began, last

    def ended(self, number: Number) -> None:
        """It does not run any more, by what the caller did."""
        self.running.discard(number)

    def _dead(self, number: Number) -> bool:
        process = self.daemons[number].process
        return process is None or process.poll() is not None

    def _who(self, number: Number) -> str:
        return f"{self.system.name} on router {number}"

    # What they hold

    def others(self, numbers: Iterable[Number]) -> dict[Number, set[bytes]]:
        """For each of these, all that the other running nodes announce."""
        return {
            number: set().union(*(self.own[each] for each in self.running if each != number))
            for number in numbers
        }

    def whole(self, timeout: float | None = None) -> None:
        """Wait until every running node holds everything; NotHeld if not."""
        outcome = self.holdings.expect(self.others(self.running)).wait(
            self.patience if timeout is None else timeout
        )
        if not outcome.done:
            routes, nodes = sum(outcome.missing.values()), len(outcome.missing)
            raise NotHeld(f"{routes} routes are missing at {nodes} nodes")

    def settle(self) -> None:
        """Until the fleet is warm."""
        self.holdings.quiet(QUIET_S, SETTLE_S)

    def stand(self, numbers: Iterable[Number]) -> None:
        """Bring these up, and wait until the fleet is whole and warm."""
        wanted = list(numbers)
        self.say(f"{self.system.name}: starting {len(wanted)} daemons")
        self.start(wanted)
        self.whole(COMING_UP * self.patience)
        self.settle()

    def announce(self, number: Number, prefixes: Sequence[IPv4Network]) -> float:
        """At run time; when the node was told."""
        self.own[number] |= set(map(key, prefixes))
        return self.daemons[number].announce(prefixes)

    def withdraw(self, number: Number, prefixes: Sequence[IPv4Network]) -> float:
        """At run time; when the node was told."""
        self.own[number] -= set(map(key, prefixes))
        return self.daemons[number].withdraw(prefixes)

    def in_time(self, outcome: Outcome, what: str) -> float:
        """When the last node got there, or `Late`."""
        if not outcome.done:
            raise Late(f"{what} not within {self.patience:g} s at {len(outcome.missing)} nodes")
        return outcome.last

    # The network

    def set_loss(self, percent: float) -> None:
        """Each router loses so many of a hundred frames that come in by its uplink."""
        self._loss = percent
        for zone in self.lab.zones:
            zone.router.run(["nft", "-f", "-"], stdin=_losing(percent))

    def lossy(self, percent: float) -> None:
        """The same, and some time of it; nothing when there is none."""
        if percent and not self._loss:
            self.set_loss(percent)
            time.sleep(LOSSY_S)

    def loss_seen(self) -> float | None:
        """Percentage of frames that were lost so far, by the kernels' count; None without loss."""
        if not self._loss:
            return None
        seen = lost = 0
        for zone in self.lab.zones:
            first, second = _counted(zone.router)
            seen, lost = seen + first, lost + second
        return 100 * lost / seen if seen else 0.0


def _losing(percent: float) -> str:
    """Rules by which a router loses, and counts, so many of a hundred frames of any family."""
    return f"""\
table netdev bench {{
    chain in {{
        type filter hook ingress device "{UPLINK}" priority -500; policy accept;
        counter
        numgen random mod 10000 < {round(percent * 100)} counter drop
    }}
}}
"""


def _counted(router: Namespace) -> tuple[int, int]:
    """Frames that came, and that were lost."""
    found = [
        part["counter"]["packets"]
        for entry in router.nft("list", "chain", "netdev", "bench", "in")
        if "rule" in entry
        for part in entry["rule"]["expr"]
        if "counter" in part
    ]
    return found[0], found[1]
