"""Nodes in virtual time: joining, announcing, leaving, coming back."""

from __future__ import annotations

import pytest

from protocol import store as store_module
from protocol.address import Endpoint, Prefix, endpoint
from protocol.errors import SequenceUnavailable
from protocol.events import Converged, ObservedElsewhere, PrefixesChanged, Superseded
from protocol.frames import HELLO, SEALED
from protocol.objects import Announcement, Grant
from protocol.store import slot_id
from simulation import Disk, Network
from simulation.traffic import Traffic
from simulation.warm import warm_mesh

SEEDS = range(5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("number", [2, 3, 16])
def test_nodes_that_know_one_seed_converge(seed: int, number: int) -> None:
    net = Network(seed)
    hosts = net.mesh_of(number)
    roots = {host.up.store.root for host in hosts}
    assert len(roots) == 1, net
    for host in hosts:
        last = host.told(Converged)[-1]
        assert isinstance(last, Converged)
        assert (last.peers, last.known) == (number - 1, number - 1), net


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("loss", [0.1, 0.25])
def test_nodes_find_one_another_through_loss(seed: int, loss: float) -> None:
    net = Network(seed, loss=loss)
    hosts = net.mesh_of(1)
    hosts += [net.add(f"x{number}") for number in range(7)]
    for host in hosts[1:]:
        net.start(host.name, "n1")
    net.run_until(lambda: net.together(*hosts), 15)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("delay", [0.2, 0.5])
def test_nodes_agree_over_ways_longer_than_their_timers_are_made_for(
    seed: int, delay: float
) -> None:
    net = Network(seed, delay=delay)
    hosts = net.mesh_of(1)
    hosts += [net.add(f"x{number}") for number in range(7)]
    for host in hosts[1:]:
        net.start(host.name, "n1")
    net.run_until(lambda: net.agreed(*hosts), 60 * delay)


def test_a_node_alone_converges_when_it_was_told_of_nobody() -> None:
    net = Network(1)
    net.add("a")
    a = net.start("a")
    assert a.up.converged


def test_a_node_that_was_told_of_a_seed_does_not_converge_before_it_met_it() -> None:
    net = Network(1)
    net.add("a")
    net.add("b")
    b = net.start("b", "a")
    net.run(30)
    assert not b.up.converged
    assert b.told(Converged) == []


def test_a_seed_is_contacted_for_life() -> None:
    net = Network(2)
    net.add("a")
    net.add("b")
    b = net.start("b", "a")
    net.run(3600)
    a = net.start("a")
    net.run_until(lambda: net.agreed(a, b), 5)


def test_a_newcomer_joins_through_any_member() -> None:
    net = Network(3)
    a, b, c = net.mesh_of(3)
    net.kill("n1")
    d = net.add("d")
    net.start("d", "n3")
    net.run_until(lambda: net.agreed(b, c, d), 20)
    assert net.state("n2", "n1") == "failed"


@pytest.mark.parametrize("seed", SEEDS)
def test_an_update_reaches_everyone_within_ten_round_trips(seed: int) -> None:
    net = Network(seed)
    hosts = net.mesh_of(16)
    added = Prefix.parse("10.99.0.0/24")
    hosts[5].do(lambda node, now: node.announce(now, prefixes=[*hosts[5].prefixes, added]))
    took = net.run_until(
        lambda: all(added in host.up.store.announcements[hosts[5].key].prefixes for host in hosts)
    )
    assert took < 0.02, net
    told = hosts[0].told(PrefixesChanged)[-1]
    assert isinstance(told, PrefixesChanged)
    assert told.added == (added,)


def test_an_update_that_was_pushed_to_nobody_is_repaired_within_two_probes() -> None:
    net = Network(4)
    a, b, c = net.mesh_of(3)
    deaf = net.cut("n1")
    added = Prefix.parse("10.99.0.0/24")
    a.do(lambda node, now: node.announce(now, prefixes=[*a.prefixes, added]))
    net.run(0.01)
    net.heal(deaf)
    net.run_until(lambda: net.agreed(a, b, c), 2.0)


def test_leaving_is_known_to_all_and_a_return_has_a_higher_sequence() -> None:
    net = Network(5)
    a, b, c = net.mesh_of(3)
    before = b.up.announcement
    b.do(lambda node, now: node.leave(now))
    net.run_until(lambda: b.up.departed, 1)
    assert [net.state("n1", "n2"), net.state("n3", "n2")] == ["left", "left"]
    assert a.up.store.announcements[b.key].prefixes == ()
    net.kill("n2")
    net.run(10)
    assert net.state("n1", "n2") == "left"
    net.start("n2", "n1")
    net.run_until(lambda: net.agreed(a, b, c))
    after = b.up.announcement
    assert before is not None
    assert after is not None
    assert after.sequence > before.sequence


def test_leaving_reaches_members_through_loss() -> None:
    net = Network(6, loss=0.4)
    a, b, c = net.mesh_of(3)
    b.do(lambda node, now: node.leave(now))
    net.run_until(lambda: b.up.departed, 10)
    assert [net.state("n1", "n2"), net.state("n3", "n2")] == ["left", "left"]


def test_an_old_departure_replayed_after_the_return_is_ignored() -> None:
    net = Network(7)
    a, b, c = net.mesh_of(3)
    b.do(lambda node, now: node.leave(now))
    net.run_until(lambda: b.up.departed, 1)
    departure = a.up.store.announcements[b.key]
    assert departure.has_left
    net.kill("n2")
    net.start("n2", "n1")
    net.run_until(lambda: net.agreed(a, b, c))
    newest = a.up.store.announcements[b.key]
    assert a.up.store.merge(departure).name == "OLDER"
    assert a.up.store.announcements[b.key] is newest


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_lost_its_disk_goes_above_its_own_last_sequence(seed: int) -> None:
    net = Network(seed)
    a, b, c = net.mesh_of(3)
    for number in range(50):
        b.do(lambda node, now, number=number: node.announce(now, preference=number))  # type: ignore[misc]
    net.run(1)
    last = a.up.store.announcements[b.key].sequence
    net.kill("n2")
    b.set_wall(0.0)  # or the clock alone would take it above
    net.start("n2", "n1", disk=False)
    net.run_until(lambda: net.agreed(a, b, c), 10)
    assert a.up.store.announcements[b.key].sequence > last, net
    assert b.told(Superseded), net


def test_seeds_that_left_and_came_back_without_their_disks_are_found_by_those_who_remember() -> (
    None
):
    net = Network(20)
    hosts = net.mesh_of(5)
    for seed in hosts[:2]:
        seed.do(lambda node, now: node.leave(now))
        net.run_until(lambda seed=seed: seed.up.departed, 1)  # type: ignore[misc]
        net.kill(seed.name)
    net.start("n1", "n2", disk=False)
    net.start("n2", "n1", disk=False)
    net.run_until(lambda: net.together(*hosts), 10)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restart_is_talking_again_within_two_probes(seed: int) -> None:
    net = Network(seed)
    a, b, c = net.mesh_of(3)
    net.kill("n2")
    net.start("n2", "n1")
    took = net.run_until(lambda: net.agreed(a, b, c))
    assert took < 1.5, net


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restarted_seed_that_names_no_seeds_finds_its_mesh_from_its_snapshot(seed: int) -> None:
    net = Network(seed)
    a, b, c = net.mesh_of(3)
    net.kill("n1")
    net.run(60)
    net.start("n1")
    assert not a.up.converged, "members known from before and not met: nothing is agreed"
    net.run_until(lambda: net.agreed(a, b, c), 10)


def test_all_nodes_restarting_at_once_find_each_other() -> None:
    net = Network(8)
    hosts = net.mesh_of(5)
    for host in hosts:
        net.kill(host.name)
    net.run(10)
    for host in hosts:
        net.start(host.name)
    net.run_until(lambda: net.agreed(*hosts), 30)


def test_replayed_datagrams_of_a_departed_life_make_nobody_seen() -> None:
    net = Network(9)
    net.recording = True
    a, b, c = net.mesh_of(3)
    net.kill("n2")
    net.kill("n3")
    old = [data for _, _, to, data in net.tap if to == "n1"]
    net.kill("n1")
    net.start("n1", disk=False)
    for data in old:
        net.deliver(a, data, b.where)
    net.run(20)
    assert old
    assert not any(member.seen for member in a.up.members.values())


def test_a_newcomer_is_not_stored_before_it_spoke_under_its_boot_key() -> None:
    net = Network(10)
    net.recording = True
    a, b, c = net.mesh_of(3)
    d = net.add("d")
    net.drop(lambda source, target, data: source is d and data[1] == SEALED)
    net.start("d", "n1")
    net.run(1)
    assert any(data[1] == HELLO and to == "n1" for _, source, to, data in net.tap if source == "d")
    assert d.key not in a.up.store.announcements
    assert d.key not in a.up.store.grants
    net.heal()
    net.run_until(lambda: net.agreed(a, b, c, d))


def test_the_answer_to_a_hello_is_no_longer_than_the_hello() -> None:
    net = Network(11)
    net.recording = True
    net.mesh_of(2)
    hellos = [data for _, _, _, data in net.tap if data[1] == HELLO]
    asked = [data for data in hellos if data[18] & 1]
    assert len(asked) < len(hellos)
    assert all(len(data) == 1200 for data in asked)
    assert all(len(data) <= 1183 for data in hellos if not data[18] & 1)


def test_a_source_that_asks_without_end_is_answered_at_a_limited_rate() -> None:
    net = Network(12)
    net.recording = True
    a, b = net.mesh_of(2)
    asking = next(d for _, s, _, d in net.tap if s == "n2" and d[1] == HELLO and d[18] & 1)
    stranger = endpoint("203.0.113.9", 6179)
    for _ in range(1000):
        a.up.receive(asking, stranger, a.clock())
    answers = [d for d in a.up.datagrams_to_send() if d.to == stranger]
    assert 1 <= len(answers) <= net.tuning.hello_burst


def test_two_meshes_do_not_hear_each_other() -> None:
    net, other = Network(13), Network(14)
    net.recording = True
    a, _ = net.mesh_of(2)
    x, _ = other.mesh_of(2)
    before = x.up.store.root
    for _, _, _, data in net.tap:
        x.up.receive(data, a.where, x.clock())
    assert x.up.store.root == before
    assert a.key not in x.up.members


def test_too_many_prefixes_are_refused_with_the_number_that_fits() -> None:
    net = Network(15)
    net.add("a")
    a = net.start("a")
    prefixes = [Prefix.parse(f"10.{each >> 8}.{each & 255}.0/24") for each in range(1250)]
    before = a.up.announcement
    with pytest.raises(ValueError, match=r"1250 prefixes are more.*the first 1000 would fit"):
        a.up.announce(a.clock(), prefixes=prefixes)
    assert a.up.announcement is before
    a.up.announce(a.clock(), prefixes=prefixes[:1000])
    assert a.up.prefixes == tuple(prefixes[:1000])


def test_without_a_sequence_nothing_is_signed_and_what_stood_stands() -> None:
    net = Network(16)
    net.add("a")
    a = net.start("a")
    before = a.up.announcement

    def full(above: int) -> int:
        raise SequenceUnavailable("disk full")

    a.up._originator._next_sequence = full
    with pytest.raises(SequenceUnavailable):
        a.up.announce(a.clock(), prefixes=[])
    assert a.up.announcement is before
    a.up._originator._next_sequence = lambda above: above + 1
    a.up.announce(a.clock())
    own = a.up.announcement
    assert own is not None
    assert own.prefixes == a.prefixes


def test_an_ack_tells_the_source_it_saw_where_that_is_not_announced() -> None:
    net = Network(17)
    a, b = net.mesh_of(2)
    net.masquerade(b, Endpoint(b.where.host, 40000))
    net.run(5)
    assert b.told(ObservedElsewhere)
    assert net.agreed(a, b)


def test_idle_nodes_send_one_probe_and_one_ack_a_period_of_71_bytes() -> None:
    net = Network(18)
    hosts = net.mesh_of(4)
    net.run(20)
    before = [Traffic.of([host.sent]) for host in hosts]
    net.run(100)
    for host, earlier in zip(hosts, before, strict=True):
        sent = host.sent - earlier
        assert 380 <= sent.count() <= 420, net
        assert sent.payload() / sent.count() < 73, net


def test_a_grant_that_is_renewed_reaches_everyone() -> None:
    net = Network(19)
    a, b, c = net.mesh_of(3)
    newer = net.grant(b, serial=99)
    net.kill("n2")
    kept = [r for r in b.disk.records if r.subject != b.key or isinstance(r, Announcement)]
    b.disk = Disk((newer, *kept), b.disk.files)
    net.start("n2", "n1")
    net.run_until(lambda: net.agreed(a, b, c))
    assert c.up.store.grants[b.key] == newer


@pytest.mark.parametrize("seed", SEEDS)
def test_who_has_to_leave_a_full_store_is_no_member_any_more(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Network(seed)
    hosts = warm_mesh(net, 8)
    net.run_until(lambda: all(host.up.converged for host in hosts))
    monkeypatch.setattr(store_module, "MAX_MEMBERS", 8)
    newcomer = net.add("newcomer")
    ranked = sorted((*hosts, newcomer), key=lambda host: slot_id(Grant.KIND, host.key))
    first, last = ranked[:-1], ranked[-1]
    net.start("newcomer", "n1")
    net.run(10)
    assert len({host.up.store.root for host in first}) == 1, net
    for host in first:
        assert set(host.up.store.announcements) == {other.key for other in first}, net
        if host is not newcomer:
            assert last.key not in host.up.members, net
            assert set(host.up.members) == {other.key for other in first if other is not host}, net
            assert host.up.converged, net
