"""Fetching shards: an announcement that names some is whole only when all of them are here.

Until then the node's last whole set stays in force.  Shards are asked of who brought the
announcement, then of the origin and of others that hold the same root by turns: a few in
each request, and a few requests at a time, so that a datagram that is lost holds up only
what it would have brought.  What cannot be had for a while is reported once, and asked for
slowly for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs

from protocol.address import Prefix
from protocol.errors import Rejected
from protocol.events import ShardsMissing
from protocol.members import Common
from protocol.messages import Message, PullShards, Shards
from protocol.objects import MAX_SHARDS, Announcement
from protocol.requests import Requests
from protocol.shards import Shelf
from protocol.timers import Timer

MAX_FETCHES: Final = 4
"""Requests for shards out at a time: a newcomer to a mesh of many shards is filled evenly."""

MAX_ASKED: Final = MAX_SHARDS // 2
"""Shards in one request, so that two are out for one announcement.  With four, 64 members that
all ask its origin overflow its receive buffer (simulated)."""

_CANDIDATES: Final = 4
"""Members looked at for one that shows our root: most do."""


@attrs.define(eq=False)
class _Want:
    """An announcement that lacks shards. What of them is not asked for rests, or is due."""

    announcement: Announcement
    source: bytes | None = None
    """Who brought it."""
    vain: int = 0
    """Times it has rested since it was announced or something came."""
    delay: float = 0.0
    out: dict[bytes, None] = attrs.field(factory=dict)
    """Shards that a request is out for."""
    rest: Timer | None = None
    alarm: Timer | None = None
    """When to report what is still lacking."""


class Fetcher:
    """Keeps each node's set of prefixes whole, and serves the shards to others."""

    def __init__(
        self,
        common: Common,
        requests: Requests,
        *,
        send: Callable[[bytes, Message, float], bool],
        in_force: Callable[[bytes, tuple[Prefix, ...]], None],
        refused: Callable[[Rejected, bytes], None],
        settle: Callable[[float], None],
    ) -> None:
        """``in_force(node, prefixes)``: this whole set replaces ``node``'s last.
        ``refused(why, node)``: what ``node`` names is no set; its last stays.
        ``settle(now)``: what agreement waits for may be here."""
        self._common, self._tuning = common, common.tuning
        self._requests, self._send, self._in_force = requests, send, in_force
        self._refused, self._settle = refused, settle
        self._shelf = Shelf()
        self._wants: dict[bytes, _Want] = {}
        self._due: dict[bytes, None] = {}
        """Nodes of whose shards some are lacking that are not asked for and do not rest."""
        self._out = 0
        """Requests that are out."""
        self._awaited: dict[bytes, None] = {}

    @property
    def shelf(self) -> Shelf:
        """What is held; not to be changed."""
        return self._shelf

    @property
    def waiting(self) -> bool:
        """Shards are lacking that have not been reported missing."""
        return bool(self._awaited)

    # What the store learns.

    def named(self, announcement: Announcement, now: float) -> None:
        """``announcement`` is now its node's newest."""
        node = announcement.node
        self._shelf.name(node, announcement.shards)
        if self._look(announcement, now):
            return
        if node == self._common.me.public:
            self._awaited[node] = None  # they come from ourselves, at once
            return
        want = self._wants.get(node)
        if want is None:
            want = self._wants[node] = _Want(announcement)
            want.alarm = self._common.timers.after(
                self._tuning.fetch_patience, now, lambda now: self._report(node, now)
            )
            self._awaited[node] = None
        want.announcement, want.source = announcement, None
        self._encourage(want)
        self._wake(want)

    def brought(self, node: bytes, source: bytes, now: float) -> None:
        """``source`` sent us ``node``'s newest announcement: it may have the shards too."""
        want = self._wants.get(node)
        if want is not None and want.source is None:
            want.source = source
            self._ask_next(now)

    def forget(self, node: bytes, now: float) -> None:
        """``node`` is no member any more."""
        self._shelf.name(node, ())
        self._end(node, now)

    def keep(self, raw: bytes, now: float) -> bool:
        """Put a shard on the shelf, whoever it is from; False when it was not lacking."""
        nodes = self._shelf.put(raw)
        for node in nodes:
            announcement = self._common.store.announcements.get(node)
            if announcement is not None:  # else it gave way to another at the store's bound
                self._look(announcement, now)
        return bool(nodes)

    def _look(self, announcement: Announcement, now: float) -> bool:
        """True when nothing is lacking any more, for good or ill."""
        try:
            prefixes = self._shelf.prefixes_of(announcement)
        except Rejected as error:
            self._refused(error, announcement.node)
        else:
            if prefixes is None:
                return False
            self._in_force(announcement.node, prefixes)
        self._end(announcement.node, now)
        return True

    # Asking.

    def heard(self, now: float) -> None:
        """A live member spoke: there is somebody to ask."""
        if self._due:
            self._ask_next(now)

    def _ask_next(self, now: float) -> None:
        while self._due and self._out < MAX_FETCHES:
            node = next(iter(self._due))
            want = self._wants[node]
            peer = self._whom(want)
            if peer is None:
                return  # nobody is live: `heard` comes back to it
            lacking = self._shelf.lacking(want.announcement)
            unasked = [each for each in lacking if each not in want.out]
            del self._due[node]
            if len(unasked) > MAX_ASKED and not want.vain:
                self._due[node] = None  # after the others
            if unasked:
                self._request(want, peer, unasked[:MAX_ASKED], now)

    def _whom(self, want: _Want) -> bytes | None:
        """Who brought it first, then its origin and another that holds our root by turns."""
        members, origin = self._common.members, want.announcement.node
        if want.vain % 2 == 0:
            for key in (want.source if want.vain == 0 else None, origin):
                if key is not None and key in members.live:
                    return key
        few = members.live.draw(self._common.rng, _CANDIDATES, (origin,)) or [*members.live][:1]
        root = self._common.store.root
        return next((key for key in few if members[key].root == root), few[0] if few else None)

    def _request(self, want: _Want, peer: bytes, share: Sequence[bytes], now: float) -> None:
        def answer(message: Shards, now: float) -> None:
            self._ended(want, peer, share, self._take(message, now), now)
            self._settle(now)

        self._out += 1
        want.out |= dict.fromkeys(share)
        self._requests.ask(
            peer,
            lambda number: PullShards(number, tuple(share)),
            now,
            expected=Shards,
            answer=answer,
            silence=lambda now: self._ended(want, peer, share, False, now),
            least=self._tuning.fetch_retry,
        )

    def _ended(
        self, want: _Want, peer: bytes, share: Sequence[bytes], taught: bool, now: float
    ) -> None:
        """``peer`` was asked for ``share``, and its answer is here or waited for no more.

        ``taught``: it brought something.  Whatever came of it, what is still lacking is out,
        rests or is due afterwards.
        """
        self._out -= 1
        for each in share:
            want.out.pop(each, None)
        if self._wants.get(want.announcement.node) is want:
            lacking = set(self._shelf.lacking(want.announcement))
            left = [each for each in share if each in lacking]
            if left and not taught:
                self._in_vain(want, now)
            else:  # also where others have brought them meanwhile
                self._encourage(want)
                if left:  # as many as fit have come: it has the next ones too
                    self._request(want, peer, left, now)
        self._ask_next(now)

    def _take(self, answer: Shards, now: float) -> bool:
        taught = False
        for raw in answer.shards:
            if self.keep(raw, now):
                taught = True
            else:
                self._common.count("shards not wanted")
        return taught

    def _in_vain(self, want: _Want, now: float) -> None:
        if want.rest is not None:
            return

        def rested(now: float) -> None:
            self._wake(want)
            self._ask_next(now)

        self._due.pop(want.announcement.node, None)
        want.rest = self._common.timers.after(want.delay, now, rested)
        want.vain += 1
        want.delay = min(2 * want.delay, self._tuning.fetch_max)

    def _wake(self, want: _Want) -> None:
        """It rests no more, and is due."""
        if want.rest is not None:
            want.rest.cancel()
            want.rest = None
        self._due[want.announcement.node] = None

    def _encourage(self, want: _Want) -> None:
        """Something came, or something new is to be had: as if it had never been in vain."""
        want.vain, want.delay = 0, self._tuning.fetch_first
        if want.rest is None:
            self._due[want.announcement.node] = None

    def _end(self, node: bytes, now: float) -> None:
        self._awaited.pop(node, None)
        want = self._wants.pop(node, None)
        if want is None:
            return
        for timer in (want.rest, want.alarm):
            if timer is not None:
                timer.cancel()
        self._due.pop(node, None)
        self._ask_next(now)

    def _report(self, node: bytes, now: float) -> None:
        del self._awaited[node]
        lacking = self._shelf.lacking(self._wants[node].announcement)
        name = self._common.members[node].name
        self._common.events.append(ShardsMissing(node, name, len(lacking)))
        self._settle(now)
