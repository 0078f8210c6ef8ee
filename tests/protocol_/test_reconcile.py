"""Where two roots differ: what differs is found and fetched, at a cost that follows it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from random import Random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import Parts, announcement, grant, mesh_store, node

from protocol import messages
from protocol.answering import Answerer
from protocol.messages import (
    AskEvidence,
    Later,
    Message,
    News,
    Objects,
    Pull,
    PullShards,
    Push,
    Scan,
    Subtree,
    Vouch,
    Walk,
)
from protocol.objects import Announcement, Grant, Record
from protocol.reconcile import Reconciler
from protocol.requests import Requests
from protocol.shards import Shelf
from protocol.store import Store


class Side(Parts):
    """The reconciler of one node; ``send`` leaves what it says where its peer finds it."""

    def begin(self) -> None:
        common = self.common
        self.requests = Requests(common, self.send)
        self.seen: list[bytes] = []
        self.reconciler = Reconciler(
            common, self.requests, send=self.send, learn=self.learn, vouched=self.note
        )
        self.answerer = Answerer(
            common,
            Shelf(),
            send=self.send,
            is_being_filled=lambda: self.reconciler.is_being_filled,
        )
        self.said: Counter[str] = Counter()
        self.octets = 0

    def note(self, nodes: Iterable[bytes], now: float) -> None:
        self.seen += nodes

    def learn(
        self, items: Iterable[tuple[News, bool]], source: bytes, now: float, *, pass_on: bool
    ) -> bool:
        before, news = self.common.store.root, []
        for each, _ in items:
            assert isinstance(each, Record)
            news += self.hold(each)
            waiting = self.common.store.take_waiting(each.node)
            if waiting is not None:
                news += self.hold(waiting)
        self.changed(before, news)
        return bool(news)

    def changed(self, before: bytes, news: list[Record]) -> None:
        if self.common.store.root != before:
            self.reconciler.root_changed(before, news)

    def make(self, *records: Record) -> None:
        before = self.common.store.root
        self.changed(before, self.hold(*records))

    def send(self, peer: bytes, message: Message, now: float) -> bool:
        body = messages.encode(message)
        self.said[type(message).__name__] += 1
        self.octets += len(body) + 42
        return super().send(peer, message, now)

    def hear(self, peer: bytes, message: Message) -> None:
        """What the node does with each kind of message."""
        match message:
            case Push():
                items = [(each, True) for each in message.objects]
                self.learn(items, peer, self.now, pass_on=True)
            case Walk() | Pull() | Scan() | AskEvidence() | Vouch(answers=False) | PullShards():
                self.answerer.answer(peer, message, self.now)
            case Objects() | Subtree() | Vouch():
                self.requests.answered(peer, message.request, message, self.now)

    def told_root(self, peer: bytes, root: bytes) -> None:
        member = self.common.members[peer]
        member.root = root
        self.reconciler.heard(member, self.now)


@attrs.define(eq=False)
class Two:
    """Two sides, and a line between them that may lose.

    Each stands for all other members too: those answer as it would.
    """

    left: Side
    right: Side
    loss: float = 0.0
    rng: Random = attrs.field(factory=lambda: Random(1))
    asked: dict[int, bytes] = attrs.field(factory=dict)
    """Number of a request to who was asked."""

    def run(self, seconds: float) -> None:
        end = self.left.now + seconds
        while self.left.now < end:
            for side, other in ((self.left, self.right), (self.right, self.left)):
                for peer, message in side.take():
                    sender = node(side.me).public
                    if isinstance(message, Objects | Subtree):
                        sender = self.asked[message.request]
                    elif isinstance(message, Walk | Pull | Scan):
                        self.asked[message.request] = peer
                    if self.rng.random() >= self.loss:
                        other.hear(sender, message)
            for side in (self.left, self.right):
                side.wait(0.001)

    def meet(self, seconds: float = 1.0) -> None:
        """Both tell their roots, as a probe and its ack do."""
        left, right = node(self.left.me).public, node(self.right.me).public
        roots = self.left.common.store.root, self.right.common.store.root
        self.left.told_root(right, roots[1])
        self.right.told_root(left, roots[0])
        self.run(seconds)

    @property
    def equal(self) -> bool:
        return self.left.common.store.root == self.right.common.store.root


def side(me: int, size: int, store: Store | None = None) -> Side:
    made = Side(size, me)
    made.begin()
    if store is not None:
        made.common.store.tree = store.tree
    return made


def two(size: int, *, loss: float = 0.0, seed: int = 1) -> Two:
    return Two(side(0, size), side(1, size), loss, Random(seed))


LEFT, RIGHT = node(0).public, node(1).public


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


# Scans, windows and silences.


def test_a_newcomer_pays_for_what_it_lacks_and_little_more() -> None:
    both = two(1000)
    both.right.common.store.tree = Store().tree
    both.right.hold(grant(0), announcement(0), grant(1), announcement(1))
    both.meet()
    assert both.equal
    lacked = sum(len(each.raw) for each in both.left.common.store)
    assert both.left.octets + both.right.octets < 1.2 * lacked
    assert both.right.said["Scan"] > 100 > both.right.said["Walk"]


def test_a_newcomer_that_is_being_filled_puts_off_whoever_walks_it() -> None:
    both = two(1000)
    both.right.common.store.tree = Store().tree
    both.right.hold(grant(0), announcement(0), grant(1), announcement(1))
    both.right.told_root(LEFT, both.left.common.store.root)
    both.run(0.03)
    assert not both.equal
    both.left.told_root(RIGHT, both.right.common.store.root)
    both.run(2)
    assert both.equal
    assert both.left.said["Walk"] == 1


def newcomer_to(server: Side, known: int = 2) -> Side:
    """One that knows the first ``known`` nodes, and walks the first, which is ``server``."""
    made = side(1, known)
    made.told_root(LEFT, server.common.store.root)
    made.wait(0.1)
    return made


def test_no_more_questions_are_out_at_a_time_than_the_window_holds() -> None:
    server = side(0, 1000)
    made = newcomer_to(server)
    most = Counter[bytes]()
    out = made.take()
    assert len(out) == 1
    while out:
        most |= Counter(peer for peer, _ in out)
        peer, message = out.pop(0)
        server.hear(RIGHT, message)
        ((_, answer),) = server.take()
        made.hear(peer, answer)
        out += made.take()
    assert made.common.store.root == server.common.store.root
    assert max(most.values()) == made.common.tuning.window_max


def test_a_newcomer_shares_out_what_it_scans_among_the_members_it_knows() -> None:
    server = side(0, 1000)
    made = newcomer_to(server, 6)
    scanned = Counter[bytes]()
    while out := made.take():
        for peer, message in out:
            scanned[peer] += isinstance(message, Scan)
            server.hear(RIGHT, message)
            ((_, answer),) = server.take()
            made.hear(peer, answer)
    assert made.common.store.root == server.common.store.root
    assert len(scanned) == 4
    assert max(scanned.values()) < 0.5 * sum(scanned.values())


def test_what_a_silent_member_was_to_send_another_is_asked_for() -> None:
    server = side(0, 200)
    made = newcomer_to(server, 4)
    asked = Counter[bytes]()
    for _ in range(2000):
        made.told_root(node(2).public, server.common.store.root)
        for peer, message in made.take():
            asked[peer] += 1
            server.hear(RIGHT, message)
            ((_, answer),) = server.take()
            if peer != LEFT or asked[peer] < 3:  # the first falls silent
                made.hear(peer, answer)
        made.wait(0.001)
    assert made.common.store.root == server.common.store.root
    assert asked[LEFT] < 10


def test_who_is_being_filled_says_later_to_a_scan_and_another_is_asked() -> None:
    first, filled = side(0, 1000), side(2, 1000, Store())
    filled.hold(*(make(each) for each in (0, 2) for make in (grant, announcement)))
    filled.told_root(LEFT, first.common.store.root)
    filled.wait(0.1)
    ((_, walk),) = filled.take()
    first.hear(node(2).public, walk)
    ((_, answer),) = first.take()
    filled.hear(LEFT, answer)
    filled.take()

    filled.hear(RIGHT, Scan(7, b"", bytes(12)))
    ((_, later),) = filled.take()
    assert later == Objects(7, True, ())

    made = newcomer_to(first, 3)
    said = Counter[bytes]()
    while out := made.take():
        for peer, message in out:
            said[peer] += 1
            server = filled if peer == node(2).public else first
            server.hear(RIGHT, message)
            ((_, answer),) = server.take()
            made.hear(peer, answer)
    assert made.common.store.root == first.common.store.root
    assert said[node(2).public] <= 2


def test_a_second_without_any_answer_ends_a_synchronisation_and_the_next_may_begin_soon() -> None:
    made = side(1, 100)
    for times in range(1, 6):
        made.told_root(LEFT, bytes(16))
        made.wait(1.1)
        assert made.said == {"Walk": 4 * times}
        made.told_root(LEFT, bytes(16))
        made.wait(0.5)
        assert made.said == {"Walk": 4 * times}, "not at once"
        made.wait(0.5)


def test_a_newcomer_asks_a_few_and_not_everyone_it_hears() -> None:
    made = side(1, 100)
    for number in range(2, 40):
        made.told_root(node(number).public, bytes([number]) * 16)
    made.wait(0.1)
    assert len(dict(made.take())) == 4


def test_what_one_peer_is_asked_to_send_no_other_is_asked_for() -> None:
    made = side(1, 3, Store())
    made.hold(*(make(each) for each in range(3) for make in (grant, announcement)))
    servers = {node(each).public: side(each, 200) for each in (0, 2)}
    for key, server in servers.items():
        made.told_root(key, server.common.store.root)
    scans = Counter[bytes]()
    for _ in range(300):
        made.wait(0.001)
        for key, message in made.take():
            if isinstance(message, Scan):
                scans[message.start] += 1
            servers[key].hear(RIGHT, message)
        for key, server in servers.items():
            for _, answer in server.take():
                made.hear(key, answer)
    assert made.common.store.root == servers[LEFT].common.store.root
    assert scans
    assert set(scans.values()) == {1}


def test_what_is_on_its_way_from_one_peer_is_not_fetched_from_another_that_shows_up_later() -> None:
    made = side(1, 3, Store())
    made.hold(*(make(each) for each in range(3) for make in (grant, announcement)))
    servers = {node(each).public: side(each, 1000) for each in (0, 2)}
    made.told_root(LEFT, servers[LEFT].common.store.root)
    came = Counter[bytes]()
    for round_trips in range(300):
        if round_trips == 5:
            made.told_root(node(2).public, servers[LEFT].common.store.root)
        made.wait(0.001)
        for key, message in made.take():
            servers[key].hear(RIGHT, message)
        for key, server in servers.items():
            for _, answer in server.take():
                if isinstance(answer, Objects):
                    came.update(each.hash for each, _ in answer.items)
                made.hear(key, answer)
    assert made.common.store.root == servers[LEFT].common.store.root
    assert len(came) > 1900
    assert sum(came.values()) < 1.05 * len(came)


def test_answers_of_all_kinds_together_are_given_at_a_limited_rate() -> None:
    made, tuning = side(0, 100), Parts(2).common.tuning
    for number in range(5_000):  # in a second
        made.hear(RIGHT, Walk(number, b"", bytes(16)))
        made.hear(RIGHT, PullShards(number, (bytes(16),)))
        made.wait(0.0002)
    answers = [message for _, message in made.take()]
    later = [each for each in answers if isinstance(each, Subtree) and each.content == Later()]
    whole = len(answers) - len(later)
    assert tuning.serve_burst < whole < tuning.serve_burst + tuning.serve_rate
    assert len(later) > 1000, "it is cheap to say"
    assert whole + len(later) / 10 <= tuning.serve_burst + tuning.serve_rate + 1
    assert len(answers) + made.common.counters["answer withheld"] == 10_000


def test_an_answer_about_another_path_than_was_asked_teaches_nothing() -> None:
    made = side(1, 100)
    made.told_root(LEFT, bytes(16))
    made.wait(0.1)
    ((_, walk),) = made.take()
    assert isinstance(walk, Walk)
    slots = messages.Slots({bytes(11) + b"\1": bytes(16)})
    made.hear(LEFT, Subtree(walk.request, b"\1", slots))
    made.wait(1)
    assert made.said == {"Walk": 1}


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
