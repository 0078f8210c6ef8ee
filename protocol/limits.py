"""Token buckets: how often something may be done for somebody who has proven nothing."""

from __future__ import annotations

import ipaddress

import attrs

from protocol.address import Endpoint

MAX_SOURCES = 4096
"""Sources remembered at a time; the one longest silent goes first."""


@attrs.define(eq=False)
class TokenBucket:
    """``rate`` tokens a second, at most ``burst`` saved up."""

    rate: float
    burst: float
    _level: float = attrs.field(init=False)
    _at: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._level = self.burst

    def take(self, now: float, number: float = 1, *, spare: float = 0.0) -> bool:
        """Take ``number`` tokens; False, and none taken, when that would leave fewer than
        ``spare`` at ``now`` (monotonic seconds)."""
        self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now
        if self._level < number + spare:
            return False
        self._level -= number
        return True


class BySource:
    """One bucket per source address, or per /64 in IPv6, for a host there has as many
    addresses as it likes."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, source: Endpoint, now: float) -> bool:
        """Take one token of ``source``'s bucket."""
        who = source.host
        if source.family == 6:
            who = str(ipaddress.IPv6Network((who, 64), strict=False))
        bucket = self._buckets.pop(who, None) or TokenBucket(self._rate, self._burst)
        if len(self._buckets) >= MAX_SOURCES:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[who] = bucket
        return bucket.take(now)
