"""Notices a machine that was resumed or copied: its wall clock leaves its monotonic one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

PARTED: Final = 5.0
"""Seconds (DESIGN 4): above what a leap second or a clock that is set at boot makes of it."""


@attrs.define(eq=False)
class WatchedClock:
    """The automaton's clock: call it for each ``now``.

    ``jumped(now, seconds)`` is called before such a ``now`` is handed out, so that the boot
    key is replaced before anything is sealed with it: a copy of this machine would use the
    same counters.  A wall clock that somebody sets looks the same, and costs an exchange
    with each peer.  What is slewed moves both clocks alike and is not seen.
    """

    _monotonic: Callable[[], float]
    _wall: Callable[[], float]
    _jumped: Callable[[float, float], None]
    _difference: float = attrs.field(init=False)
    """Wall minus monotonic seconds, when we started or last jumped."""

    def __attrs_post_init__(self) -> None:
        self._difference = self._wall() - self._monotonic()

    def __call__(self) -> float:
        """Monotonic seconds."""
        now = self._monotonic()
        difference = self._wall() - now
        parted = difference - self._difference
        if abs(parted) > PARTED:
            self._difference = difference
            self._jumped(now, parted)
        return now
