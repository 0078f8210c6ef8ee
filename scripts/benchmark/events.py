"""What kernels tell of their routes and tables as it happens: netlink, by a reader of our own.

Each message is stamped when it is read; nothing is parsed before somebody asks, so that ten
thousand changes are read as fast as they come.  Where many kernels are heard the reader may rest
between two rounds, so that a stamp is up to a millisecond late, and up to five while messages come
by the hundred: to wake up for each would take the processors from what is measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network
from types import TracebackType
from typing import Final, Literal

import attrs

from netlab import Namespace

RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTNLGRP_IPV4_ROUTE: Final = 7
RTNLGRP_IPV6_ROUTE: Final = 11
NFNLGRP_NFTABLES: Final = 7
NFNL_SUBSYS_NFTABLES: Final = 10
NFT_MSG_NEWTABLE: Final = 0
NFT_MSG_DELTABLE: Final = 2
NETLINK_NETFILTER: Final = 12
RTA_DST: Final = 1
RTA_PRIORITY: Final = 6
RTN_UNICAST: Final = 1
"""linux/rtnetlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h"""

_TABLE: Final = struct.pack("=HH", 8, 15)
_DST: Final = struct.pack("=HH", 8, RTA_DST)
_PRIORITY: Final = struct.pack("=HH", 8, RTA_PRIORITY)
"""Heads of attributes with four octets."""

SO_RCVBUFFORCE: Final = 33
SO_ATTACH_FILTER: Final = 26
BUFFER: Final = 64 << 20
"""Bytes: some fifty thousand messages, for a burst."""

MESSAGE: Final = 4096
"""Bytes of one at most: a route with one next hop has about a hundred."""

REST_S: Final = 0.001
BUSY: Final = 100
BUSY_REST_S: Final = 0.005
"""Between two rounds of reading, and after one that has read so many messages."""

What = Literal["added", "deleted"]


@attrs.frozen
class RouteEvent:
    """A unicast route that came or went."""

    when: float
    """time.monotonic()"""
    what: What
    prefix: IPv4Network | IPv6Network
    protocol: int


@attrs.frozen
class TableEvent:
    """An nftables table that was made or deleted; its transaction is in force."""

    when: float
    what: What
    name: str


@attrs.define(eq=False)
class Events:
    """Context manager: what changes in some namespaces, from entering on.

    protocol: hear of unicast routes of this protocol only, sorted out by the kernel.
    tables_too: hear of nftables' tables too.
    prompt: stamp each message as soon as it comes; otherwise the reader rests between two rounds.
    """

    places: tuple[Namespace, ...]
    protocol: int | None = None
    tables_too: bool = True
    prompt: bool = True
    cpu_s: float = attrs.field(default=0.0, init=False)
    """Processor seconds of the reader so far."""
    _raw: dict[str, list[tuple[float, bytes]]] = attrs.field(factory=dict, init=False)
    _tables: dict[str, list[tuple[float, bytes]]] = attrs.field(factory=dict, init=False)
    _selector: selectors.BaseSelector = attrs.field(factory=selectors.DefaultSelector, init=False)
    _wake: tuple[socket.socket, socket.socket] = attrs.field(factory=socket.socketpair, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)
    _error: OSError | None = attrs.field(default=None, init=False)

    def __enter__(self) -> Events:
        self._selector.register(self._wake[1], selectors.EVENT_READ, None)
        try:
            for place in self.places:
                groups = (RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE)
                self._hear(place, socket.NETLINK_ROUTE, groups, self._raw)
                if self.tables_too:
                    self._hear(place, NETLINK_NETFILTER, (NFNLGRP_NFTABLES,), self._tables)
        except BaseException:
            self._close()
            raise
        self._thread = threading.Thread(target=self._read, name="netlink events")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._wake[0].send(b"x")
        assert self._thread is not None
        self._thread.join()
        self._close()
        if self._error is not None and error is None:
            raise self._error

    def _hear(
        self,
        place: Namespace,
        family: int,
        groups: tuple[int, ...],
        into: dict[str, list[tuple[float, bytes]]],
    ) -> None:
        heard = place.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
        messages = into.setdefault(place.name, [])
        self._selector.register(heard, selectors.EVENT_READ, messages)
        heard.setblocking(False)
        with contextlib.suppress(PermissionError):
            heard.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        if self.protocol is not None and family == socket.NETLINK_ROUTE:
            _filter(heard, self.protocol)
        heard.bind((0, sum(1 << (group - 1) for group in groups)))

    def _close(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._wake[0].close()
        self._selector.close()

    def _read(self) -> None:
        began = time.thread_time()
        while True:
            count = 0
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                recv, note = key.fileobj.recv, key.data.append  # type: ignore[union-attr]
                try:
                    for _ in range(1024):
                        note((time.monotonic(), recv(MESSAGE)))
                        count += 1
                except BlockingIOError:
                    pass
                except OSError as lost:  # ENOBUFS: more came than fits
                    self._error = lost
            self.cpu_s = time.thread_time() - began
            if not self.prompt:
                time.sleep(BUSY_REST_S if count >= BUSY else REST_S)

    def routes(self, place: Namespace, start: int = 0) -> Iterator[RouteEvent]:
        """What happened to unicast routes there since the `start`th message (see `mark`)."""
        for when, data in self._raw[place.name][start:]:
            yield from _routes(when, data)

    def tables(self, place: Namespace) -> Iterator[TableEvent]:
        """What happened to nftables' tables there."""
        for when, data in list(self._tables[place.name]):
            yield from _table(when, data)

    def mark(self, place: Namespace) -> int:
        """How many messages of routes have been read there."""
        return len(self._raw[place.name])

    def take(self, place: Namespace) -> list[tuple[float, bytes]]:
        """What of routes has been read there, which is forgotten; `route_changes` reads it."""
        messages = self._raw[place.name]
        taken = messages[:]
        del messages[: len(taken)]
        return taken

    def check(self) -> None:
        """OSError if a kernel had more to say than there was room for."""
        if self._error is not None:
            raise self._error

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Until `condition`, looked at every 5 ms; whether it came true."""
        end = time.monotonic() + timeout
        while not condition():
            self.check()
            left = end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, 0.005))
        return True


@attrs.define(eq=False)
class Counter:
    """Which of some prefixes have come, or gone, in one kernel; and when the last of them did."""

    events: Events
    place: Namespace
    what: What
    missing: set[IPv4Network | IPv6Network]
    protocol: int | None = None
    """Of whose routes only."""
    last: float = 0.0
    _read: int = 0

    def __attrs_post_init__(self) -> None:
        self._read = self.events.mark(self.place)

    def done(self) -> bool:
        """None is missing any more."""
        mark = self.events.mark(self.place)
        for event in self.events.routes(self.place, self._read):
            ours = self.protocol in (None, event.protocol)
            if ours and event.what == self.what and event.prefix in self.missing:
                self.missing.discard(event.prefix)
                self.last = event.when
        self._read = mark
        return not self.missing


def route_changes(data: bytes) -> Iterator[tuple[bool, bytes, int]]:
    """Of a message about IPv4 unicast routes: whether it came, octets of the prefix behind its
    length, metric. The quick way, for messages by the ten thousand."""
    if data[28:32] == _TABLE and data[36:40] == _DST and len(data) == data[0] | data[1] << 8:
        # As Linux writes them (fib_dump_info, net/ipv4/fib_semantics.c): one message, the table,
        # the prefix, the metric if it has one.
        metric = int.from_bytes(data[48:52], "little") if data[44:48] == _PRIORITY else 0
        yield data[4] == RTM_NEWROUTE, data[17:18] + data[40:44], metric
        return
    at = 0
    while at + 28 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < 28:
            return
        if kind in (RTM_NEWROUTE, RTM_DELROUTE) and data[at + 16] == socket.AF_INET:
            packed = _attribute(data, at + 28, at + length, RTA_DST) or bytes(4)
            priority = _attribute(data, at + 28, at + length, RTA_PRIORITY) or bytes(4)
            net = data[at + 17 : at + 18] + packed
            yield kind == RTM_NEWROUTE, net, int.from_bytes(priority, "little")
        at += (length + 3) & ~3


def _filter(heard: socket.socket, protocol: int) -> None:
    """Lets messages of unicast routes of this protocol through (bpf(2), classic; a notice is one
    message: struct nlmsghdr, then rtm_protocol and rtm_type at 5 and 7 of struct rtmsg)."""
    code = ((0x30, 0, 0, 21), (0x15, 0, 3, protocol), (0x30, 0, 0, 23), (0x15, 0, 1, RTN_UNICAST),
            (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0))  # fmt: skip
    program = b"".join(struct.pack("@HBBI", *line) for line in code)
    kept = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(code), ctypes.addressof(kept))
    heard.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, described)


def _routes(when: float, data: bytes) -> Iterator[RouteEvent]:
    at = 0
    while at + 28 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < 28:
            return
        if kind in (RTM_NEWROUTE, RTM_DELROUTE):
            family, bits, _, _, _, protocol, _, sort = struct.unpack_from("=8B", data, at + 16)
            if sort == RTN_UNICAST:
                packed = _attribute(data, at + 28, at + length, RTA_DST)
                size = 4 if family == socket.AF_INET else 16
                number = int.from_bytes((packed or b"").ljust(size, b"\0"), "big")
                net = (IPv4Network if size == 4 else IPv6Network)((number, bits))
                what: What = "added" if kind == RTM_NEWROUTE else "deleted"
                yield RouteEvent(when, what, net, protocol)
        at += (length + 3) & ~3


def _table(when: float, data: bytes) -> Iterator[TableEvent]:
    at = 0
    while at + 20 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < 20:
            return
        words: dict[int, What] = {NFT_MSG_NEWTABLE: "added", NFT_MSG_DELTABLE: "deleted"}
        if kind >> 8 == NFNL_SUBSYS_NFTABLES and kind & 255 in words:
            name = _attribute(data, at + 20, at + length, 1) or b""  # NFTA_TABLE_NAME
            yield TableEvent(when, words[kind & 255], name.rstrip(b"\0").decode())
        at += (length + 3) & ~3


def _attribute(data: bytes, at: int, end: int, wanted: int) -> bytes | None:
    while at + 4 <= end:
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return None
        if kind & 0x3FFF == wanted:
            return data[at + 4 : at + length]
        at += (length + 3) & ~3
    return None
