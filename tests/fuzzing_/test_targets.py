"""Hostile input into all that reads input: a moment of what ``scripts/fuzz`` does for long."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzing import TARGETS, Broken
from fuzzing.mutate import LONGEST, mutate
from fuzzing.target import Session
from fuzzing.world import STRANGERS, World, hellos, stales
from protocol import limits
from protocol.address import Endpoint
from protocol.contacts import Contacts, Datagram
from protocol.frames import Stale
from protocol.node import Node

FAST = settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

FEW = {"control": 4}
"""Inputs an example where each takes a millisecond."""


@pytest.mark.parametrize("name", TARGETS)
@FAST
@given(data=st.data())
def test_nothing_raises_and_no_rule_breaks_whatever_comes(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    changed = st.integers(0, 2**32).map(lambda number: mutate(Random(number), seeds))
    inputs = data.draw(st.lists(changed | st.binary(max_size=200), max_size=FEW.get(name, 40)))
    session = Session(target)
    for each in inputs:
        session.feed(each)
    session.close()


@pytest.mark.parametrize("name", TARGETS)
def test_genuine_input_breaks_nothing(name: str) -> None:
    session = Session(TARGETS[name])
    for each in TARGETS[name].seeds():
        session.feed(each)
    session.close()


def test_mutations_are_bounded_come_again_and_leave_some_as_they_were() -> None:
    seeds = [bytes(1200), b"abc", b""]
    made = [mutate(Random(number), seeds) for number in range(2000)]
    assert made == [mutate(Random(number), seeds) for number in range(2000)]
    assert max(map(len, made)) <= LONGEST
    assert sum(each in seeds for each in made) > 200
    assert len(set(made)) > 1000


@settings(FAST, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**32), st.sampled_from(STRANGERS), st.booleans()), max_size=60
    )
)
def test_an_address_that_has_proven_nothing_is_sent_no_more_than_came_from_it(
    said: list[tuple[int, Endpoint, bool]],
) -> None:
    # HELLOs of everybody, STALEs for what was really sealed, SEALED of nobody; as they are, and
    # changed. Counted here once more, datagram by datagram, whatever the world thinks of it.
    world = World()
    bare = [each.rstrip(b"\0") for each in hellos(world)]
    kinds = [hellos(world), bare, stales(world), [bytes([1, 2]) + bytes(size) for size in (41, 60)]]
    balance = dict.fromkeys(STRANGERS, 0)
    balance.pop(STRANGERS[1])  # a seed: we asked there ourselves
    world.pass_time(1)
    for number, source, changed in said:
        rng = Random(number)
        seeds = rng.choice(kinds)
        data = mutate(rng, seeds) if changed else rng.choice(seeds)
        world.node.receive(data, source, world.now)
        if source in balance:
            balance[source] += len(data)
        sent = world.node.datagrams_to_send()
        for each in sent:
            if each.to in balance:
                balance[each.to] -= len(each.data)
        assert min(balance.values()) >= 0
        assert sum(len(each.data) for each in sent if each.to == source) <= len(data)


# The world notices what it is there to notice.


def test_a_datagram_that_is_too_long_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    long = Datagram(b"\x01\x01" + bytes(1199), STRANGERS[0])
    monkeypatch.setattr(Node, "datagrams_to_send", lambda node: [long])
    with pytest.raises(Broken, match="1201 octets"):
        world.give(bytes(30), STRANGERS[0])


def test_more_than_what_came_to_an_address_that_has_proven_nothing_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    back = Datagram(b"\x01\x03" + bytes(40), STRANGERS[0])
    monkeypatch.setattr(Node, "datagrams_to_send", lambda node: [back])
    with pytest.raises(Broken, match="proven nothing"):
        world.give(bytes(30), STRANGERS[0])


def test_two_answers_to_one_datagram_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    back = Datagram(b"\x01\x03" + bytes(18), STRANGERS[0])
    monkeypatch.setattr(Node, "datagrams_to_send", lambda node: [back, back])
    with pytest.raises(Broken, match="2 answers"):
        world.give(bytes(1200), STRANGERS[0])


def test_a_node_that_is_still_due_after_a_tick_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr(Node, "tick", lambda node, now: None)
    with pytest.raises(Broken, match="still due"):
        world.pass_time(5)


def test_a_table_that_keeps_something_of_each_input_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_SOURCES", 10**6)
    world = World()
    sealed = bytes([1, 2]) + bytes(50)
    for number in range(4200):
        source = Endpoint(f"198.18.{number >> 8}.{number & 255}", 4000)
        world.give(sealed, source)
    with pytest.raises(Broken, match=r"_answers\._buckets holds 42"):
        world.finish()


def test_a_hello_goes_nowhere_for_a_stale_from_somewhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One of 1,200 octets for each of 20 would be an amplifier for whoever sees one datagram.
    world = World()
    last = world.node._contacts._last[world.cast.peers[0].key]
    monkeypatch.setattr(Contacts, "_where", lambda contacts, node: None)
    stale = Stale(world._session(world.cast.peers[0]).key_id, last[0])
    world.node.receive(stale.encode(), STRANGERS[2], world.now)
    (asked,) = world.node.datagrams_to_send()
    assert len(asked.data) == 1200
    assert asked.to == world.cast.peers[0].where
