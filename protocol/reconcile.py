"""Anti-entropy: where two roots differ, find what differs and fetch it, learn who is seen.

Each side asks for itself, a few requests at a time, so a node decides how fast it is
filled, and an answer never draws more than two further questions.  Three ways, the
cheapest that will do:

- the peer shows a root that was ours a moment ago: it lacks what came since, so that is
  pushed to it;
- below a branch where both hold something: walk down where hashes differ (Merkle), and
  pull what differs in the end; the cost follows the difference, not the store;
- below a branch where we hold nothing: scan, which costs what is there and nothing else.
  What is to be scanned is shared out among the peers that have time, and who has little to
  scan from asks further members that it has just heard of.

Demers et al., "Epidemic algorithms for replicated database maintenance" (PODC 1987), with
Merkle's tree for the comparison; the window grows and halves as TCP's does (RFC 5681).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import attrs

from protocol import messages
from protocol.limits import TokenBucket
from protocol.members import Common, Member
from protocol.merkle import EMPTY, SLOT_SIZE, Branch
from protocol.messages import (
    AskEvidence,
    Message,
    Objects,
    Pull,
    Push,
    Scan,
    Subtree,
    Vouch,
    Walk,
)
from protocol.objects import Record
from protocol.requests import Learn, Requests
from protocol.store import slot_of
from protocol.tuning import MAX_HISTORY, MAX_SYNCS

_PULL_AT_ONCE = 8
"""Slots asked for in one pull: about as many objects as an answer holds."""

_PATIENCE = 3.5
"""Times an answer is waited for without any that end a synchronisation: the fourth of four
questions one by one, which happens once in 27 times where a quarter of all is lost."""


_NEWCOMER = 8
"""Subtrees to be scanned by one that holds next to nothing: half of the root's children."""


Task = Pull | Walk | Scan
"""A question with request number 0: it gets one when it is sent."""


@attrs.define(eq=False)
class _Sync:
    """One synchronisation with a peer: what is still to be asked, and how much at a time."""

    peer: bytes
    tasks: list[Task]
    """What only this peer is to be asked; the last is the next."""
    lacking: list[bytes] = attrs.field(factory=list)
    """Slots to pull."""
    out: int = 0
    window: int = 1
    heard: float = 0.0
    """When it began, or the last answer came."""
    taught: bool = False
    broken: bool = False
    """It was ended by silence, or put off: nothing learned says nothing about what there is."""


@attrs.define(eq=False)
class _Idle:
    """How long a kind of exchange with one peer is not repeated."""

    until: float = 0.0
    delay: float = 0.0


class Reconciler:
    """Synchronisations, vouching and evidence exchanges of one node."""

    def __init__(
        self,
        common: Common,
        requests: Requests,
        *,
        send: Callable[[bytes, Message, float], bool],
        learn: Learn,
        vouched: Callable[[Iterable[bytes], float], None],
    ) -> None:
        self._common, self._requests = common, requests
        self._tuning = common.tuning
        self._send, self._learn, self._vouched = send, learn, vouched
        self._syncs: dict[bytes, _Sync] = {}
        self._awaited: dict[bytes, None] = {}
        """Peers with which a synchronisation may soon begin."""
        self._scanned: dict[bytes, None] = {}
        """Paths that are being scanned, at whomever, or are to be."""
        self._scans: list[Scan] = []
        """What any peer may be asked next; in no order, for others begin where we begin."""
        self._idle: dict[tuple[str, bytes], _Idle] = {}
        self._put_off: dict[bytes, float] = {}
        """Peer that was silent or said *later* to when it may be asked again, in that order."""
        self._history: dict[bytes, int] = {}
        """A root that was ours to the number of the first object that came since."""
        self._log: list[Record] = []
        self._logged = 0
        """Number of the first object in ``_log``."""
        self._begun = TokenBucket(self._tuning.sync_rate, self._tuning.sync_burst)

    # What a peer's root tells.

    def heard(self, member: Member, now: float, evidence: bytes | None = None) -> None:
        """``member`` told its root, and maybe its evidence digest: ask if they differ."""
        common = self._common
        if member.root != common.store.root:
            self._differs(member, now)
            return
        if common.members.unseen:
            self._ask_who_is_seen(member.key, now)
        if evidence is not None and evidence != common.evidence.digest:
            self._ask_evidence(member.key, now)

    def root_changed(self, before: bytes, learned: Iterable[Record]) -> None:
        """The store held ``before``, and ``learned`` since: what was in vain may teach now."""
        self._idle.clear()
        self._history[before] = self._logged + len(self._log)
        self._log += learned
        if len(self._log) > MAX_HISTORY:
            self._logged += len(self._log) - MAX_HISTORY
            del self._log[:-MAX_HISTORY]
        while self._history[oldest := next(iter(self._history))] < self._logged:
            del self._history[oldest]

    def _differs(self, member: Member, now: float) -> None:
        taken = {*self._awaited, *self._syncs}
        if member.key in taken or len(taken) >= MAX_SYNCS:
            return
        if self._may_ask(member.key, now):
            known = member.root in self._history
            delay = self._tuning.delta_delay if known else self._tuning.walk_delay
            self._awaited[member.key] = None
            self._common.timers.after(delay, now, lambda now: self._begin(member, now))

    def _begin(self, member: Member, now: float) -> None:
        del self._awaited[member.key]
        root = self._common.store.root
        if member.root == root or member.key not in self._common.members:
            return
        if member.key in self._syncs:  # it was recruited meanwhile
            return
        since = self._history.get(member.root) if member.root is not None else None
        if since is not None:
            lacking = self._since(since)
            portions = list(islice(messages.fill(lacking), 2))
            if len(portions) == 1:
                self._common.count("sent what came since")
                self._send(member.key, Push(portions[0]), now)
                return
        if len(self._syncs) < MAX_SYNCS and self._begun.take(now):
            self._synchronise(member.key, [Walk(0, b"", root)], now)

    def _synchronise(self, peer: bytes, tasks: list[Task], now: float) -> None:
        sync = self._syncs[peer] = _Sync(peer, tasks, heard=now)
        self._fill(sync, now)

    def _recruit(self, now: float) -> None:
        """There is more to scan than has been asked for: one more member may have time."""
        if self._scans and len(self._syncs) < MAX_SYNCS:
            common = self._common
            for key in common.members.live.draw(common.rng, 1, self._syncs):
                if self._may_ask(key, now):
                    self._synchronise(key, [], now)

    def _may_ask(self, peer: bytes, now: float) -> bool:
        return self._put_off.get(peer, 0.0) <= now and self._rested("sync", peer, now)

    def _since(self, number: int) -> list[Record]:
        """What came since, each still the newest in its slot and ours to tell."""
        newest = self._log[number - self._logged :]
        return [
            each
            for each in dict.fromkeys(newest)
            if self._common.store.in_slot(slot_of(each)) is each and self._common.may_tell(each)
        ]

    @property
    def is_being_filled(self) -> bool:
        """We hold next to nothing yet of what there is."""
        return len(self._scanned) >= _NEWCOMER

    # Our requests.

    def _fill(self, sync: _Sync, now: float) -> None:
        """Ask as much as the window allows, but two at a time: an answer draws no more. When
        there is nothing left to ask, finish."""
        for _ in range(min(2, sync.window - sync.out)):
            task = self._next(sync)
            if task is not None:
                self._ask(sync, task, now)
        if not sync.out:
            self._finish(sync, now)

    def _next(self, sync: _Sync) -> Task | None:
        """What to ask its peer, taken from where it was noted."""
        if sync.broken:
            return None
        if sync.lacking and (len(sync.lacking) >= _PULL_AT_ONCE or not sync.tasks):
            asked, sync.lacking = sync.lacking[:_PULL_AT_ONCE], sync.lacking[_PULL_AT_ONCE:]
            return Pull(0, tuple(asked))
        if sync.tasks:
            return sync.tasks.pop()
        if self._scans:
            return self._scans.pop(self._common.rng.randrange(len(self._scans)))
        return None

    def _ask(self, sync: _Sync, task: Task, now: float) -> None:
        if isinstance(task, Walk):  # what we hold there may have changed since it was noted
            task = Walk(0, task.path, self._common.store.tree.look(task.path).hash)
        sync.out += 1
        question = task

        def answer(message: Subtree | Objects, now: float) -> None:
            sync.out -= 1
            sync.heard = now
            sync.window = min(sync.window + 1, self._tuning.window_max)
            if isinstance(message, Subtree) and isinstance(question, Walk):
                self._compare(sync, question, message)
            elif isinstance(message, Objects) and not isinstance(question, Walk):
                self._take(sync, question, message, now)
            self._fill(sync, now)
            self._recruit(now)

        def silence(now: float) -> None:
            sync.out -= 1
            sync.window = max(1, sync.window // 2)
            sync.broken |= now - sync.heard >= _PATIENCE * self._requests.patience(sync.peer)
            if isinstance(question, Scan):
                self._scans.append(question)
                sync.broken |= len(self._syncs) > 1  # others have time, and this one has not
            else:
                sync.tasks.append(question)
            self._fill(sync, now)
            self._recruit(now)

        def build(number: int) -> Message:
            return attrs.evolve(question, request=number)

        expected: type[Subtree | Objects] = Subtree if isinstance(task, Walk) else Objects
        self._requests.ask(sync.peer, build, now, expected=expected, answer=answer, silence=silence)

    def _compare(self, sync: _Sync, asked: Walk, answer: Subtree) -> None:
        if answer.path != asked.path or answer.content is None or self._is_scanned(asked.path):
            return
        if isinstance(answer.content, messages.Later):
            sync.broken = True
            return
        tree = self._common.store.tree
        if not isinstance(answer.content, messages.Branches):
            slots = answer.content.slots
            sync.lacking += [s for s, value in slots.items() if self._lacks(s, value)]
            return
        for digit, value in reversed(list(enumerate(answer.content.children))):
            path = answer.path + bytes([digit])
            ours = tree.look(path)
            if value in (ours.hash, EMPTY) or self._is_scanned(path):
                continue
            if isinstance(ours, Branch) or ours.slots:
                sync.tasks.append(Walk(0, path, ours.hash))
            else:
                self._scanned[path] = None
                self._scans.append(Scan(0, path, _first_slot(path)))

    def _is_scanned(self, path: bytes) -> bool:
        """What is below ``path`` comes already, from whomever."""
        return any(path[:size] in self._scanned for size in range(len(path) + 1))

    def _lacks(self, slot: bytes, value: bytes) -> bool:
        held = self._common.store.in_slot(slot)
        return held is None or held.hash != value

    def _take(self, sync: _Sync, asked: Pull | Scan, answer: Objects, now: float) -> None:
        if self._learn(answer.items, sync.peer, now, pass_on=False):
            sync.taught = True
        if isinstance(asked, Pull):
            sync.lacking = answer.behind(list(asked.slots)) + sync.lacking
            return
        last = answer.items[-1][0] if answer.items else None
        if answer.more and last is None:
            sync.broken = True
            self._scans.append(asked)
            return
        if answer.more and isinstance(last, Record):
            number = int.from_bytes(slot_of(last), "big") + 1
            start = number.to_bytes(SLOT_SIZE, "big")
            if start > asked.start:
                self._scans.append(Scan(0, asked.path, start))
                return
        self._scanned.pop(asked.path, None)

    def _finish(self, sync: _Sync, now: float) -> None:
        self._syncs.pop(sync.peer, None)
        if not self._syncs:  # what nobody gave, the next root that differs shows again
            self._scanned.clear()
            self._scans.clear()
        member = self._common.members.get(sync.peer)
        if sync.broken:
            while self._put_off and next(iter(self._put_off.values())) <= now:
                del self._put_off[next(iter(self._put_off))]
            self._put_off[sync.peer] = now + self._tuning.idle_walk_min
        elif not sync.taught:
            self._postpone("sync", sync.peer, now)
        elif member is not None and member.root == self._common.store.root:
            self._idle.pop(("sync", sync.peer), None)
            if self._common.members.unseen:
                self._ask_who_is_seen(sync.peer, now)

    def _ask_who_is_seen(self, peer: bytes, now: float) -> None:
        if not self._take_turn("vouch", peer, now):
            return
        root = self._common.store.root

        def answer(message: Vouch, now: float) -> None:
            order = self._common.store.announcements
            if message.root == self._common.store.root and message.size == len(order):
                unseen = list(self._common.members.unseen)
                bits = message.bits
                self._vouched([key for key in unseen if bits >> order.rank(key) & 1], now)

        self._requests.ask(
            peer,
            lambda number: Vouch(number, False, root, 0, 0),
            now,
            expected=Vouch,
            answer=answer,
            silence=_nothing,
        )

    def _ask_evidence(self, peer: bytes, now: float) -> None:
        if not self._take_turn("evidence", peer, now):
            return
        held = self._common.evidence.named(self._common.rng)

        def answer(message: Objects, now: float) -> None:
            if self._learn(message.items, peer, now, pass_on=False):
                self._idle.pop(("evidence", peer), None)
                self._ask_evidence(peer, now)

        self._requests.ask(
            peer,
            lambda number: AskEvidence(number, held),
            now,
            expected=Objects,
            answer=answer,
            silence=_nothing,
        )

    # Patience.

    def _rested(self, kind: str, peer: bytes, now: float) -> bool:
        idle = self._idle.get((kind, peer))
        return idle is None or now >= idle.until

    def _take_turn(self, kind: str, peer: bytes, now: float) -> bool:
        rested = self._rested(kind, peer, now)
        if rested:
            self._postpone(kind, peer, now)
        return rested

    def _postpone(self, kind: str, peer: bytes, now: float) -> None:
        idle = self._idle.setdefault((kind, peer), _Idle())
        if now - idle.until > self._tuning.idle_walk_max:
            idle.delay = 0.0
        idle.delay = min(
            max(2 * idle.delay, self._tuning.idle_walk_min), self._tuning.idle_walk_max
        )
        idle.until = now + idle.delay


def _first_slot(path: bytes) -> bytes:
    """The first slot id below ``path``."""
    return bytes.fromhex("".join(f"{digit:x}" for digit in path).ljust(2 * SLOT_SIZE, "0"))


def _nothing(_now: float) -> None:
    """A question that may stay without answer: it is asked again when its time comes."""
