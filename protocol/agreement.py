"""Agreement: who has held this root, gathered until everyone is known to have.

A root determines the member list, so a bitmap over that list is unambiguous.  A node
sets its own bit when it holds all that the root names; nodes with the same root exchange
and OR their bitmaps, each with one other at random each ``agree_period``, until all live
members' bits are set: push-pull gossip (Karp et al., "Randomized rumor spreading", FOCS
2000), about log n rounds.  Partners with different roots find that out by the same
exchange, so it repairs what gossip lost as well.

*Converged* says that every member we hold live has held this root.  It does not say that
nobody has moved on since.  Bits are members' claims, and no route hangs on them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from protocol.events import Converged
from protocol.members import Common, Member
from protocol.messages import Agree, Message
from protocol.timers import Timer

_PATIENCE = 10
"""Rounds that taught nothing before they become rarer: by then log n rounds are over, and
what is missing is most likely a member that is not there."""


class Agreement:
    """One node's bitmap for its present root, and whether it is complete."""

    def __init__(
        self,
        common: Common,
        now: float,
        *,
        send: Callable[[bytes, Message, float], bool],
        heard: Callable[[Member, float], None],
        holds_all: Callable[[], bool],
        may_settle: Callable[[], bool],
    ) -> None:
        """``heard``: a member told its root; ``holds_all``: every shard that is named is here;
        ``may_settle``: we have met who we were told of."""
        self._common, self._send, self._heard = common, send, heard
        self._holds_all, self._may_settle = holds_all, may_settle
        self._root = b""
        self._held = 0
        """Who is known to have held ``_root``: places in its member list."""
        self._wanted: tuple[int, int] = (-1, 0)
        """Places of the live members and us, and the count of changes it was made at."""
        self._diverged_at: float | None = now
        """Since when not everyone is known to have held our root; None when all are."""
        self._in_vain = 0
        self._delay = common.tuning.agree_period
        self._owed = 0
        """Rounds still to be made although our own set is complete."""
        self._timer: Timer | None = None

    @property
    def converged(self) -> bool:
        """Every live member, and we, have held our root."""
        return self._diverged_at is None

    def changed(self, now: float) -> None:
        """The root, somebody's state or what we hold may have changed: judge anew."""
        root = self._common.store.root
        if root != self._root:
            self._root, self._held, self._wanted = root, 0, (-1, 0)
            self._in_vain, self._delay, self._owed = 0, self._common.tuning.agree_period, 0
            if self._diverged_at is None:
                self._diverged_at = now
        if not self._held & (own := self._own_bit()) and self._holds_all():
            self._held |= own
        if self._is_complete():
            self._settle(now)
            return
        if self._diverged_at is None:
            self._diverged_at = now
        self._arm(now)

    def _arm(self, now: float) -> None:
        """The next round comes after a half to a whole of the period, or sooner."""
        delay = self._delay * (1 + self._common.rng.random()) / 2
        if self._timer is not None:
            if self._timer.when <= now + self._delay:
                return
            self._timer.cancel()
        if self._common.members.live:
            self._timer = self._common.timers.after(delay, now, self._round)

    def _own_bit(self) -> int:
        announcements, me = self._common.store.announcements, self._common.me.public
        return 1 << announcements.rank(me) if me in announcements else 0

    def _is_complete(self) -> bool:
        members = self._common.members
        if members.unseen or self._held.bit_count() <= len(members.live):
            return False
        if not self._may_settle():
            return False
        if self._wanted[0] != members.changes:
            self._wanted = (members.changes, members.bits(also=self._common.me.public))
        return self._held & self._wanted[1] == self._wanted[1]

    def _settle(self, now: float) -> None:
        if self._diverged_at is None:
            return
        seconds, self._diverged_at = now - self._diverged_at, None
        members = self._common.members
        known = len(members) - len(members.left)
        self._common.events.append(Converged(self._root, len(members.live), known, seconds))

    def _round(self, now: float) -> None:
        self._timer = None
        if self._diverged_at is None and not self._owed:
            return
        common = self._common
        for key in common.members.live.draw(common.rng, 1):
            size = len(common.store.announcements)
            self._send(key, Agree(False, self._root, self._held, size), now)
            self._owed = max(0, self._owed - 1)
            self._in_vain += 1
            if self._in_vain > _PATIENCE:
                self._delay = min(2 * self._delay, common.tuning.agree_max)
            self._timer = common.timers.after(self._delay, now, self._round)

    def told(self, member: Member, message: Agree, now: float) -> None:
        """``member`` told its root and whom it knows to have held it."""
        size = len(self._common.store.announcements)
        if message.root != self._common.store.root or message.size != size:
            if not message.answers:
                answer = Agree(True, self._common.store.root, 0, size)
                self._send(member.key, answer, now)
            self._heard(member, now)
            return
        news = message.bits & ~self._held
        if news:
            self._held |= news
            self._take_up(now)
            self.changed(now)
        if not message.answers and message.bits != self._held:
            self._send(member.key, Agree(True, self._root, self._held, size), now)

    def _take_up(self, now: float) -> None:
        """Somebody was heard of: go on. After a long wait nobody else asks for it soon, so
        it is told to some who may not know, as news is, even when we lack nobody any more."""
        if self._in_vain > _PATIENCE:
            self._owed = math.ceil(math.log(len(self._common.members.live) + 1)) + 1
        self._in_vain, self._delay = 0, self._common.tuning.agree_period
        self._arm(now)
