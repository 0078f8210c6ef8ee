"""Fetching shards: an announcement that names some is whole only when all of them are here.

Until then the node's last whole set stays in force.  Shards are asked of who brought the
announcement, then of the origin and of others that hold the same root by turns: one
request at a time for each announcement, for a few announcements at a time.  What cannot be
had for a while is reported once, and asked for slowly for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from protocol.address import Prefix
from protocol.errors import Rejected
from protocol.events import ShardsMissing
from protocol.members import Common
from protocol.messages import Message, PullShards, Shards
from protocol.objects import Announcement
from protocol.requests import Requests
from protocol.shards import Shelf
from protocol.timers import Timer

MAX_FETCHES: Final = 4
"""Requests for shards out at a time: a newcomer to a mesh of many shards is filled evenly."""

_CANDIDATES: Final = 4
"""Members looked at for one that shows our root: most do."""


@attrs.define(eq=False)
class _Want:
    """An announcement that lacks shards. It is asked for, rests, or is due to be asked for."""

    announcement: Announcement
    source: bytes | None = None
    """Who brought it."""
    vain: int = 0
    """Requests that brought nothing, since it was announced."""
    delay: float = 0.0
    asked: int = 0
    """Counts its requests: the answer to one before the last is only put on the shelf."""
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
        self._out: dict[bytes, None] = {}
        """Nodes for whose shards a request is out."""
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
        self._stop(want)
        want.announcement, want.source = announcement, None
        want.vain, want.delay = 0, self._tuning.fetch_first
        self._due[node] = None

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
        while self._due and len(self._out) < MAX_FETCHES:
            node = next(iter(self._due))
            peer = self._whom(self._wants[node])
            if peer is None:
                return  # nobody is live: `heard` comes back to it
            del self._due[node]
            self._request(self._wants[node], peer, now)

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

    def _request(self, want: _Want, peer: bytes, now: float) -> None:
        node = want.announcement.node
        want.asked += 1
        this, lacking = want.asked, self._shelf.lacking(want.announcement)
        self._out[node] = None

        def answer(message: Shards, now: float) -> None:
            taught = self._take(message, now)
            if self._is_out(want, this):
                if taught:  # as many as fit have come: it has the next ones too
                    self._request(want, peer, now)
                else:
                    self._in_vain(want, now)
            self._settle(now)

        def silence(now: float) -> None:
            if self._is_out(want, this):
                self._in_vain(want, now)

        self._requests.ask(
            peer,
            lambda number: PullShards(number, lacking),
            now,
            expected=Shards,
            answer=answer,
            silence=silence,
        )

    def _is_out(self, want: _Want, number: int) -> bool:
        """This is its last request, and something is still lacking."""
        node = want.announcement.node
        return self._wants.get(node) is want and want.asked == number and node in self._out

    def _take(self, answer: Shards, now: float) -> bool:
        taught = False
        for raw in answer.shards:
            if self.keep(raw, now):
                taught = True
            else:
                self._common.count("shards not wanted")
        return taught

    def _in_vain(self, want: _Want, now: float) -> None:
        self._stop(want)
        node = want.announcement.node

        def due(now: float) -> None:
            self._due[node] = None
            self._ask_next(now)

        want.rest = self._common.timers.after(want.delay, now, due)
        want.vain += 1
        want.delay = min(2 * want.delay, self._tuning.fetch_max)
        self._ask_next(now)

    def _stop(self, want: _Want) -> None:
        """Neither ask nor rest."""
        self._out.pop(want.announcement.node, None)
        want.asked += 1
        if want.rest is not None:
            want.rest.cancel()

    def _end(self, node: bytes, now: float) -> None:
        self._awaited.pop(node, None)
        want = self._wants.pop(node, None)
        if want is None:
            return
        self._stop(want)
        if want.alarm is not None:
            want.alarm.cancel()
        self._due.pop(node, None)
        self._ask_next(now)

    def _report(self, node: bytes, now: float) -> None:
        del self._awaited[node]
        lacking = self._shelf.lacking(self._wants[node].announcement)
        name = self._common.members[node].name
        self._common.events.append(ShardsMissing(node, name, len(lacking)))
        self._settle(now)
