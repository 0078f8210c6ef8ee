"""Which hosts on our links have answered, told to the kernel, so that it need not ask for them.

A neighbour entry that has not been confirmed for half a minute is used for five seconds more
(``delay_first_probe_time``), and then the host is asked for by ARP or neighbour solicitation,
unless it was confirmed within just those (``neigh_timer_handler``, Linux net/core/neighbour.c).
Who answers us does so at their beginning, and the kernel's timer may fire half a second after
their end, for it is that coarse: so an answer is told of a little later than it came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from protocol.address import Endpoint

LATER: Final = 0.6
"""Seconds: above the 0.512 that a timer of 5 s may be late (Linux kernel/time/timer.c, level 3 of
the wheel at 1,000 Hz), and well below the 5."""


class Neighbours:
    """Where answers came from, until it is time to tell."""

    def __init__(self) -> None:
        self._answered: deque[tuple[float, Endpoint]] = deque()
        """When and from where, in that order."""

    def answered(self, wherever: Iterable[Endpoint], now: float) -> list[Endpoint]:
        """What is sent to these arrives: they have answered at ``now``, in seconds. Of whom the
        kernel is to be told now, having answered ``LATER`` ago; no timer is set for them, for an
        idle member is awake a few times a second."""
        self._answered += [(now, where) for where in wherever]
        due: list[Endpoint] = []
        while self._answered and self._answered[0][0] <= now - LATER:
            due.append(self._answered.popleft()[1])
        return due
