"""Token buckets: how often something may be done, in all and for each who asks for it."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from protocol.address import Endpoint

MAX_SOURCES = 4096
"""Buckets remembered at a time of each kind; the one longest unused goes first. Whoever comes
back after that finds a full one, as it would after a few seconds of silence."""


@attrs.define(eq=False)
class TokenBucket:
    """``rate`` tokens a second, at most ``burst`` saved up."""

    rate: float
    burst: float
    _level: float = attrs.field(init=False)
    _at: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._level = self.burst

    def holds(self, now: float, number: float = 1, *, spare: float = 0.0) -> bool:
        """Whether ``take`` would succeed."""
        self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now
        return self._level >= number + spare

    def take(self, now: float, number: float = 1, *, spare: float = 0.0) -> bool:
        """Take ``number`` tokens; False, and none taken, when that would leave fewer than
        ``spare`` at ``now`` (monotonic seconds)."""
        if not self.holds(now, number, spare=spare):
            return False
        self._level -= number
        return True


class Buckets:
    """One bucket for each who asks, ``MAX_SOURCES`` at a time."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: dict[bytes, TokenBucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, who: bytes) -> TokenBucket:
        """The bucket of ``who``; a full one of a newcomer."""
        bucket = self._buckets.pop(who, None) or TokenBucket(self._rate, self._burst)
        if len(self._buckets) >= MAX_SOURCES:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[who] = bucket
        return bucket

    def spent(self, who: bytes, now: float) -> bool:
        """Whether nothing is left for ``who``; makes no bucket for one it does not know."""
        bucket = self._buckets.get(who)
        return bucket is not None and not bucket.holds(now)


def network(source: Endpoint) -> bytes:
    """Who ``source`` is to a limit: its address, or its /64 in IPv6, for a host there has as
    many addresses as it likes. Never the port, which costs nothing to change."""
    return source.address.packed[:8]


def take_from_all(buckets: Iterable[tuple[TokenBucket, float]], number: int, now: float) -> bool:
    """``number`` from each bucket, all of which must keep what stands beside them; or nothing
    from any: what one refuses is not lost in the others."""
    buckets = tuple(buckets)
    if not all(bucket.holds(now, number, spare=spare) for bucket, spare in buckets):
        return False
    for bucket, _ in buckets:
        bucket.take(now, number)
    return True
