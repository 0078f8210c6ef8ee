"""Datagrams between all private zones, all the time, that say where they come from.

Each carries the address that it was sent from, so whoever receives it can tell whether it was
translated on the way.  Half of the flows keep their ports for ever, as connections do that were
open before something happened; the others begin anew every second.  One thread does it all.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from random import Random
from types import TracebackType
from typing import Final

import attrs

from netlab import Namespace
from netlab.traffic import Address

PORT: Final = 7_142
"""Of those that answer, and of half of those that ask."""

TURN_S: Final = 0.01
"""So often some are sent."""

RENEW_S: Final = 1.0
"""So often the other half get another port."""


@attrs.frozen
class Translated:
    """A datagram that arrived under another source address than its own."""

    when: float
    """time.monotonic()"""
    source: Address
    """What it was sent from."""
    target: Address
    seen: str
    """What it came from when it arrived."""

    def __str__(self) -> str:
        return f"{self.source} > {self.target} arrived from {self.seen}"


@attrs.define(eq=False)
class Traffic:
    """Context manager: packets between pairs of addresses.

    places: every address that answers, with its namespace.  rate: datagrams a second.
    """

    places: dict[Address, Namespace]
    rate: float
    rng: Random
    sent: int = 0
    arrived: int = 0
    answered: int = 0
    translated: list[Translated] = attrs.field(factory=list)
    _pairs: tuple[tuple[Address, Address], ...] = ()
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _stop: threading.Event = attrs.field(factory=threading.Event, init=False)
    _selector: selectors.BaseSelector = attrs.field(factory=selectors.DefaultSelector, init=False)
    _lasting: dict[Address, socket.socket] = attrs.field(factory=dict, init=False)
    _fresh: dict[Address, socket.socket] = attrs.field(factory=dict, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)

    def __enter__(self) -> Traffic:
        try:
            for address in self.places:
                self._lasting[address] = self._open(address, PORT)
        except OSError:
            self._close()
            raise
        self._thread = threading.Thread(target=self._run, name="traffic")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()
        self._close()

    @property
    def flows(self) -> bool:
        """It has not ended by an error of its own."""
        return self._thread is not None and self._thread.is_alive()

    def among(self, pairs: set[tuple[Address, Address]]) -> None:
        """From now on only between these: (source, target)."""
        ordered = sorted(pairs, key=str)
        with self._lock:
            self._pairs = tuple(ordered)

    def _open(self, address: Address, port: int) -> socket.socket:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        made = self.places[address].socket(family, socket.SOCK_DGRAM)
        try:
            made.setblocking(False)
            made.bind((str(address), port))
        except OSError:
            made.close()
            raise
        self._selector.register(made, selectors.EVENT_READ, address)
        return made

    def _run(self) -> None:
        due = renewal = time.monotonic()
        for number in itertools.count():
            if self._stop.is_set():
                return
            now = time.monotonic()
            if now >= renewal:
                self._renew()
                renewal = now + RENEW_S
            with self._lock:
                # Locked while sending: who has changed the pairs knows that no other is sent.
                for source, target in self._some(int(self.rate * TURN_S) or 1):
                    self._send(source, target, lasting=number % 2 == 0)
            due = max(due + TURN_S, now)
            for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                self._receive(key.fileobj, key.data)  # type: ignore[arg-type]
            if (left := due - time.monotonic()) > 0:
                time.sleep(left)

    def _some(self, count: int) -> Iterator[tuple[Address, Address]]:
        if self._pairs:
            yield from (self.rng.choice(self._pairs) for _ in range(count))

    def _send(self, source: Address, target: Address, *, lasting: bool) -> None:
        sender = self._lasting[source] if lasting else self._fresh.get(source)
        if sender is not None:
            with contextlib.suppress(OSError):  # the host itself knows of no way
                sender.sendto(f"? {source} {target}".encode(), (str(target), PORT))
                self.sent += 1

    def _receive(self, receiver: socket.socket, own: Address) -> None:
        for _ in range(64):
            try:
                data, where = receiver.recvfrom(256)
            except OSError:
                return
            what, source, target = data.decode().split()
            if what == "?":
                self.arrived += 1
                told, expected = source, str(own)
                with contextlib.suppress(OSError):
                    receiver.sendto(f"! {source} {target}".encode(), where)
            else:
                self.answered += 1
                told, expected = target, target
            if where[0] != told:
                now = time.monotonic()
                ends = (ip_address(source), ip_address(expected))
                self.translated.append(Translated(now, *ends, str(where[0])))

    def _renew(self) -> None:
        for address, old in list(self._fresh.items()):
            self._receive(old, address)
            self._selector.unregister(old)
            old.close()
        # Sources only: the first two addresses of every place are those of its zone.
        sources = {source for source, _ in self._pairs}
        self._fresh = {address: self._open(address, 0) for address in sorted(sources, key=str)}

    def _close(self) -> None:
        for each in (*self._lasting.values(), *self._fresh.values()):
            each.close()
        self._selector.close()
