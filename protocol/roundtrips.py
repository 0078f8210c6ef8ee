"""Round trips that were measured, and how long the next may take (RFC 6298)."""

from __future__ import annotations

import attrs


@attrs.define(eq=False)
class RoundTrips:
    """Those of one node, whomever with: what to expect of who was not measured yet."""

    _smoothed: float | None = None
    _variation: float = 0.0

    def add(self, trip: float) -> None:
        """One more was measured, in seconds (RFC 6298 section 2.3)."""
        if self._smoothed is None:
            self._smoothed, self._variation = trip, trip / 2
        else:
            self._variation += (abs(self._smoothed - trip) - self._variation) / 4
            self._smoothed += (trip - self._smoothed) / 8

    @property
    def timeout(self) -> float | None:
        """SRTT + 4 RTTVAR in seconds; None before the first."""
        return None if self._smoothed is None else self._smoothed + 4 * self._variation
