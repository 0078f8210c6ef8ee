"""One machine of the simulated network: a disk, clocks, a receive buffer and a server.

The server is what keeps the simulation honest: a node pays for each datagram and each
signature, works on one thing at a time, and what arrives meanwhile waits in a buffer that
drops.  What a piece of work sends leaves when that work is done.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import attrs

from meshd.sequence import Sequence
from meshd.state import StateDirectory
from protocol.address import Endpoint, Prefix
from protocol.events import Event
from protocol.frames import SEALED
from protocol.node import Node
from protocol.objects import Record
from protocol.resumption import Resumption
from simulation.traffic import NAMES, Traffic, answers, kind_of
from simulation.wire import Meter, MeteredIdentity, RealWire

if TYPE_CHECKING:
    from simulation.network import Network

_CLOSE: Final = 1e-9
"""Seconds: two clocks apart by an offset differ in the last digits of a float."""


@attrs.frozen
class Costs:
    """What a server charges, in seconds; DESIGN section 8."""

    receive: float = 50e-6
    """For each datagram taken from the buffer."""
    send: float = 20e-6
    """For each datagram sent."""
    verify: float = 170e-6
    """For each signature that a node checks."""
    sign: float = 60e-6
    """For each signature that it makes: a third of a check, as measured side by side."""
    buffer: int = 212_992
    """Octets of receive buffer: Linux' net.core.rmem_default, 208 KiB, counted as Linux
    counts, in ``truesize``."""

    @classmethod
    def free(cls) -> Costs:
        """A server that needs no time: for tests of what the protocol alone decides."""
        return cls(receive=0.0, send=0.0, verify=0.0, sign=0.0)


def truesize(payload: int) -> int:
    """What Linux charges a receive buffer for one datagram of ``payload`` octets.

    SKB_TRUESIZE (include/linux/skbuff.h) is the data's allocation, with 320 octets of
    skb_shared_info in it, and 256 of sk_buff beside it; kmalloc rounds the first up to 512,
    1,024 or 2,048.
    """
    return 768 if payload <= 90 else 1280 if payload <= 600 else 2304


@attrs.frozen
class _Files(StateDirectory):
    """A state directory in memory, for the sequence."""

    content: dict[str, bytes] = attrs.field(factory=dict)

    def read(self, name: str) -> bytes | None:
        return self.content.get(name)

    def write(self, name: str, content: bytes) -> None:
        self.content[name] = content


@attrs.frozen
class Disk:
    """What outlives a node: the snapshot of its store with the shards that it names, and the
    sequences it has reserved."""

    records: tuple[Record, ...]
    files: dict[str, bytes] = attrs.field(factory=dict)
    shards: tuple[bytes, ...] = ()

    def copy(self) -> Disk:
        """The disk as it is now, to be restored later."""
        return Disk(self.records, dict(self.files), self.shards)


@attrs.define(eq=False)
class Host:
    """One machine, and at times a running node on it."""

    network: Network = attrs.field(repr=False)
    name: str
    where: Endpoint
    identity: MeteredIdentity
    prefixes: tuple[Prefix, ...]
    disk: Disk
    offset: float = 0.0
    """Its monotonic clock minus the network's, seconds."""
    unix: float = 0.0
    """Its wall clock minus the network's, seconds."""
    distance: float = 0.0
    """Seconds from the middle of the network."""
    refuses: bool = False
    """While no node runs, its kernel answers with ICMP port unreachable."""
    rewritten: Endpoint | None = None
    """Where its datagrams seem to come from, when a foreign masquerade rewrites them."""
    node: Node | None = None
    wire: RealWire | None = None
    life: int = 0
    """How often a node was started here."""
    root: bytes | None = None
    """The store's root after its last piece of work; None while nothing runs."""
    events: list[tuple[float, Event]] = attrs.field(factory=list)
    sent: Traffic = attrs.field(factory=Traffic)
    received: Traffic = attrs.field(factory=Traffic)
    """What reached its buffer, dropped there or not."""
    dropped: int = 0
    """Datagrams that found the buffer full."""
    busy: float = 0.0
    """Seconds of work so far."""
    free_at: float = 0.0
    """When the present piece of work is done."""
    stalled_until: float = 0.0
    _wake_at: float = math.inf
    """The earliest wake-up that is in the network's heap; later ones are void."""
    _buffer: deque[tuple[bytes, Endpoint, int]] = attrs.field(factory=deque)
    _buffered: int = 0
    """Octets of truesize in the buffer."""

    @property
    def key(self) -> bytes:
        return self.identity.public

    @property
    def meter(self) -> Meter:
        return self.identity.meter

    @property
    def up(self) -> Node:
        """The running node; an assertion when there is none."""
        assert self.node is not None, f"{self.name} is not running"
        return self.node

    def told(self, kind: type[Event]) -> list[Any]:
        """Its events of one kind, if the network keeps them."""
        return [event for _, event in self.events if isinstance(event, kind)]

    # Clocks.

    def clock(self) -> float:
        """Its monotonic seconds."""
        return self.network.now + self.offset

    def wall(self) -> float:
        """Its unix seconds: they jump when ``unix`` is changed."""
        return self.network.now + self.unix

    def set_wall(self, unix: float) -> None:
        """Its wall clock shows ``unix`` seconds as from now."""
        self.unix = unix - self.network.now

    # Life.

    def boot(self, records: Iterable[Record], seeds: Iterable[Endpoint], rng: Random) -> None:
        """Start a node that remembers ``records``, announces and joins."""
        self.make(records, rng)
        self.do(
            lambda node, now: node.announce(now, prefixes=self.prefixes, endpoints=[self.where])
        )
        self.do(lambda node, now: node.join(seeds, now))

    def make(self, records: Iterable[Record] | Resumption, rng: Random) -> None:
        """A node that remembers ``records`` and has not said anything yet."""
        self._rest()
        self.life += 1
        self.wire = self.network.new_wire(self.meter)
        self.node = Node(
            self.network.mesh,
            self.identity,
            records,
            next_sequence=self.sequence().next,
            rng=rng,
            now=self.clock(),
            tuning=self.network.tuning,
            wire=self.wire,
            shards=self.disk.shards,
        )

    def sequence(self) -> Sequence:
        """Its sequences, as the daemon allocates them: from its wall clock and its disk."""
        return Sequence.load(_Files(Path("/"), self.disk.files), self.wall)

    def halt(self) -> None:
        """The node stops at once; its disk keeps what the store held."""
        self.disk = Disk(tuple(self.up.store), self.disk.files, tuple(self.up.shards))
        self.node = None
        self.network.holds(self, None)
        self._rest()

    def _rest(self) -> None:
        self._buffer.clear()
        self._buffered = 0
        self._wake_at = math.inf
        self.free_at = self.network.now

    def stall(self, seconds: float) -> None:
        """Nothing runs for so long: no tick, no receive. The buffer fills meanwhile."""
        self.stalled_until = self.network.now + seconds

    def resume(self) -> None:
        """The stall is over."""
        self.stalled_until = self.network.now
        if self.node is not None:
            self._wake_later(self.network.now)

    # The server.

    def do(self, deed: Callable[[Node, float], None]) -> None:
        """The owner's own doing, as a piece of work: ``deed(node, monotonic seconds)``."""
        deed(self.up, self.clock())
        self.drain()

    def drain(self) -> None:
        """Send and tell what the node has ready."""
        self._finish(0.0, None, "owner")

    def arrive(self, data: bytes, source: Endpoint, kind: int) -> None:
        """A datagram reaches this host now."""
        self.received.datagrams[kind] += 1
        self.received.octets[kind] += len(data)
        now = self.network.now
        if self.node is None:
            self.network.refuse(self, source)
        elif now < self.free_at or self._buffer or now < self.stalled_until:
            # __udp_enqueue_schedule_skb (net/ipv4/udp.c) looks at what is held before it adds.
            if self._buffered > self.network.costs.buffer:
                self.dropped += 1
                return
            self._buffered += truesize(len(data))
            self._buffer.append((data, source, kind))
            self._wake_later(max(self.free_at, self.stalled_until))
        else:
            self._receive(self.node, data, source, kind)

    def unreachable(self, where: Endpoint) -> None:
        """An ICMP error about ``where`` reaches this host now."""
        if self.node is not None:
            self.do(lambda node, now: node.unreachable(where, now))

    def _receive(self, node: Node, data: bytes, source: Endpoint, kind: int) -> None:
        node.receive(data, source, self.network.now + self.offset)
        self._finish(self.network.costs.receive, source, NAMES[kind])

    def wake(self, when: float) -> None:
        """A wake-up that was asked for is due: tick, or take the next from the buffer."""
        if when != self._wake_at or self.node is None:
            return  # an earlier one was asked for since, or another life began
        self._wake_at = math.inf
        now = self.network.now
        ready = max(self.free_at, self.stalled_until)
        if now < ready:
            self._wake_later(ready)
            return
        local, deadline = now + self.offset, self.node.deadline
        if deadline <= local + _CLOSE:
            local = max(local, deadline)
            self.node.tick(local)
            self.network.referee.ticked(self, local)
            self._finish(0.0, None, "tick")
        elif self._buffer:
            data, source, kind = self._buffer.popleft()
            self._buffered -= truesize(len(data))
            self._receive(self.node, data, source, kind)
        else:
            self._wake_later(deadline - self.offset)

    def _wake_later(self, when: float) -> None:
        if when < self._wake_at:
            self._wake_at = when
            self.network.push(when, self.wake, when)

    def _finish(self, cost: float, source: Endpoint | None, cause: str) -> None:
        """Take what the node made of a piece of work that cost ``cost`` and its signatures."""
        node, network, meter, costs = self.up, self.network, self.meter, self.network.costs
        now = network.now
        began = done = now if now > self.free_at else self.free_at
        done += cost
        if meter.verified or meter.signed:
            done += meter.verified * costs.verify + meter.signed * costs.sign
            meter.verified = meter.signed = 0
        events = node.events()
        if events:
            network.happened(self, done, events)
        datagrams = node.datagrams_to_send()
        if datagrams:
            replies = drawn = 0
            for datagram in datagrams:
                done += costs.send
                kind, message = self._transmit(datagram.data, datagram.to, done)
                if datagram.to == source:
                    replies += answers(kind, datagram.data, message)
                    drawn += 1
            if drawn > 1:
                network.referee.drew(self, replies, drawn, cause)
        self.busy += done - began
        self.free_at = done
        root = node.store.root
        if root != self.root:
            network.holds(self, root)
        network.referee.worked(self, now + self.offset)
        due = node.deadline - self.offset
        if self._buffer and done < due:
            due = done
        if due < self._wake_at:
            self._wake_later(due if due > now else now)

    def _transmit(self, data: bytes, to: Endpoint, when: float) -> tuple[int, bytes]:
        """Count and send; the kind, and how the message in it begins."""
        assert self.wire is not None
        message = self.wire.peek(data) if data[1] == SEALED else b""
        kind = kind_of(data, message)
        self.sent.datagrams[kind] += 1
        self.sent.octets[kind] += len(data)
        self.network.referee.sent(self, data)
        self.network.carry(self, data, to, when, kind)
        return kind, message
