"""The store is a function of what was heard, in whatever order and however often."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from functools import cache
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import store as store_module
from protocol.address import Prefix
from protocol.evidence import Evidence
from protocol.identity import Identity, Mesh
from protocol.merkle import EMPTY
from protocol.objects import Accusation, Announcement, Grant, Record, Revocation
from protocol.store import Outcome, Store, newer, slot_id, slot_of

MAKER, NEXT = (Identity.from_secret(hashlib.sha256(name).digest()) for name in (b"m", b"n"))
MESH = Mesh.founded_by(MAKER.public, NEXT.public)
POOL = [Prefix.parse("10.0.0.0/8")]
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
            waiting = store.take_waiting(record.subject)
            if waiting is not None:
                store.merge(waiting)
    return store


def content(store: Store) -> dict[bytes, bytes]:
    return {slot_of(each): each.hash for each in store}


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
        if isinstance(each, Revocation) or each.subject in granted:
            slot = slot_of(each)
            if slot not in best or newer(each, best[slot]):
                best[slot] = each
    assert content(store) == {slot: each.hash for slot, each in best.items()}
    assert all(store.in_slot(slot) == each for slot, each in best.items())


@given(records)
def test_the_objects_of_one_kind_are_a_mapping_in_the_order_of_their_slots(
    heard: list[Record],
) -> None:
    store = hear(heard)
    for shelf, kind in (
        (store.grants, Grant),
        (store.revocations, Revocation),
        (store.announcements, Announcement),
    ):
        held = [each for each in store if isinstance(each, kind)]
        assert dict(shelf) == {each.node: each for each in held}
        assert list(shelf) == sorted(shelf, key=lambda key: slot_id(kind.KIND, key))
        assert [shelf.rank(each.node) for each in held] == list(range(len(shelf)))
        assert [shelf.nth(number) for number in range(len(shelf))] == held
        if held:
            assert shelf.last() == held[-1]
        for stranger in {node(number).public for number in range(4)} - set(shelf):
            assert stranger not in shelf
            assert shelf.get(stranger) is None
            with pytest.raises(KeyError):
                shelf[stranger]


@given(records)
def test_a_grant_stands_right_before_its_announcement(heard: list[Record]) -> None:
    order = [(each.subject, each.KIND) for each in hear(heard)]
    for before, after in itertools.pairwise(order):
        if after[1] == Announcement.KIND:
            assert before == (after[0], Grant.KIND)
    assert all(kind != Announcement.KIND for _, kind in order[:1])


def test_a_store_that_is_made_of_anothers_tree_goes_its_own_way() -> None:
    one = hear([grant(0), announcement(0)])
    other = Store(one.tree)
    assert other.root == one.root
    other.merge(announcement(0, 2))
    assert one.announcements[node(0).public] == announcement(0)
    assert other.announcements[node(0).public] == announcement(0, 2)


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


def first(number: int, among: int) -> set[bytes]:
    """The nodes whose slots come first."""
    keys = [node(each).public for each in range(among)]
    return set(sorted(keys, key=lambda key: slot_id(Grant.KIND, key))[:number])


@given(st.permutations(range(12)))
def test_at_the_bound_the_same_members_stay_in_whatever_order_they_came(
    order: list[int],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "MAX_MEMBERS", 5)
        store = hear(each for number in order for each in (grant(number), announcement(number)))
    assert set(store.grants) == set(store.announcements) == first(5, 12)
    assert len(content(store)) == 10


def test_an_announcement_does_not_wait_for_a_grant_that_would_find_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_module, "MAX_MEMBERS", 3)
    by_slot = sorted(range(5), key=lambda each: slot_id(Grant.KIND, node(each).public))
    store = hear(grant(number) for number in by_slot[1:4])
    assert store.merge(announcement(by_slot[4])) is Outcome.FULL
    assert store.merge(announcement(by_slot[0])) is Outcome.WAITING


@given(st.permutations(range(12)))
def test_who_had_to_leave_is_told_and_is_exactly_who_was_in_and_is_not(order: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "MAX_MEMBERS", 5)
        store = Store()
        entered = []
        for number in order:
            outcome = store.merge(grant(number))
            assert outcome in (Outcome.NEW, Outcome.FULL)
            if outcome is Outcome.NEW:
                entered.append(node(number).public)
            held = set(store.grants)
            assert held == set(entered) - set(store.evicted)
            assert len(store.evicted) == max(0, len(entered) - 5)
    assert held == first(5, 12)


def test_a_full_store_still_takes_what_is_newer_from_those_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_module, "MAX_MEMBERS", 3)
    store = hear(each for number in range(3) for each in (grant(number), announcement(number)))
    for number in range(3):
        assert store.merge(grant(number, 2)) is Outcome.NEW
        assert store.merge(announcement(number, 2)) is Outcome.NEW
    assert store.evicted == []
    assert len(content(store)) == 6


@given(st.permutations(range(12)))
def test_at_the_bound_the_same_revocations_stay_in_whatever_order_they_came(
    order: list[int],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "MAX_MEMBERS", 5)
        store = hear(revocation(number) for number in order)
    assert set(store.revocations) == first(5, 12)
    assert store.evicted == []


def test_a_second_revocation_of_one_node_pushes_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_module, "MAX_MEMBERS", 3)
    for again in range(3):
        store = hear(revocation(number) for number in range(3))
        # The authority's library may sign at random: same words, another signature.
        other = in_another_envelope(revocation(again))
        assert store.merge(other) is Outcome.NEW
        assert len(store.revocations) == 3


def in_another_envelope(record: Revocation) -> Revocation:
    """The same revocation in another envelope with a larger hash; who merges has verified."""
    for number in range(256):
        raw = record.raw[:1] + bytes([number]) + record.raw[2:]
        made = Revocation.decode(raw)
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
