"""Whose turn it is to be probed: an order that all members share, so that nobody waits long.

Where each draws a shuffled order for itself, a member is probed once a period on average, but
now thrice and now not for seconds: a tenth of all deaths were not looked at for 2.3 periods.  So
each goes round the live members in the order of their keys, and all are at the same *step*: at
step s the i-th probes the one s places behind it.  In one period that is everyone once, and a
member is probed after two periods at the latest.

No clock is compared.  Who probes us shows its step by the place it has; who sees two others in a
row that are ahead of it by the same number of steps goes where they are.  That leaves out those
in between until the next round, so it is done once a round at most, but for the first: whatever
the others say, everybody is probed within two rounds, as with SWIM's shuffled ones (Das et al.,
DSN 2002, section 4.3).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from protocol.members import Common

MAX_RING: Final = 1024
"""Live members that are kept in order; in a larger mesh each goes round them as it likes."""


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
        self._taken = 0
        """Turns since the start, or since we went where others are."""
        self._settled = False
        """The first round is over."""
        self._ahead: tuple[bytes, int] | None = None
        """Who probed us last, and by how many steps it was ahead."""

    def next(self) -> bytes | None:
        """Whose turn it is; None where nobody lives."""
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

    def probed_by(self, key: bytes) -> None:
        """``key`` has probed us: if this was its turn, it shows at which step it is."""
        if len(self._common.members.live) > MAX_RING:
            return
        ring = self._look()
        place, steps = self._place(key), len(ring) - 1
        if key == self._common.me.public or place >= len(ring) or ring[place] != key:
            return
        step = (self._place(self._common.me.public) - place) % len(ring)
        ahead = (step - self._step) % steps
        before, self._ahead = self._ahead, (key, ahead)
        if not 2 <= ahead <= steps // 2:
            return  # one ahead is one whose period began before ours
        if before is None or before[0] == key or abs(before[1] - ahead) > 1:
            return
        if self._settled and self._taken < steps:
            return
        self._common.count("turns moved")
        self._step, self._taken, self._ahead = step - 1, 0, None

    def _look(self) -> list[bytes]:
        members = self._common.members
        if self._made_at != members.changes:
            self._made_at = members.changes
            self._ring = sorted((*members.live, self._common.me.public))
        return self._ring

    def _place(self, key: bytes) -> int:
        return bisect_left(self._ring, key)
