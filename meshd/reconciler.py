"""Keeps the kernel as it should be: read, decide, diff, apply; again when anything changed.

A change is carried out at once when nothing is under way; what comes meanwhile is taken
together in the next round.  Nothing is deleted before the table is known to be in sync: a
restarted daemon adopts what its predecessor left, and stopping leaves everything in place
(fail static).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs
import trio

from meshd.errors import Refused
from meshd.kernel.plan import (
    AddElement,
    AddGuard,
    AddRoute,
    AddUplink,
    BuildTable,
    Failure,
    FlowStep,
    Plan,
    RemoveElement,
    RemoveGuard,
    RemoveRoute,
    RemoveUplink,
    ReplaceRoute,
    Step,
    diff,
)
from meshd.kernel.port import Backend
from meshd.kernel.state import KernelState, Reading
from meshd.kernel.tunnel import adopted
from meshd.log import EventLog
from meshd.policy.decide import Decision
from meshd.policy.prefixes import outermost
from meshd.uplinks import uplinks
from protocol.address import Prefix

SWEEP: Final = 60.0
"""Seconds between readings when nothing is heard (ip-masq-agent's; Calico has 90)."""

RETRY_FIRST: Final = 0.1
RETRY_MAX: Final = 30.0
"""Seconds before what failed is tried again, doubling."""

IN_LINE: Final = 64
"""Plans of at most this many steps without connection tracking are applied in the event
loop: about 20 us a step, less than a thread costs."""

SHOWN: Final = 5
"""Steps named in one log line; the rest are counted."""


@attrs.define(eq=False)
class KernelStatus:
    """What ``meshd status`` says about the kernel."""

    in_sync: bool = False
    error: str | None = None
    failed: dict[Prefix, str] = attrs.field(factory=dict)
    """Prefix to why its last step was not done."""


class Reconciler:
    """One task that owns the backend."""

    def __init__(
        self,
        backend: Backend,
        decide: Callable[[Reading], Decision],
        *,
        log: EventLog,
        settled: Callable[[], None],
    ) -> None:
        self.status = KernelStatus()
        self.decision = Decision(KernelState(), ())
        self._backend, self._decide, self._log = backend, decide, log
        self._settled = settled
        self._adopting = True
        self._stopped = False
        self._turn = trio.Lock()
        """Read, decide and apply are one thing: nobody else uses the backend meanwhile."""
        self._dirty = trio.Event()
        self._heard: list[str] = []
        self._recheck = True
        self._last: KernelState | None = None
        self._delay = RETRY_FIRST
        self._alarms: list[float] = []

    def wake(self) -> None:
        """The table, the configuration or the time have changed what is desired."""
        self._dirty.set()

    def wake_at(self, when: float) -> None:
        """Look again at ``when`` (trio's clock) at the latest."""
        self._alarms.append(when)
        self._dirty.set()

    def in_sync_with_mesh(self) -> None:
        """The table is complete: from now on what nobody announces may go."""
        if self._adopting:
            self._adopting = False
            self.wake()

    async def purge(self) -> list[str]:
        """Remove every object of ours and write no more."""
        self._stopped = True
        async with self._turn:
            return await trio.to_thread.run_sync(self._backend.purge)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reconcile until cancelled; started when the kernel has been read once."""
        async with self._backend.changes() as changes, trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, changes)
            wait = await self.round()
            task_status.started()
            while True:
                with trio.move_on_after(wait):
                    await self._dirty.wait()
                wait = await self.round()

    async def read(self) -> Reading:
        """What the kernel holds now; ``Refused`` when it does not answer."""
        try:
            async with self._turn:
                return await trio.to_thread.run_sync(self._backend.read)
        except OSError as error:
            raise Refused(_silent(error)) from None

    async def look(self) -> list[str]:
        """What would be done now, in the kernel's own words, without doing it."""
        reading = await self.read()
        desired = self._wanted(self._decide(reading).desired, reading)
        return str(diff(desired, reading)).splitlines()

    async def _listen(self, changes: trio.MemoryReceiveChannel[Any]) -> None:
        async for change in changes:
            if len(self._heard) < SHOWN:
                self._heard.append(change.what)
            self._dirty.set()

    async def round(self) -> float:
        """One look at the kernel and what follows; seconds until the next is due."""
        self._dirty = trio.Event()
        heard, self._heard = self._heard, []
        async with self._turn:
            return await self._look_and_act(heard)

    async def _look_and_act(self, heard: list[str]) -> float:
        if self._stopped:
            return math.inf
        began = time.monotonic()
        try:
            reading = await trio.to_thread.run_sync(self._backend.read)
            self.decision = self._decide(reading)
            desired = self._wanted(self.decision.desired, reading)
            plan = diff(desired, reading, recheck=self._recheck)
            failures = await self._apply(plan)
        except OSError as error:
            self._fail(error)
            return self._backoff()
        # Connections that could not be forgotten are looked for again, all of them.
        self._recheck = any(isinstance(failure.step, FlowStep) for failure in failures)
        self._report(plan, failures, heard, desired, time.monotonic() - began)
        self._last = None if failures else desired
        if failures:
            return self._backoff()
        self._delay = RETRY_FIRST
        now = trio.current_time()
        self._alarms = [when for when in self._alarms if when > now]
        return min([SWEEP, self.decision.look_again, *(when - now for when in self._alarms)])

    def _wanted(self, desired: KernelState, reading: Reading) -> KernelState:
        """What the mesh wants, as far as the mode of ``nat`` and a start in the dark allow."""
        actual, shape = reading.state, reading.shape
        if self._adopting:
            desired = attrs.evolve(
                desired,
                routes={**actual.routes, **desired.routes},
                guards=desired.guards | actual.guards | actual.routes.keys(),
                mesh=outermost(desired.mesh | actual.mesh),
                tunnel=adopted(desired.tunnel, actual.tunnel),
                admitted=desired.admitted | actual.admitted,
            )
        if not shape.excludes:
            return attrs.evolve(desired, local=frozenset(), mesh=frozenset())
        if shape.masquerades:
            return attrs.evolve(desired, uplinks=uplinks(reading.host, actual.uplinks))
        return desired

    async def _apply(self, plan: Plan) -> list[Failure]:
        if not plan:
            return []
        quick = len(plan) <= IN_LINE and not any(isinstance(step, FlowStep) for step in plan)
        if quick:
            return self._backend.apply(plan)
        return await trio.to_thread.run_sync(self._backend.apply, plan)

    def _backoff(self) -> float:
        delay, self._delay = self._delay, min(2 * self._delay, RETRY_MAX)
        return delay

    def _fail(self, error: OSError) -> None:
        reason = _silent(error)
        if self.status.error != reason:
            self._log.emit("kernel-error", reason=reason)
        self.status.in_sync, self.status.error = False, reason

    def _report(
        self,
        plan: Plan,
        failures: list[Failure],
        heard: list[str],
        desired: KernelState,
        seconds: float,
    ) -> None:
        failed = {f.prefix: f.reason for f in failures if f.prefix is not None}
        for failure in failures:
            known = failure.prefix is not None and failure.prefix in self.status.failed
            if not known:
                self._log.emit("kernel-error", step=str(failure.step), reason=failure.reason)
        self.status.failed = failed
        self.status.in_sync = not failures
        self.status.error = str(failures[0]) if failures else None
        refused = {failure.step for failure in failures}
        done = [step for step in plan if step not in refused]
        # A retry in vain changes nothing, though it looks through the connections again.
        if done and not (failures and all(isinstance(step, FlowStep) for step in done)):
            # Nothing else was wanted than what once was there: somebody took it away.
            repaired = desired == self._last
            self._log.emit(
                "kernel-repaired" if repaired else "kernel-changed",
                **_summary(done),
                routes=len(desired.routes),
                steps=len(done),
                **({"failed": len(failures)} if failures else {}),
                took_ms=round(1000 * seconds, 1),
                **({"after": heard} if heard else {}),
            )
        self._settled()


def _silent(error: OSError) -> str:
    return f"the kernel does not answer: {error.strerror or error}"


def _summary(steps: Iterable[Step]) -> dict[str, list[str]]:
    """The prefixes of steps by what was done for them; a table that is made anew is named.

    A route brings its guard and its exclusion along, and takes them away: said once.
    """
    done: dict[str, dict[str, None]] = {}

    def note(word: str, prefix: object) -> None:
        done.setdefault(word, {})[str(prefix)] = None

    for step in steps:
        match step:
            case BuildTable():
                note("table", "; ".join(step.problems) or "made")
            case AddRoute():
                note("added", step.prefix)
            case ReplaceRoute():
                note("moved", step.prefix)
            case RemoveRoute():
                note("removed", step.prefix)
            case AddGuard():
                note("guarded", step.prefix)
            case RemoveGuard():
                note("unguarded", step.prefix)
            case AddUplink():
                note("uplinks_added", step.device)
            case RemoveUplink():
                note("uplinks_removed", step.device)
            case AddElement():
                note(f"{step.name}_added", step.prefix)
            case RemoveElement():
                note(f"{step.name}_removed", step.prefix)
            case _:
                pass
    for word, others in (("added", ("guarded", "mesh_added")),
                         ("removed", ("unguarded", "mesh_removed"))):  # fmt: skip
        for other in others:
            for prefix in done.get(word, {}):
                done.get(other, {}).pop(prefix, None)
    return {word: list(prefixes) for word, prefixes in done.items() if prefixes}
