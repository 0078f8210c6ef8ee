"""A mesh in virtual time: the real ``Node``, a seeded network between them.

Everything random comes from one seed, which stands in the name of the network and so
in every assertion that fails.
"""

from __future__ import annotations

import heapq
import ipaddress
import itertools
from collections.abc import Callable, Iterable
from random import Random

import attrs

from protocol.address import Endpoint, Prefix, endpoint
from protocol.events import Event
from protocol.identity import Identity, Mesh
from protocol.node import Node
from protocol.objects import Grant, Record
from protocol.tuning import Tuning

Filter = Callable[["Host", "Host", bytes], bool]

POOL = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


@attrs.define(eq=False)
class Host:
    """One machine: an identity, a disk (records, sequence) and at times a running node."""

    name: str
    where: Endpoint
    identity: Identity
    prefixes: tuple[Prefix, ...]
    disk: list[Record]
    sequence: int = 0
    node: Node | None = None
    offset: float = 0.0
    """Its monotonic clock minus the network's."""
    stalled_until: float = 0.0
    events: list[tuple[float, Event]] = attrs.field(factory=list)
    sent: int = 0
    sent_bytes: int = 0

    @property
    def key(self) -> bytes:
        return self.identity.public

    @property
    def up(self) -> Node:
        assert self.node is not None, f"{self.name} is not running"
        return self.node

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for _, event in self.events if isinstance(event, kind)]


class Network:
    """Hosts on one switch; ``now`` is virtual seconds."""

    def __init__(
        self, seed: int, *, loss: float = 0.0, delay: float = 0.001, tuning: Tuning | None = None
    ) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.loss, self.delay = loss, delay
        self.tuning = tuning or Tuning.lan()
        self.now = 1000.0
        self.hosts: dict[str, Host] = {}
        self.drops: list[Filter] = []
        """A datagram for which any of these is true is lost."""
        self.refuses: set[str] = set()
        """Hosts that answer with ICMP port unreachable while no node runs on them."""
        self.tap: list[tuple[float, str, str, bytes]] = []
        self.recording = False
        self._flying: list[tuple[float, int, str, bytes, Endpoint]] = []
        self._number = itertools.count()
        self._by_endpoint: dict[Endpoint, Host] = {}
        self.authority = Identity.generate(self.rng.randbytes)
        next_authority = Identity.generate(self.rng.randbytes)
        self.mesh = Mesh.founded_by(self.authority.public, next_authority.public)

    def __repr__(self) -> str:
        return f"Network(seed={self.seed})"

    # Making hosts.

    def add(self, name: str, *, prefixes: Iterable[str] | None = None) -> Host:
        number = len(self.hosts) + 1
        high, low = divmod(number, 250)
        where = endpoint(f"192.0.{high}.{low + 1}", 6179)
        texts = [f"10.{number // 256}.{number % 256}.0/24"] if prefixes is None else prefixes
        host = Host(
            name,
            where,
            Identity.generate(self.rng.randbytes),
            tuple(ipaddress.ip_network(text) for text in texts),
            [],
        )
        host.disk = [self.grant(host)]
        self.hosts[name] = host
        self._by_endpoint[where] = host
        return host

    def grant(self, host: Host, *, serial: int | None = None) -> Grant:
        number = len(self.hosts) + 1 if serial is None else serial
        return Grant.sign(
            self.authority, self.mesh, node=host.key, name=host.name, serial=number, allow=POOL
        )

    def start(self, name: str, *seeds: str, disk: bool = True) -> Host:
        """Start (or restart) a node; without ``disk`` it knows its key and grant only."""
        host = self.hosts[name]
        if not disk:
            host.disk, host.sequence = [self.grant(host)], 0

        def next_sequence(above: int) -> int:
            host.sequence = max(host.sequence + 1, above + 1)
            return host.sequence

        host.node = Node(
            self.mesh,
            host.identity,
            host.disk,
            next_sequence=next_sequence,
            rng=Random(self.rng.getrandbits(64)),
            now=self.clock(host),
            tuning=self.tuning,
        )
        host.node.announce(self.clock(host), prefixes=host.prefixes, endpoints=[host.where])
        host.node.join([self.hosts[seed].where for seed in seeds], self.clock(host))
        self.drain(host)
        return host

    def kill(self, name: str, *, refuses: bool = False) -> Host:
        """The node stops at once; its disk keeps what the store held."""
        host = self.hosts[name]
        host.disk = list(host.up.store)
        host.node = None
        if refuses:
            self.refuses.add(name)
        return host

    def mesh_of(self, number: int, *, timeout: float = 60.0) -> list[Host]:
        """``number`` running, converged hosts named n1, n2 ..., all joined through n1."""
        hosts = [self.add(f"n{each}") for each in range(1, number + 1)]
        for host in hosts:
            self.start(host.name, *(["n1"] if host.name != "n1" else []))
        self.run_until(lambda: self.agreed(*hosts), timeout)
        return hosts

    # Time.

    def clock(self, host: Host) -> float:
        return self.now + host.offset

    def drain(self, host: Host) -> None:
        node = host.up
        for datagram in node.datagrams_to_send():
            assert len(datagram.data) <= 1200, self
            host.sent += 1
            host.sent_bytes += len(datagram.data)
            self._carry(host, datagram.data, datagram.to)
        host.events += [(self.now, event) for event in node.events()]

    def _carry(self, source: Host, data: bytes, to: Endpoint) -> None:
        target = self._by_endpoint.get(to)
        if target is None:
            return
        if self.recording:
            self.tap.append((self.now, source.name, target.name, data))
        if self.rng.random() < self.loss or any(drop(source, target, data) for drop in self.drops):
            return
        self.deliver(target, data, source.where)

    def deliver(self, target: Host, data: bytes, source: Endpoint) -> None:
        """Put a datagram on the wire towards ``target``."""
        arrival = self.now + self.rng.lognormvariate(0.0, 0.3) * self.delay
        heapq.heappush(self._flying, (arrival, next(self._number), target.name, data, source))

    def _due(self, host: Host) -> float:
        return max(host.up.deadline - host.offset, host.stalled_until)

    def step(self, until: float) -> bool:
        """Advance to the next thing that happens; False when nothing does before ``until``."""
        running = [host for host in self.hosts.values() if host.node is not None]
        ticking = min(running, key=self._due, default=None)
        due = self._due(ticking) if ticking is not None else float("inf")
        arrival = self._flying[0][0] if self._flying else float("inf")
        if min(due, arrival) > until:
            self.now = until
            return False
        if arrival <= due:
            _, _, name, data, source = heapq.heappop(self._flying)
            self.now = max(self.now, arrival)
            host = self.hosts[name]
            if host.node is None:
                self._refuse(host, source)
            elif host.stalled_until > self.now:
                self._flying_again(host, data, source)
            else:
                host.node.receive(data, source, self.clock(host))
                self.drain(host)
        else:
            assert ticking is not None
            self.now = max(self.now, due)
            ticking.up.tick(self.clock(ticking))
            assert ticking.up.deadline > self.clock(ticking), self
            self.drain(ticking)
        return True

    def _flying_again(self, host: Host, data: bytes, source: Endpoint) -> None:
        heapq.heappush(
            self._flying, (host.stalled_until, next(self._number), host.name, data, source)
        )

    def _refuse(self, host: Host, source: Endpoint) -> None:
        sender = self._by_endpoint.get(source)
        if host.name in self.refuses and sender is not None and sender.node is not None:
            sender.node.unreachable(host.where, self.clock(sender))
            self.drain(sender)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.step(end):
            pass

    def run_until(self, condition: Callable[[], bool], timeout: float = 30.0) -> float:
        """Seconds until ``condition`` held; an assertion with the seed when it never did."""
        began = self.now
        while not condition():
            assert self.step(began + timeout), f"not within {timeout} s in {self}"
        return self.now - began

    # What is true.

    def agreed(self, *hosts: Host) -> bool:
        """The hosts see exactly one another alive, have one root and say so."""
        return all(host.up.converged for host in hosts) and self.together(*hosts)

    def together(self, *hosts: Host) -> bool:
        """The hosts see exactly one another alive and have one root."""
        return len({host.up.store.root for host in hosts}) == 1 and all(
            {key for key, member in host.up.members.items() if member.shown_state == "alive"}
            == {other.key for other in hosts if other is not host}
            for host in hosts
        )

    def state(self, viewer: str, target: str) -> str:
        """How ``viewer`` shows ``target`` to people."""
        member = self.hosts[viewer].up.members.get(self.hosts[target].key)
        return member.shown_state if member is not None else "unknown"

    def cut(self, *names: str) -> Filter:
        """Nothing passes between ``names`` and the others until the filter is taken out."""
        side = frozenset(names)

        def crosses(source: Host, target: Host, data: bytes) -> bool:
            return (source.name in side) != (target.name in side)

        self.drops.append(crosses)
        return crosses
