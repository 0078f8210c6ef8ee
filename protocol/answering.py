"""Answers to others' questions: one each, at most a datagram, at a limited rate.

Beyond the rate a question stays without answer, and who asked tries again or turns to
somebody else.  A walk or a scan can be put off in a few octets: so a seed that thousands
ask at once sends them to one another.
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

_LATER = 0.1
"""Of an answer is what *later* costs: a twelfth of the octets."""

_SPARE = 100.0
"""Answers kept to say *later* with."""


def _later(question: Walk | Scan) -> Message:
    """Ask somebody else, or me later."""
    if isinstance(question, Walk):
        return Subtree(question.request, question.path, Later())
    return Objects(question.request, True, ())


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
        """Answer what ``peer`` asks, within ``serve_rate``; *later* to a newcomer's question
        beyond it, or while we know next to nothing ourselves."""
        later = _later(question) if isinstance(question, Walk | Scan) else None
        being_filled = later is not None and self._is_being_filled()
        if not being_filled and self._rate.take(now, spare=_SPARE):
            self._send(peer, self._answer(question), now)
        elif later is not None and self._rate.take(now, _LATER):
            self._send(peer, later, now)
        else:
            self._common.count("answer withheld")

    def _answer(self, question: Question) -> Message:
        store = self._common.store
        match question:
            case Walk(request, path, theirs):
                ours = store.tree.look(path)
                same = ours.hash == theirs
                return Subtree(request, path, None if same else messages.shown(ours))
            case Pull(request, slots):
                held = [store.in_slot(slot) for slot in slots]
                return self._objects(request, [each for each in held if each is not None])
            case Scan(request, path, start):
                return self._objects(request, store.tree.from_slot(path, start))
            case AskEvidence(request, known):
                return self._objects(request, self._common.evidence.others(known))
            case Vouch():
                return self._vouch(question)
            case PullShards(request, hashes):
                found = (raw for each in hashes if (raw := self._shelf.get(each)) is not None)
                return Shards(request, messages.fill_shards(found))

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
