"""Which prefix lies in which, for tables of 20,000."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from protocol.address import Prefix

HOST_BITS: Final = {
    4: [(1 << (32 - length)) - 1 for length in range(33)],
    6: [(1 << (128 - length)) - 1 for length in range(129)],
}
"""By version and length: all of them set."""


def outermost(prefixes: Iterable[Prefix]) -> frozenset[Prefix]:
    """Those that lie in no other, neighbours not merged: an interval set takes no overlaps."""
    return frozenset(_outermost(prefixes))


def _outermost(prefixes: Iterable[Prefix]) -> list[Prefix]:
    kept: list[Prefix] = []
    family = reach = 0
    for prefix in sorted(prefixes):
        version, first, length = prefix
        if first > reach or version != family:
            kept.append(prefix)
            family, reach = version, first | HOST_BITS[version][length]
    return kept


_BEHIND: Final = 129
"""A length that no prefix has: behind all that begin at the same address."""


class Nets:
    """Some prefixes, and which of them another meets: one bisection, however many they are."""

    def __init__(self, prefixes: Iterable[Prefix]) -> None:
        self._kept = _outermost(prefixes)

    def overlapping(self, prefix: Prefix) -> Prefix | None:
        """One that has an address in common with ``prefix``."""
        last = self._before(prefix.version, prefix.last)
        return last if last is not None and last.overlaps(prefix) else None

    def containing(self, prefix: Prefix) -> Prefix | None:
        """The widest in which ``prefix`` lies."""
        last = self._before(prefix.version, prefix.first)
        return last if last is not None and last.covers(prefix) else None

    def _before(self, version: int, address: int) -> Prefix | None:
        """The last that begins at ``address`` or before: no two of them overlap, so if that
        one does not reach so far, none does."""
        at = bisect_right(self._kept, (version, address, _BEHIND))
        return self._kept[at - 1] if at else None
