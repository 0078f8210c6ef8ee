"""A mesh in virtual time: the real ``Node`` by the thousand, a seeded network between them.

Everything that happens stands in one heap, in the order of its time and then of its making:
arrivals, wake-ups, ICMP errors, and what a scenario has planned.  Nothing looks through all
hosts.  Everything random comes from one seed, which stands in the name of the network and so
in every assertion that fails; links, keys, nodes and faults draw from streams of their own, so
that one more draw in one changes nothing in the others.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any, Final

from protocol.address import Endpoint, Prefix, endpoint
from protocol.events import Converged, Event
from protocol.identity import KEY_SIZE, Identity, Mesh
from protocol.objects import Grant, Signed
from protocol.tuning import Tuning
from simulation.host import Costs, Disk, Host
from simulation.links import Delay, Filter, Links, apart
from simulation.referee import Referee
from simulation.traffic import kind_of
from simulation.wire import Meter, MeteredIdentity, RealWire, SharedWork, SimulatedWire

POOL: Final = (Prefix.parse("10.0.0.0/8"), Prefix.parse("fd00::/8"))

EPOCH: Final = 1_600_000_000.0
"""Unix seconds at the network's zero: an arbitrary day, the same in each run."""

_BEGIN: Final = 1000.0
_MONOTONIC: Final = 1_000_000.0
"""Seconds for which a host may have been up when its first node starts."""

Listener = Callable[[Host, float, Event], None]


class Network:
    """Hosts on one switch; ``now`` is virtual seconds."""

    def __init__(
        self,
        seed: int,
        *,
        loss: float = 0.0,
        delay: Delay | float | None = None,
        tuning: Tuning | None = None,
        costs: Costs | None = None,
        cipher: bool = True,
        truthful: bool = True,
        replay: str = "",
    ) -> None:
        """``delay``: a median in seconds, or a distribution. ``cipher``: False seals without
        one and shares signature checks. ``truthful``: end the run when a node calls itself
        converged and is wrong. ``replay``: the command that makes this run again."""
        self.seed, self.replay = seed, replay
        given = delay if isinstance(delay, Delay | None) else Delay(delay)
        self.links = Links(given or Delay.lan(), loss)
        self.tuning = tuning or Tuning.lan()
        self.costs = costs or Costs()
        self.now = _BEGIN
        self.hosts: dict[str, Host] = {}
        self.referee = Referee(self, truthful=truthful)
        self.roots: dict[bytes, int] = {}
        """How many nodes hold each root."""
        self.listeners: list[Listener] = []
        """Called as (host, when its work is done, event) for every event of every node."""
        self.keep_events = True
        """Whether each host keeps its events: not in long or large runs."""
        self.tap: list[tuple[float, str, str, bytes]] = []
        self.recording = False
        self._history = hashlib.sha256()
        self._digesting = False
        self._shared = None if cipher else SharedWork()
        self._keys, self._links, self._nodes = (
            Random(f"{seed} {name}") for name in ("keys", "links", "nodes")
        )
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0
        self._by_endpoint: dict[Endpoint, Host] = {}
        self.authority = Identity.generate(self._keys.randbytes)
        self.set_aside = Identity.generate(self._keys.randbytes)
        """The key that can end that authority's time."""
        self.mesh = Mesh.founded_by(self.authority.public, self.set_aside.public)

    def __repr__(self) -> str:
        again = f"; again: {self.replay}" if self.replay else ""
        return f"Network(seed={self.seed}){again}"

    # Making hosts.

    def add(self, name: str, *, prefixes: Iterable[str] | None = None) -> Host:
        """A host with an identity, a grant and one /24 (or ``prefixes``); nothing runs yet."""
        number = len(self.hosts) + 1
        high, low = divmod(number, 250)
        where = endpoint(f"192.{high >> 8}.{high & 255}.{low + 1}", 6179)
        texts = [f"10.{number >> 8}.{number & 255}.0/24"] if prefixes is None else prefixes
        identity = MeteredIdentity.from_secret(self._keys.randbytes(KEY_SIZE))
        grant = self._grant(identity.public, name, number)
        host = Host(
            self,
            name,
            where,
            identity,
            tuple(Prefix.parse(text) for text in texts),
            Disk((grant,)),
            offset=self._nodes.random() * _MONOTONIC,
            unix=EPOCH,
            distance=self.links.delay.place(self._nodes),
        )
        self.hosts[name] = host
        self._by_endpoint[where] = host
        return host

    def grant(self, host: Host, *, serial: int) -> Grant:
        """Another grant for ``host``."""
        return self._grant(host.key, host.name, serial)

    def _grant(self, node: bytes, name: str, serial: int) -> Grant:
        made = Grant.sign(
            self.authority, self.mesh, node=node, name=name, serial=serial, allow=POOL
        )
        self.trust(made)
        return made

    def trust(self, made: Signed) -> None:
        """``made`` was signed here by the right key: where checks are shared, none is needed."""
        if self._shared is not None:
            self._shared.trust(made)

    def masquerade(self, host: Host, seen: Endpoint) -> None:
        """From now on ``host``'s datagrams come from ``seen``; what is sent there reaches it."""
        host.rewritten = seen
        self._by_endpoint[seen] = host

    def start(self, name: str, *seeds: str, disk: bool | Disk = True) -> Host:
        """Start (or restart) a node. ``disk``: False leaves its key and grant only; one that
        was copied earlier is put back first."""
        host = self.hosts[name]
        if disk is False:
            own = [r for r in host.disk.records if isinstance(r, Grant) and r.node == host.key]
            host.disk = Disk(tuple(own))
        elif isinstance(disk, Disk):
            host.disk = disk.copy()
        host.boot(
            host.disk.records,
            [self.hosts[seed].where for seed in seeds],
            self.new_rng(),
        )
        return host

    def kill(self, name: str, *, refuses: bool = False) -> Host:
        """The node stops at once; its disk keeps what the store held."""
        host = self.hosts[name]
        host.halt()
        host.refuses = refuses
        return host

    def mesh_of(self, number: int, *, timeout: float = 60.0) -> list[Host]:
        """``number`` running, converged hosts named n1, n2 ..., all joined through n1."""
        hosts = [self.add(f"n{each}") for each in range(1, number + 1)]
        for host in hosts:
            self.start(host.name, *(["n1"] if host.name != "n1" else []))
        self.run_until(lambda: self.agreed(*hosts), timeout)
        return hosts

    def running(self) -> Iterator[Host]:
        """The hosts on which a node runs."""
        return (host for host in self.hosts.values() if host.node is not None)

    def new_rng(self) -> Random:
        """The generator of one more node."""
        return Random(self._nodes.getrandbits(64))

    def new_wire(self, meter: Meter) -> RealWire:
        """The wire of one more node."""
        return RealWire(meter) if self._shared is None else SimulatedWire(meter, self._shared)

    # Time.

    def push(self, when: float, call: Callable[..., object], *given: Any) -> None:
        """Make ``call(*given)`` at ``when``."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, call, given))

    def step(self, until: float) -> bool:
        """Advance to the next thing that happens; False when nothing does before ``until``."""
        if not self._heap or self._heap[0][0] > until:
            self.now = max(self.now, until)
            return False
        self.now, _, call, given = heapq.heappop(self._heap)
        call(*given)
        return True

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end, heap, pop = self.now + seconds, self._heap, heapq.heappop
        while heap and heap[0][0] <= end:
            self.now, _, call, given = pop(heap)
            call(*given)
        self.now = end

    def run_until(self, condition: Callable[[], bool], timeout: float = 30.0) -> float:
        """Seconds until ``condition`` held; an assertion with the seed when it never did."""
        began = self.now
        while not condition():
            assert self.step(began + timeout), f"not within {timeout} s in {self}"
        return self.now - began

    # What the hosts do to the network.

    def carry(self, source: Host, data: bytes, to: Endpoint, when: float, kind: int) -> None:
        """``source`` sends ``data`` at ``when``, which is now or soon."""
        target = self._by_endpoint.get(to)
        if target is None:
            return
        if self.recording:
            self.tap.append((when, source.name, target.name, data))
        if self._digesting:
            self._history.update(struct.pack("!d", when) + source.key + target.key + data)
        seen = source.rewritten or source.where
        for trip in self.links.trips(source, target, data, self._links):
            self._count += 1
            entry = (when + trip, self._count, target.arrive, (data, seen, kind))
            heapq.heappush(self._heap, entry)

    def deliver(self, target: Host, data: bytes, source: Endpoint) -> None:
        """Put a datagram on the wire towards ``target``, as if it came from ``source``."""
        kind = kind_of(data, b"")
        self.push(self.now + self.links.delay.median, target.arrive, data, source, kind)

    def refuse(self, host: Host, source: Endpoint) -> None:
        """Nobody listens on ``host``: it says so, if its kernel does such a thing."""
        sender = self._by_endpoint.get(source)
        if host.refuses and sender is not None:
            back = self.links.delay.median + host.distance + sender.distance
            self.push(self.now + back, sender.unreachable, host.where)

    def happened(self, host: Host, when: float, events: list[Event]) -> None:
        """A node told ``events`` in a piece of work that is done at ``when``."""
        if self.keep_events:
            host.events += [(when, event) for event in events]
        for event in events:
            if isinstance(event, Converged):
                self.referee.converged(host, event.root)
            for listener in self.listeners:
                listener(host, when, event)

    def holds(self, host: Host, root: bytes | None) -> None:
        """``host``'s store has another root than before, or None when its node is gone."""
        if host.root is not None:
            self.roots[host.root] -= 1
            if not self.roots[host.root]:
                del self.roots[host.root]
        host.root = root
        if root is not None:
            self.roots[root] = self.roots.get(root, 0) + 1
            if self.referee.truthful:
                self.referee.held(host, root)

    # What is true.

    def digest_history(self) -> None:
        """From now on, every datagram that is sent goes into ``history``."""
        self._digesting = True

    @property
    def history(self) -> str:
        """A digest of every datagram since ``digest_history``: when, from whom, to whom, what."""
        return self._history.hexdigest()

    def agreed(self, *hosts: Host) -> bool:
        """The hosts see exactly one another alive, have one root and say so."""
        return all(host.up.converged for host in hosts) and self.together(*hosts)

    def together(self, *hosts: Host) -> bool:
        """The hosts see exactly one another alive and have one root."""
        root = hosts[0].up.store.root
        if any(host.up.store.root != root for host in hosts):
            return False
        keys = {host.key for host in hosts}
        return all(
            len(alive := _alive(host)) == len(keys) - 1 and keys.issuperset(alive) for host in hosts
        )

    def state(self, viewer: str, target: str) -> str:
        """How ``viewer`` shows ``target`` to people."""
        member = self.hosts[viewer].up.members.get(self.hosts[target].key)
        return member.shown_state if member is not None else "unknown"

    def cut(self, *names: str) -> Filter:
        """Nothing passes between ``names`` and the others until the filter is taken out."""
        return self.drop(apart(frozenset(names)))

    def drop(self, fault: Filter) -> Filter:
        """Datagrams for which ``fault`` is true are lost until it is taken out."""
        self.links.drops.append(fault)
        return fault

    def heal(self, *filters: Filter) -> None:
        """Take ``filters`` out; all of them if none is named."""
        for each in filters or tuple(self.links.drops):
            self.links.drops.remove(each)


def _alive(host: Host) -> list[bytes]:
    members = host.up.members
    return [key for key, member in members.items() if member.shown_state == "alive"]
