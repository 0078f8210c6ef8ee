"""The daemon: one nursery around the automaton, its sockets and the kernel.

Five tasks: receive, transmit, reconciler, control socket, and housekeeping (signals, seeds,
snapshot).  Whatever gives the automaton something ends in a turn: what it wants sent is sent, what
it wants of the kernel is written, and then the rest is told.  A crash in any of them ends the
process; the supervisor starts it again, and the kernel state stays meanwhile.  Only
``leave`` takes it away.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from random import SystemRandom
from typing import Any, Final

import trio

from meshd import control, membership, params, report, snapshot
from meshd.announcer import Announcer
from meshd.clocks import WatchedClock
from meshd.dataplane.reconciler import Reconciler
from meshd.errors import Refused, StateError, UsageError
from meshd.explain import Scene, explain
from meshd.importer import Importer, tunnel_terms
from meshd.kernel import backend as kernel_backend
from meshd.kernel.state import Reading
from meshd.links import Links
from meshd.local.asking import keep_capabilities
from meshd.log import EventLog
from meshd.membership import Membership
from meshd.narrator import Narrator
from meshd.neighbours import Neighbours
from meshd.policy.decide import Decision
from meshd.seeds import Resolving
from meshd.sequence import RENEW_S
from meshd.startup import RunOptions
from meshd.startup import kernel_backend as backend_name
from meshd.udp import Sockets
from meshd.values import Announced, Followed
from protocol.address import Endpoint
from protocol.contacts import Datagram
from protocol.errors import SequenceUnavailable
from protocol.events import (
    Converged,
    Event,
    Isolated,
    PeerChanged,
    PrefixesChanged,
    ReachabilityChanged,
    Released,
    Revoked,
    Succession,
)
from protocol.identity import short_id
from protocol.node import Node
from protocol.objects import Grant
from protocol.tuning import Tuning

ALONE: Final = 30.0
"""Seconds before a node without seeds that knows nobody believes it: the restart window, for
which others hold its routes while they try to reach it."""

DEPARTURE: Final = 3.0
"""Seconds at most that ``leave`` waits for live members to show that they know: a member
that is silent for longer is failing, and reads it when it comes back."""

TABLE_EVENTS: Final = (
    Isolated, PeerChanged, PrefixesChanged, ReachabilityChanged, Released, Revoked
)  # fmt: skip
"""What may change the routes; the others are told and no more."""

RELOADED: Final = {
    "seeds": "seeds", "announce": "announce", "advertise": "advertise", "pool": "pool",
    "preference": "preference", "multipath": "multipath", "import": "imports", "health": "health",
}  # fmt: skip
"""Options that ``reload`` can change, to what ``Config`` calls them."""

TUNINGS: Final = {"lan": Tuning.lan, "wan": Tuning.wan}
"""The timers of the option ``network``."""

RETRY_ADDRESS: Final = 1.0
"""Seconds before a new address is announced again that no sequence could be had for."""

LAST_WORDS: Final = 0.2
"""Seconds for the answer to ``leave`` to be read before the socket goes."""


def run(options: RunOptions) -> int:
    """Run until stopped or gone; the exit code. ``UsageError`` before anything was written."""
    keep_capabilities()
    gc.freeze()  # What was imported stays: no collection looks through it again, for 20 ms.
    log = EventLog(sys.stdout, options.log_format, colour=sys.stdout.isatty())
    config = options.config
    kernel = kernel_backend(
        backend_name(config),
        metric=config.metric,
        nat=config.nat,
        tunnel_port=config.vxlan_port,
        illumos=config.illumos,
        state=options.paths.state,
    )
    if not options.additions.observe:
        kernel.check()
    sockets = Sockets(options.config.port)
    try:
        return trio.run(_main, options, log, kernel, sockets)
    finally:
        sockets.close()
        kernel.close()
        options.lock.release()


async def _main(options: RunOptions, log: EventLog, kernel: Any, sockets: Sockets) -> int:
    daemon = Daemon(options, log, kernel, sockets)
    try:
        await daemon.run()
    except BaseExceptionGroup as group:
        mendable, others = group.split(UsageError)
        if mendable is None or others is not None:
            raise
        raise _first(mendable) from None
    return 0


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


class Daemon:
    """One running node."""

    def __init__(self, options: RunOptions, log: EventLog, kernel: Any, sockets: Sockets) -> None:
        self._options, self._log, self._kernel, self._sockets = options, log, kernel, sockets
        self._neighbours = Neighbours()
        self._config = options.config
        self._started = trio.current_time()
        self._transmit = trio.Event()
        self._sleep = trio.CancelScope()
        """Ends when the automaton is due."""
        self._outbox: deque[Datagram] = deque()
        """What the sockets had no room for comes first."""
        self._departed = trio.Event()
        self._converged: Converged | None = None
        self._quit = trio.CancelScope()
        records, shards = snapshot.split(options.snapshot)
        self._node = Node(
            options.mesh,
            options.identity,
            [options.grant, *options.successors, *records],
            shards=shards,
            next_sequence=self._next_sequence,
            rng=SystemRandom(),
            now=trio.current_time(),
            tuning=TUNINGS[options.config.network](),
        )
        self._keeper = snapshot.Keeper(self._node, options.state, log)
        self._now = WatchedClock(trio.current_time, time.time, self._jumped)
        """For everything that may make the node seal."""
        self._announcer = Announcer(
            self._node,
            options.grant,
            options.config,
            options.state,
            host=kernel.read().host,
            log=log,
            clock=self._now,
            changed=self._wake_transmit,
            turn=self._turn,
            silent=options.additions.observe,
        )
        self._seeds = Resolving(options.config.seeds, log, self._join)
        self._narrator = Narrator(log, self._name_of)
        self._membership = Membership(self._node, options.grant, log, self._keep_grant)
        self._taken = self._node.store.tree
        """The store whose changes have been followed: trees are values."""
        self._links = Links()
        self._importer = Importer(
            self._node,
            self._config.imports,
            multipath=self._config.multipath,
            tunnel=tunnel_terms(self._config, options.mesh, options.identity.public),
            local=lambda: self._announcer.routed,
        )
        self._reconciler = Reconciler(
            kernel,
            self._decide,
            log=log,
            settled=self._round_told,
            reached=self._importer.reached,
            observe=options.additions.observe,
        )

    # Life.

    async def run(self) -> None:
        """From the first announcement to a signal or a departure."""
        for warning in self._options.warnings:
            self._log.emit("warning", reason=warning)
        if self._node.grant is None:
            reason = membership.why_ended(self._node, self._options.identity.public)
            self._log.emit("warning", reason=f"{reason}: nobody takes routes from it")
        self._announcer.seeds = self._seeds.literal()
        self._announcer.start()
        with self._quit:
            async with trio.open_nursery() as nursery:
                await nursery.start(
                    lambda task_status: control.serve(
                        self._options.paths.socket,
                        self._methods(),
                        self._log.subscribe,
                        task_status=task_status,
                    )
                )
                await nursery.start(self._reconciler.run)
                self._say_listening()
                self._join(self._announcer.seeds)
                nursery.start_soon(
                    self._sockets.receive, self._received, self._unreachable, self._turn
                )
                nursery.start_soon(self._transmit_forever)
                nursery.start_soon(self._seeds.run)
                nursery.start_soon(self._announcer.health.run)
                nursery.start_soon(self._keeper.run)
                nursery.start_soon(self._keep_sequences)
                nursery.start_soon(self._find_itself_alone)
                await self._obey_signals()
        self._keeper.finish()

    def _say_listening(self) -> None:
        own = self._node.announcement
        self._log.emit(
            "listening",
            name=self._options.grant.name,
            id=short_id(self._options.identity.public),
            port=self._config.port,
            endpoints=[str(where) for where in own.endpoints] if own else [],
            prefixes=[str(prefix) for prefix in self._node.prefixes],
            mesh=self._options.mesh.id.hex()[:8],
            **({"observing": True} if self._options.additions.observe else {}),
        )
        if own is not None and not own.endpoints:
            self._log.emit(
                "warning",
                reason="no address to be reached at could be chosen: nobody can route to us;"
                " name it with --advertise or in the config",
            )
        if self._config.seeds:
            self._log.emit("joining", seeds=[str(seed) for seed in self._config.seeds])

    async def _obey_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    try:
                        await self._reload({})
                    except UsageError as error:
                        self._log.emit("error", reason=f"nothing was changed: {error}")
                    continue
                self._log.emit(
                    "stopped", reason=signal.Signals(number).name, kernel="left as it is"
                )
                self._quit.cancel()

    # The automaton and its surroundings.

    def _next_sequence(self, above: int) -> int:
        try:
            return self._options.sequence.next(above)
        except StateError as error:
            raise SequenceUnavailable(str(error)) from None

    async def _keep_sequences(self) -> None:
        while True:
            await trio.sleep(RENEW_S)
            try:
                self._options.sequence.renew()
            except StateError as error:
                self._log.emit("warning", reason=str(error))

    def _wake_transmit(self) -> None:
        self._transmit.set()

    def _jumped(self, now: float, seconds: float) -> None:
        reason = f"the wall clock moved by {seconds:.0f} s beside the other: resumed, copied or set"
        self._node.renew_boot_key(now, keep_old=False, reason=reason)

    def _received(self, data: bytes, source: Endpoint) -> None:
        self._node.receive(data, source, self._now())

    def _unreachable(self, where: Endpoint) -> None:
        self._node.unreachable(where, self._now())
        self._transmit.set()

    async def _transmit_forever(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._node.deadline) as self._sleep:
                await self._transmit.wait()
            self._transmit = trio.Event()
            self._turn()
            while self._outbox:
                await self._sockets.room(self._outbox[0].to)
                self._send()

    def _turn(self) -> None:
        """What follows from what the automaton was given and from the time: sent, written into the
        kernel, told, in this order."""
        self._node.tick(self._now())
        self._send()
        self._listen_to_node()
        if self._node.departed:
            self._departed.set()
        for where in self._neighbours.answered(self._node.reached(), trio.current_time()):
            self._sockets.confirm(where)
        self._sleep.deadline = self._node.deadline

    def _send(self) -> None:
        """The only caller of ``datagrams_to_send``."""
        self._outbox += self._node.datagrams_to_send()
        while self._outbox:
            datagram = self._outbox[0]
            if not self._sockets.send(datagram.data, datagram.to, self._unreachable):
                self._transmit.set()  # that task waits for room
                return
            self._outbox.popleft()

    def _listen_to_node(self) -> None:
        now = trio.current_time()
        events = self._node.events()
        about_table = any(isinstance(event, TABLE_EVENTS) for event in events)
        for event in events:
            if isinstance(event, PeerChanged) and event.refused:
                member = self._node.members.get(event.node)  # None: revoked meanwhile
                until = self._importer.open_window(member, now) if member is not None else None
                if until is not None:
                    self._reconciler.wake_at(until)
        # A renewal is in no event.
        followed, self._taken = self._taken is self._node.store.tree, self._node.store.tree
        if about_table or not followed:
            self._reconciler.act()
            self._keeper.changed()
        if not followed:
            self._membership.follow()
        for event in events:
            self._tell(event, events, now)

    def _tell(self, event: Event, events: Sequence[Event], now: float) -> None:
        if isinstance(event, Succession):
            lapsed = sum(isinstance(each, Revoked) and each.lapsed for each in events)
            self._narrator.succession(event, lapsed)
        self._narrator.tell(event, now)
        if isinstance(event, Converged):
            self._converged = event
            if event.peers:
                self._reconciler.in_sync_with_mesh()
            self._kernel_settled()
        elif isinstance(event, Revoked) and event.node == self._options.identity.public:
            # Nobody speaks to us any more, so no table of ours will ever be complete.
            self._reconciler.in_sync_with_mesh()

    def _keep_grant(self, grant: Grant) -> None:
        successor = self._node.store.successor(grant.generation)
        self._options.state.write_grant(grant.raw, successor.raw if successor else None)

    async def _find_itself_alone(self) -> None:
        """The snapshot may be lost or older than the last member, whom nobody else names here:
        routes of before are kept until those who know us had time to say so."""
        await trio.sleep(ALONE)
        if not self._node.members and not self._config.seeds:
            self._reconciler.in_sync_with_mesh()

    # Seeds and addresses.

    def _join(self, seeds: tuple[Endpoint, ...]) -> None:
        self._announcer.seeds = seeds
        self._node.join(seeds, self._now())
        self._announcer.follow()
        self._transmit.set()

    # The kernel.

    def _decide(self, reading: Reading) -> Decision:
        if not self._announcer.look(reading.host):
            trio.lowlevel.spawn_system_task(_after, RETRY_ADDRESS, self._reconciler.wake)
        now = trio.current_time()
        if self._links.opened(reading.host.interfaces):
            self._node.link_changed(self._now())
            self._transmit.set()
        return self._importer.decide(reading.host, self._reconciler.decision, now)

    def _round_told(self) -> None:
        """The reconciler has told of a round: what follows from its decision is told here."""
        decision = self._reconciler.decision
        self._narrator.clock(decision.clock_off)
        self._narrator.decided(decision.routes, trio.current_time())
        self._membership.look(time.time() if decision.clock_off is None else None)
        self._kernel_settled()

    def _kernel_settled(self) -> None:
        """Tell of convergence when table and kernel agree."""
        event = self._converged
        if event is None or not self._node.converged or not self._reconciler.settled:
            return
        self._converged = None
        self._log.emit(
            "converged",
            peers=f"{event.peers}/{event.known}",
            prefixes=self._count_prefixes(),
            root=event.root.hex()[:8],
            in_s=round(event.seconds, 3),
        )

    def _count_prefixes(self) -> int:
        """How many prefixes we and the live members announce."""
        members = self._node.members
        return len(self._node.prefixes) + sum(len(members[k].prefixes) for k in members.live)

    # The control socket's methods.

    def _methods(self) -> dict[str, control.Method]:
        return {
            "status": self._status,
            "peers": self._peers,
            "routes": self._routes,
            "explain": self._explain,
            "plan": self._plan,
            "announce": self._announce,
            "withdraw": self._withdraw,
            "reload": self._reload,
            "leave": self._leave,
            "grants": self._grants,
            "records": self._records,
            "deliver": self._deliver,
        }

    async def _status(self, given: dict[str, Any]) -> object:
        rows = self._reconciler.decision.routes
        kernel = self._reconciler.status
        found = report.status(self._node, self._options.mesh, kernel, self._kernel.name, rows)
        # Nor while something is on its way into the kernel.
        found["converged"] = found["converged"] and self._reconciler.settled
        found["kernel"]["nat"] = self._config.nat
        found["clock_off_s"] = self._reconciler.decision.clock_off
        me = self._options.identity.public
        found["announce"] = self._announcer.told(trio.current_time())
        found["membership"] = membership.standing(self._node, me, time.time())
        uptime = trio.current_time() - self._started
        counters = {**self._node.counters, **self._sockets.counters}
        return {**found, "pid": os.getpid(), "uptime_s": round(uptime, 1), "counters": counters}

    async def _peers(self, given: dict[str, Any]) -> object:
        return report.peers(self._node, trio.current_time())

    async def _routes(self, given: dict[str, Any]) -> object:
        rows, now = self._reconciler.decision.routes, trio.current_time()
        return report.routes(rows, self._reconciler.status, now)

    async def _explain(self, given: dict[str, Any]) -> object:
        subject = given.get("of")
        if not isinstance(subject, str):
            raise UsageError('params must hold "of", a node or a prefix')
        reading = await self._reconciler.read()
        me, now = self._options.identity.public, trio.current_time()
        scene = Scene(
            self._node, me, self._reconciler.decision, self._reconciler.status, reading, now
        )
        return explain(subject, scene)

    async def _plan(self, given: dict[str, Any]) -> object:
        return await self._reconciler.look()

    async def _announce(self, given: dict[str, Any]) -> object:
        wanted = params.announced(given)
        if any(isinstance(item, Followed) for item in wanted):
            # What was set up there a moment ago may not have been told of yet.
            self._announcer.look((await self._reconciler.read()).host)
        self._announcer.announce(wanted)
        return self._announced(wanted)

    async def _withdraw(self, given: dict[str, Any]) -> object:
        self._announcer.withdraw(params.announced(given))
        return self._announced()

    def _announced(self, asked: Iterable[Announced] = ()) -> object:
        names = {str(item) for item in asked}
        told = self._announcer.told(trio.current_time())
        return {
            "local": [str(prefix) for prefix in self._node.prefixes],
            "asked": [each for each in told if each["announce"] in names],
        }

    async def _reload(self, given: dict[str, Any]) -> object:
        fresh = self._options.reload(self._announcer.grant)
        changed = [
            option
            for option, field in RELOADED.items()
            if getattr(fresh, field) != getattr(self._config, field)
        ]
        self._announcer.reload(fresh)
        self._config = fresh
        self._importer.filters, self._importer.multipath = fresh.imports, fresh.multipath
        self._reconciler.wake()
        if "seeds" in changed:
            self._seeds.seeds = fresh.seeds
            self._join(self._seeds.literal())
        self._log.emit("reloaded", changed=changed)
        return {"changed": changed}

    async def _grants(self, given: dict[str, Any]) -> object:
        return report.grants(self._node.store, time.time())

    async def _records(self, given: dict[str, Any]) -> object:
        return report.records(self._node.store, params.slot_from(given))

    async def _deliver(self, given: dict[str, Any]) -> object:
        outcomes = self._node.hear(params.words(given), self._now())
        self._turn()
        return {"outcomes": [report.outcome(each) for each in outcomes]}

    async def _leave(self, given: dict[str, Any]) -> object:
        try:
            self._node.leave(self._now())
        except SequenceUnavailable as error:
            raise UsageError(f"not left: {error}") from None
        self._turn()
        with trio.move_on_after(DEPARTURE) as patience:
            await self._departed.wait()
        try:
            removed = await self._reconciler.purge()
        except OSError as error:
            raise Refused(f"left, but some of it stayed in the kernel: {error}") from None
        self._log.emit("left", removed=len(removed), told_all=not patience.cancelled_caught)
        self._log.emit("stopped", reason="leave", kernel="nothing of ours is left")
        trio.lowlevel.spawn_system_task(_after, LAST_WORDS, self._quit.cancel)
        return {"removed": removed, "told_all": not patience.cancelled_caught}

    def _name_of(self, node: bytes) -> str:
        grant = self._node.store.grants.get(node)
        return grant.name if grant is not None else short_id(node)


async def _after(seconds: float, call: Callable[[], None]) -> None:
    await trio.sleep(seconds)
    call()
