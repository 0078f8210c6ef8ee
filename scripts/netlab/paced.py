"""One flow of UDP datagrams at an even pace, to an address that one place has or several have: what
came, where and when.

Arrivals bear the kernel's own time stamps (SO_TIMESTAMPNS), so how fast they are read here does not
matter.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Sequence
from types import TracebackType

import attrs

from netlab.namespace import Namespace
from netlab.traffic import Address, family_of

DISCARD_PORT = 9
"""RFC 863"""

SO_TIMESTAMPNS = 35
"""asm-generic/socket.h; the control message has the same number."""

BUFFER = 4 << 20
"""Bytes of datagrams that wait to be read."""

BURST_S = 0.05
"""After a stall of this machine so much of the flow is made up for, no more."""

LATE_S = 1.0
"""For what is on its way when the flow ends."""

_SEQUENCE = struct.Struct("!Q")


@attrs.frozen
class Arrival:
    """A datagram that came, for the first time."""

    when: float
    """time.time(), by the kernel."""
    number: int
    """From 0, as they were sent."""
    place: str
    """The name of the namespace."""


def _places(given: Namespace | Sequence[Namespace]) -> tuple[Namespace, ...]:
    return (given,) if isinstance(given, Namespace) else tuple(given)


@attrs.define(eq=False)
class PacedFlow:
    """Context manager: UDP datagrams with sequence numbers from one namespace to another, one way.

    `rate` datagrams a second go to `address`, which each of `targets` must have. Counts can be read
    at any time, and are final after the block, which ends with a wait of at most a second for what
    is on its way.
    """

    source: Namespace
    targets: tuple[Namespace, ...] = attrs.field(converter=_places)
    address: Address
    rate: float = 1000
    port: int = DISCARD_PORT
    sent: int = attrs.field(default=0, init=False)
    """Datagrams handed to the kernel, those that it refused included."""
    arrivals: list[Arrival] = attrs.field(factory=list, init=False)
    """In the order in which they were read; one that came twice is here once."""
    translated: int = attrs.field(default=0, init=False)
    """Of those that came, how many under another address or port than they left with."""
    _missing: set[int] = attrs.field(factory=set, init=False)
    _expected: int = attrs.field(default=0, init=False)
    _began: float = attrs.field(default=0.0, init=False)
    _ended: float = attrs.field(default=0.0, init=False)
    _left_as: tuple[str, int] = attrs.field(default=("", 0), init=False)
    _stop: threading.Event = attrs.field(factory=threading.Event, init=False)
    _sockets: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack, init=False)
    _threads: list[threading.Thread] = attrs.field(factory=list, init=False)

    @property
    def received(self) -> int:
        """Of those sent, how many came; one that came twice counts once."""
        return len(self.arrivals)

    @property
    def lost(self) -> int:
        """How many were sent and have not come; those on their way among them."""
        return self.sent - self.received

    @property
    def outage_s(self) -> float:
        """The longest time in which none came, from the beginning on, wherever; after the block
        also that before the end, if what was sent then is missing."""
        return self.outage(self._began)

    def since(self, when: float, place: str) -> list[Arrival]:
        """What came at one place after `when` (time.time())."""
        return [each for each in list(self.arrivals) if each.when > when and each.place == place]

    def outage(self, since: float) -> float:
        """The same, from the last arrival before `since` (time.time()) on."""
        times = sorted([self._began, *(each.when for each in list(self.arrivals))])
        if self._ended and self.lost:
            times.append(max(self._ended, times[-1]))
        first = max((at for at, when in enumerate(times) if when <= since), default=0)
        gaps = (b - a for a, b in zip(times[first:], times[first + 1 :], strict=False))
        return max(gaps, default=0.0)

    def __enter__(self) -> PacedFlow:
        family = family_of(self.address)
        where = (str(self.address), self.port)
        with contextlib.ExitStack() as stack:
            # Not connected: an ICMP error would cost the next datagram.
            sender = stack.enter_context(self.source.socket(family, socket.SOCK_DGRAM))
            sender.bind(("", 0))
            with self.source.socket(family, socket.SOCK_DGRAM) as asking:
                asking.connect(where)
                self._left_as = asking.getsockname()[0], sender.getsockname()[1]
            selector = stack.enter_context(selectors.DefaultSelector())
            for target in self.targets:
                receiver = stack.enter_context(target.socket(family, socket.SOCK_DGRAM))
                receiver.setblocking(False)
                receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
                receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
                receiver.bind(where)
                selector.register(receiver, selectors.EVENT_READ, target.name)
            self._sockets = stack.pop_all()
        self._began = time.time()
        receiving = threading.Thread(target=self._receive, args=(selector,), name="flow, arrivals")
        sending = threading.Thread(target=self._send, args=(sender,), name="flow, sender")
        self._threads = [sending, receiving]
        receiving.start()
        sending.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._sockets.close()

    def _send(self, sender: socket.socket) -> None:
        where = (str(self.address), self.port)
        due = time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            due = max(due, now - BURST_S)
            while due <= now:
                with contextlib.suppress(OSError):  # no route
                    sender.sendto(_SEQUENCE.pack(self.sent), where)
                self.sent += 1
                due += 1 / self.rate
            time.sleep(max(0.0, due - time.monotonic()))
        self._ended = time.time()

    def _receive(self, selector: selectors.BaseSelector) -> None:
        patience = float("inf")
        while self.lost or not self._stop.is_set():
            if self._stop.is_set():
                patience = min(patience, time.monotonic() + LATE_S)
            if time.monotonic() > patience:
                break
            for key, _ in selector.select(0.05):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        self._note(key.fileobj, key.data)  # type: ignore[arg-type]

    def _note(self, receiver: socket.socket, place: str) -> None:
        data, control, _, where = receiver.recvmsg(64, 128)
        (number,) = _SEQUENCE.unpack(data)
        if number >= self._expected:
            self._missing.update(range(self._expected, number))
            self._expected = number + 1
        elif number in self._missing:
            self._missing.discard(number)
        else:
            return
        seconds, nanoseconds = struct.unpack("@ll", control[0][2])
        self.arrivals.append(Arrival(seconds + nanoseconds / 1e9, number, place))
        self.translated += where[:2] != self._left_as
