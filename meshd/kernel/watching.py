"""Listening to a Linux kernel: what others change, in words, and who it was.

The kernel drops IPv4 routes without a word when a link goes down or an address is deleted, so
notices of links and addresses always count; routes of others count if they concern us.

What we ask for ourselves the kernel does not tell us.  A notice of others is in our queue before
the call returns that caused it (``rtnl_notify`` and ``nf_tables_commit`` send while they hold
their locks).  So when all queues are empty and nothing
was heard since a reading began, what was read then and what we wrote since is what is there.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

import attrs
import trio

from meshd.kernel import nftables, rtnetlink, vxlan
from meshd.kernel.netlink import NETFILTER, PORT_AT, ROUTE, Part, enlarge, hear_only, parts
from meshd.kernel.port import Change, Concerns
from meshd.kernel.suspects import Suspects

_PENDING: Final = 64
"""Changes that wait to be received: the reconciler needs one, the log likes the first few."""
_RECEIVE: Final = 1 << 16
_TURN: Final = 256
"""Datagrams before other tasks get a turn: about a millisecond when a router that carries
the whole Internet's routes is busy."""
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP: Final = 1

_Reader = Callable[[Part, int], Iterable[Change | None]]
"""A notification and the port of who asked for the change, to what there is to tell; None: others
have changed something that is not worth a word."""


class Watch:
    """The sockets on which a kernel tells what others change, in the network namespace of the
    calling thread."""

    def __init__(
        self, own: Collection[int], concerns: Concerns, tunnel: vxlan.Entries | None = None
    ) -> None:
        """``own`` are the netlink ports of our own requests; ``tunnel``: what is known of ours."""
        self.disturbed = True
        """Something was heard that may have changed what a reading shows, be it told or not."""
        self._closing = contextlib.ExitStack()
        self._send, self._receive = trio.open_memory_channel[Change](_PENDING)
        self._heard: list[_Queue] = []
        self._complete = True
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._send)
            stack.enter_context(self._receive)
            routes = stack.enter_context(_subscribe(ROUTE, own, groups=rtnetlink.GROUPS))
            self._heard.append(_Queue(routes, _of_routes(concerns)))
            try:
                tables = stack.enter_context(_subscribe(NETFILTER, own, member=nftables.GROUP))
                self._heard.append(_Queue(tables, _of_tables()))
            except PermissionError:  # without CAP_NET_ADMIN, which only an observer is
                self._complete = False
            if tunnel is not None:
                entries = stack.enter_context(_subscribe(ROUTE, own, member=vxlan.GROUP))
                stack.enter_context(tunnel.hear(entries))
                self._heard.append(_Queue(entries, _of_entries(own, tunnel)))
            self._closing = stack.pop_all()

    def undisturbed(self) -> bool:
        """Take in what waits in the queues, without waiting; whether nothing was heard since
        ``disturbed`` was set to False."""
        for queue in self._heard:
            self._take(queue)
        return self._complete and not self.disturbed and not any(q.lost for q in self._heard)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[trio.MemoryReceiveChannel[Change]]:
        """Listen, until left: what is told."""
        with self._closing:
            async with trio.open_nursery() as nursery:
                for queue in self._heard:
                    nursery.start_soon(self._listen, queue)
                yield self._receive
                nursery.cancel_scope.cancel()

    async def _listen(self, queue: _Queue) -> None:
        while True:
            await trio.lowlevel.wait_readable(queue.events)
            self._take(queue)

    def _take(self, queue: _Queue) -> None:
        """At most a turn's worth; what stays leaves us disturbed."""
        try:
            for _ in range(_TURN):
                for part, port in parts(queue.events.recv(_RECEIVE)):
                    for change in queue.read(part, port):
                        self._tell(change)
            self.disturbed = True
        except BlockingIOError:
            # Told only now: having dropped one notification the kernel drops all, without
            # another word, until the queue has been empty once.
            if queue.lost:
                self._tell(Change("more changes than could be listened to", about="host"))
            queue.lost = False
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            queue.lost = True

    def _tell(self, change: Change | None) -> None:
        self.disturbed = True
        if change is not None:
            # Full: enough of them are waiting to be answered by one reading.
            with suppress(trio.WouldBlock):
                self._send.send_nowait(change)


@attrs.define(eq=False)
class _Queue:
    """One socket, and who understands what comes from it."""

    events: socket.socket
    read: _Reader
    lost: bool = False
    """Notifications were dropped."""


def _of_routes(concerns: Concerns) -> _Reader:
    suspects = Suspects(ROUTE)

    def read(part: Part, port: int) -> Iterable[Change | None]:
        span = rtnetlink.span(part)
        if span is not None and not concerns(*span):
            yield None  # until somebody announces what it lies in
            return
        told = rtnetlink.describe(part)
        if told is not None:
            what, about = told
            yield Change(what, suspects.of(port), about)
        elif rtnetlink.shows(part):
            yield None

    return read


def _of_tables() -> _Reader:
    notices = nftables.Notices()

    def read(part: Part, port: int) -> Iterable[Change | None]:
        told = notices.take(part)
        if notices.pending:
            yield None
        for what, by in told:
            yield Change(what, by, "ours")

    return read


def _of_entries(own: Collection[int], tunnel: vxlan.Entries) -> _Reader:
    suspects = Suspects(ROUTE)

    def read(part: Part, port: int) -> Iterable[Change | None]:
        what = tunnel.describe(part) if port not in own else None
        if what is not None:
            yield Change(what, suspects.of(port), "ours")

    return read


def _subscribe(
    family: int, own: Collection[int], *, groups: int = 0, member: int = 0
) -> socket.socket:
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
    try:
        hear_only(events, PORT_AT, own, others=True)
        events.bind((0, groups))
        if member:
            events.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, member)
        enlarge(events, send=False)
        events.setblocking(False)
        return events
    except BaseException:
        events.close()
        raise
