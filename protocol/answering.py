"""Answers to others' questions: one each, at most a datagram, at a limited rate.

What is asked decides whether an answer is due, who asks does not: a member that is being
filled has as good a claim as one that lost a push.  Beyond the rate a question stays
without answer, and who asked turns to somebody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from protocol import messages
from protocol.limits import TokenBucket
from protocol.members import Common
from protocol.messages import (
    AskEvidence,
    Later,
    Message,
    News,
    Objects,
    Pull,
    PullShards,
    Scan,
    Shards,
    Subtree,
    Vouch,
    Walk,
)
from protocol.objects import Announcement
from protocol.shards import Shelf

Question = Walk | Pull | Scan | AskEvidence | Vouch | PullShards


class Answerer:
    """What one node tells those who ask it."""

    def __init__(
        self,
        common: Common,
        shelf: Shelf,
        *,
        send: Callable[[bytes, Message, float], bool],
        is_being_filled: Callable[[], bool],
    ) -> None:
        self._common, self._shelf, self._send = common, shelf, send
        self._is_being_filled = is_being_filled
        self._rate = TokenBucket(common.tuning.serve_rate, common.tuning.serve_burst)

    def answer(self, peer: bytes, question: Question, now: float) -> None:
        """Answer what ``peer`` asks, within ``serve_rate``."""
        if self._rate.take(now):
            self._send(peer, self._answer(question), now)
        else:
            self._common.count("answer withheld")

    def _answer(self, question: Question) -> Message:
        store = self._common.store
        match question:
            case Walk():
                return self._subtree(question)
            case Pull(request, slots):
                held = [store.in_slot(slot) for slot in slots]
                return self._objects(request, [each for each in held if each is not None])
            case Scan(request) if self._is_being_filled():
                return Objects(request, True, ())
            case Scan(request, path, start):
                return self._objects(request, store.tree.from_slot(path, start))
            case AskEvidence(request, known):
                return self._objects(request, self._common.evidence.others(known))
            case Vouch():
                return self._vouch(question)
            case PullShards(request, hashes):
                found = (raw for each in hashes if (raw := self._shelf.get(each)) is not None)
                return Shards(request, messages.fill_shards(found))

    def _subtree(self, walk: Walk) -> Subtree:
        """Ours at its path; *later* while we know next to nothing ourselves."""
        ours = self._common.store.tree.look(walk.path)
        if ours.hash == walk.hash:
            return Subtree(walk.request, walk.path, None)
        content = Later() if self._is_being_filled() else messages.shown(ours)
        return Subtree(walk.request, walk.path, content)

    def _objects(self, request: int, found: Iterable[News]) -> Objects:
        """As many as fit."""
        portions = messages.fill(found)
        portion = next(portions, ())
        more = next(portions, None) is not None
        return Objects(request, more, tuple((each, self._vouches(each)) for each in portion))

    def _vouches(self, each: News) -> bool:
        return isinstance(each, Announcement) and self._common.is_live(each.node)

    def _vouch(self, ask: Vouch) -> Vouch:
        """Which members of the root we have seen, if it is our root too."""
        common, store = self._common, self._common.store
        if ask.root != store.root or common.me.public not in store.announcements:
            return Vouch(ask.request, True, store.root, 0, 0)
        bits = common.members.bits(also=common.me.public)
        return Vouch(ask.request, True, store.root, bits, len(store.announcements))
