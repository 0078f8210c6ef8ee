"""The store is a function of what was heard, in whatever order and however often."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from functools import cache
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import store as store_module
from protocol.identity import Identity, Mesh
from protocol.merkle import EMPTY
from protocol.objects import Accusation, Announcement, Grant, Record, Revocation
from protocol.store import Evidence, Outcome, Store, newer, slot_id

MAKER, NEXT = (Identity.from_secret(hashlib.sha256(name).digest()) for name in (b"m", b"n"))
MESH = Mesh.founded_by(MAKER.public, NEXT.public)
POOL = [ipaddress.ip_network("10.0.0.0/8")]
BOOT = [hashlib.sha256(b"boot %d" % each).digest()[:31] + b"\x11" for each in range(2)]


@cache
def node(number: int) -> Identity:
    return Identity.from_secret(hashlib.sha256(b"node %d" % number).digest())


@cache
def grant(number: int, serial: int = 1, name: str = "x") -> Grant:
    return Grant.sign(MAKER, MESH, node=node(number).public, name=name, serial=serial, allow=POOL)


@cache
def announcement(number: int, sequence: int = 1, boot: int = 0) -> Announcement:
    return Announcement.sign(
        node(number), MESH, sequence=sequence, boot_key=BOOT[boot], endpoints=(), prefixes=()
    )


@cache
def revocation(number: int) -> Revocation:
    return Revocation.sign(MAKER, MESH, node=node(number).public)


@cache
def accusation(accuser: int, target: int, refused: bool = False) -> Accusation:
    return Accusation.sign(
        node(accuser), MESH, target=node(target).public, sequence=1, refused=refused
    )


def hear(records: Iterable[Record], store: Store | None = None) -> Store:
    """A store that has heard ``records`` as a node does: who waited is heard again."""
    store = Store() if store is None else store
    for record in records:
        if store.merge(record) is Outcome.NEW:
            waiting = store.take_waiting(record.node)
            if waiting is not None:
                store.merge(waiting)
    return store


def content(store: Store) -> dict[bytes, bytes]:
    return {slot_id(each.KIND, each.node): each.hash for each in store}


few = st.integers(0, 3)
records = st.lists(
    st.one_of(
        st.builds(grant, few, st.integers(1, 2), st.sampled_from("xy")),
        st.builds(announcement, few, st.integers(1, 3), st.integers(0, 1)),
        st.builds(revocation, st.integers(0, 1)),
    ),
    max_size=24,
)


@given(records, st.randoms(use_true_random=False))
def test_merging_is_commutative(heard: list[Record], rng: Random) -> None:
    shuffled = list(heard)
    rng.shuffle(shuffled)
    assert content(hear(shuffled)) == content(hear(heard))
    assert hear(shuffled).root == hear(heard).root


@given(records, st.randoms(use_true_random=False))
def test_merging_is_idempotent(heard: list[Record], rng: Random) -> None:
    twice = heard + heard
    rng.shuffle(twice)
    assert content(hear(twice)) == content(hear(heard))
    assert content(hear([*heard, *heard])) == content(hear(heard))


@given(records, records)
def test_merging_is_associative(one: list[Record], other: list[Record]) -> None:
    # Two stores that exchange what they hold end like one that has heard everything; twice,
    # for what waits at one for a grant of the other is told only when it has come.
    left, right = hear(one), hear(other)
    for _ in range(2):
        hear(list(right), left)
        hear(list(left), right)
    assert content(left) == content(right) == content(hear([*one, *other]))


@given(records)
def test_each_slot_holds_the_newest_that_may_stand_there(heard: list[Record]) -> None:
    store = hear(heard)
    revoked = {each.node for each in heard if isinstance(each, Revocation)}
    granted = {each.node for each in heard if isinstance(each, Grant)} - revoked
    best: dict[bytes, Record] = {}
    for each in heard:
        if isinstance(each, Revocation) or each.node in granted:
            slot = slot_id(each.KIND, each.node)
            if slot not in best or newer(each, best[slot]):
                best[slot] = each
    assert content(store) == {slot: each.hash for slot, each in best.items()}
    assert all(store.in_slot(slot) == each for slot, each in best.items())
    assert set(store.members()) == set(store.announcements)
    assert list(store.members()) == sorted(store.members())


@given(records, records)
def test_roots_are_equal_exactly_when_stores_are(one: list[Record], other: list[Record]) -> None:
    left, right = hear(one), hear(other)
    assert (left.root == right.root) == (content(left) == content(right))


def test_merging_says_what_became_of_an_object() -> None:
    store = Store()
    assert store.root == EMPTY
    assert store.merge(announcement(0)) is Outcome.WAITING
    assert store.root == EMPTY
    assert store.merge(grant(0)) is Outcome.NEW
    assert store.take_waiting(node(0).public) == announcement(0)
    assert store.take_waiting(node(0).public) is None
    assert store.merge(announcement(0, 2)) is Outcome.NEW
    assert store.merge(announcement(0, 2)) is Outcome.SAME
    assert store.merge(announcement(0, 1)) is Outcome.OLDER
    assert store.merge(revocation(0)) is Outcome.NEW
    assert store.merge(grant(0, 2)) is Outcome.REVOKED
    assert store.merge(announcement(0, 3)) is Outcome.REVOKED
    assert [each.KIND for each in store] == [Revocation.KIND]


def test_of_two_announcements_that_wait_the_newer_is_kept() -> None:
    for order in ((1, 2), (2, 1)):
        store = Store()
        for sequence in order:
            store.merge(announcement(0, sequence))
        assert store.take_waiting(node(0).public) == announcement(0, 2)


def test_no_more_announcements_wait_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_WAITING", 3)
    store = Store()
    for number in range(5):
        store.merge(announcement(number))
    found = [store.take_waiting(node(number).public) is not None for number in range(5)]
    assert found == [False, False, True, True, True]


def smallest(number: int, among: int) -> set[bytes]:
    keys = [node(each).public for each in range(among)]
    return set(sorted(keys, key=lambda key: hashlib.sha256(key).digest())[:number])


@given(st.permutations(range(12)))
def test_at_the_bound_the_same_members_stay_in_whatever_order_they_came(
    order: list[int],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "MAX_MEMBERS", 5)
        store = hear(each for number in order for each in (grant(number), announcement(number)))
    assert set(store.grants) == set(store.announcements) == smallest(5, 12)
    assert len(content(store)) == 10


@given(st.permutations(range(12)))
def test_at_the_bound_the_same_revocations_stay_in_whatever_order_they_came(
    order: list[int],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "MAX_MEMBERS", 5)
        store = hear(revocation(number) for number in order)
    assert set(store.revocations) == smallest(5, 12)


def test_a_second_revocation_of_one_node_pushes_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_module, "MAX_MEMBERS", 3)
    ranked = sorted(range(3), key=lambda each: hashlib.sha256(node(each).public).digest())
    for again in ranked:
        store = hear(revocation(number) for number in range(3))
        # The authority's library may sign at random: same words, another signature.
        other = in_another_envelope(revocation(again))
        outcome = store.merge(other)
        assert outcome is (Outcome.NEW if newer(other, revocation(again)) else Outcome.OLDER)
        assert len(store.revocations) == 3


def in_another_envelope(record: Revocation) -> Revocation:
    """The same revocation in another envelope with a larger hash; who merges has verified."""
    for number in range(256):
        raw = record.raw[:1] + bytes([number]) + record.raw[2:]
        made = Revocation(raw, record.node)
        if newer(made, record):
            return made
    raise AssertionError("no larger hash in 256")


@given(
    st.lists(st.builds(accusation, st.integers(1, 12), few.map(lambda n: n % 2), st.booleans())),
    st.randoms(use_true_random=False),
)
def test_the_same_accusations_stand_in_whatever_order_they_came(
    heard: list[Accusation], rng: Random
) -> None:
    twice = heard + heard
    rng.shuffle(twice)
    one, other = Evidence(), Evidence()
    for each in heard:
        one.add(each)
    for each in twice:
        other.add(each)
    assert one.digest == other.digest
    for target in (node(0).public, node(1).public):
        least: dict[bytes, bytes] = {}
        for each in heard:
            if each.target == target:
                least[each.accuser] = min(each.hash, least.get(each.accuser, b"\xff" * 16))
        expected = sorted(least.values())[:8]
        assert sorted(each.hash for each in one.against(target)) == expected


def test_evidence_that_is_held_already_is_no_news() -> None:
    evidence = Evidence()
    assert evidence.digest == bytes(8)
    assert evidence.add(accusation(1, 0))
    assert not evidence.add(accusation(1, 0))
    assert evidence.digest != bytes(8)
    evidence.clear(node(1).public)
    assert evidence.digest != bytes(8)
    evidence.clear(node(0).public)
    assert evidence.digest == bytes(8)
    assert not list(evidence)
