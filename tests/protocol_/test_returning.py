"""Coming back: who failed together is tried together, soon, and never without end."""

from __future__ import annotations

import pytest

from protocol.returning import AT_ONCE
from simulation import Host, Network
from simulation.warm import warm_mesh


def shown(net: Network, hosts: list[Host], target: Host, state: str) -> bool:
    return all(net.state(h.name, target.name) == state for h in hosts if h is not target)


def probes(host: Host) -> int:
    return host.up.counters.get("sent Probe", 0)


@pytest.mark.parametrize("seed", range(6))
def test_a_cable_that_is_in_again_is_seen_by_all_others_at_once(seed: int) -> None:
    net = Network(seed, cipher=False)
    hosts = warm_mesh(net, 16)
    net.run(5)
    cut = net.cut("n5")
    net.run(20)
    assert shown(net, hosts, hosts[4], "failed"), net
    net.heal(cut)
    hosts[4].do(lambda node, now: node.link_changed(now))
    assert net.run_until(lambda: shown(net, hosts, hosts[4], "alive"), 5) < 0.25, net
    net.run_until(lambda: net.together(*hosts), 1)


@pytest.mark.parametrize("seed", range(6))
def test_where_no_kernel_tells_it_the_first_that_answers_brings_all_others(seed: int) -> None:
    net = Network(seed, cipher=False)
    hosts = warm_mesh(net, 16)
    net.run(5)
    cut = net.cut("n1", "n2", "n3", "n4")
    net.run(30)
    net.heal(cut)
    assert net.run_until(lambda: net.together(*hosts), 5) < 0.7, net


def test_those_who_stay_silent_are_tried_three_times_and_no_more() -> None:
    net = Network(3, cipher=False)
    hosts = warm_mesh(net, 12)
    net.run(5)
    for host in hosts[4:]:
        net.kill(host.name)
    net.run_until(lambda: len(hosts[0].up.members.failed) == 8, 10)
    net.run(5)
    before = probes(hosts[0])
    for _ in range(20):  # a link that flaps
        hosts[0].do(lambda node, now: node.link_changed(now))
        net.run(0.01)
    net.run(0.5)
    # Besides them one in turn, two that are contacted, and turns brought forward: at most four.
    assert 3 * 8 <= probes(hosts[0]) - before <= 3 * 8 + 3 + 4 + 2


def test_however_many_are_lost_few_are_tried_at_a_time() -> None:
    net = Network(4, cipher=False)
    hosts = warm_mesh(net, 100)
    net.run(5)
    for host in hosts[4:]:
        net.kill(host.name)
    net.run_until(lambda: len(hosts[0].up.members.failed) == 96, 60)
    net.run(2)
    before = probes(hosts[0])
    hosts[0].do(lambda node, now: node.link_changed(now))
    assert probes(hosts[0]) - before <= 8 + 3  # with turns brought forward to those who live
    net.run(0.1)
    assert AT_ONCE // 2 < probes(hosts[0]) - before <= AT_ONCE + 6


def test_who_was_cut_off_is_not_slow_afterwards() -> None:
    net = Network(5, cipher=False)
    hosts = warm_mesh(net, 6)
    net.run(5)
    cut = net.cut("n1")
    net.run(20)
    prober = hosts[0].up._detector.prober
    assert prober.slowness > 3
    net.heal(cut)
    hosts[0].do(lambda node, now: node.link_changed(now))
    assert prober.slowness == 1
