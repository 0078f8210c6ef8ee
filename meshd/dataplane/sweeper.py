"""Connections that carry a decision of before: forgotten a moment later, many changes at once.

The last steps of a plan look through the connection tracking table, for up to a second.  Nothing
waits for them but the guards that go: until no connection can leak they stay, and hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import attrs
import trio

from meshd.kernel.plan import DropFlows, DropTranslated, Failure, FlowStep, Plan, Step
from meshd.kernel.port import Backend
from meshd.kernel.state import KernelState
from protocol.address import Prefix

TOGETHER: Final = 0.3
"""Seconds without a change before a look, for one is enough for many; and for this host's other
processes, whom a look through an empty table of 262,144 places keeps from a processor for 11 ms:
of 16 on one host the last had its route at 31 ms in place of 42 while none was looking."""

TOGETHER_MAX: Final = 2.0
"""... and at most so many of changes that do not end, as where a whole mesh starts."""

REST: Final = 4.0
REST_MAX: Final = 2.0
"""What a look took times REST, at most so many seconds, before the next: a fifth of a processor."""

RETRY_FIRST: Final = 0.1
RETRY_MAX: Final = 30.0
"""Seconds before what failed is tried again, doubling."""


@attrs.define(eq=False)
class _Owed:
    """Steps of several plans, added up."""

    sources: set[Prefix] = attrs.field(factory=set)
    destinations: set[Prefix] = attrs.field(factory=set)
    ours: set[Prefix] = attrs.field(factory=set)
    theirs: set[Prefix] = attrs.field(factory=set)

    def __bool__(self) -> bool:
        return bool(self.destinations or self.theirs)

    def merge(self, other: _Owed) -> None:
        for name in ("sources", "destinations", "ours", "theirs"):
            getattr(self, name).update(getattr(other, name))

    def add(self, steps: Iterable[FlowStep]) -> None:
        for step in steps:
            match step:
                case DropTranslated():
                    self.sources |= step.sources
                    self.destinations |= step.destinations
                case DropFlows():
                    self.ours |= step.ours
                    self.theirs |= step.theirs

    def steps(self, desired: KernelState) -> list[FlowStep]:
        """What is still to be done of it now that ``desired`` is what stands."""
        steps: list[FlowStep] = []
        sources, destinations = desired.local & self.sources, self._still(desired)
        if sources and destinations:
            steps.append(DropTranslated(sources, destinations))
        if self.ours and self.theirs:
            ours, theirs = frozenset(self.ours), frozenset(self.theirs)
            steps.append(DropFlows(ours, theirs, desired.local, desired.mesh))
        return steps

    def _still(self, desired: KernelState) -> frozenset[Prefix]:
        return frozenset(p for p in self.destinations if p in desired.mesh or p in desired.routes)


class Sweeper:
    """Does what plans leave to be done with connections."""

    def __init__(
        self,
        backend: Backend,
        desired: Callable[[], KernelState],
        ended: Callable[[list[Failure]], None],
    ) -> None:
        """``desired`` gives what stands in the kernel; ``ended`` hears what failed of each look,
        which is then tried again."""
        self.swept: frozenset[Prefix] = frozenset()
        """Guards that nothing waits for any more."""
        self._backend, self._desired, self._ended = backend, desired, ended
        self._owed = _Owed()
        self._owing = trio.Event()
        self._under_way: set[Prefix] | None = None
        """Guards whose connections are being forgotten; None: nothing is under way."""

    @property
    def busy(self) -> bool:
        """Something is still to be looked through."""
        return bool(self._owed) or self._under_way is not None

    def owe(self, steps: Iterable[FlowStep]) -> None:
        """Do these soon."""
        self._owed.add(steps)
        self._owing.set()

    def stands(self, desired: KernelState, there: KernelState) -> None:
        """Guards that are wanted again will have connections again, to be swept again."""
        if self.swept:
            self.swept = (self.swept & there.guards) - desired.guards - desired.routes.keys()
        if self._under_way:
            self._under_way -= desired.guards | desired.routes.keys()

    def released(self, guards: Plan) -> Plan:
        """Those of ``guards`` that may go now."""
        if not self.busy:
            return guards
        return Plan(tuple(s for s in guards if getattr(s, "prefix", None) in self.swept))

    def untold(self, guards: Plan) -> tuple[Step, ...]:
        """Those of ``guards`` that did not wait here: what did was told when their routes went."""
        return tuple(s for s in guards if getattr(s, "prefix", None) not in self.swept)

    async def _gather(self) -> None:
        """Until something is owed, and no more has come for a while."""
        await self._owing.wait()
        with trio.move_on_after(TOGETHER_MAX):
            while self._owing.is_set():
                self._owing = trio.Event()
                with trio.move_on_after(TOGETHER):
                    await self._owing.wait()
        self._owing = trio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        delay = RETRY_FIRST
        while True:
            await self._gather()
            owed, self._owed = self._owed, _Owed()
            desired = self._desired()
            self._under_way = owed.theirs - desired.guards - desired.routes.keys()
            began = trio.current_time()
            failures = await trio.to_thread.run_sync(self._backend.forget, owed.steps(desired))
            guards, self._under_way = frozenset(self._under_way), None
            if failures:
                self._owed.merge(owed)
                self._owing.set()
            else:
                self.swept |= guards
            self._ended(failures)
            if failures:
                await trio.sleep(delay)
                delay = min(2 * delay, RETRY_MAX)
            else:
                delay = RETRY_FIRST
                await trio.sleep(min(REST_MAX, REST * (trio.current_time() - began)))
