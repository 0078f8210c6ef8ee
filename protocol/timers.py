"""A heap of calls to make at a time: the automaton's only notion of later."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Final

import attrs

RESOLUTION: Final = 0.001
"""Nothing is due sooner than this after it was asked for, so a tick always ends."""


@attrs.define(eq=False)
class Timer:
    """One call to come; ``cancel`` is idempotent and may be late."""

    when: float
    call: Callable[[float], None] | None

    def cancel(self) -> None:
        self.call = None


class Timers:
    """Calls in the order of their time; equal times in the order they were asked for."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0

    @property
    def deadline(self) -> float:
        """When ``run`` has something to do next; inf when never."""
        while self._heap and self._heap[0][2].call is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def after(self, delay: float, now: float, call: Callable[[float], None]) -> Timer:
        """Call ``call(now)`` at the first tick ``delay`` seconds from ``now``, or later."""
        timer = Timer(0.0, call)
        self._add(timer, now + max(delay, RESOLUTION))
        return timer

    def _add(self, timer: Timer, when: float) -> None:
        timer.when = when
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, timer))

    def silence(
        self, delay: float, now: float, call: Callable[[float], None], *, late: float
    ) -> Timer:
        """Call ``call(now)`` when nothing was heard for ``delay``.

        A loop that comes to it more than ``late`` seconds late has not looked at what arrived
        meanwhile: it waits once more, as long as it was late, and at most ``delay``.
        """

        def due(now: float) -> None:
            behind = now - timer.when
            if behind > late:
                timer.call = call
                self._add(timer, now + min(behind, delay))
            else:
                call(now)

        timer = self.after(delay, now, due)
        return timer

    def run(self, now: float) -> None:
        """Make every call that is due; early, late and repeated runs are harmless."""
        while self.deadline <= now:
            _, _, timer = heapq.heappop(self._heap)
            call, timer.call = timer.call, None
            if call is not None:
                call(now)
