"""The node's sockets: one a family, their error queues read, their datagrams carried.

Rules kept here: nothing that arrives or that the network answers ends the loop; a pending
ICMP error, which the kernel reports on the next call whatever its destination, costs no
datagram to anybody else; and who sends much costs the others no more than a turn's wait.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import trio

from meshd.errors import UsageError
from protocol.address import Endpoint, Family
from protocol.frames import MAX_DATAGRAM

IP_RECVERR: Final = 11
IPV6_RECVERR: Final = 25
"""linux/in.h and linux/in6.h; Python 3.11 names neither."""

RECEIVE_BUFFER: Final = 2 << 20
"""Bytes, of which the kernel makes twice as many (socket(7)): 3,000 datagrams as it counts them,
so that 20,000 a second may wait for 0.15 s while somebody else has the processor."""
_HAS_ERROR_QUEUE: Final = hasattr(socket, "MSG_ERRQUEUE")
"""Elsewhere than on Linux an ICMP error is nobody's news, and a host whose daemon is gone shows as
one that is silent."""

_HAS_CONFIRM: Final = hasattr(socket, "MSG_CONFIRM")
_CONFIRM: Final = getattr(socket, "MSG_CONFIRM", 0) | 0x10
"""... | MSG_PROBE (linux/socket.h): the neighbour is confirmed, and nothing is sent."""

_SO_RCVBUFFORCE: Final = 33
"""asm-generic/socket.h: beyond net.core.rmem_max (208 KiB by default), with CAP_NET_ADMIN."""

BATCH: Final = 64
"""Datagrams taken in one turn, before what they caused is sent and what is due is done. A turn
costs about 0.1 ms whatever it takes: one datagram a turn is 8,000 a second and no more, and a
flood of 20,000 took a third of all probes. 64 of strangers cost 0.5 ms more, 64 of members 5,
which is little beside the 30 ms that a probe may take."""

ATTEMPTS: Final = 3
"""... at one datagram: an ICMP error of before prevents the first, a second one that has just
come the next, and a rule that forbids it all of them."""

_ERROR: Final = struct.Struct("=IBBBxII")
"""struct sock_extended_err: errno, origin, type, code, pad, info, data."""
_ORIGIN_ICMP: Final = 2
_ORIGIN_ICMP6: Final = 3
_PORT_UNREACHABLE: Final = {(_ORIGIN_ICMP, 3, 3), (_ORIGIN_ICMP6, 1, 4)}
"""Destination unreachable, port unreachable (RFC 792; RFC 4443 section 3.1)."""

Received = Callable[[bytes, Endpoint], None]
Unreachable = Callable[[Endpoint], None]


class Sockets:
    """UDP on ``port`` in every family this host has."""

    def __init__(self, port: int) -> None:
        """Bind, or raise ``UsageError`` in one line."""
        self.counters: dict[str, int] = {}
        self._sockets: dict[Family, socket.socket] = {}
        """Plain ones, never blocking: trio has no call for the error queue, and one turn of its
        loop for each datagram."""
        for family, kind, anywhere in ((4, socket.AF_INET, "0.0.0.0"), (6, socket.AF_INET6, "::")):
            try:
                raw = socket.socket(kind, socket.SOCK_DGRAM)
            except OSError:
                continue  # this kernel has no such family
            try:
                self._set_up(raw, 4 if family == 4 else 6)
                raw.bind((anywhere, port))
            except OSError as error:
                raw.close()
                if family == 6 and error.errno == errno.EADDRNOTAVAIL:
                    continue  # IPv6 is switched off
                self.close()
                raise UsageError(_why_not(error, port)) from None
            raw.setblocking(False)
            self._sockets[4 if family == 4 else 6] = raw
        if not self._sockets:
            raise UsageError("this host has neither IPv4 nor IPv6 sockets")

    @staticmethod
    def _set_up(raw: socket.socket, family: Family) -> None:
        try:
            raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except OSError:  # in a user namespace, or to watch only: what the host allows
            with contextlib.suppress(OSError):  # which some systems do not cut down, but refuse
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if family == 6:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if _HAS_ERROR_QUEUE and family == 6:
            raw.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        elif _HAS_ERROR_QUEUE:
            raw.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)

    def close(self) -> None:
        """Give the port back; no task may be using the sockets any more."""
        for each in self._sockets.values():
            each.close()

    def _count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1

    async def receive(
        self, received: Received, unreachable: Unreachable, turn: Callable[[], None]
    ) -> None:
        """Hand over every datagram and every proof that a peer's daemon is gone, for ever; call
        ``turn`` when all that was there is handed over, or a batch of it."""
        async with trio.open_nursery() as nursery:
            for each in self._sockets.values():
                nursery.start_soon(self._receive_on, each, received, unreachable, turn)

    async def _receive_on(
        self,
        sock: socket.socket,
        received: Received,
        unreachable: Unreachable,
        turn: Callable[[], None],
    ) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            for taken in range(BATCH):
                try:
                    # One byte more than is allowed: what is longer shows as too long.
                    data, source = sock.recvfrom(MAX_DATAGRAM + 1)
                except BlockingIOError:
                    if not taken:  # then it is the error queue that wakes us, until it is read
                        self._drain_errors(sock, unreachable)
                    break
                except OSError as error:
                    self._drain_errors(sock, unreachable)
                    if error.errno == errno.EBADF:
                        raise
                    self._count(f"receive {errno.errorcode.get(error.errno or 0, 'error')}")
                    continue
                received(data, _endpoint(source[0], source[1]))
            turn()

    def _drain_errors(self, sock: socket.socket, unreachable: Unreachable) -> None:
        while _HAS_ERROR_QUEUE:
            try:
                _, ancillary, _, to = sock.recvmsg(MAX_DATAGRAM, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return  # EAGAIN: the queue is empty
            for level, kind, content in ancillary:
                if (level, kind) in (
                    (socket.IPPROTO_IP, IP_RECVERR),
                    (socket.IPPROTO_IPV6, IPV6_RECVERR),
                ):
                    self._judge(content, (to[0], to[1]), unreachable)

    def _judge(self, content: bytes, to: tuple[str, int], unreachable: Unreachable) -> None:
        """Only the peer's own word that nobody listens there means that its host is up."""
        _, origin, kind, code, _, _ = _ERROR.unpack_from(content)
        offender = _address(content[_ERROR.size :])
        host = to[0].partition("%")[0]
        if (origin, kind, code) in _PORT_UNREACHABLE and offender == host:
            self._count("port unreachable")
            unreachable(Endpoint(host, to[1]))

    def send(self, data: bytes, to: Endpoint, unreachable: Unreachable) -> bool:
        """Send one datagram; False, and it is not sent, when there is no ``room``. Whatever else
        prevents it is counted and forgotten."""
        sock = self._sockets.get(to.family)
        if sock is None:
            self._count("no socket of that family")
            return True
        for _ in range(ATTEMPTS):
            try:
                sock.sendto(data, to)
            except BlockingIOError:
                return False
            except OSError as error:
                # An earlier datagram's ICMP error is reported here and this one was not
                # sent: empty the queue and send it again.
                self._count(f"send {errno.errorcode.get(error.errno or 0, 'error')}")
                self._drain_errors(sock, unreachable)
            else:
                return True
        return True

    async def room(self, to: Endpoint) -> None:
        """Wait until the send buffer is no longer full."""
        await trio.lowlevel.wait_writable(self._sockets[to.family])

    def confirm(self, to: Endpoint) -> None:
        """What is sent to ``to`` arrives: its neighbour entry is good, so the kernel need not ask
        for it by ARP or neighbour solicitation, which was a fifth of all that a member of 16 sent
        (MSG_CONFIRM, send(2))."""
        sock = self._sockets.get(to.family)
        if _HAS_CONFIRM and sock is not None:
            with contextlib.suppress(OSError):  # an error of before: the next send meets it again
                sock.sendto(b"", _CONFIRM, to)


@lru_cache(maxsize=8192)  # as many as a mesh has members
def _endpoint(host: str, port: int) -> Endpoint:
    return Endpoint(host.partition("%")[0], port)


def _address(sockaddr: bytes) -> str | None:
    """The address in a struct sockaddr_in or sockaddr_in6."""
    if len(sockaddr) < 8:
        return None
    family = struct.unpack_from("=H", sockaddr)[0]
    if family == socket.AF_INET:
        return str(ipaddress.IPv4Address(sockaddr[4:8]))
    if family == socket.AF_INET6 and len(sockaddr) >= 24:
        return str(ipaddress.IPv6Address(sockaddr[8:24]))
    return None


def _why_not(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"UDP port {port} is in use by another program: stop it (ss -ulpn), or set "
            "another port in the config"
        )
    if error.errno == errno.EACCES:
        return f"UDP port {port} needs privileges: set a port above 1023 in the config"
    return f"UDP port {port} cannot be bound: {error.strerror}"
