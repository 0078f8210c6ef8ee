"""News: pushed in full to a few, offered by name to some more, asked for by who lacks it.

There is no queue of rumours: what is told is the newest in its slot, at once, and once
(Demers et al., PODC 1987, call that rumour mongering with k = 1).  What is lost on the way
is repaired where roots differ.  Under a flood of news the telling is paced: what comes
meanwhile is told together, and of one slot only the newest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import attrs

from protocol import messages
from protocol.limits import TokenBucket
from protocol.members import Common
from protocol.messages import (
    MAX_OFFER,
    OFFER_HASH,
    Message,
    News,
    Objects,
    Offer,
    Pull,
    Push,
)
from protocol.objects import Accusation, Revocation, Successor
from protocol.requests import Learn, Requests
from protocol.store import slot_of
from protocol.timers import Timer
from protocol.tuning import FANOUT_ALL, MAX_OFFERERS, MAX_WANTED


def offers(size: int) -> int:
    """To how many a relay offers news besides those that get it in full: ln n - 1 (DESIGN 5),
    rounded up from .55: 4 for 100 members (with 3 one in 20 updates waited 0.08 s for the rounds
    of agreement), 6 for 1,000; and no more, for with 7 of 5,000 each pays 4.05 times the object."""
    return min(math.floor(math.log(size) - 0.55), 6)


Untold = dict[bytes, tuple[News, bytes]]
"""Slot, or an accusation's hash, to news and who told us."""


@attrs.define(eq=False)
class _Wanted:
    """An object that was offered and has not come."""

    start: bytes
    offerers: list[bytes]


class Gossip:
    """What one node tells of its news, and how it gets others'."""

    def __init__(
        self,
        common: Common,
        requests: Requests,
        *,
        send: Callable[[bytes, Message, float], bool],
        learn: Learn,
    ) -> None:
        self._common, self._requests = common, requests
        self._send, self._learn = send, learn
        tuning = common.tuning
        self._pace = TokenBucket(tuning.relay_rate, tuning.relay_burst)
        self._untold: Untold = {}
        """What is to be told next."""
        self._timer: Timer | None = None
        self._patient = False
        """The timer waits only because everyone was told already."""
        self._wanted: dict[bytes, _Wanted] = {}

    # Telling.

    def publish(self, news: tuple[News, ...], now: float) -> None:
        """Tell what we made ourselves: to everyone up to FANOUT_ALL, else as a relay does."""
        live = self._common.members.live
        if len(live) > FANOUT_ALL:
            self.relay(news, self._common.me.public, now)
            return
        for portion in messages.fill(news):
            self._send_all(list(live), Push(portion), now)

    def relay(
        self, news: Iterable[News], source: bytes, now: float, *, pushed: bool = False
    ) -> None:
        """Pass on what was new to us; ``source`` had it, and ``pushed`` it unasked.

        What takes something away goes first and beyond any pace: an authority has few such
        words, and each comes but once.  What its origin pushed goes a moment later where it pushed
        it to everyone: an offer then only repairs a loss, and most need none.
        """
        urgent: Untold = {}
        few, hurry = len(self._common.members.live) <= FANOUT_ALL, False
        for each in news:
            if isinstance(each, Revocation | Successor):
                urgent[slot_of(each)] = (each, source)
                continue
            if not isinstance(each, Accusation):
                name = slot_of(each)
            elif not few:
                name = each.hash
            else:
                continue  # its accuser told everyone
            self._untold.pop(name, None)
            self._untold[name] = (each, source)
            known = few and pushed and not isinstance(each, Accusation) and each.subject == source
            hurry |= not known
        if urgent:
            self._pass_on(urgent, now, repairing=False)
        if self._timer is not None and self._patient and hurry:
            self._timer.cancel()
            self._timer = None
        if self._untold and self._timer is None:
            self._patient = not hurry
            if self._patient:
                patience = self._common.tuning.relay_patience
                self._timer = self._common.timers.after(patience, now, self._tell)
            elif self._pace.take(now):
                self._tell(now)
            else:
                delay = 1 / self._common.tuning.relay_rate
                self._timer = self._common.timers.after(delay, now, self._tell)

    def _tell(self, now: float) -> None:
        if self._timer is not None:
            self._pace.take(now)
        self._timer = None
        untold, self._untold = self._untold, {}
        self._pass_on(untold, now, repairing=self._patient)

    def _pass_on(self, untold: Untold, now: float, *, repairing: bool) -> None:
        """``repairing``: all were told already, so each offers it to one, and each is offered it
        by one on average; whom that misses too shows another root in agreement."""
        news = [each for each, _ in untold.values()]
        knowing = self._knowing(untold)
        common, tuning = self._common, self._common.tuning
        size = len(common.members.live)
        many = size > FANOUT_ALL
        offered = offers(size) if many else 0
        number = 1 if repairing else tuning.relay_full + offered
        chosen = common.members.live.draw(common.rng, number, knowing)
        accusations = [each for each in news if isinstance(each, Accusation)]
        first = next(messages.fill(news), ())
        octets = sum(len(each.raw) for each in first)
        copies = min(tuning.relay_full, tuning.relay_octets // max(1, octets))
        full = copies if many and copies > 1 else 0
        self._send_all(chosen[:full], Push(first), now)
        items = [
            (slot_of(each), each.hash[:OFFER_HASH])
            for each in news
            if not isinstance(each, Accusation)
        ][-MAX_OFFER:]
        if items:
            self._send_all(chosen[full:], Offer(tuple(items)), now)
        for part in messages.fill(accusations):
            self._send_all(chosen[full:], Push(part), now)

    def _send_all(self, peers: list[bytes], message: Message, now: float) -> None:
        for key in peers:
            self._send(key, message, now)

    def _knowing(self, untold: Untold) -> dict[bytes, None]:
        """Who has all of what is to be told: its only source, its origin, who offered it."""
        knowing: dict[bytes, None] = {}
        if len(untold) > 2:  # a grant and its announcement at most: others lack a part
            return knowing
        for slot, (each, source) in untold.items():
            knowing[source] = None
            knowing[each.accuser if isinstance(each, Accusation) else each.subject] = None
            wanted = self._wanted.get(slot)
            if wanted is not None:
                knowing.update(dict.fromkeys(wanted.offerers))
        return knowing

    # Offers.

    def offered(self, peer: bytes, offer: Offer, now: float) -> None:
        """Ask for what ``peer`` offered, if it has not come by itself in a few ms."""
        fresh = []
        for slot, start in offer.items:
            if self._has(slot, start):
                continue
            wanted = self._wanted.get(slot)
            if wanted is not None and wanted.start == start:
                if peer not in wanted.offerers and len(wanted.offerers) < MAX_OFFERERS:
                    wanted.offerers.append(peer)
            elif wanted is not None or len(self._wanted) < MAX_WANTED:
                self._wanted[slot] = _Wanted(start, [peer])
                if wanted is None:
                    fresh.append(slot)
        if fresh:
            patience = self._common.tuning.offer_patience
            self._common.timers.after(patience, now, lambda now: self._fetch(fresh, now))

    def _has(self, slot: bytes, start: bytes) -> bool:
        held = self._common.store.in_slot(slot)
        return held is not None and held.hash[:OFFER_HASH] == start

    def _fetch(self, slots: Iterable[bytes], now: float) -> None:
        """Ask the first who offered; when it stays silent, the next, and at last nobody."""
        asked: dict[bytes, list[bytes]] = {}
        for slot in slots:
            wanted = self._wanted.get(slot)
            if wanted is None or self._has(slot, wanted.start) or not wanted.offerers:
                self._wanted.pop(slot, None)
            else:
                asked.setdefault(wanted.offerers.pop(0), []).append(slot)
        for peer, lacking in asked.items():
            self.pull(peer, lacking, now)

    def pull(self, peer: bytes, slots: list[bytes], now: float) -> None:
        """Ask ``peer`` for what stands in ``slots``: it has offered or sent what needs it."""

        def answer(message: Objects, now: float) -> None:
            self._learn(message.items, peer, now, pass_on=True)
            rest = message.behind(slots)
            if rest:
                self.pull(peer, rest, now)
            self._fetch([slot for slot in slots if slot not in rest], now)

        self._requests.ask(
            peer,
            lambda number: Pull(number, tuple(slots[: messages.MAX_PULL])),
            now,
            expected=Objects,
            answer=answer,
            silence=lambda now: self._fetch(slots, now),
            least=self._common.tuning.offer_retry,
        )
