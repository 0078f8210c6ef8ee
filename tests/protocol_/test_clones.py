"""Two hosts with one key: one goes on, the other is still, both say so, and nobody exits."""

from __future__ import annotations

import itertools

import pytest

from protocol import frames
from protocol.events import Cloned, PeerChanged, Reinstated, Superseded
from protocol.objects import Announcement
from simulation import Disk, Host, Network

SEEDS = range(3)


def mesh_with_clone(seed: int, *, loss: float = 0.0) -> tuple[Network, list[Host], Host, Host]:
    """Five others, a node, and a host that has started with a copy of that node's disk."""
    net = Network(seed, loss=loss, truthful=False)  # it knows one host for each key
    others = net.mesh_of(5)
    node = net.add("node")
    net.start("node", "n1")
    net.run_until(lambda: net.together(*others, node), 10)
    net.run(5)
    clone = net.add("clone")
    copy(node, clone)
    net.start("clone", "n1")
    return net, others, node, clone


def copy(host: Host, to: Host) -> None:
    to.identity = host.identity
    to.disk = Disk(tuple(host.up.store), dict(host.disk.files))


def said(net: Network, hosts: list[Host], seconds: float) -> int:
    """How many announcements ``hosts`` have made in so many seconds."""
    found: dict[Announcement | None, None] = {}
    end = net.now + seconds
    while net.now < end:
        found.update(dict.fromkeys(host.up.announcement for host in hosts))
        net.run(0.05)
    return len(found) - len(hosts)


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
    first = winner(node, clone)
    for host in others:
        host.events.clear()
    number = said(net, [node, clone], 300)
    assert winner(node, clone) is first, net
    if not loss:
        assert number == 0, net
        assert [event for host in others for event in host.told(PeerChanged)] == [], net
    assert number <= 20, net
    assert net.together(*others, first) or loss, net


@pytest.mark.parametrize("seed", SEEDS)
def test_two_that_cannot_reach_each_other_announce_a_few_times_a_minute(seed: int) -> None:
    net, others, node, clone = mesh_with_clone(seed)
    net.drop(lambda source, target, data: {source, target} == {node, clone})
    net.run(10)
    first = winner(node, clone)
    assert 4 <= said(net, [node, clone], 300) <= 5 * 4, net
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
    net.drop(lambda source, target, data: {source, target} == {node, clone})
    assert said(net, [node, clone], 80) == 2, "its word, and the answer"
    assert yielded(second)
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
    prefixes = others[0].prefixes
    second.do(lambda node, now: node.announce(now, prefixes=prefixes))
    assert said(net, [second], 10) == 0
    net.kill(first.name)
    net.run_until(lambda: in_force(others, second), 80)
    assert announced(others, node).prefixes == others[0].prefixes


def test_who_has_yielded_may_leave_at_once() -> None:
    net, others, node, clone = mesh_with_clone(2)
    net.run(10)
    first = winner(node, clone)
    second = node if first is clone else clone
    second.do(lambda node, now: node.leave(now))
    assert second.up.departed
    net.run(5)
    assert not announced(others, node).has_left


@pytest.mark.parametrize("seed", SEEDS)
def test_a_third_host_with_the_key_changes_nothing_for_long(seed: int) -> None:
    net, others, node, clone = mesh_with_clone(seed)
    third = net.add("third")
    copy(node, third)
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
        hosts[1].set_wall(0.0)  # else it would be above its last life's at once
        net.start("n2", "n1", disk=disk)
        net.run_until(lambda: net.agreed(*hosts), 10)
    assert hosts[1].told(Cloned) == [], net


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_restored_from_an_old_snapshot_goes_on_above_within_a_round(seed: int) -> None:
    net = Network(seed)
    hosts = net.mesh_of(5)
    host = hosts[1]
    before = Disk(tuple(host.up.store), dict(host.disk.files))
    wall = host.wall()
    host.set_wall(wall + 1e6)
    for number in range(9):
        host.do(lambda node, now, number=number: node.announce(now, preference=number))  # type: ignore[misc]
        net.run(0.2)
    net.kill("n2")
    host.set_wall(wall)
    newest = announced([each for each in hosts if each is not host], host).sequence
    net.start("n2", "n1", disk=before)
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
