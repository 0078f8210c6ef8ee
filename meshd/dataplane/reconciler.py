"""Keeps the kernel as it should be: know, decide, diff, apply; again when anything changed.

A change that the mesh wants is carried out at once, in the turn of the event loop that heard of it:
what the kernel holds is known from the last reading and what was written since, as long as nobody
else changed anything, which the kernel tells before it returns to whom it was.  Whoever else
changed something, what failed, what is large and a minute gone by lead to a reading first.

What comes while something is under way is taken together in the next round.  After each round the
kernel's own notices wait for as long as it cost, several times over, so that nobody who flaps
routes makes us read without end; what the mesh wants waits only as long as it cost, so that a large
table that comes in pieces leaves half of the time for hearing the rest of it.  What nothing waits
for comes last: connections that carry a decision of before (``sweeper``), the log, the counts.

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

from meshd.dataplane import repairs
from meshd.dataplane.interest import Interest
from meshd.dataplane.reasons import explained
from meshd.dataplane.rounds import Finished, Planned
from meshd.dataplane.status import KernelStatus
from meshd.dataplane.sweeper import Sweeper
from meshd.dataplane.uplinks import uplinks
from meshd.errors import Refused
from meshd.kernel.knowledge import after
from meshd.kernel.plan import Failure, FlowStep, Plan, Step, diff, table_text
from meshd.kernel.port import Backend, Change
from meshd.kernel.state import KernelState, Reading
from meshd.kernel.tunnel import adopted
from meshd.log import EventLog
from meshd.policy.decide import NOTHING, Decision
from meshd.policy.prefixes import outermost
from protocol.address import Address

SWEEP: Final = 60.0
"""Seconds between readings when nothing is heard (ip-masq-agent's; Calico has 90)."""

RETRY_FIRST: Final = 0.1
RETRY_MAX: Final = 30.0
"""Seconds before what failed is tried again, doubling."""

IN_LINE: Final = 64
"""Plans of at most this many steps are applied in the event loop: about 20 us a step, less than a
thread costs."""

REST: Final = 4.0
REST_MAX: Final = 0.5
"""What a round took times REST, at most so many seconds: a fifth of one processor for repairs at
most, and each still done within a second."""

PAUSE: Final = 1.0
"""What a round took times PAUSE, at most REST_MAX: before what the mesh wants next."""

HEARD: Final = 64
"""Notices remembered for the report of a round."""


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
        self._known: Reading | None = None
        """What the kernel holds, if it is undisturbed; None: that must be read."""
        self._read_at = -math.inf
        """When it was read last, in trio's seconds."""
        self._planned: Planned | None = None
        """What is too much for the event loop, decided and not begun."""
        self._finished: list[Finished] = []
        """Rounds that nobody was told of yet."""
        self._to_tell = trio.Event()
        self._waiting = trio.CancelScope()
        """Ends when the next round is due by itself."""
        self._unswept: list[Failure] = []
        """Connections that could not be forgotten, and are tried again."""
        self._sweeper = Sweeper(backend, lambda: self._last or KernelState(), self._swept)
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

    @property
    def settled(self) -> bool:
        """The kernel is as wanted, and nothing is asked for, under way or untold."""
        idle = not (self._dirty.is_set() or self._finished or self._turn.locked())
        return idle and self.status.as_wanted

    def wake(self) -> None:
        """The table, the configuration or the time have changed what is desired."""
        self._planned = None
        self._asked.set()
        self._dirty.set()

    def act(self) -> None:
        """As ``wake``, and done when this returns if that takes no reading, no thread and no
        waiting. What is to be told of it is told later."""
        reading = self._at_hand()
        paused = trio.current_time() < self._paused
        if reading is None or paused or self._stopped or self._turn.locked():
            self.wake()
            return
        began = time.monotonic()
        try:
            planned = self._plan(reading)
            if len(planned.plan) > IN_LINE:
                self.wake()
                self._planned = planned
                return
            finished = self._follow_up(planned, self._backend.apply(planned.now), began)
        except OSError as error:
            self._fail(error)
            self.wake()
            return
        self._finish(finished)
        if finished.failures:
            self._dirty.set()
        due = trio.current_time() + self._next_look()
        self._waiting.deadline = min(self._waiting.deadline, due)

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
            nursery.start_soon(self._sweeper.run)
            nursery.start_soon(self._tell_forever)
            wait = await self.round()
            task_status.started()
            while True:
                with trio.move_on_after(wait) as self._waiting:
                    await self._dirty.wait()
                    with trio.move_on_at(self._rested):
                        await self._asked.wait()
                    await trio.sleep_until(self._paused)
                wait = await self.round()

    async def read(self) -> Reading:
        """What the kernel holds now; ``Refused`` when it does not answer."""
        try:
            async with self._turn:
                return await self._read()
        except OSError as error:
            raise Refused(_silent(error)) from None

    async def _read(self) -> Reading:
        self._known = None
        reading = await trio.to_thread.run_sync(self._backend.read)
        self._known, self._read_at = reading, trio.current_time()
        return reading

    def _at_hand(self) -> Reading | None:
        """What the kernel holds, if that is known without reading. An observer has the time."""
        known = None if self.status.observing else self._known
        return known if known is not None and self._backend.undisturbed() else None

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
        await self._tell()
        if self.status.observing:
            self._settled()
        return wait

    async def _look_and_act(self, heard: list[Change], began: float, *, retry: bool) -> float:
        try:
            due = self._read_at + SWEEP <= trio.current_time()
            reading = None if due else self._at_hand()
            reading = reading or await self._read()
            planned, self._planned = self._planned, None
            if planned is None or planned.reading is not reading:
                planned = self._plan(reading)
            if self.status.observing:
                self._rest(began)
                self._observed(planned.plan)
                return self._next_look()
            failures = await self._apply(planned.now, slow=reading.slow)
            finished = self._follow_up(planned, failures, began)
        except OSError as error:
            self._rest(began)
            self._fail(error)
            return self._backoff(retry=retry)
        # What was found may have been told of only while it was read.
        finished.heard = heard or list(self._heard)
        self._finish(finished)
        if finished.failures:
            return self._backoff(retry=retry)
        return self._next_look()

    def _plan(self, reading: Reading) -> Planned:
        self.decision, self._interest = self._decide(reading), None
        desired = self._wanted(self.decision.desired, reading)
        self._sweeper.stands(desired, reading.state)
        recheck = self._recheck and not self.status.observing
        plan = diff(desired, reading, recheck=recheck, swept=self._sweeper.swept)
        return Planned.of(reading, desired, plan)

    def _follow_up(self, planned: Planned, failures: list[Failure], began: float) -> Finished:
        """The rest of a plan whose first part is done: at once where no connection is tracked, else
        in a while. Guards that are to go stay until then, and when anything has failed."""
        known = None if failures else after(planned.reading, planned.now)
        self._recheck = any(isinstance(failure.step, FlowStep) for failure in failures)
        done, before, self._last = planned.now.steps, self._last, planned.desired
        if planned.flows and self._backend.connections():
            self._sweeper.owe(planned.flows)
        guards = self._sweeper.released(planned.guards) if not failures else Plan()
        if guards:
            failures = self._backend.apply(guards)
            done += self._sweeper.untold(guards)
            known = after(known, guards) if known is not None and not failures else None
        self._known = known
        return Finished(planned, done, failures, before, began)

    def _swept(self, failures: list[Failure]) -> None:
        """Connections were looked through: what waits for that may go on."""
        before, self._unswept = self._unswept, failures
        if self._refused:
            return  # it is tried again in its own time
        if before or failures or self._sweeper.swept:
            self.wake()
        else:
            self.status.in_sync = not self._sweeper.busy
            self._settled()

    def _rest(self, began: float) -> None:
        took, now = time.monotonic() - began, trio.current_time()
        self._rested = now + min(REST_MAX, REST * took)
        self._paused = now + min(REST_MAX, PAUSE * took)

    def _finish(self, finished: Finished) -> None:
        self._rest(finished.began)
        finished.took = time.monotonic() - finished.began
        self._finished.append(finished)
        self._to_tell.set()

    async def _tell_forever(self) -> None:
        while True:
            await self._to_tell.wait()
            await self._tell()

    async def _tell(self) -> None:
        """What rounds have done, in their order, to who is interested."""
        if self._to_tell.is_set():  # else somebody may be waiting for this one
            self._to_tell = trio.Event()
        while self._finished:
            await self._report(self._finished.pop(0))
            self._settled()

    def _next_look(self) -> float:
        self._delay = RETRY_FIRST
        now = trio.current_time()
        self._alarms = [when for when in self._alarms if when > now]
        sweep = max(0.0, self._read_at + SWEEP - now)
        return min([sweep, self.decision.look_again, *(when - now for when in self._alarms)])

    def _observed(self, plan: Plan) -> None:
        """Tell what would be done, whenever that has changed."""
        self.status.in_sync, self.status.error = not plan, None
        if plan.steps != self._pending:
            self._pending = plan.steps
            self._log.emit("kernel-pending", **repairs.summary(plan), steps=len(plan))

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
        if len(plan) <= IN_LINE and not slow:
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

    async def _report(self, finished: Finished) -> None:
        reading, desired = finished.planned.reading, finished.planned.desired
        failures = [*finished.failures, *self._unswept]
        for failure in failures:
            known = failure.prefix is not None and failure.prefix in self.status.failed
            if not known and str(failure) not in self._told:
                self._log.emit(
                    "kernel-error", step=reading.say(failure.step), reason=failure.reason
                )
        self._told = {str(failure) for failure in failures}
        self.status.failed = {f.prefix: f.reason for f in failures if f.prefix is not None}
        self.status.in_sync = not failures and not self._sweeper.busy
        self.status.error = _told(failures[0], reading) if failures else None
        before, self._refused = self._refused, frozenset(f.step for f in finished.failures)
        done = [step for step in finished.done if not self._refused or step not in self._refused]
        mended: list[Step] = []
        if desired == finished.before:
            # Nothing else was wanted than what once was there: somebody took it away.
            mended = [s for s in done if not isinstance(s, FlowStep) and s not in before]
        # A retry in vain changes nothing, though it looks through the connections again.
        if not done or (finished.failures and all(isinstance(step, FlowStep) for step in done)):
            return
        fields: dict[str, object] = {
            **repairs.summary(done),
            "routes": len(desired.routes),
            "steps": len(done),
        }
        if finished.failures:
            fields["failed"] = len(finished.failures)
        fields["took_ms"] = round(1000 * finished.took, 1)
        if finished.heard:
            fields["after"] = repairs.told(finished.heard)
        if mended:
            await self._tell_repair(repairs.found(mended, reading), finished.heard, fields)
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
