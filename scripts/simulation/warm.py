"""A mesh that has been running: every node holds the same store and has seen all others.

To let thousands of nodes find one another costs hours and measures nothing that the scenarios
after it are about, so they start where a mesh that converged long ago stands.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from protocol.identity import BootKey
from protocol.objects import Announcement
from protocol.resumption import Resumption
from protocol.store import Store
from simulation.host import Host
from simulation.network import Network


def warm_mesh(
    network: Network, number: int, *, prefixes: Callable[[int], list[str]] | None = None
) -> list[Host]:
    """``number`` running hosts n1, n2 ... that know one another. ``prefixes``: of the n-th."""
    store = Store()
    starting: list[tuple[Host, Random]] = []
    for each in range(1, number + 1):
        host = network.add(f"n{each}", prefixes=prefixes(each) if prefixes else None)
        rng = network.new_rng()
        before = rng.getstate()
        # The first that a node draws is its boot key, so it will make this very one.
        boot_key = BootKey.generate(rng.randbytes)
        rng.setstate(before)
        own = Announcement.sign(
            host.identity,
            network.mesh,
            sequence=host.sequence().next(),
            boot_key=boot_key.public,
            endpoints=[host.where],
            prefixes=host.prefixes,
        )
        network.trust(own)
        for record in (*host.disk.records, own):
            store.merge(record)
        starting.append((host, rng))
    resumption = Resumption.of(store, network.mesh.id)
    for host, rng in starting:
        host.make(resumption, rng)
        where = [host.where]
        host.up.announce(host.clock(), prefixes=host.prefixes, endpoints=where)  # as it stands
        host.up.join([], host.clock())
        host.meter.verified = host.meter.signed = 0  # that was long ago
        host.drain()
    return [host for host, _ in starting]
