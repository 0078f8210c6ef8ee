"""One flow of datagrams at an even pace to an address that several places have: what came where.

Arrivals bear the kernel's own time stamps (SO_TIMESTAMPNS), so how fast this program reads them
does not matter.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Final

import attrs

from netlab import Namespace
from netlab.traffic import Address

SO_TIMESTAMPNS: Final = 35
"""asm-generic/socket.h; the control message has the same number."""

PORT: Final = 9_142


@attrs.frozen
class Arrival:
    """A datagram that came."""

    when: float
    """time.time(), by the kernel."""
    number: int
    place: str
    """The name of the namespace."""


@attrs.define(eq=False)
class Paced:
    """Context manager: a datagram every `pace` seconds from `source` to `address`."""

    source: Namespace
    targets: tuple[Namespace, ...]
    address: Address
    pace: float = 0.001
    sent: int = attrs.field(default=0, init=False)
    arrivals: list[Arrival] = attrs.field(factory=list, init=False)
    """In the order in which they came."""
    _stop: threading.Event = attrs.field(factory=threading.Event, init=False)
    _threads: list[threading.Thread] = attrs.field(factory=list, init=False)
    _sockets: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack, init=False)

    def __enter__(self) -> Paced:
        with contextlib.ExitStack() as stack:
            sender = stack.enter_context(self.source.socket(socket.AF_INET, socket.SOCK_DGRAM))
            selector = stack.enter_context(selectors.DefaultSelector())
            for target in self.targets:
                receiver = target.socket(socket.AF_INET, socket.SOCK_DGRAM)
                stack.enter_context(receiver)
                receiver.setblocking(False)
                receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
                receiver.bind((str(self.address), PORT))
                selector.register(receiver, selectors.EVENT_READ, target.name)
            self._sockets = stack.pop_all()
        for task, given in ((self._receive, selector), (self._send, sender)):
            thread = threading.Thread(target=task, args=(given,), name="paced flow")
            self._threads.append(thread)
            thread.start()
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

    def since(self, when: float, place: str) -> list[Arrival]:
        """What came at one place after `when` (time.time())."""
        return [each for each in list(self.arrivals) if each.when > when and each.place == place]

    def outage(self, since: float) -> float:
        """The longest time between two arrivals, wherever, from the last before `since` on."""
        times = sorted(each.when for each in list(self.arrivals))
        begin = max((at for at, when in enumerate(times) if when <= since), default=0)
        return max((b - a for a, b in zip(times[begin:], times[begin + 1 :], strict=False)),
                   default=0.0)  # fmt: skip

    def _send(self, sender: socket.socket) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            with contextlib.suppress(OSError):  # an ICMP error of one before it
                sender.sendto(struct.pack("!Q", self.sent), (str(self.address), PORT))
            self.sent += 1
            # After a stall of this machine it goes on from there: no burst makes up for it.
            due = max(due + self.pace, time.monotonic() - self.pace)
            time.sleep(max(0.0, due - time.monotonic()))

    def _receive(self, selector: selectors.BaseSelector) -> None:
        while not self._stop.is_set():
            for key, _ in selector.select(0.1):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        data, control, _, _ = key.fileobj.recvmsg(64, 128)  # type: ignore[union-attr]
                        (number,) = struct.unpack("!Q", data)
                        seconds, nanoseconds = struct.unpack("@ll", control[0][2])
                        when = seconds + nanoseconds / 1e9
                        self.arrivals.append(Arrival(when, number, key.data))
