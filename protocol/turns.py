"""Whose turn it is to be probed: an order that all members share, so that nobody waits long.

Where each draws a shuffled order for itself, a member is probed once a period on average, but
now thrice and now not for seconds: a tenth of all deaths were not looked at for 2.3 periods.  So
each goes round the live members in the order of their keys, and all are at the same *step*: at
step s the i-th probes the one s places behind it.  In one period that is everyone once.

They share the time of a step as well, as fireflies do (Mirollo and Strogatz, "Synchronization of
pulse-coupled biological oscillators", SIAM J. Appl. Math. 50, 1990): of n the i-th takes its turn
i/n of a period before the first.  So the probes of all are spread over the period, and a member
is probed every 1 + 1/n periods, once a round after 1 + 2/n; it is up to two where each takes its
turn whenever it began.

No clock is compared.  Who probes us shows its step by the place it has, and the time of that by
when it comes.  If it is a step away at most, our next turn comes sooner or later, by a quarter of
that: a liar makes us probe a third more often, or a fifth more seldom.  Who sees two others
in a row that are further away, by the same number of steps, goes where they are; or three, if
there are some that are where it is.  That is done once a round at most, but for the first:
whatever the others say, everybody is probed within two rounds, as with SWIM's shuffled ones (Das
et al., DSN 2002, section 4.3).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Final

from protocol.members import Common

MAX_RING: Final = 1024
"""Live members that are kept in order; in a larger mesh each goes round them as it likes."""

_AGREE: Final = 2
"""Others in a row that are away by as many steps, give or take one."""

_SPREAD: Final = 16
"""Fewer members take their turns as if they were so many: in a part of the period."""

_GAIN: Final = 0.25
"""Of what we are away from another, so much is made up for with the next turn."""

_LAST: Final = 4
_BESIDE: Final = 2
"""Of those who probed us last so many were within a step of us: then one more must agree, for of
those who probe out of turn, because somebody may be dead, two often do."""


class Turns:
    """One node's way round the live members."""

    def __init__(self, common: Common) -> None:
        self._common = common
        self._ring: list[bytes] = []
        """We and the live members, by key."""
        self._made_at = -1
        """The count of changes it was made at."""
        self._step = 0
        """Places between us and the one that was probed last."""
        self._turned = 0.0
        """When."""
        self._pull = 0.0
        """Periods by which the next turn comes later; sooner if negative."""
        self._taken = 0
        """Turns since the start, or since we went where others are."""
        self._settled = False
        """The first round is over."""
        self._ahead: dict[bytes, float] = {}
        """Who probed us in a row from nearly the same step, and by how many that is ahead of us."""
        self._beside: deque[bool] = deque(maxlen=_LAST)
        """Of those who probed us last: was it within a step of us?"""
        self._deaf_until = 0.0
        """Before this nobody's probe shows a step."""

    def next(self, now: float) -> bytes | None:
        """Whose turn it is; None where nobody lives."""
        self._turned = now
        members = self._common.members
        if len(members.live) > MAX_RING:
            return members.live.next(self._common.rng)
        ring = self._look()
        if len(ring) < 2:
            return None
        self._step = self._step % (len(ring) - 1) + 1
        self._taken += 1
        if self._taken >= len(ring) - 1:
            self._settled = True
        return ring[(self._place(self._common.me.public) + self._step) % len(ring)]

    def pause(self) -> float:
        """Seconds from this turn to the next, a period more or less."""
        pull, self._pull = self._pull, 0.0
        return (1 + pull) * self._common.tuning.probe_period

    def disturbed(self, now: float) -> None:
        """Others probe now who had no turn, for somebody died or came back: for two periods
        nobody's probe shows a step."""
        self._deaf_until = now + 2 * self._common.tuning.probe_period
        self._ahead.clear()

    def probed_by(self, key: bytes, now: float) -> None:
        """``key`` has probed us: if this was its turn, it shows at which step it is."""
        if len(self._common.members.live) > MAX_RING or now < self._deaf_until:
            return
        ring = self._look()
        place, steps = self._place(key), len(ring) - 1
        if key == self._common.me.public or place >= len(ring) or ring[place] != key:
            return
        ahead = self._away(place, now)
        beside = abs(ahead) <= 1
        self._beside.append(beside)
        if beside or any(abs(ahead - other) > 1 for other in self._ahead.values()):
            self._ahead.clear()
        if beside:
            self._pull = -_GAIN * ahead
            return
        self._ahead[key] = ahead
        if len(self._ahead) < _AGREE + (sum(self._beside) >= _BESIDE):
            return
        if self._settled and self._taken < steps:
            return
        self._common.count("turns moved")
        self._step, self._taken = (self._step + round(ahead)) % steps, 0
        self._ahead.clear()
        self._beside.clear()

    def _away(self, place: int, now: float) -> float:
        """Steps that the one at ``place``, who probes us ``now``, is ahead of us."""
        size, ours = len(self._ring), self._place(self._common.me.public)
        period = self._common.tuning.probe_period
        step = (ours - place) % size
        ahead = (self._turned - now) / period + step - self._step
        ahead += (ours - place) / max(size, _SPREAD)
        return (ahead + (size - 1) / 2) % (size - 1) - (size - 1) / 2

    def _look(self) -> list[bytes]:
        members = self._common.members
        if self._made_at != members.changes:
            self._made_at = members.changes
            self._ring = sorted((*members.live, self._common.me.public))
        return self._ring

    def _place(self, key: bytes) -> int:
        return bisect_left(self._ring, key)
