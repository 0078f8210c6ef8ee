"""Members that failed together come back together: a cable is in again, a switch is up.

As soon as one of them answers, or this host's kernel says that a link or an address has
changed, the others are tried too: each with one probe, few at a time, so that thousands of
members whose halves meet again do not drown one another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.members import Common, Member, State

AT_ONCE: Final = 64
"""Members tried for one reason: a whole mesh in which an origin tells everyone itself."""

_PORTION: Final = 8
_APART: Final = 0.006
"""Seconds between two portions: all are tried in 50 ms, 1,300 a second."""

_ROUNDS: Final = 3
"""How often who stays silent is tried: at 10 % loss one of 150 returns without being heard."""


class Returning:
    """What one node tries at once, beside its turns."""

    def __init__(self, common: Common, knock: Callable[[Member, float, int], None]) -> None:
        """``knock(member, now, attempt)`` sends one probe to a member whose silence means
        nothing, to the endpoint whose turn it is."""
        self._common, self._knock = common, knock
        self._waiting: list[bytes] = []
        """Who is still to be tried in this round."""
        self._rounds = 0
        """Rounds still to be made; 0: none is under way."""

    def begin(self, now: float) -> None:
        """Try those who failed, unless that is under way."""
        if not self._rounds:
            self._rounds = _ROUNDS
            self._round(now)

    def _round(self, now: float) -> None:
        common = self._common
        self._waiting = common.members.failed.draw(common.rng, AT_ONCE)
        self._go_on(now)

    def _go_on(self, now: float) -> None:
        portion, self._waiting = self._waiting[:_PORTION], self._waiting[_PORTION:]
        for key in portion:
            member = self._common.members.get(key)
            if member is not None and member.state is State.FAILED:
                self._knock(member, now, _ROUNDS - self._rounds)
        timers, tuning = self._common.timers, self._common.tuning
        if self._waiting:
            timers.after(_APART, now, self._go_on)
            return
        self._rounds -= 1
        if self._rounds:  # by then who was tried a moment ago for another reason may be again
            timers.after(tuning.probe_timeout_unknown, now, self._round)
