"""Listening to a Linux kernel: what others change, in words, and who it was.

The kernel drops IPv4 routes without a word when a link goes down or an address is deleted, so
notices of links and addresses always count; routes of others count if they concern us.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Callable, Container, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from meshd.kernel import nftables, rtnetlink, vxlan
from meshd.kernel.netlink import NETFILTER, ROUTE, Part, enlarge, parts
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

_Reader = Callable[[Part, int], Iterable[Change]]
"""A notification and the port of who asked for the change, to what there is to tell."""


@asynccontextmanager
async def changes(
    own: Container[int], concerns: Concerns, tunnel: vxlan.Entries | None = None
) -> AsyncIterator[trio.MemoryReceiveChannel[Change]]:
    """``port.Backend.changes`` for the network namespace of the calling thread.

    ``own`` are the netlink ports of our own requests; ``tunnel``: what is known of ours.
    """
    send, receive = trio.open_memory_channel[Change](_PENDING)
    with contextlib.ExitStack() as stack:
        stack.enter_context(send)
        stack.enter_context(receive)
        routes = stack.enter_context(_subscribe(ROUTE, groups=rtnetlink.GROUPS))
        heard = [(routes, _of_routes(own, concerns))]
        with suppress(PermissionError):  # without CAP_NET_ADMIN, which only an observer is
            tables = stack.enter_context(_subscribe(NETFILTER, member=nftables.GROUP))
            heard.append((tables, _of_tables(own)))
        if tunnel is not None:
            entries = stack.enter_context(_subscribe(ROUTE, member=vxlan.GROUP))
            stack.enter_context(tunnel.hear(entries))
            heard.append((entries, _of_entries(own, tunnel)))
        async with trio.open_nursery() as nursery:
            for events, read in heard:
                nursery.start_soon(_watch, events, read, send)
            yield receive
            nursery.cancel_scope.cancel()


def _of_routes(own: Container[int], concerns: Concerns) -> _Reader:
    suspects = Suspects(ROUTE)

    def read(part: Part, port: int) -> Iterable[Change]:
        if port in own:
            return
        span = rtnetlink.span(part)
        if span is not None and not concerns(*span):
            return
        told = rtnetlink.describe(part)
        if told is not None:
            what, about = told
            yield Change(what, suspects.of(port), about)

    return read


def _of_tables(own: Container[int]) -> _Reader:
    notices = nftables.Notices()

    def read(part: Part, port: int) -> Iterable[Change]:
        if port not in own:
            for what, by in notices.take(part):
                yield Change(what, by, "ours")

    return read


def _of_entries(own: Container[int], tunnel: vxlan.Entries) -> _Reader:
    suspects = Suspects(ROUTE)

    def read(part: Part, port: int) -> Iterable[Change]:
        what = tunnel.describe(part) if port not in own else None
        if what is not None:
            yield Change(what, suspects.of(port), "ours")

    return read


async def _watch(
    events: socket.socket, read: _Reader, send: trio.MemorySendChannel[Change]
) -> None:
    lost = False
    while True:
        await trio.lowlevel.wait_readable(events)
        try:
            for _ in range(_TURN):
                for part, port in parts(events.recv(_RECEIVE)):
                    for change in read(part, port):
                        _offer(send, change)
        except BlockingIOError:
            # Told only now: having dropped one notification the kernel drops all, without
            # another word, until the queue has been empty once.
            if lost:
                _offer(send, Change("more changes than could be listened to", about="host"))
            lost = False
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            lost = True


def _offer(send: trio.MemorySendChannel[Change], change: Change) -> None:
    # Full: enough of them are waiting to be answered by one reading.
    with suppress(trio.WouldBlock):
        send.send_nowait(change)


def _subscribe(family: int, *, groups: int = 0, member: int = 0) -> socket.socket:
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
    try:
        events.bind((0, groups))
        if member:
            events.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, member)
        enlarge(events, send=False)
        events.setblocking(False)
        return events
    except BaseException:
        events.close()
        raise
