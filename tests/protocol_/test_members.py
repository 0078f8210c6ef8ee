"""Rosters against a set, and members that have a record only when there is something to note."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from parts import MESH, Parts, announcement, grant, mesh_resumption, mesh_store, node

from protocol.members import Member, Members, Roster, State
from protocol.resumption import Resumption
from protocol.store import Store

keys = st.integers(0, 12).map(lambda number: bytes([number]))


class RosterMachine(RuleBasedStateMachine):
    """A roster does what a set does, and goes round it."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.roster, self.rng = Roster(), Random(seed)
        self.model: set[bytes] = set()
        self.waiting: set[bytes] = set()
        """Those that have not had their turn in this round."""

    @rule(key=keys)
    def add(self, key: bytes) -> None:
        if key not in self.model:
            self.waiting.add(key)
        self.model.add(key)
        self.roster.add(key)

    @rule(key=keys)
    def discard(self, key: bytes) -> None:
        self.model.discard(key)
        self.waiting.discard(key)
        self.roster.discard(key)

    @rule()
    def go_round(self) -> None:
        key = self.roster.next(self.rng)
        if not self.model:
            assert key is None
            return
        if not self.waiting:
            self.waiting = set(self.model)
        assert key in self.waiting
        self.waiting.discard(key)

    @rule(number=st.integers(0, 15), but=st.sets(keys))
    def draw(self, number: int, but: set[bytes]) -> None:
        drawn = self.roster.draw(self.rng, number, but)
        assert len(drawn) == min(number, len(self.model - but))
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= self.model - but

    @invariant()
    def holds_what_the_set_holds(self) -> None:
        assert len(self.roster) == len(self.model)
        assert sorted(self.roster) == sorted(self.model)
        for number in range(13):
            assert (bytes([number]) in self.roster) == (bytes([number]) in self.model)


def test_a_roster_is_a_set_of_which_each_has_its_turn_once_a_round() -> None:
    run_state_machine_as_test(
        RosterMachine,
        settings=settings(max_examples=40, stateful_step_count=50, derandomize=True, deadline=None),
    )


def roster_of(number: int) -> Roster:
    roster = Roster()
    for each in range(number):
        roster.add(bytes([each]))
    return roster


def test_each_round_has_everyone_once_and_another_order() -> None:
    roster, rng = roster_of(30), Random(1)
    rounds = [[roster.next(rng) for _ in range(30)] for _ in range(3)]
    assert all(len(set(each)) == 30 for each in rounds)
    assert rounds[0] != rounds[1] != rounds[2]


def test_a_newcomer_has_its_turn_in_the_round_under_way() -> None:
    roster, rng = roster_of(10), Random(2)
    for _ in range(6):
        roster.next(rng)
    roster.add(b"new")
    assert b"new" in [roster.next(rng) for _ in range(5)]


@pytest.mark.parametrize("number", [1, 3, 9])
def test_everyone_is_drawn_about_as_often_as_anybody_else(number: int) -> None:
    roster, rng, times = roster_of(10), Random(number), 6000
    drawn = Counter(key for _ in range(times) for key in roster.draw(rng, number))
    share = number / 10
    deviation = math.sqrt(times * share * (1 - share))
    assert all(abs(drawn[key] - times * share) < 5 * deviation for key in roster)


# Members.


def members_of(number: int) -> Members:
    """The members of a mesh, as node 0 holds them that has seen them all."""
    members = Members(Store(mesh_store(number).tree))
    members.resume(mesh_resumption(number), node(0).public)
    return members


def rosters_with(members: Members, key: bytes) -> int:
    rosters = (members.live, members.unseen, members.failed, members.left)
    return sum(key in roster for roster in rosters)


def test_a_member_has_no_record_before_somebody_asks_for_it() -> None:
    members = members_of(5)
    assert len(members) == 4
    assert members._records == {}
    one = members[node(1).public]
    assert (one.state, one.seen, one.shown, one.name) == (State.ALIVE, True, "alive", "x")
    assert members[node(1).public] is one
    assert list(members._records) == [node(1).public]


def test_who_left_before_is_held_as_left() -> None:
    store = Store(mesh_store(3).tree)
    store.merge(announcement(1, 2, left=True))
    members = Members(store)
    members.resume(Resumption.of(store, MESH.id), node(0).public)
    assert (list(members.left), list(members.live)) == ([node(1).public], [node(2).public])
    assert members[node(1).public].state is State.LEFT


def test_neither_we_nor_a_stranger_is_a_member() -> None:
    members = members_of(3)
    for key in (node(0).public, node(7).public, b""):
        assert key not in members
        assert members.get(key) is None
        with pytest.raises(KeyError):
            members[key]


states = st.tuples(st.integers(1, 9), st.sampled_from(State), st.booleans())


@given(st.lists(states, max_size=30))
def test_every_member_is_in_the_one_roster_that_its_state_names(
    changes: list[tuple[int, State, bool]],
) -> None:
    members = members_of(10)
    for number, state, seen in changes:
        member, before = members[node(number).public], members.changes
        home = {State.FAILED: members.failed, State.LEFT: members.left}.get(
            state, members.live if seen else members.unseen
        )
        moved = member.key not in home
        member.state, member.seen = state, seen
        members.place(member)
        assert member.key in home
        assert (members.changes > before) == moved
        assert member.live == (member.key in members.live)
    assert len(members) == 9
    assert all(rosters_with(members, node(number).public) == 1 for number in range(1, 10))
    members.remove(node(3).public)
    assert rosters_with(members, node(3).public) == 0
    assert len(members) == 8


def test_a_new_member_is_put_where_it_belongs() -> None:
    members = members_of(3)
    members._store.merge(grant(5))
    members._store.merge(announcement(5))
    members.add(Member(node(5).public, announcement(5), "x"))
    assert list(members.unseen) == [node(5).public]
    assert members[node(5).public].shown_state == "suspect", "nobody vouches for it"


@given(st.sets(st.integers(1, 19)), st.sampled_from(State))
def test_the_places_of_the_live_are_right_however_many_they_are(
    absent: set[int], state: State
) -> None:
    # Few absent: all but theirs; few live: theirs alone. Both are the same set.
    members = members_of(20)
    for number in absent:
        member = members[node(number).public]
        member.state, member.seen = state, False
        members.place(member)
    order = list(members._store.announcements)
    present = {node(number).public for number in range(20) if number not in absent}
    wanted = sum(1 << place for place, key in enumerate(order) if key in present)
    assert members.bits(also=node(0).public) == wanted


def test_a_push_tells_of_those_only_whom_its_sender_has_seen_or_who_left() -> None:
    common = Parts(3).common
    stranger, departed = announcement(7), announcement(8, left=True)
    assert common.may_tell(announcement(1))
    assert common.may_tell(announcement(0)), "our own"
    assert not common.may_tell(stranger)
    assert common.may_tell(departed)
    assert common.may_tell(grant(7))
