"""A mesh that converged long ago, for tests that are not about how it came together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from simnet import Host, Network

from protocol.identity import BootKey
from protocol.node import Node
from protocol.objects import Announcement
from protocol.store import Store

Prefixes = Callable[[int], Iterable[str]]


def warm_mesh(net: Network, number: int, *, prefixes: Prefixes | None = None) -> list[Host]:
    """``number`` running hosts n1, n2 ... that hold one store and have seen one another;
    ``prefixes`` are those of the n-th."""
    store, hosts, rngs = Store(), [], []
    for each in range(1, number + 1):
        host = net.add(f"n{each}", prefixes=prefixes(each) if prefixes else None)
        rng = Random(net.rng.getrandbits(64))
        before = rng.getstate()
        boot_key = BootKey.generate(rng.randbytes)  # the first thing that its node will draw
        rng.setstate(before)
        host.sequence = 1
        own = Announcement.sign(
            host.identity,
            net.mesh,
            sequence=1,
            boot_key=boot_key.public,
            endpoints=[host.where],
            prefixes=host.prefixes,
        )
        for record in (*host.disk, own):
            store.merge(record)
        hosts.append(host)
        rngs.append(rng)
    for host, rng in zip(hosts, rngs, strict=True):
        host.node = _node(net, host, store, rng)
        net.drain(host)
        host.events.clear()
    return hosts


def _node(net: Network, host: Host, store: Store, rng: Random) -> Node:
    def next_sequence(above: int) -> int:
        host.sequence = max(host.sequence, above) + 1
        return host.sequence

    node = Node(
        net.mesh,
        host.identity,
        store,
        next_sequence=next_sequence,
        rng=rng,
        now=net.clock(host),
        tuning=net.tuning,
    )
    node.announce(net.clock(host), prefixes=host.prefixes, endpoints=[host.where])
    node.join([], net.clock(host))
    return node
