"""News: told to few, each thing once, and fetched from whoever has it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from parts import MAKER, MESH, Parts, announcement, grant, node

from protocol import messages
from protocol.gossip import Gossip, offers
from protocol.messages import Message, News, Objects, Offer, Pull, Push
from protocol.node import Node
from protocol.objects import Accusation, Announcement, Record, Revocation
from protocol.requests import Requests
from protocol.store import slot_id, slot_of
from protocol.tuning import FANOUT_ALL
from simulation import Network
from simulation.warm import warm_mesh

A, B, C = (node(number).public for number in (1, 2, 3))


class Teller(Parts):
    """The gossip of one node; what comes as an answer is kept and told on, as the node does."""

    def begin(self) -> None:
        self.requests = Requests(self.common, self.send)
        self.gossip = Gossip(self.common, self.requests, send=self.send, learn=self.learn)
        self.tellings: list[float] = []

    def learn(
        self, items: Iterable[tuple[News, bool]], source: bytes, now: float, *, pass_on: bool
    ) -> bool:
        news = self.hold(*(each for each, _ in items if isinstance(each, Record)))
        if pass_on:
            self.gossip.relay(news, source, now)
        return bool(news)

    def send(self, peer: bytes, message: Message, now: float) -> bool:
        if isinstance(message, Offer | Push) and self.tellings[-1:] != [now]:
            self.tellings.append(now)
        return super().send(peer, message, now)

    def offer(self, peer: bytes, record: Record) -> None:
        item = (slot_of(record), record.hash[:8])
        self.gossip.offered(peer, Offer((item,)), self.now)

    def pulled(self) -> list[tuple[bytes, Pull]]:
        return [(peer, each) for peer, each in self.take() if isinstance(each, Pull)]

    def answer(self, peer: bytes, pull: Pull, *records: Record) -> None:
        items = tuple((each, True) for each in records)
        self.requests.answered(peer, pull.request, Objects(pull.request, False, items), self.now)


def teller(size: int) -> Teller:
    made = Teller(size)
    made.begin()
    return made


# Telling.


def test_up_to_64_members_the_origin_tells_everyone_in_full() -> None:
    made = teller(FANOUT_ALL + 1)
    made.gossip.publish((announcement(0, 2),), made.now)
    assert dict(made.take()) == {
        key: Push((announcement(0, 2),)) for key in made.common.members.live
    }


def test_up_to_64_members_a_relay_only_offers() -> None:
    made = teller(FANOUT_ALL + 1)
    made.gossip.relay(made.hold(announcement(1, 2)), B, made.now)
    told = made.take()
    assert len(told) == made.common.tuning.relay_full
    assert all(isinstance(message, Offer) for _, message in told)


@pytest.mark.parametrize("size", [66, 200, 1000])
def test_above_64_members_some_get_the_object_and_some_its_name(size: int) -> None:
    made = teller(size)
    made.gossip.relay(made.hold(announcement(1, 2)), B, made.now)
    told = made.take()
    full = [peer for peer, message in told if message == Push((announcement(1, 2),))]
    offered = [peer for peer, message in told if isinstance(message, Offer)]
    assert len(full) == made.common.tuning.relay_full
    assert len(offered) == offers(size - 1)
    assert len(told) == len({peer for peer, _ in told}) == len(full) + len(offered)


def test_nothing_is_told_to_who_is_known_to_have_it() -> None:
    for seed in range(200):
        made = Teller(8, seed=seed)
        made.begin()
        made.offer(C, announcement(1, 2))
        made.gossip.relay(made.hold(announcement(1, 2)), B, made.now)
        assert len(made.sent) == 3
        assert not {A, B, C} & {peer for peer, _ in made.sent}


def test_a_revocation_is_told_by_itself_and_at_once_whatever_waits() -> None:
    made = teller(200)
    made.wait(5)
    for number in range(2, 40):  # more than are told at once
        made.gossip.relay(made.hold(announcement(number, 2)), B, made.now)
    made.take()
    word = Revocation.sign(MAKER, MESH, node=C)
    made.gossip.relay([announcement(1, 2), word], B, made.now)
    told = made.take()
    assert len([peer for peer, message in told if message == Push((word,))]) == 3
    assert all(len(message.items) == 1 for _, message in told if isinstance(message, Offer))


def test_accusations_are_relayed_above_64_members_only_and_in_full() -> None:
    accusation = Accusation.sign(node(1), MESH, target=C, sequence=1, refused=False)
    few, many = teller(FANOUT_ALL + 1), teller(FANOUT_ALL + 2)
    for made in (few, many):
        made.gossip.relay([accusation], B, made.now)
        made.wait(1)
    assert few.sent == []
    assert {message for _, message in many.sent} == {Push((accusation,))}
    assert len(many.sent) == 3 + offers(FANOUT_ALL + 1)


def test_a_flood_of_news_is_told_at_a_limited_rate_and_the_newest_of_each_slot_last() -> None:
    made, tuning = teller(100), Parts(2).common.tuning
    for number in range(1000):  # in two seconds
        made.gossip.relay(made.hold(announcement(1 + number % 2, 2 + number)), C, made.now)
        made.wait(0.002)
    assert len(made.tellings) <= tuning.relay_burst + 2 * tuning.relay_rate + 1
    made.wait(1)
    last: dict[bytes, bytes] = {}
    for _, message in made.take():
        if isinstance(message, Offer):
            last |= dict(message.items)
        elif isinstance(message, Push):
            last |= {
                slot_id(3, each.node): each.hash[:8]
                for each in message.objects
                if isinstance(each, Announcement)
            }
    for number in (1, 2):
        newest = made.common.store.announcements[node(number).public]
        assert last[slot_id(3, newest.node)] == newest.hash[:8]


def test_one_telling_is_bounded_however_much_there_is_to_tell() -> None:
    made = teller(200)
    made.gossip.relay(made.hold(*(announcement(each, 2) for each in range(1, 200))), A, made.now)
    told = made.take()
    for peer in dict(told):
        messages = [message for to, message in told if to == peer]
        assert len(messages) <= 1
    assert len(dict(told)) == 3 + offers(199)


# Offers.


def test_what_was_offered_is_asked_for_when_it_has_not_come_in_a_few_ms() -> None:
    made = teller(8)
    made.offer(B, announcement(1, 2))
    assert made.pulled() == []
    made.wait(made.common.tuning.offer_patience)
    ((peer, pull),) = made.pulled()
    assert (peer, pull.slots) == (B, (slot_id(3, A),))
    made.answer(B, pull, announcement(1, 2))
    assert made.common.store.announcements[A] == announcement(1, 2)
    made.wait(10)
    assert made.pulled() == []


def test_what_came_by_itself_or_was_held_already_is_not_asked_for() -> None:
    made = teller(8)
    made.offer(B, announcement(1, 1))
    made.offer(B, announcement(2, 2))
    made.hold(announcement(2, 2))
    made.wait(10)
    assert made.pulled() == []


def test_the_next_who_offered_is_asked_when_the_first_stays_silent() -> None:
    made = teller(8)
    for peer in (B, C, B):
        made.offer(peer, announcement(1, 2))
    made.wait(made.common.tuning.offer_patience)
    assert [peer for peer, _ in made.pulled()] == [B]
    made.wait(made.common.tuning.offer_retry)
    ((peer, pull),) = made.pulled()
    assert peer == C
    made.answer(C, pull, announcement(1, 2))
    made.wait(10)
    assert made.pulled() == []


def test_the_next_who_offered_is_asked_when_the_first_no_longer_has_it() -> None:
    made = teller(8)
    made.offer(B, announcement(1, 2))
    made.offer(C, announcement(1, 2))
    made.wait(made.common.tuning.offer_patience)
    ((_, pull),) = made.pulled()
    made.answer(B, pull)
    assert [peer for peer, _ in made.pulled()] == [C]


def test_when_nobody_answers_the_offer_is_forgotten_and_may_come_again() -> None:
    made = teller(8)
    made.offer(B, announcement(1, 2))
    made.wait(1)
    assert len(made.pulled()) == 1
    made.offer(C, announcement(1, 2))
    made.wait(1)
    assert [peer for peer, _ in made.pulled()] == [C]


def test_a_newer_offer_of_a_slot_takes_the_place_of_the_older() -> None:
    made = teller(8)
    made.offer(B, announcement(1, 2))
    made.offer(C, announcement(1, 3))
    made.wait(made.common.tuning.offer_patience)
    assert [peer for peer, _ in made.pulled()] == [C]


def test_things_offered_together_are_asked_for_together() -> None:
    made = teller(8)
    records: list[Record] = [grant(1, 2), announcement(1, 2), announcement(2, 2)]
    items = tuple((slot_of(each), each.hash[:8]) for each in records)
    made.gossip.offered(C, Offer(items), made.now)
    made.wait(made.common.tuning.offer_patience)
    ((peer, pull),) = made.pulled()
    assert (peer, pull.slots) == (C, tuple(slot for slot, _ in items))
    made.answer(C, pull, *records[:2])  # as many as fit
    ((peer, rest),) = made.pulled()
    assert (peer, rest.slots) == (C, (items[2][0],))


# In a mesh.


@pytest.mark.parametrize("seed", range(3))
def test_an_update_reaches_100_nodes_in_a_tenth_of_a_second_in_a_few_datagrams_each(
    seed: int,
) -> None:
    net = Network(seed, cipher=False)
    hosts = warm_mesh(net, 100)
    net.run_until(lambda: all(host.up.converged for host in hosts))
    kinds = [f"sent {kind}" for kind in ("Push", "Offer", "Pull", "Objects")]
    before = sum(host.up.counters.get(kind, 0) for host in hosts for kind in kinds)
    origin = hosts[7]
    origin.do(lambda node, now: node.announce(now, prefixes=()))
    own = origin.up.announcement
    took = net.run_until(
        lambda: all(host.up.store.announcements[origin.key] == own for host in hosts)
    )
    assert took < 0.1, net
    after = sum(host.up.counters.get(kind, 0) for host in hosts for kind in kinds)
    assert after - before <= 14 * len(hosts), net


def test_what_is_told_to_all_is_signed_once_and_encoded_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = Network(1, cipher=False)
    hosts = warm_mesh(net, 20)
    origin, encoded, signed = hosts[7], [], []
    assert origin.wire is not None

    def encode(message: Message) -> bytes:
        encoded.append(message)
        return messages.encode(message)

    def announce(node: Node, now: float) -> None:
        node.announce(now, prefixes=())
        signed.append(origin.meter.signed)

    monkeypatch.setattr(origin.wire, "encode", encode)
    before = origin.up.counters.get("sent Push", 0)
    origin.do(announce)
    assert origin.up.counters["sent Push"] - before == 19
    assert len([each for each in encoded if isinstance(each, Push)]) == 1
    assert signed == [1]
