"""What each node of a fleet holds, and when it came to hold it: the routes in its kernel, or what
a membership says where there are no routes.

A ``Watch`` tells of changes at every node, a ``Holdings`` keeps the sum of them and waits until
all nodes hold, or hold no more, what they should.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network
from types import TracebackType
from typing import Final, Protocol

import attrs

from benchmark.events import Events, route_changes
from netlab import Namespace

LOOK_S: Final = 0.02
"""Between two looks at what the watch has read; its stamps are finer."""

PARSE_S: Final = 0.25
"""What came is read, however little it is, when no more of it has come for so long: while it comes,
the processors are for those who are measured."""

Change = tuple[float, bytes, bool]
"""time.monotonic(), a prefix (see `key`), whether it is there now."""


def key(prefix: IPv4Network) -> bytes:
    """A prefix as watches tell of it: its length, and four octets."""
    return bytes([prefix.prefixlen]) + prefix.network_address.packed


class Watch(Protocol):
    """What changes at every node, from entering on."""

    def __enter__(self) -> Watch:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End."""

    def waiting(self, number: int) -> int:
        """How many messages of a node have not been taken."""

    def take(self, number: int) -> list[Change]:
        """What has changed at a node since it was last asked."""


@attrs.define(eq=False)
class KernelWatch:
    """Routes of one protocol in the kernels of all routers."""

    routers: Mapping[int, Namespace]
    protocol: int
    events: Events = attrs.field(init=False)
    _metrics: dict[int, dict[bytes, set[int]]] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.events = Events(
            tuple(self.routers.values()), self.protocol, tables_too=False, prompt=False
        )

    def __enter__(self) -> KernelWatch:
        self.events.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.events.__exit__(kind, error, traceback)

    def waiting(self, number: int) -> int:
        """See `Watch`; OSError if messages were lost."""
        self.events.check()
        return self.events.mark(self.routers[number])

    def take(self, number: int) -> list[Change]:
        """See `Watch`: a prefix is there while a route of any metric is."""
        metrics = self._metrics.setdefault(number, {})
        found = []
        for when, data in self.events.take(self.routers[number]):
            for came, net, metric in route_changes(data):
                there = metrics.setdefault(net, set())
                before = bool(there)
                if came:
                    there.add(metric)
                else:
                    there.discard(metric)
                if before != bool(there):
                    found.append((when, net, not before))
        return found


@attrs.frozen
class Outcome:
    """How a wait for all nodes ended."""

    last: float
    """When the last node came to what it should hold (time.monotonic()); 0 if no node had to."""
    at: dict[int, float]
    """The same, by node; 0 where there was nothing to do."""
    missing: dict[int, int]
    """By node, how much of it is not as it should be; empty unless time ran out."""

    @property
    def done(self) -> bool:
        return not self.missing


@attrs.define(eq=False)
class Holdings:
    """The sum of what a watch tells. Numbers are those of zones."""

    watch: Watch
    numbers: Sequence[int]
    held: dict[int, set[bytes]] = attrs.field(init=False)
    losses: list[tuple[float, int, bytes]] = attrs.field(factory=list, init=False)
    """When which node held which prefix no longer."""
    last_change: float = attrs.field(factory=time.monotonic, init=False)

    def __attrs_post_init__(self) -> None:
        self.held = {number: set() for number in self.numbers}

    def update(self, number: int) -> list[Change]:
        """Take in what has changed at a node, and give it on."""
        changes = self.watch.take(number)
        held = self.held[number]
        for when, net, there in changes:
            if there:
                held.add(net)
            else:
                held.discard(net)
                self.losses.append((when, number, net))
        if changes:
            self.last_change = max(self.last_change, changes[-1][0])
        return changes

    def update_all(self) -> None:
        """At all nodes."""
        for number in self.numbers:
            self.update(number)

    def expect(self, wanted: Mapping[int, Iterable[bytes]], *, gone: bool = False) -> Expectation:
        """From now on: that each of these nodes holds all of this; with `gone`, none of it."""
        self.update_all()
        return Expectation(self, {number: frozenset(nets) for number, nets in wanted.items()}, gone)

    def quiet(self, seconds: float, timeout: float) -> None:
        """Until nothing has changed anywhere for so long, or time runs out."""
        end = time.monotonic() + timeout
        self.update_all()
        while time.monotonic() < min(end, self.last_change + seconds):
            time.sleep(0.05)
            self.update_all()


@attrs.define(eq=False)
class Expectation:
    """What nodes are to hold, from before it was caused until they do.

    It counts when all of it is so at the same time; what comes and goes is waited for again.
    """

    holdings: Holdings
    wanted: Mapping[int, frozenset[bytes]]
    gone: bool
    _open: dict[int, set[bytes]] = attrs.field(factory=dict, init=False)
    _last: dict[int, float] = attrs.field(factory=dict, init=False)
    _waiting: dict[int, tuple[int, float]] = attrs.field(factory=dict, init=False)
    """How many messages of a node have come and not been read, and when the last of them did."""
    affected: int = attrs.field(default=0, init=False)
    """How many nodes it is not true of at the beginning."""

    def __attrs_post_init__(self) -> None:
        self._last = dict.fromkeys(self.wanted, 0.0)
        for number, nets in self.wanted.items():
            held = self.holdings.held[number]
            self._open[number] = set(nets & held if self.gone else nets - held)
        self.affected = sum(bool(nets) for nets in self._open.values())

    def wait(self, timeout: float) -> Outcome:
        """Until it is true of all of them, or time runs out."""
        end = time.monotonic() + timeout
        while any(self._open.values()):
            now = time.monotonic()
            self._look(math.inf if now > end else now)
            if now > end:
                break
            time.sleep(LOOK_S)
        missing = {number: len(nets) for number, nets in self._open.items() if nets}
        return Outcome(max(self._last.values(), default=0.0), dict(self._last), missing)

    def _over(self, number: int, waiting: int, at: float) -> bool:
        """Whether no more has come at a node for a while."""
        before, since = self._waiting.get(number, (0, at))
        if waiting != before:
            self._waiting[number] = waiting, at
            return at == math.inf
        return at - since >= PARSE_S

    def _look(self, at: float) -> None:
        for number, nets in self._open.items():
            # Fewer messages than what is missing cannot be all of it, so they can wait.
            waiting = self.holdings.watch.waiting(number)
            if not waiting or (waiting < len(nets) and not self._over(number, waiting, at)):
                continue
            for when, net, there in self.holdings.update(number):
                if net in self.wanted[number]:
                    if there != self.gone:
                        nets.discard(net)
                        self._last[number] = when
                    else:
                        nets.add(net)
