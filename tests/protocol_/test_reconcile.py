"""Where two roots differ: what differs is found and fetched, at a cost that follows it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import announcement, grant, mesh_store, node
from sides import LEFT, RIGHT, Side, Two, side, two

from protocol.messages import (
    Objects,
    Scan,
    Vouch,
)
from protocol.objects import Announcement, Grant
from protocol.store import Store

# What came since a root that was ours.


def test_who_missed_one_update_is_sent_just_that() -> None:
    both = two(300)
    both.left.make(announcement(7, 2))
    both.meet()
    assert both.equal
    assert both.left.said == {"Push": 1}
    assert both.right.said == {}
    assert both.left.octets == 42 + 3 + len(announcement(7, 2).raw)


def test_of_what_came_since_only_the_newest_of_each_slot_is_sent() -> None:
    both = two(30)
    for sequence in range(2, 12):
        both.left.make(announcement(7, sequence))
    both.meet()
    assert both.equal
    assert both.left.octets == 42 + 3 + len(announcement(7, 11).raw)


def test_a_departure_is_among_what_came_since() -> None:
    both = two(30)
    both.left.make(announcement(7, 2, left=True))
    both.meet()
    assert both.equal
    assert both.left.said == {"Push": 1}


def test_what_has_come_by_another_way_meanwhile_is_not_sent() -> None:
    both = two(30)
    both.left.make(announcement(7, 2))
    both.left.told_root(RIGHT, both.right.common.store.root)
    both.right.make(announcement(7, 2))
    both.left.common.members[RIGHT].root = both.right.common.store.root
    both.run(1)
    assert both.left.said == both.right.said == {}


def test_who_missed_more_than_a_datagram_holds_fetches_it() -> None:
    both = two(100)
    both.left.make(*(announcement(each, 2) for each in range(2, 40)))
    both.meet()
    assert both.equal
    assert "Push" not in both.left.said
    assert both.right.said["Pull"] >= 4


# Walks.


def test_a_walk_costs_what_differs_and_not_what_there_is() -> None:
    both = two(2000)
    both.left.common.store.merge(announcement(77, 2))  # long ago: no root of then is remembered
    both.meet()
    assert both.equal
    asked = {kind: both.right.said[kind] for kind in ("Walk", "Pull", "Scan")}
    assert asked == {"Walk": 4, "Pull": 1, "Scan": 0}  # 16^3 < 4000 slots < 16^4
    assert both.left.said["Walk"] <= 4  # it too looks for what it lacks
    assert both.left.octets + both.right.octets < 5000


def test_each_side_gets_what_the_other_has() -> None:
    both = two(200)
    both.left.common.store.merge(announcement(77, 2))
    both.right.common.store.merge(announcement(88, 2))
    both.meet()
    assert both.equal
    assert both.left.common.store.announcements[node(88).public] == announcement(88, 2)


def test_nobody_asks_before_a_push_has_had_time_to_come() -> None:
    both = two(200)
    both.left.common.store.merge(announcement(77, 2))
    both.right.told_root(LEFT, both.left.common.store.root)
    both.run(both.right.common.tuning.walk_delay - 0.002)
    assert both.right.said == {}
    both.right.common.store.merge(announcement(77, 2))
    both.run(1)
    assert both.right.said == {}


def test_a_walk_that_taught_nothing_is_repeated_ever_more_rarely() -> None:
    both = two(200)
    both.left.common.store.merge(announcement(77, 2))
    root, began, walks = both.right.common.store.root, both.left.now, []
    for _ in range(300):  # a probe every half second
        before = both.left.said["Walk"]
        both.left.told_root(RIGHT, root)
        both.run(0.1)
        if both.left.said["Walk"] > before:
            walks.append(both.left.now - began)
        both.left.wait(0.4)
        both.right.wait(0.4)
    gaps = [after - first for first, after in itertools.pairwise(walks)]
    assert walks[0] < 0.2
    assert gaps == sorted(gaps)
    assert len(walks) <= 9


def test_a_change_of_our_own_store_makes_a_walk_worth_while_again() -> None:
    both = two(200)
    both.left.common.store.merge(announcement(77, 2))
    walks = []
    for _ in range(3):
        both.left.told_root(RIGHT, both.right.common.store.root)
        both.run(0.1)
        walks.append(both.left.said["Walk"])
    assert 0 < walks[0] == walks[1] == walks[2]
    both.left.make(announcement(50, 2))
    both.left.told_root(RIGHT, bytes(15) + b"\1")
    both.run(0.1)
    assert both.left.said["Walk"] > walks[2]


stores = st.lists(st.tuples(st.integers(0, 99), st.integers(1, 4)), max_size=60)


@given(stores, stores, st.integers(0, 9))
def test_two_that_meet_hold_the_same_afterwards(
    one: list[tuple[int, int]], other: list[tuple[int, int]], seed: int
) -> None:
    both = two(100, seed=seed)
    for made, changes in ((both.left, one), (both.right, other)):
        store = Store(mesh_store(40).tree)
        for number, sequence in changes:
            store.merge(grant(number))
            store.merge(announcement(number, sequence))
        made.common.store.tree = store.tree
    both.meet()
    assert both.equal


@pytest.mark.parametrize("loss", [0.1, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_two_that_meet_through_loss_hold_the_same_after_a_few_meetings(
    seed: int, loss: float
) -> None:
    both = two(300, loss=loss, seed=seed)
    both.right.common.store.tree = Store().tree
    both.right.hold(grant(0), announcement(0), grant(1), announcement(1))
    for _ in range(60):
        if both.equal:
            break
        both.meet(0.5)
    assert both.equal


# Who has been seen.


def newcomer(both: Two) -> Side:
    """The right side has heard of everyone and seen nobody but the left one."""
    members = both.right.common.members
    for number in range(2, both.right.size):
        member = members[node(number).public]
        member.seen = False
        members.place(member)
    return both.right


def test_a_peer_with_our_root_tells_whom_it_has_seen() -> None:
    both = two(40)
    absent = both.left.common.members[node(9).public]
    absent.seen = False
    both.left.common.members.place(absent)
    made = newcomer(both)
    both.meet(0.1)
    assert both.left.said["Vouch"] == 2, "one answer, and a question about the absent one"
    wanted = {node(number).public for number in range(2, 40) if number != 9}
    assert set(made.seen) == wanted


def test_a_peer_with_another_root_vouches_for_nobody() -> None:
    both = two(40)
    made = newcomer(both)
    made.told_root(LEFT, made.common.store.root)
    both.left.make(announcement(5, 2))
    both.run(0.1)
    assert both.left.said["Vouch"] == 1
    assert made.seen == []


@pytest.mark.parametrize(("root", "size"), [(bytes(16), 40), (None, 41), (None, 40)])
def test_a_word_about_another_root_or_another_number_of_members_is_not_taken(
    root: bytes | None, size: int
) -> None:
    made = newcomer(two(40))
    made.told_root(LEFT, made.common.store.root)
    ((_, asked),) = made.take()
    assert isinstance(asked, Vouch)
    answer = Vouch(asked.request, True, root or asked.root, (1 << 40) - 1, size)
    made.hear(LEFT, answer)
    assert bool(made.seen) == (root is None and size == 40)


def test_an_announcement_is_vouched_for_and_a_grant_is_not() -> None:
    made = side(0, 4)
    member = made.common.members[node(2).public]
    member.seen = False
    made.common.members.place(member)
    made.hear(RIGHT, Scan(1, b"", bytes(12)))
    ((_, answer),) = made.take()
    assert isinstance(answer, Objects)
    vouched = {each.node for each, said in answer.items if said and isinstance(each, Announcement)}
    assert vouched == {node(number).public for number in (0, 1, 3)}
    assert not any(said for each, said in answer.items if isinstance(each, Grant))
