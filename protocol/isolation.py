"""Isolation: most peers lost at once means that we are cut off from them, not that they died.

A brake on the kernel alone.  States are told as they are, but the routes of those who were
lost stay for a while where nobody else offers them:

- More than half of at least four peers lost within 10 s: we are *isolated*, for at most
  10 min, and everyone lost is *held*.  It is over when all are back, or when at most half
  have been missing for 10 s: who comes back comes back together, and the rest are dead.
- A partition's losses come over seconds, and the first is not to be acted on before the
  last.  So one that is lost while more than a quarter of the peers are lost or in doubt, or
  most of those that we tried last were silent, is held for 5 s, until it shows what this is.
  A single loss is never slowed.

Who is cut off finds nobody to relay for it and takes itself for ill, so that its probes wait up to
nine times as long (Lifeguard's local health): its losses are as far apart, and these times too.
"""

from __future__ import annotations

from typing import Final

import attrs

from protocol.events import Isolated, Released
from protocol.members import Common
from protocol.timers import Timer

LEAST_PEERS: Final = 4
"""With fewer, half of them is one or two, who may well be dead (DESIGN 6)."""


@attrs.frozen
class _Loss:
    at: float
    braked: bool
    """Lost while many others were in doubt."""


@attrs.define(eq=False)
class Isolation:
    """Counts losses and returns of live members as they come, each in constant time."""

    _common: Common
    isolated: bool = False
    _losses: dict[bytes, _Loss] = attrs.field(factory=dict)
    """Oldest first: of the last ``isolation_window`` seconds, or since before we were isolated."""
    _began: float = 0.0
    _ends: Timer | None = None
    _calm: Timer | None = None
    """Runs while at most half are missing."""

    def holds(self, key: bytes) -> bool:
        """``key`` was lost, and its routes stay where nobody else offers them."""
        loss = self._losses.get(key)
        return loss is not None and (self.isolated or loss.braked)

    def lost(
        self, key: bytes, now: float, *, doubtful: int, self_doubt: bool = False, slowness: int = 1
    ) -> None:
        """A live member failed, while there is doubt of so many other live ones.

        ``self_doubt``: most that we tried last were silent; ``slowness``: how many times as long
        as usual our probes wait.
        """
        self._forget_old(now, slowness)
        count = len(self._losses) + 1
        known = count + len(self._common.members.live)
        braked = known >= LEAST_PEERS and (self_doubt or 4 * (count + doubtful) > known)
        loss = self._losses[key] = _Loss(now, braked)
        if known >= LEAST_PEERS and 2 * count > known:
            self._begin(count, known, now)
        elif braked and not self.isolated:
            delay = self._common.tuning.isolation_doubt * slowness
            self._common.timers.after(delay, now, lambda now: self._let_go(key, loss, now))

    def found(self, key: bytes, now: float) -> None:
        """A member is live again, or gone for good: it counts as lost no more."""
        if self._losses.pop(key, None) is None or not self.isolated:
            return
        count = len(self._losses)
        if not count:
            self._end(now)
        elif self._calm is None and 2 * count <= count + len(self._common.members.live):
            delay = self._common.tuning.isolation_window
            self._calm = self._common.timers.after(delay, now, self._end)

    def _forget_old(self, now: float, slowness: int) -> None:
        window = self._common.tuning.isolation_window * slowness
        while self._losses and not self.isolated:
            oldest, loss = next(iter(self._losses.items()))
            if now - loss.at < window:
                break
            del self._losses[oldest]

    def _begin(self, count: int, known: int, now: float) -> None:
        if self._calm is not None:
            self._calm.cancel()
            self._calm = None
        if not self.isolated:
            self.isolated, self._began = True, now
            longest = self._common.tuning.isolation_max
            self._ends = self._common.timers.after(longest, now, self._end)
            self._common.events.append(Isolated(count, known))

    def _end(self, now: float) -> None:
        for timer in (self._ends, self._calm):
            if timer is not None:
                timer.cancel()
        self._ends = self._calm = None
        self.isolated = False
        self._common.events.append(Released(tuple(self._losses), True, now - self._began))
        self._losses.clear()

    def _let_go(self, key: bytes, loss: _Loss, now: float) -> None:
        """It was no isolation: ``key`` is dead, and others with it."""
        if self._losses.get(key) is loss and not self.isolated:
            self._losses[key] = attrs.evolve(loss, braked=False)
            self._common.events.append(Released((key,), False, now - loss.at))
