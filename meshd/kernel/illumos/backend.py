"""The illumos backend: the system's own tools, a journal, and what they add up to.

The steps of a plan mean here what ``routing`` and ``exclusion`` make of them; their order is the
plan's.  Connection tracking cannot be told to forget single connections, so those steps do nothing:
what was translated before stays translated for as long as packets keep coming, and the other way
round.  docs/illumos.md says so.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from meshd.errors import UsageError
from meshd.kernel.executor import carry_out
from meshd.kernel.illumos import hosts, nat, routes
from meshd.kernel.illumos.exclusion import Excluded, Exclusion, Refusals, Surroundings, Without
from meshd.kernel.illumos.journal import NAME, Journal
from meshd.kernel.illumos.listed import Listed
from meshd.kernel.illumos.options import Options
from meshd.kernel.illumos.pooled import Pooled
from meshd.kernel.illumos.routing import Found, Routing
from meshd.kernel.illumos.runner import Runner, Tools
from meshd.kernel.plan import (
    AddElement,
    AddGuard,
    AddRoute,
    BuildTable,
    Failure,
    FlowStep,
    Plan,
    RemoveElement,
    RemoveGuard,
    RemoveRoute,
    RemoveTable,
    ReplaceRoute,
    RouteStep,
    Step,
    TableStep,
    diff,
)
from meshd.kernel.port import Change, Concerns
from meshd.kernel.shape import SHAPES
from meshd.kernel.state import Host, KernelState, Reading
from meshd.kernel.tunnel import TunnelStep
from protocol.address import Prefix

NAT: Final = {"auto": "ippool", "ippool": "ippool", "ipnat": "ipnat", "off": "off"}
"""What the option ``nat`` may say here, to what it means."""

NAMES: Final = {
    "ippool": ("route", "netstat", "ifconfig", "ippool", "ipnat", "ipfstat"),
    "ipnat": ("route", "netstat", "ifconfig", "ipnat", "ipfstat"),
    "off": ("route", "netstat", "ifconfig"),
}
"""The tools that are needed."""

_PENDING: Final = 64
_AGAIN: Final = 1.0
"""Seconds until ``route monitor`` is started again if it ends, and until the table is read once
more after its start: what happened before it listened, nobody has told."""
_POLL: Final = 10.0
"""Seconds between two looks at what the kernel tells nothing of: pools and NAT lines."""

_PROBE: Final = ("route", "-n", "delete", "240.0.0.1/32", "127.0.0.1")
"""Of a route that nobody has: exit 3 with the privilege, 1 without."""


class Illumos:
    """A ``port.Backend``. ``state``: the directory of the journal; None: in memory only."""

    name = "illumos"

    def __init__(
        self,
        form: str = "auto",
        options: Options | None = None,
        state: Path | None = None,
        runner: Runner | None = None,
    ) -> None:
        """``form``: the option ``nat``. ``UsageError`` when it is none of this system's, or when
        the journal is damaged."""
        options = options or Options()
        if form not in NAT:
            raise UsageError(
                f'nat = "{form}" is not for this system; choose ippool, ipnat or off (auto: ippool)'
            )
        self._nat, self._options = NAT[form], options
        self._journal = Journal.load(state / NAME if state is not None else None)
        former = self._journal.form or self._nat
        names = dict.fromkeys((*NAMES[self._nat], *NAMES[former]))
        self._runner = runner or Tools(options.tools, tuple(names))
        self._routing = Routing(self._runner, self._journal)
        self._exclusion = self._form(self._nat)
        self._former: Exclusion | None = None
        """What another ``nat`` of before has left; it goes when the new form stands."""
        if former != self._nat:
            self._former = self._form(former)
        self._turn = threading.RLock()

    def _form(self, name: str) -> Exclusion:
        if name == "ippool":
            return Pooled(self._runner, self._journal, self._options)
        if name == "ipnat":
            return Listed(self._runner, self._journal, self._options)
        return Without()

    def close(self) -> None:
        """Nothing is held open."""

    def check(self) -> None:
        lacking = self._runner.missing()
        if lacking:
            raise UsageError(
                f"there is no {', '.join(lacking)}: install IPFilter (pkg:/network/ipfilter, or in"
                " the global zone for its zones), or say in [illumos], tools where they are"
            )
        try:
            done = self._runner.run(_PROBE)
            if done.code == routes.EPERM:
                raise UsageError(
                    f"{routes.failure(done.code, done.out)}: run meshd as root, or give it that"
                    " privilege alone (the SMF manifest does)"
                )
            self.read()
            self._exclusion.fingerprint()
            unfit = self._exclusion.unfit()
        except OSError as error:
            raise UsageError(f"{error}") from None
        if unfit:
            raise UsageError(unfit)
        files = self._options.files
        if files and self._nat != "off" and not os.access(files, os.W_OK | os.X_OK):
            raise UsageError(
                f"{files} cannot be written, so the exclusion would be gone after a boot: give"
                ' meshd the directory, or set [illumos], files = "" to do without'
            )

    def read(self) -> Reading:
        with self._turn:
            found, unread = self._routing.read(), ""
            try:
                excluded = self._excluded(found)
            except PermissionError as error:  # only to watch: routes anybody may read
                excluded, unread = Excluded(), f"NAT cannot be read: {error}"
        return Reading(
            state=KernelState(found.routes, found.guards, excluded.local, excluded.mesh),
            host=Host(found.interfaces, found.foreign),
            problems=excluded.problems,
            table=excluded.table,
            strays=found.strays,
            metric=0,
            shape=SHAPES["off" if self._nat == "off" else "exempt"],
            unread=unread,
            slow=True,
            say=self._words,
        )

    def _excluded(self, found: Found) -> Excluded:
        names = frozenset(each.name for each in found.interfaces)
        self._exclusion.around = Surroundings(names, found.default_device())
        if self._former is not None:
            return Excluded(table=self._nat == "off")
        return self._exclusion.read() if self._journal.form else Excluded()

    def undisturbed(self) -> bool:
        return False  # of pools and NAT lines nothing is told

    def connections(self) -> int:
        return 1

    def forget(self, steps: Sequence[FlowStep]) -> list[Failure]:
        return []

    def apply(self, plan: Plan) -> list[Failure]:
        with self._turn:
            return carry_out(plan, self)

    def purge(self) -> list[str]:
        with self._turn:
            plan = diff(KernelState(), self.read())
            words = self.words(plan)
            failures = self.apply(plan)
        if failures:
            raise OSError("; ".join(map(str, failures)))
        return words

    # What the executor asks for.

    def write_routes(self, steps: Sequence[RouteStep]) -> Mapping[RouteStep, str]:
        try:
            return self._routing.write(steps)
        except (OSError, UsageError) as error:
            return dict.fromkeys(steps, str(error))

    def write_table(self, steps: Sequence[TableStep]) -> Mapping[TableStep, str]:
        try:
            return self._write_table(steps)
        except (OSError, UsageError) as error:
            return dict.fromkeys(steps, str(error))

    def write_tunnel(self, steps: Sequence[TunnelStep]) -> Mapping[TunnelStep, str]:
        return dict.fromkeys(steps, "this system has no tunnel of ours")

    def drop_flows(self, step: FlowStep) -> str | None:
        """Not possible here: only all connections of all can be forgotten."""
        del step
        return None

    def _write_table(self, steps: Sequence[TableStep]) -> Mapping[TableStep, str]:
        held = self._excluded(self._routing.read())
        local, mesh = set(held.local), set(held.mesh)
        refused: dict[TableStep, str] = {}
        sets = {"local": local, "mesh": mesh}
        cleared = False
        for step in steps:
            match step:
                case BuildTable():
                    sets = {"local": set(step.local), "mesh": set(step.mesh)}
                case RemoveTable():
                    cleared, sets = True, {"local": set(), "mesh": set()}
                case RemoveElement(name=("local" | "mesh") as name, prefix=prefix):
                    if prefix in sets[name]:
                        sets[name].remove(prefix)
                    else:
                        refused[step] = "it is not there any more"
                case AddElement(name=("local" | "mesh") as name, prefix=prefix):
                    cover = _overlapping(sets[name], prefix)
                    if cover is None:
                        sets[name].add(prefix)
                    else:
                        refused[step] = f"it overlaps {cover}"
                case _:
                    refused[step] = "this system has nothing of that kind"
        if cleared:
            failed = self._clear()
        else:
            failed = self._keep(frozenset(sets["local"]), frozenset(sets["mesh"]))
        return refused | _of_steps(failed, [step for step in steps if step not in refused])

    def _keep(self, local: frozenset[Prefix], mesh: frozenset[Prefix]) -> Refusals:
        self._journal.form = self._journal.form or self._nat
        failed = self._exclusion.write(local, mesh)
        if self._former is not None and not failed:
            failed = self._former.clear()
        if not failed:
            self._former, self._journal.form = None, self._nat
            self._journal.save()
        return failed

    def _clear(self) -> Refusals:
        failed = {**self._exclusion.clear(), **(self._former.clear() if self._former else {})}
        if not failed:
            self._former, self._journal.form = None, ""
            self._journal.local, self._journal.mesh = set(), set()
            self._journal.save()
        return failed

    def words(self, plan: Plan) -> list[str]:
        """The plan as the commands that a person would type here."""
        return [line for step in plan for line in self._words(step).splitlines() if line]

    def _words(self, step: Step) -> str:
        match step:
            case AddGuard(prefix=prefix):
                return " ".join(routes.add_reject(prefix))
            case RemoveGuard(prefix=prefix):
                return " ".join(routes.delete_reject(prefix))
            case (
                AddRoute(prefix=prefix, next_hops=hops)
                | ReplaceRoute(prefix=prefix, next_hops=hops)
            ):
                each = [routes.add(prefix, hop.address, hops.source) for hop in hops.hops]
                return "\n".join(map(" ".join, each))
            case RemoveRoute(prefix=prefix, next_hops=hops):
                return "\n".join(" ".join(routes.delete(prefix, hop.address)) for hop in hops.hops)
            case AddElement(name="mesh", prefix=prefix) if prefix.version == 4:
                return self._exclusion.words(prefix, add=True)
            case RemoveElement(name="mesh", prefix=prefix) if prefix.version == 4:
                return self._exclusion.words(prefix, add=False)
            case BuildTable():
                nets = (p for p in step.elements("mesh4") if not isinstance(p, str))
                return "\n".join(self._exclusion.words(prefix, add=True) for prefix in nets)
            case RemoveTable():
                gone = nat.four(self._journal.mesh)
                return "\n".join(self._exclusion.words(prefix, add=False) for prefix in gone)
            case _:
                return ""

    # Notices.

    def hints(self) -> list[str]:
        """Nobody is known who would change routes behind an operator's back here."""
        return []

    @asynccontextmanager
    async def changes(self, concerns: Concerns) -> AsyncIterator[trio.MemoryReceiveChannel[Change]]:
        send, receive = trio.open_memory_channel[Change](_PENDING)
        with send, receive:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._listen, send, concerns)
                if self._nat != "off":
                    nursery.start_soon(self._poll, send)
                yield receive
                nursery.cancel_scope.cancel()

    async def _listen(
        self,
        send: trio.MemorySendChannel[Change],
        concerns: Concerns,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        events = hosts.Events()
        unsaid = True

        def line(text: str) -> None:
            event = events.feed(text)
            if event is not None and not self._runner.is_ours(event.pid):
                change = self._change(event, concerns)
                if change is not None:
                    _offer(send, change)

        def listening() -> None:
            nonlocal unsaid
            if unsaid:
                unsaid = False
                task_status.started()

        async def once_more() -> None:
            await trio.sleep(_AGAIN)
            _offer(send, Change("listening to the routing socket", about="host"))

        while True:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(once_more)
                with suppress(OSError):
                    await self._runner.follow(routes.MONITOR, line, listening)
                listening()

    def _change(self, event: hosts.Event, concerns: Concerns) -> Change | None:
        by = f"process {event.pid}" if event.pid else ""
        prefix = event.prefix
        if prefix is None:
            return Change(event.what, by, "host")
        if self._routing.keeps(prefix):
            return Change(f"our route {event.what}", by, "ours")
        if not concerns(prefix.version, prefix.first, prefix.last):
            return None
        return Change(f"route {event.what}", by, "others")

    async def _poll(self, send: trio.MemorySendChannel[Change]) -> None:
        while True:
            await trio.sleep(_POLL)
            if await trio.to_thread.run_sync(self._differs):
                _offer(send, Change("the NAT exclusion was changed", about="ours"))

    def _differs(self) -> bool:
        with self._turn:
            try:
                return self._exclusion.fingerprint() != self._exclusion.seen
            except OSError:
                return True


def _offer(send: trio.MemorySendChannel[Change], change: Change) -> None:
    # Full: enough of them are waiting to be answered by one reading.
    with suppress(trio.WouldBlock):
        send.send_nowait(change)


def _overlapping(held: set[Prefix], prefix: Prefix) -> Prefix | None:
    return next((each for each in held if each.overlaps(prefix)), None)


def _of_steps(failed: Refusals, steps: Sequence[TableStep]) -> dict[TableStep, str]:
    """The reasons by the steps that they are about."""
    refused: dict[TableStep, str] = {}
    everything = failed.get(None)
    for step in steps:
        own = failed.get(step.prefix) if isinstance(step, AddElement | RemoveElement) else None
        reason = own or everything
        if reason is None and failed and isinstance(step, BuildTable | RemoveTable):
            prefix, why = next(iter(failed.items()))
            reason = f"{prefix}: {why}"
        if reason is not None:
            refused[step] = reason
    return refused
