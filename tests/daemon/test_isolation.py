"""Half the mesh cut off: what becomes of its routes, on both sides, in virtual time."""

from __future__ import annotations

import attrs
import pytest

from protocol.address import Prefix
from protocol.objects import Grant
from protocol.tuning import Tuning
from simulation import Disk, Host, Network, decision
from simulation.network import POOL

SHARED: Prefix = Prefix.parse("10.99.0.0/16")
LEFT = [f"n{each}" for each in range(1, 6)]
RIGHT = [f"n{each}" for each in range(6, 11)]


def mesh(seed: int) -> tuple[Network, list[Host]]:
    """Ten nodes; the third of each half announces one more prefix, the same."""
    net = Network(seed, cipher=False, tuning=attrs.evolve(Tuning.lan(), isolation_max=60.0))
    hosts = [net.add(name) for name in (*LEFT, *RIGHT)]
    for host in (hosts[2], hosts[7]):
        host.prefixes = (*host.prefixes, SHARED)
        grant = Grant.sign(
            net.authority,
            net.mesh,
            node=host.key,
            name=host.name,
            serial=7,
            allow=(*POOL, SHARED),
        )
        net.trust(grant)
        host.disk = Disk((grant,))
    for host in hosts:
        net.start(host.name, *(["n1"] if host.name != "n1" else []))
    net.run_until(lambda: net.agreed(*hosts))
    return net, hosts


def sole(net: Network, but: Host) -> set[Prefix]:
    return {p for h in net.hosts.values() if h is not but for p in h.prefixes if p != SHARED}


@pytest.mark.parametrize("seed", range(3))
def test_half_the_mesh_cut_off_is_held_and_healed_without_the_loss_of_a_route(seed: int) -> None:
    net, hosts = mesh(seed)
    cut = net.cut(*LEFT)
    for _ in range(100):
        net.run(0.1)
        for host in hosts:
            assert sole(net, host) <= decision(host).desired.routes.keys(), net
    assert all(net.state("n1", name) == "failed" for name in RIGHT), net
    net.heal(cut)
    for _ in range(50):
        net.run(0.1)
        for host in hosts:
            assert sole(net, host) <= decision(host).desired.routes.keys(), net
    assert net.together(*hosts), net


def test_a_prefix_with_an_origin_on_this_side_switches_at_once() -> None:
    net, hosts = mesh(3)
    net.cut(*LEFT)
    net.run(5)
    for host in hosts:
        if SHARED not in host.prefixes:
            near = net.hosts["n3" if host.name in LEFT else "n8"]
            (hop,) = decision(host).desired.routes[SHARED].hops
            assert str(hop.address) == near.where.host, net


def test_a_sole_origin_that_stays_away_is_held_no_longer_than_its_time() -> None:
    net, hosts = mesh(4)
    net.cut(*LEFT)
    net.run(55)
    assert sole(net, hosts[0]) <= decision(hosts[0]).desired.routes.keys()
    net.run(15)
    far = {p for name in RIGHT for p in net.hosts[name].prefixes if p != SHARED}
    assert not far & decision(hosts[0]).desired.routes.keys()
    assert far <= decision(hosts[0]).desired.guards
