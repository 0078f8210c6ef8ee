"""Anti-entropy: where two roots differ, walk the tree, pull what differs, learn who is seen.

Each side pulls for itself, one request at a time, so a node decides how fast it is
filled and an answer never causes more than one further datagram.  The cost follows the
difference between two stores, not their size.  Demers et al., "Epidemic algorithms for
replicated database maintenance" (PODC 1987), with Merkle's tree for the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import attrs

from protocol import messages
from protocol.members import Common, Member, State
from protocol.merkle import Branch
from protocol.messages import (
    OFFER_HASH,
    AskEvidence,
    Message,
    Objects,
    Offer,
    Pull,
    Subtree,
    Vouch,
    Walk,
)
from protocol.objects import Accusation, Record
from protocol.store import slot_id
from protocol.timers import Timer

MAX_WALKS: Final = 4
"""Walks under way at a time: a newcomer asks a few, not everyone it hears."""

MAX_WANTED: Final = 1024
"""Offered objects waited for at a time; the root repairs what is beyond."""


@attrs.define(eq=False)
class _Exchange:
    """One conversation with a peer: what is still to be asked."""

    peer: bytes
    request: int = 0
    path: bytes = b""
    """The subtree that was asked for last."""
    paths: list[bytes] = attrs.field(factory=list)
    slots: list[bytes] = attrs.field(factory=list)
    news: bool = False
    """Its slots were offered as news by a peer we have seen."""
    kind: str = "pull"
    """What it is about: walk, vouch, evidence or pull; each has its own patience."""
    taught: bool = False
    timer: Timer | None = None


@attrs.define(eq=False)
class _Idle:
    """How long a kind of exchange with one peer is not repeated."""

    until: float = 0.0
    delay: float = 0.0


class Reconciler:
    """Walks, pulls, vouching and evidence exchanges of one node."""

    def __init__(
        self,
        common: Common,
        *,
        send: Callable[[bytes, Message, float], bool],
        learn: Callable[[Iterable[Record | Accusation], bytes, bool, float], bool],
        vouched: Callable[[Iterable[bytes], float], None],
    ) -> None:
        self._common = common
        self._tuning = common.tuning
        self._send, self._learn, self._vouched = send, learn, vouched
        self._exchanges: dict[int, _Exchange] = {}
        """By the number of the request that is out."""
        self._walking: set[bytes] = set()
        """Peers with a walk under way or about to begin; never iterated."""
        self._idle: dict[tuple[str, bytes], _Idle] = {}
        self._wanted: dict[bytes, tuple[bytes, bytes]] = {}
        """Slot to (who offered, start of the hash)."""

    # What a probe or an ack tells.

    def heard(self, member: Member, evidence: bytes, now: float) -> None:
        """``member`` told its root and evidence digest: compare, and ask if they differ."""
        common = self._common
        if member.root != common.store.root:
            self._begin_walk(member, now)
            return
        if any(not m.seen and m.state is State.ALIVE for m in common.members.values()):
            self._ask("vouch", member, now)
        if evidence != common.evidence.digest:
            self._ask("evidence", member, now)

    def _ask(self, kind: str, member: Member, now: float) -> None:
        if not self._rested(kind, member.key, now):
            return
        self._postpone(kind, member.key, now)
        exchange = _Exchange(member.key, kind=kind)
        if kind == "vouch":
            message: Message = Vouch(self._number(exchange), False, self._common.store.root)
        else:
            held = tuple(each.hash[:OFFER_HASH] for each in self._common.evidence)
            message = AskEvidence(self._number(exchange), held[: messages.MAX_PULL])
        self._request(exchange, message, now)

    def _begin_walk(self, member: Member, now: float) -> None:
        if (
            member.key in self._walking
            or len(self._walking) >= MAX_WALKS
            or not self._rested("walk", member.key, now)
        ):
            return
        self._walking.add(member.key)

        def begin(now: float) -> None:
            if member.root == self._common.store.root:
                self._walking.discard(member.key)
                return
            exchange = _Exchange(member.key, paths=[b""], kind="walk")
            self._continue(exchange, now)

        self._common.timers.after(self._tuning.walk_delay, now, begin)

    # Our requests, one at a time.

    def _number(self, exchange: _Exchange) -> int:
        self._exchanges.pop(exchange.request, None)
        exchange.request = self._common.rng.getrandbits(32)
        self._exchanges[exchange.request] = exchange
        return exchange.request

    def _request(self, exchange: _Exchange, message: Message, now: float) -> None:
        if exchange.timer is not None:
            exchange.timer.cancel()
        exchange.timer = self._common.timers.after(
            self._tuning.request_timeout, now, lambda now: self._finish(exchange, now)
        )
        self._send(exchange.peer, message, now)

    def _continue(self, exchange: _Exchange, now: float) -> None:
        tree = self._common.store.tree
        if exchange.slots:
            asked = tuple(exchange.slots[: messages.MAX_PULL])
            self._request(exchange, Pull(self._number(exchange), asked), now)
        elif exchange.paths:
            exchange.path = exchange.paths.pop()
            value, _ = tree.look(exchange.path)
            walk = Walk(self._number(exchange), exchange.path, value)
            self._request(exchange, walk, now)
        else:
            self._finish(exchange, now)

    def _finish(self, exchange: _Exchange, now: float) -> None:
        self._exchanges.pop(exchange.request, None)
        if exchange.timer is not None:
            exchange.timer.cancel()
        if exchange.taught:
            self._idle.pop((exchange.kind, exchange.peer), None)
        if exchange.kind == "walk":
            self._walking.discard(exchange.peer)
            member = self._common.members.get(exchange.peer)
            if not exchange.taught:
                self._postpone("walk", exchange.peer, now)
            elif member is not None and member.root == self._common.store.root:
                self._ask("vouch", member, now)

    def _answered(self, peer: bytes, request: int) -> _Exchange | None:
        exchange = self._exchanges.get(request)
        return exchange if exchange is not None and exchange.peer == peer else None

    def subtree(self, peer: bytes, answer: Subtree, now: float) -> None:
        exchange = self._answered(peer, answer.request)
        if exchange is None or answer.path != exchange.path:
            return
        tree = self._common.store.tree
        if isinstance(answer.content, Branch):
            for digit, value in enumerate(answer.content.children):
                below = answer.path + bytes([digit])
                if tree.look(below)[0] != value:
                    exchange.paths.append(below)
        elif answer.content is not None:
            exchange.slots += [
                slot for slot, value in answer.content.slots.items() if tree.get(slot) != value
            ]
        self._continue(exchange, now)

    def objects(self, peer: bytes, answer: Objects, now: float) -> None:
        exchange = self._answered(peer, answer.request)
        if exchange is None:
            return
        if self._learn(answer.objects, peer, exchange.news, now):
            exchange.taught = True
        exchange.slots = _behind(exchange.slots, answer.objects)
        self._continue(exchange, now)

    # Offers.

    def offered(self, peer: bytes, offer: Offer, now: float) -> None:
        """Ask for what ``peer`` offered, if it has not come by itself in a few ms."""
        tree = self._common.store.tree
        fresh = False
        for slot, start in offer.items:
            held = tree.get(slot)
            if (held is None or held[:OFFER_HASH] != start) and slot not in self._wanted:
                if len(self._wanted) >= MAX_WANTED:
                    break
                self._wanted[slot] = (peer, start)
                fresh = True
        if fresh:
            self._common.timers.after(
                self._tuning.offer_patience, now, lambda now: self._fetch(peer, now)
            )

    def _fetch(self, peer: bytes, now: float) -> None:
        tree, lacking = self._common.store.tree, []
        for slot, (offerer, start) in list(self._wanted.items()):
            if offerer == peer:
                del self._wanted[slot]
                held = tree.get(slot)
                if held is None or held[:OFFER_HASH] != start:
                    lacking.append(slot)
        if lacking:
            member = self._common.members.get(peer)
            exchange = _Exchange(peer, slots=lacking, news=member is not None and member.seen)
            self._continue(exchange, now)

    def fetch(self, peer: bytes, slots: Iterable[bytes], now: float) -> None:
        """Pull ``slots`` from ``peer``: something it sent cannot stand without them."""
        self._continue(_Exchange(peer, slots=list(slots)), now)

    # Answers to others: one each.

    def show(self, peer: bytes, walk: Walk, now: float) -> None:
        value, content = self._common.store.tree.look(walk.path)
        same = value == walk.hash
        self._send(peer, Subtree(walk.request, walk.path, None if same else content), now)

    def give(self, peer: bytes, pull: Pull, now: float) -> None:
        store = self._common.store
        found = [held for slot in pull.slots if (held := store.in_slot(slot)) is not None]
        portion = next(messages.fill(found), ())
        self._send(peer, Objects(pull.request, portion), now)

    def give_evidence(self, peer: bytes, ask: AskEvidence, now: float) -> None:
        held = dict.fromkeys(ask.held)
        found = [each for each in self._common.evidence if each.hash[:OFFER_HASH] not in held]
        portion = next(messages.fill(found), ())
        self._send(peer, Objects(ask.request, portion), now)

    def vouch(self, peer: bytes, message: Vouch, now: float) -> None:
        """Answer which members we have seen, or take such an answer from one we have seen."""
        store, members = self._common.store, self._common.members
        order = store.members()
        same = message.root == store.root
        if not message.answers:
            mine = self._common.me.public
            seen = [key == mine or (key in members and members[key].live) for key in order]
            bitmap = _pack_bits(seen) if same else b""
            self._send(peer, Vouch(message.request, True, store.root, bitmap), now)
            return
        exchange = self._answered(peer, message.request)
        if exchange is None:
            return
        self._finish(exchange, now)
        if same and members[peer].seen and len(message.bitmap) == (len(order) + 7) // 8:
            bits = _unpack_bits(message.bitmap)
            self._vouched([key for key, bit in zip(order, bits, strict=False) if bit], now)

    # Patience.

    def _rested(self, kind: str, peer: bytes, now: float) -> bool:
        idle = self._idle.get((kind, peer))
        return idle is None or now >= idle.until

    def _postpone(self, kind: str, peer: bytes, now: float) -> None:
        idle = self._idle.setdefault((kind, peer), _Idle())
        if now - idle.until > self._tuning.idle_walk_max:
            idle.delay = 0.0
        idle.delay = min(
            max(2 * idle.delay, self._tuning.idle_walk_min), self._tuning.idle_walk_max
        )
        idle.until = now + idle.delay

    def root_changed(self) -> None:
        """Our store changed: whatever was in vain before may teach something now."""
        self._idle.clear()


def _behind(asked: list[bytes], answer: tuple[Record | Accusation, ...]) -> list[bytes]:
    """As many as fit came, in the order asked: what is still to be asked for."""
    last = answer[-1] if answer else None
    if last is None or isinstance(last, Accusation):
        return []
    slot = slot_id(last.KIND, last.node)
    return asked[asked.index(slot) + 1 :] if slot in asked else []


def _pack_bits(bits: list[bool]) -> bytes:
    octets = bytearray((len(bits) + 7) // 8)
    for place, bit in enumerate(bits):
        octets[place >> 3] |= bit << (7 - (place & 7))
    return bytes(octets)


def _unpack_bits(packed: bytes) -> list[bool]:
    return [bool(octet >> (7 - place) & 1) for octet in packed for place in range(8)]
