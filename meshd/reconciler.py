"""Keeps the kernel as it should be: read, decide, diff, apply; again when anything changed.

A change is carried out at once when nothing is under way; what comes meanwhile is taken
together in the next round.  After each round the kernel's own notices wait for as long as it
cost, several times over, so that nobody who flaps routes makes us read without end; what the
mesh wants waits only as long as it cost, so that a large table that comes in pieces leaves half
of the time for hearing the rest of it.

Nothing is deleted before the table is known to be in sync: a restarted daemon adopts what its
predecessor left, and stopping leaves everything in place (fail static).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs
import trio

from meshd import repairs
from meshd.errors import Refused
from meshd.interest import Interest
from meshd.kernel.plan import Failure, FlowStep, Plan, Step, diff, table_text
from meshd.kernel.port import Backend, Change
from meshd.kernel.state import KernelState, Reading
from meshd.kernel.tunnel import adopted
from meshd.log import EventLog
from meshd.policy.decide import NOTHING, Decision
from meshd.policy.prefixes import outermost
from meshd.reasons import explained
from meshd.uplinks import uplinks
from protocol.address import Address, Prefix

SWEEP: Final = 60.0
"""Seconds between readings when nothing is heard (ip-masq-agent's; Calico has 90)."""

RETRY_FIRST: Final = 0.1
RETRY_MAX: Final = 30.0
"""Seconds before what failed is tried again, doubling."""

IN_LINE: Final = 64
"""Plans of at most this many steps without connection tracking are applied in the event
loop: about 20 us a step, less than a thread costs."""

REST: Final = 4.0
REST_MAX: Final = 0.5
"""What a round took times REST, at most so many seconds: a fifth of one processor for repairs at
most, and each still done within a second."""

PAUSE: Final = 1.0
"""What a round took times PAUSE, at most REST_MAX: before what the mesh wants next."""

HEARD: Final = 64
"""Notices remembered for the report of a round."""


@attrs.define(eq=False)
class KernelStatus:
    """What ``meshd status`` says about the kernel."""

    in_sync: bool = False
    error: str | None = None
    failed: dict[Prefix, str] = attrs.field(factory=dict)
    """Prefix to why its last step was not done."""
    repairs: repairs.Tally = attrs.field(factory=repairs.Tally)
    observing: bool = False
    """The kernel is only looked at."""

    @property
    def as_wanted(self) -> bool:
        """Nothing is left to be done: the kernel is in sync, or is not ours to change."""
        return self.in_sync or (self.observing and self.error is None)


class Reconciler:
    """One task that owns the backend."""

    def __init__(
        self,
        backend: Backend,
        decide: Callable[[Reading], Decision],
        *,
        log: EventLog,
        settled: Callable[[], None],
        reached: Callable[[], Iterable[Address]] = tuple,
        observe: bool = False,
    ) -> None:
        """``decide`` says what a kernel that was read so should hold; ``settled`` is called after
        each round; ``reached`` gives the addresses where the mesh is reached; ``observe``: nothing
        is ever written."""
        self.status = KernelStatus(observing=observe)
        self.decision = NOTHING
        self._backend, self._decide, self._log = backend, decide, log
        self._settled, self._reached = settled, reached
        self._adopting = True
        self._stopped = False
        self._turn = trio.Lock()
        """Read, decide and apply are one thing: nobody else uses the backend meanwhile."""
        self._dirty, self._asked = trio.Event(), trio.Event()
        """Something is to be looked at; the mesh wants it, so at once."""
        self._rested = self._paused = -math.inf
        """When notices of the kernel count again, and when the mesh's do, in trio's seconds."""
        self._heard: list[Change] = []
        self._told: set[str] = set()
        """What failed in the round before: it is not said again."""
        self._interest: Interest | None = None
        self._recheck = True
        self._last: KernelState | None = None
        self._refused: frozenset[Step] = frozenset()
        self._pending: tuple[Step, ...] = ()
        self._delay = RETRY_FIRST
        self._alarms: list[float] = []

    def wake(self) -> None:
        """The table, the configuration or the time have changed what is desired."""
        self._asked.set()
        self._dirty.set()

    def wake_at(self, when: float) -> None:
        """Look again at ``when`` (trio's clock) at the latest."""
        self._alarms.append(when)
        self.wake()

    def in_sync_with_mesh(self) -> None:
        """The table is complete: from now on what nobody announces may go."""
        if self._adopting:
            self._adopting = False
            self.wake()

    async def purge(self) -> list[str]:
        """Remove every object of ours and write no more."""
        self._stopped = True
        if self.status.observing:
            return []
        async with self._turn:
            return await trio.to_thread.run_sync(self._backend.purge)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reconcile until cancelled; started when the kernel has been read once."""
        async with self._backend.changes(self._concerns) as changes, trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, changes)
            wait = await self.round()
            task_status.started()
            while True:
                with trio.move_on_after(wait):
                    await self._dirty.wait()
                    with trio.move_on_at(self._rested):
                        await self._asked.wait()
                    await trio.sleep_until(self._paused)
                wait = await self.round()

    async def read(self) -> Reading:
        """What the kernel holds now; ``Refused`` when it does not answer."""
        try:
            async with self._turn:
                return await trio.to_thread.run_sync(self._backend.read)
        except OSError as error:
            raise Refused(_silent(error)) from None

    async def look(self) -> dict[str, Any]:
        """What would be done now, in the kernel's own words and with reasons, without doing it."""
        reading = await self.read()
        decision = self._decide(reading)
        desired = self._wanted(decision.desired, reading)
        plan = diff(desired, reading)
        notes = [reading.unread] if reading.unread else []
        has_table = bool(reading.shape.sets) and reading.say is str
        if self._adopting:
            notes.append("not in sync with the mesh yet: until then nothing is taken away")
        if self.status.observing:
            notes.append("this daemon only observes: it does none of this")
        return {
            "steps": [line for step in plan for line in reading.say(step).splitlines()],
            "in_sync": not plan,
            "changes": explained(plan, reading, decision, desired),
            "notes": notes,
            "table": table_text(reading.shape, desired) if has_table else None,
        }

    async def _listen(self, changes: trio.MemoryReceiveChannel[Any]) -> None:
        async for change in changes:
            if len(self._heard) < HEARD:
                self._heard.append(change)
            self._dirty.set()

    def _concerns(self, version: int, first: int, last: int) -> bool:
        """Whether somebody else's route to these addresses can bear on the mesh."""
        if self._interest is None:
            ours, rows = self.decision.desired, self.decision.routes
            prefixes = {*ours.guards, *ours.local, *(row.prefix for row in rows)}
            self._interest = Interest(prefixes, self._reached())
        return self._interest.meets(version, first, last)

    async def round(self) -> float:
        """One look at the kernel and what follows; seconds until the next is due."""
        retry = not self._dirty.is_set()
        self._dirty, self._asked = trio.Event(), trio.Event()
        heard, self._heard = self._heard, []
        async with self._turn:
            if self._stopped:
                return math.inf
            began = time.monotonic()
            wait = await self._look_and_act(heard, began, retry=retry)
            took, now = time.monotonic() - began, trio.current_time()
        self._rested = now + min(REST_MAX, REST * took)
        self._paused = now + min(REST_MAX, PAUSE * took)
        return wait

    async def _look_and_act(self, heard: list[Change], began: float, *, retry: bool) -> float:
        try:
            reading = await trio.to_thread.run_sync(self._backend.read)
            self.decision, self._interest = self._decide(reading), None
            desired = self._wanted(self.decision.desired, reading)
            plan = diff(desired, reading, recheck=self._recheck and not self.status.observing)
            if self.status.observing:
                self._observed(plan)
                return self._next_look()
            failures = await self._apply(plan, slow=reading.slow)
        except OSError as error:
            self._fail(error)
            return self._backoff(retry=retry)
        # Connections that could not be forgotten are looked for again, all of them.
        self._recheck = any(isinstance(failure.step, FlowStep) for failure in failures)
        # What was found may have been told of only while it was read.
        heard = heard or list(self._heard)
        await self._report(plan, failures, heard, reading, desired, began)
        self._settled()
        if failures:
            return self._backoff(retry=retry)
        return self._next_look()

    def _next_look(self) -> float:
        self._delay = RETRY_FIRST
        now = trio.current_time()
        self._alarms = [when for when in self._alarms if when > now]
        return min([SWEEP, self.decision.look_again, *(when - now for when in self._alarms)])

    def _observed(self, plan: Plan) -> None:
        """Tell what would be done, whenever that has changed."""
        self.status.in_sync, self.status.error = not plan, None
        if plan.steps != self._pending:
            self._pending = plan.steps
            self._log.emit("kernel-pending", **repairs.summary(plan), steps=len(plan))
        self._settled()

    def _wanted(self, desired: KernelState, reading: Reading) -> KernelState:
        """What the mesh wants, as far as the mode of ``nat`` and a start in the dark allow."""
        actual, shape = reading.state, reading.shape
        if self._adopting:
            guards = desired.guards | actual.guards | actual.routes.keys()
            desired = attrs.evolve(
                desired,
                routes={**actual.routes, **desired.routes},
                guards=guards,
                # Not the sets alone: somebody may have flushed them meanwhile.
                mesh=outermost(desired.mesh | actual.mesh | guards),
                tunnel=adopted(desired.tunnel, actual.tunnel),
                admitted=desired.admitted | actual.admitted,
            )
        if not shape.excludes:
            return attrs.evolve(desired, local=frozenset(), mesh=frozenset())
        if shape.masquerades:
            return attrs.evolve(desired, uplinks=uplinks(reading.host, actual.uplinks))
        return desired

    async def _apply(self, plan: Plan, *, slow: bool) -> list[Failure]:
        if not plan:
            return []
        flows = any(isinstance(step, FlowStep) for step in plan)
        if len(plan) <= IN_LINE and not flows and not slow:
            return self._backend.apply(plan)
        return await trio.to_thread.run_sync(self._backend.apply, plan)

    def _backoff(self, *, retry: bool) -> float:
        """Longer each time, but not for rounds that had another reason than to try again."""
        delay = self._delay
        if retry:
            self._delay = min(2 * self._delay, RETRY_MAX)
        return delay

    def _fail(self, error: OSError) -> None:
        reason = _silent(error)
        if self.status.error != reason:
            self._log.emit("kernel-error", reason=reason)
        self.status.in_sync, self.status.error = False, reason

    async def _report(
        self,
        plan: Plan,
        failures: list[Failure],
        heard: list[Change],
        reading: Reading,
        desired: KernelState,
        began: float,
    ) -> None:
        for failure in failures:
            known = failure.prefix is not None and failure.prefix in self.status.failed
            if not known and str(failure) not in self._told:
                self._log.emit(
                    "kernel-error", step=reading.say(failure.step), reason=failure.reason
                )
        self._told = {str(failure) for failure in failures}
        self.status.failed = {f.prefix: f.reason for f in failures if f.prefix is not None}
        self.status.in_sync = not failures
        self.status.error = _told(failures[0], reading) if failures else None
        before, self._refused = self._refused, frozenset(failure.step for failure in failures)
        done = [step for step in plan if step not in self._refused]
        # Nothing else was wanted than what once was there: somebody took it away.
        mended = [step for step in done if not isinstance(step, FlowStep) and step not in before]
        repaired = bool(mended) and desired == self._last
        self._last = desired
        # A retry in vain changes nothing, though it looks through the connections again.
        if not done or (failures and all(isinstance(step, FlowStep) for step in done)):
            return
        fields: dict[str, object] = {
            **repairs.summary(done),
            "routes": len(desired.routes),
            "steps": len(done),
        }
        if failures:
            fields["failed"] = len(failures)
        fields["took_ms"] = round(1000 * (time.monotonic() - began), 1)
        if heard:
            fields["after"] = repairs.told(heard)
        if repaired:
            await self._tell_repair(repairs.found(mended, reading), heard, fields)
        else:
            self._log.emit("kernel-changed", **fields)

    async def _tell_repair(
        self, found: list[str], heard: list[Change], fields: dict[str, object]
    ) -> None:
        by = repairs.suspected(heard)
        untold = self.status.repairs.count(by, time.monotonic())
        if untold is None:
            return
        about: dict[str, object] = {"found": found[: repairs.SHOWN]}
        if len(found) > repairs.SHOWN:
            about["more"] = len(found) - repairs.SHOWN
        about["by"] = by[: repairs.SHOWN] or None
        if not by:
            about["hints"] = await trio.to_thread.run_sync(self._backend.hints)
        if untold:
            about["untold"] = untold
        self._log.emit("kernel-repaired", **about, **fields)


def _told(failure: Failure, reading: Reading) -> str:
    first, *_ = reading.say(failure.step).splitlines() or [""]
    return ": ".join(filter(None, [first, failure.reason]))


def _silent(error: OSError) -> str:
    return f"the kernel does not answer: {error.strerror or error}"
