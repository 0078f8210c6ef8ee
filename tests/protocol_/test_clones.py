"""Two hosts with one key: one goes on, the other is still, both say so, and nobody exits."""

from __future__ import annotations

import itertools

import pytest
from simnet import Host, Network

from protocol import frames
from protocol.events import Cloned, PeerChanged, Reinstated, Superseded
from protocol.objects import Announcement

SEEDS = range(3)


def mesh_with_clone(seed: int, *, loss: float = 0.0) -> tuple[Network, list[Host], Host, Host]:
    """Five others, a node, and a host that has started with a copy of that node's disk."""
    net = Network(seed, loss=loss)
    others = net.mesh_of(5)
    node = net.add("node")
    net.start("node", "n1")
    net.run_until(lambda: net.together(*others, node), 10)
    net.run(5)
    clone = net.add("clone")
    clone.identity, clone.sequence = node.identity, node.sequence
    clone.disk = list(node.up.store)
    net.start("clone", "n1")
    return net, others, node, clone


def announced(others: list[Host], of: Host) -> Announcement:
    held = {host.up.store.announcements[of.key].hash for host in others}
    assert len(held) == 1
    return others[0].up.store.announcements[of.key]


def in_force(others: list[Host], host: Host) -> bool:
    return all(o.up.store.announcements[host.key] == host.up.announcement for o in others)


def yielded(host: Host) -> bool:
    return host.up._originator.clones.yielded


def winner(node: Host, clone: Host) -> Host:
    assert yielded(node) != yielded(clone)
    return clone if yielded(node) else node


def own_boot_key(host: Host) -> bytes:
    own = host.up.announcement
    assert own is not None
    return own.boot_key


@pytest.mark.parametrize("seed", SEEDS)
def test_the_larger_boot_key_goes_on_and_both_hosts_say_so(seed: int) -> None:
    net, others, node, clone = mesh_with_clone(seed)
    net.run_until(lambda: yielded(node) or yielded(clone), 5)
    net.run(30)
    first = winner(node, clone)
    second = node if first is clone else clone
    assert own_boot_key(first) > own_boot_key(second), net
    assert in_force(others, first), net
    alarms = {host.name: host.told(Cloned) for host in (first, second)}
    assert alarms == {
        first.name: [Cloned(False, (second.where,))],
        second.name: [Cloned(True, (first.where,))],
    }, net
    assert node.node is not None
    assert clone.node is not None


@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize("seed", SEEDS)
def test_one_is_in_force_for_minutes_without_taking_turns(seed: int, loss: float) -> None:
    net, others, node, clone = mesh_with_clone(seed, loss=loss)
    net.run(10)
    first, sequences = winner(node, clone), (node.sequence, clone.sequence)
    for host in others:
        host.events.clear()
    net.run(300)
    assert winner(node, clone) is first, net
    if not loss:
        assert (node.sequence, clone.sequence) == sequences, "not one announcement more"
        assert [event for host in others for event in host.told(PeerChanged)] == [], net
    assert node.sequence + clone.sequence <= sum(sequences) + 20, net
    assert net.together(*others, first) or loss, net


@pytest.mark.parametrize("seed", SEEDS)
def test_two_that_cannot_reach_each_other_announce_a_few_times_a_minute(seed: int) -> None:
    net, others, node, clone = mesh_with_clone(seed)
    net.drops.append(lambda source, target, data: {source, target} == {node, clone})
    net.run(10)
    first, before = winner(node, clone), node.sequence + clone.sequence
    net.run(300)
    assert 4 <= node.sequence + clone.sequence - before <= 5 * 4, net
    assert winner(node, clone) is first, net
    assert node.told(Cloned), net
    assert clone.told(Cloned), net


@pytest.mark.parametrize("seed", SEEDS)
def test_who_goes_on_because_the_other_is_cut_off_from_it_yields_again_at_the_first_word(
    seed: int,
) -> None:
    net, others, node, clone = mesh_with_clone(seed)
    net.run(300)
    first = winner(node, clone)
    second = node if first is clone else clone
    sequence = announced(others, node).sequence
    net.drops.append(lambda source, target, data: {source, target} == {node, clone})
    net.run_until(lambda: not yielded(second), 80)
    net.run_until(lambda: yielded(second), 3)
    net.run(5)
    assert announced(others, node).sequence == sequence + 2, "its word, and the answer"
    assert in_force(others, first)


@pytest.mark.parametrize("seed", SEEDS)
def test_who_yielded_is_in_force_a_minute_after_the_other_stopped(seed: int) -> None:
    net, others, node, clone = mesh_with_clone(seed)
    net.run(120)
    first = winner(node, clone)
    second = node if first is clone else clone
    net.kill(first.name)
    took = net.run_until(lambda: in_force(others, second), 100)
    assert 45 <= took <= 75, net
    net.run_until(lambda: net.together(*others, second), 5)
    (told,) = second.told(Reinstated)
    assert isinstance(told, Reinstated)
    assert told.seconds > 120


@pytest.mark.parametrize("seed", SEEDS)
def test_who_has_yielded_is_quiet_and_keeps_what_it_knows(seed: int) -> None:
    net, others, node, clone = mesh_with_clone(seed)
    net.run(10)
    first = winner(node, clone)
    second = node if first is clone else clone
    members = {key: member.state for key, member in second.up.members.items()}
    second.events.clear()
    net.recording = True
    net.run(120)
    said = [data for _, source, _, data in net.tap if source == second.name]
    kinds = {frames.frame_type(data) for data in said}
    assert kinds <= {frames.HELLO}, net
    assert len(said) <= 2 * 2 * 6 + 2, net
    assert {key: each.state for key, each in second.up.members.items()} == members
    assert second.told(PeerChanged) == []
    assert {net.state(second.name, host.name) for host in others} == {"alive"}, net
    own = second.up.announcement
    assert own is not None
    assert own.prefixes == second.prefixes
    assert own.endpoints == (second.where,)


def test_who_has_yielded_takes_new_prefixes_and_announces_them_when_it_goes_on() -> None:
    net, others, node, clone = mesh_with_clone(1)
    net.run(10)
    first = winner(node, clone)
    second = node if first is clone else clone
    sequence = second.sequence
    second.up.announce(net.clock(second), prefixes=others[0].prefixes)
    net.drain(second)
    net.run(10)
    assert second.sequence == sequence
    net.kill(first.name)
    net.run_until(lambda: in_force(others, second), 80)
    assert announced(others, node).prefixes == others[0].prefixes


def test_who_has_yielded_may_leave_at_once() -> None:
    net, others, node, clone = mesh_with_clone(2)
    net.run(10)
    first = winner(node, clone)
    second = node if first is clone else clone
    second.up.leave(net.clock(second))
    net.drain(second)
    assert second.up.departed
    net.run(5)
    assert not announced(others, node).has_left


@pytest.mark.parametrize("seed", SEEDS)
def test_a_third_host_with_the_key_changes_nothing_for_long(seed: int) -> None:
    net, others, node, clone = mesh_with_clone(seed)
    third = net.add("third")
    third.identity = node.identity
    third.disk, third.sequence = list(node.up.store), node.sequence
    net.start("third", "n2")
    net.run(60)
    going = [host for host in (node, clone, third) if not yielded(host)]
    assert len(going) == 1, net
    assert in_force(others, going[0]), net


@pytest.mark.parametrize("disk", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_restart_is_no_clone(seed: int, disk: bool) -> None:
    net = Network(seed)
    hosts = net.mesh_of(5)
    for _ in range(4):
        net.kill("n2")
        net.start("n2", "n1", disk=disk)
        net.run_until(lambda: net.agreed(*hosts), 10)
    assert hosts[1].told(Cloned) == [], net


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_restored_from_an_old_snapshot_goes_on_above_within_a_round(seed: int) -> None:
    net = Network(seed)
    hosts = net.mesh_of(5)
    host = hosts[1]
    disk, sequence = list(host.up.store), host.sequence
    for _ in range(30):
        host.up.announce(net.clock(host))
        net.drain(host)
        net.run(0.2)
    net.kill("n2")
    newest = announced([each for each in hosts if each is not host], host).sequence
    host.disk, host.sequence = disk, sequence
    net.start("n2", "n1")
    took = net.run_until(
        lambda: net.together(*hosts) and announced(hosts, host).sequence > newest, 10
    )
    assert took < 5 * net.tuning.probe_period, net
    net.run(130)
    assert host.told(Superseded), net
    assert host.told(Cloned) == [], net
    assert net.agreed(*hosts), net


def test_members_of_a_mesh_with_clones_keep_agreeing_on_one_root() -> None:
    net, others, *_ = mesh_with_clone(3)
    net.run(20)
    for first, second in itertools.pairwise(others):
        assert first.up.store.root == second.up.store.root
