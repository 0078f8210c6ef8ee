"""Two nodes' reconcilers, each with what answers the other's questions, and a line between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from random import Random

import attrs
from parts import Parts, node

from protocol import messages
from protocol.answering import Answerer
from protocol.messages import (
    AskEvidence,
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
from protocol.objects import Record
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
            waiting = self.common.store.take_waiting(each.subject)
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


def newcomer_to(server: Side, known: int = 2) -> Side:
    """One that knows the first ``known`` nodes, and walks the first, which is ``server``."""
    made = side(1, known)
    made.told_root(LEFT, server.common.store.root)
    made.wait(0.1)
    return made
