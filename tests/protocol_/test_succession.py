"""Handing the authority on: all at once, for everybody, and for nobody but who was meant."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reigns import Reign

from protocol.events import PeerChanged, PrefixesChanged, Revoked, Succession
from protocol.frames import HELLO, NOTICE
from protocol.identity import Identity, Mesh
from protocol.messages import Push
from protocol.objects import Announcement, Grant, Record
from protocol.store import Outcome, Store, slot_of
from simulation import Disk, Host, Network

RNG = Random("keys")
FIRST, ASIDE, A, B, C, D, THIEF = (Identity.generate(RNG.randbytes) for _ in range(7))
MESH = Mesh.founded_by(FIRST.public, ASIDE.public)
REIGN = Reign(MESH, FIRST, ASIDE)
OLD = [REIGN.grant(each.public, name, serial) for each, name, serial in ((A, "a", 1), (B, "b", 2))]
DROPPED = REIGN.grant(C.public, "c", 3)
NEXT, SUCCESSOR = REIGN.succeed([A.public, B.public], 10)
NEW = NEXT.renew(OLD, 9)


def announcement(node: Identity, sequence: int = 1) -> Announcement:
    boot = node.public[:31] + b"\x11"
    return Announcement.sign(
        node, MESH, sequence=sequence, boot_key=boot, endpoints=(), prefixes=()
    )


def hear(*records: Record) -> Store:
    store = Store()
    for record in records:
        store.merge(record)
    return store


# Who may make an authority.


def test_only_the_key_that_was_set_aside_makes_the_next_authority() -> None:
    assert SUCCESSOR.verify(MESH)
    for other in (FIRST, NEXT.key, NEXT.aside, A):
        _, forged = REIGN.succeed([A.public], 10, by=other)
        assert not forged.verify(MESH)


def test_a_thief_of_the_key_in_use_can_neither_end_its_reign_nor_make_it_anew() -> None:
    mesh = NEXT.mesh
    continued = NEXT.succeed([A.public], 20, by=NEXT.key)[1]
    forked = REIGN.succeed([A.public], 20, by=NEXT.key, seed="thief")[1]
    assert not continued.verify(mesh)
    assert not forked.verify(mesh)
    assert NEXT.succeed([A.public], 20)[1].verify(mesh)


def test_who_does_not_know_the_authority_before_cannot_judge_the_one_after() -> None:
    later, second = NEXT.succeed([A.public], 20)
    assert second.signer(MESH) is None
    assert not second.verify(MESH)
    assert second.verify(NEXT.mesh)
    assert not later.grant(A.public, "a", 21).verify(NEXT.mesh)


def test_who_was_told_of_a_later_authority_takes_its_word_and_no_other_of_that_generation() -> None:
    later, second = NEXT.succeed([A.public], 20)
    told = MESH.succeeded_by(second.made)
    assert second.verify(told)
    assert later.grant(A.public, "a", 21).verify(told)
    assert not NEXT.succeed([A.public], 20, seed="another")[1].verify(told)
    filled = told.succeeded_by(SUCCESSOR.made)
    assert filled.generation == 2
    assert filled.of_generation(2) == second.made


def test_the_mesh_stays_the_same_mesh() -> None:
    assert NEXT.mesh.id == MESH.id
    assert MESH.succeeded_by(SUCCESSOR.made).newest == SUCCESSOR.made


def test_another_authority_of_a_generation_takes_those_after_it_along() -> None:
    later, _ = NEXT.succeed([A.public], 20)
    another = REIGN.succeed([A.public], 30, seed="again")[1]
    assert later.mesh.generation == 2
    assert later.mesh.succeeded_by(another.made).later == (another.made,)


# When it takes effect.


def test_nothing_lapses_before_all_that_is_named_is_here() -> None:
    store = hear(*OLD, DROPPED, SUCCESSOR, NEW[0])
    assert store.pending is SUCCESSOR
    assert set(store.grants) == {A.public, B.public, C.public}
    assert store.merge(NEW[1]) is Outcome.NEW
    assert store.generation == 1
    assert set(store.grants) == {A.public, B.public}
    assert store.lapsed == [C.public]


def test_who_is_revoked_by_the_new_authority_is_waited_for_no_longer() -> None:
    gone = NEXT.revoke(B.public, since=2)
    store = hear(*OLD, SUCCESSOR, NEW[0], gone)
    assert store.generation == 1
    assert set(store.grants) == {A.public}


def test_who_comes_late_and_hears_only_what_stands_today_gets_there_too() -> None:
    again = NEXT.renew([OLD[0]], 50)
    newcomer = NEXT.grant(D.public, "d", 40)
    gone = NEXT.revoke(B.public, since=2)
    store = hear(*OLD, DROPPED, SUCCESSOR, newcomer)
    assert store.generation == 0  # one of two, for D was no member then
    for record in (again[0], gone):
        store.merge(record)
    assert store.generation == 1
    assert set(store.grants) == {A.public, D.public}


def test_a_grant_that_was_not_named_makes_up_for_none_that_was() -> None:
    store = hear(*OLD, SUCCESSOR, NEW[0], NEXT.grant(C.public, "c", 9, since=3))
    assert store.generation == 0
    assert store.pending is SUCCESSOR


def test_a_used_key_that_is_found_later_moves_nobody_who_was_there() -> None:
    forged = REIGN.succeed([THIEF.public], 99)[1]
    assert forged.verify(MESH)  # it is the right key
    store = hear(*OLD, SUCCESSOR, *NEW)
    root = store.root
    assert store.merge(forged) is Outcome.OLDER
    assert store.root == root
    later, second = NEXT.succeed([A.public], 20)
    store = hear(*OLD, second, *later.renew([NEW[0]], 19), SUCCESSOR)  # told of the second first
    assert store.generation == 2
    assert store.merge(forged) is Outcome.OLDER


def test_a_revocation_of_one_who_never_was_a_member_makes_nobody_wait() -> None:
    store = hear(*OLD, SUCCESSOR, NEXT.revoke(THIEF.public), *NEW)
    assert store.generation == 1


def test_what_the_authority_before_says_counts_no_more() -> None:
    store = hear(*OLD, SUCCESSOR, *NEW)
    root = store.root
    assert store.merge(REIGN.grant(A.public, "a", 99)) is Outcome.OLDER
    assert store.merge(REIGN.grant(THIEF.public, "thief", 99)) is Outcome.LAPSED
    assert store.merge(REIGN.revoke(A.public)) is Outcome.LAPSED
    assert store.root == root


def test_whom_the_authority_before_revoked_the_new_one_may_admit() -> None:
    orders: list[list[Record]] = [
        [REIGN.revoke(A.public), *NEW],
        [NEW[0], REIGN.revoke(A.public), NEW[1]],
    ]
    for order in orders:
        store = hear(OLD[0], SUCCESSOR, *order)
        assert set(store.grants) == {A.public, B.public}
        assert not store.revocations


def test_whom_the_new_authority_admits_is_a_member_before_it_is_in_effect() -> None:
    store = hear(REIGN.revoke(A.public), SUCCESSOR, NEW[0], announcement(A))
    assert store.pending is SUCCESSOR
    assert A.public in store.announcements
    assert A.public not in store.revocations


def test_whom_the_new_authority_revokes_no_grant_of_its_own_brings_back() -> None:
    store = hear(SUCCESSOR, *NEW, NEXT.revoke(A.public, since=1))
    assert store.merge(NEXT.grant(A.public, "a", 99, since=1)) is Outcome.REVOKED


def test_a_later_succession_needs_nothing_of_the_one_before() -> None:
    last, second = NEXT.succeed([B.public], 20)
    store = hear(*OLD, SUCCESSOR, second, *last.renew([NEW[1]], 19))
    assert store.generation == 2
    assert set(store.grants) == {B.public}
    assert store.successor(1) is SUCCESSOR  # to show to those who still need it


@given(st.randoms(use_true_random=False), st.booleans())
def test_the_order_in_which_a_succession_is_heard_decides_nothing(rng: Random, twice: bool) -> None:
    last, second = NEXT.succeed([A.public, D.public], 30)
    heard: list[Record] = [
        *OLD, DROPPED, REIGN.revoke(B.public), REIGN.grant(A.public, "a", 5, since=1),
        SUCCESSOR, *NEW, NEXT.grant(D.public, "d", 25), NEXT.revoke(B.public, since=2),
        second, *last.renew([NEW[0]], 29), last.grant(D.public, "d", 29, since=25),
    ]  # fmt: skip
    expected = hear(*heard)
    assert expected.generation == 2
    rng.shuffle(heard)
    store = hear(*heard, *(heard if twice else ()))
    assert {slot_of(each): each.hash for each in store} == {
        slot_of(each): each.hash for each in expected
    }
    assert store.root == expected.root


# In a mesh.


def reign_of(net: Network) -> Reign:
    return Reign(net.mesh, net.authority, net.set_aside)


def held_grants(host: Host) -> list[Grant]:
    return list(host.up.store.grants.all())


def hand_on(
    reign: Reign, at: Host, *, drop: tuple[Host, ...] = (), serial: int = 1000
) -> tuple[Reign, list[Record]]:
    """Let another authority follow for all that ``at`` knows but ``drop``; tell nobody yet."""
    without = [each.key for each in drop]
    kept = [each for each in held_grants(at) if each.node not in without]
    following, successor = reign.succeed([each.node for each in kept], serial)
    return following, [successor, *following.renew(kept, serial)]


def tell(host: Host, words: list[Record]) -> list[Outcome | None]:
    found: list[Outcome | None] = []
    host.do(lambda node, now: found.extend(node.hear(words, now)))
    return found


def in_effect(generation: int, *hosts: Host) -> bool:
    return all(host.up.store.generation == generation for host in hosts)


def change_authority(net: Network, hosts: list[Host], *, drop: tuple[Host, ...] = ()) -> None:
    """Let another follow the first, and all ``hosts`` know it."""
    _, words = hand_on(reign_of(net), hosts[0], drop=drop)
    tell(hosts[0], words)
    net.run_until(lambda: in_effect(1, *hosts), 5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss", [0.0, 0.25])
def test_a_mesh_changes_its_authority_and_no_member_that_stays_blinks(
    seed: int, loss: float
) -> None:
    net = Network(seed, loss=loss)
    *others, thief = net.mesh_of(7)
    net.run(3)
    _, words = hand_on(reign_of(net), others[0], drop=(thief,))
    began = {host.name: len(host.events) for host in net.hosts.values()}
    assert set(tell(others[2], words)) == {Outcome.NEW}
    net.run_until(lambda: in_effect(1, *others), 5)
    net.run_until(lambda: net.together(*others), 10)
    for host in others:
        told = [event for _, event in host.events[began[host.name] :]]
        changed = [each for each in told if isinstance(each, PeerChanged | PrefixesChanged)]
        if not loss:  # else members are suspected now and then, and cleared
            assert not changed
        assert not [each for each in changed if isinstance(each, PrefixesChanged)]
        assert [each for each in told if isinstance(each, Revoked)] == [
            Revoked(thief.key, "n7", lapsed=True)
        ]
        assert Succession(1, 6, in_effect=True) in told
        assert host.up.store.successor(1) is not None
    # It learns that there is another authority, and nobody gives it what that one said of others.
    net.run_until(lambda: thief.up.store.pending is not None, 10)
    net.run(10)
    assert in_effect(0, thief)


@pytest.mark.parametrize("seed", range(3))
def test_who_was_down_during_successions_comes_back_through_one_seed(seed: int) -> None:
    net = Network(seed)
    *others, late = net.mesh_of(5)
    net.kill(late.name)
    reign, words = hand_on(reign_of(net), others[0])
    tell(others[0], words)
    net.run_until(lambda: in_effect(1, *others), 5)
    _, words = hand_on(reign, others[0], serial=2000)
    tell(others[1], words)
    net.run_until(lambda: in_effect(2, *others), 5)
    net.run(5)
    net.start(late.name, "n1")
    net.run_until(lambda: net.agreed(*others, late), 5)
    assert late.up.mesh.generation == 2


@pytest.mark.parametrize("seed", range(3))
def test_a_newcomer_with_an_old_grant_that_was_renewed_gets_in_among_strangers(seed: int) -> None:
    net = Network(seed)
    others = net.mesh_of(4)
    newcomer = net.add("newcomer")
    (grant,) = (each for each in newcomer.disk.records if isinstance(each, Grant))
    reign = reign_of(net)
    kept = [*held_grants(others[0]), grant]
    following, successor = reign.succeed([each.node for each in kept], 1000)
    tell(others[0], [successor, *following.renew(kept, 1000)])
    net.run_until(lambda: in_effect(1, *others), 5)
    net.start("newcomer", "n2")
    net.run_until(lambda: net.agreed(*others, newcomer), 5)


def test_who_restarts_after_a_succession_begins_under_its_authority() -> None:
    net = Network(11)
    *others, dropped = net.mesh_of(4)
    change_authority(net, others, drop=(dropped,))
    net.run(2)
    cut = net.cut("n2")
    net.kill("n2")
    net.start("n2", "n1")
    assert in_effect(1, others[1])
    assert dropped.key not in others[1].up.members
    net.heal(cut)
    net.run_until(lambda: net.agreed(*others), 10)


def test_a_newcomer_whose_grant_was_not_renewed_stays_out() -> None:
    net = Network(1)
    others = net.mesh_of(4)
    stranger = net.add("stranger")
    change_authority(net, others)
    net.start("stranger", "n2")
    net.run(10)
    assert all(stranger.key not in host.up.members for host in others)


def test_who_is_shown_a_successor_asks_at_once_for_more() -> None:
    net = Network(7)
    others = net.mesh_of(4)
    newcomer = net.add("newcomer")
    change_authority(net, others)
    net.recording = True
    net.start("newcomer", "n1")
    net.run(1)
    told = [(when, data[1]) for when, *ends, data in net.tap if newcomer.name in ends]
    shown = next(when for when, kind in told if kind == NOTICE)
    asked = [when for when, kind in told if kind == HELLO]
    assert any(shown < when < shown + 0.01 for when in asked)


def test_who_hears_an_authority_it_does_not_know_asks_who_made_it() -> None:
    net = Network(8)
    hosts = net.mesh_of(3)
    cut = net.cut("n3")
    _, words = hand_on(reign_of(net), hosts[0])
    tell(hosts[0], words)
    net.run(1)
    net.heal(cut)
    net.recording = True
    grant = words[1]
    assert isinstance(grant, Grant)
    hosts[0].up._contacts.send(hosts[2].key, Push((grant,)), hosts[0].clock())
    hosts[0].drain()
    net.run(0.01)
    assert grant.hash in [each.hash for each in hosts[2].up.store]
    assert hosts[2].up.mesh.generation == 1


def test_who_is_admitted_again_announces_itself_though_nobody_remembers_it() -> None:
    net = Network(9)
    host = net.add("n1")
    net.start("n1")
    net.run(1)
    grants, reign = held_grants(host), reign_of(net)
    tell(host, [reign.revoke(host.key)])
    assert host.up.announcement is None
    following, successor = reign.succeed([host.key], 1000)
    tell(host, [successor, *following.renew(grants, 1000)])
    net.run(1)
    assert host.up.announcement is not None
    assert host.up.store.announcements[host.key].prefixes == host.prefixes


def test_a_node_that_a_succession_took_nobody_over_with_starts_all_the_same() -> None:
    net = Network(10)
    host = net.add("n1")
    net.start("n1")
    net.run(1)
    _, successor = reign_of(net).succeed([], 1000)
    tell(host, [successor])
    assert host.up.grant is None
    (own,) = (each for each in host.disk.records if isinstance(each, Grant))
    net.kill("n1")
    host.disk = Disk((*host.disk.records, own), host.disk.files)  # as the daemon keeps it apart
    net.start("n1")
    net.run(1)
    assert host.up.grant is None


def test_two_halves_that_change_their_authority_apart_are_one_mesh_afterwards() -> None:
    net = Network(2)
    hosts = net.mesh_of(6)
    _, words = hand_on(reign_of(net), hosts[0])
    cut = net.cut("n1", "n2", "n3")
    tell(hosts[0], words)
    net.run(20)
    assert in_effect(1, *hosts[:3])
    assert in_effect(0, *hosts[3:])
    net.heal(cut)
    net.run_until(lambda: in_effect(1, *hosts) and net.agreed(*hosts), 10)


@pytest.mark.parametrize("seed", range(3))
def test_a_thief_who_revokes_everybody_is_undone_by_a_succession(seed: int) -> None:
    net = Network(seed)
    hosts = net.mesh_of(5)
    grants = held_grants(hosts[0])
    thief = reign_of(net)
    everybody: list[Record] = [thief.revoke(host.key) for host in hosts]
    for host in hosts:
        tell(host, everybody)
    assert all(host.up.grant is None for host in hosts)
    net.run(60)
    following, successor = thief.succeed([each.node for each in grants], 1000)
    tell(hosts[3], [successor, *following.renew(grants, 1000)])
    net.run_until(lambda: net.agreed(*hosts), 130)
    assert in_effect(1, *hosts)


# Revocation.


def test_a_revocation_during_a_partition_purges_on_each_side_as_it_arrives() -> None:
    net = Network(3)
    *hosts, gone = net.mesh_of(6)
    cut = net.cut("n1", "n2", "n3")
    net.run(1)
    assert set(tell(hosts[0], [reign_of(net).revoke(gone.key)])) == {Outcome.NEW}
    net.run(1)
    assert all(gone.key not in host.up.members for host in hosts[:3])
    assert all(gone.key in host.up.members for host in hosts[3:])
    net.heal(cut)
    net.run_until(lambda: all(gone.key not in host.up.members for host in hosts), 10)
    net.run_until(lambda: gone.up.grant is None, 10)
    net.run_until(lambda: net.agreed(*hosts), 10)


@pytest.mark.parametrize("way", ["a fresh grant", "innocent peers"])
def test_a_revoked_node_comes_back_neither_with_a_fresh_grant_nor_through_innocent_peers(
    way: str,
) -> None:
    net = Network(4)
    *hosts, gone, innocent = net.mesh_of(6)
    reign = reign_of(net)
    net.kill("n6")
    before = innocent.disk
    tell(hosts[0], [reign.revoke(gone.key)])
    net.run_until(lambda: gone.up.grant is None, 5)
    net.kill("n5")
    fresh = reign.grant(gone.key, "n5", 10_000)
    if way == "a fresh grant":
        gone.disk = Disk((fresh,), gone.disk.files)
        net.start("n5", "n1")
        tell(hosts[1], [fresh])
    else:  # who was away still believes in it, and says so
        gone.disk = before.copy()
        net.start("n5", "n6")
    net.start("n6", "n1")
    net.run(15)
    alive = [*hosts, innocent]
    assert all(gone.key not in host.up.members for host in alive)
    assert all(gone.key in host.up.store.revocations for host in alive)
    net.run_until(lambda: net.agreed(*alive), 5)


def test_a_revoked_node_is_shown_its_revocation_and_falls_silent() -> None:
    net = Network(5)
    *hosts, gone = net.mesh_of(4)
    cut = net.cut("n4")
    tell(hosts[0], [reign_of(net).revoke(gone.key)])
    net.run(2)
    assert gone.up.grant is not None
    net.heal(cut)
    net.run_until(lambda: gone.up.grant is None, 10)
    net.run(1)
    sent = gone.sent.count()
    net.run(300)
    assert gone.sent.count() - sent <= 2 * 5  # a plea a minute, to a seed and a member
