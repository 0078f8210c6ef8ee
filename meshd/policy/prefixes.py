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
        version, first, length = prefix
        return self.between(version, first, first | HOST_BITS[version][length])

    def between(self, version: int, first: int, last: int) -> Prefix | None:
        """One that holds an address from ``first`` to ``last``."""
        net = self._before(version, last)
        return net if net is not None and net[1] | HOST_BITS[version][net[2]] >= first else None

    def containing(self, prefix: Prefix) -> Prefix | None:
        """The widest in which ``prefix`` lies."""
        version, first, length = prefix
        net = self._before(version, first)
        if net is None or net[1] | HOST_BITS[version][net[2]] < first or net[2] > length:
            return None
        return net

    def _before(self, version: int, address: int) -> Prefix | None:
        """The last of that version that begins at ``address`` or before: no two of them overlap,
        so if that one does not reach so far, none does."""
        at = bisect_right(self._kept, (version, address, _BEHIND))
        net = self._kept[at - 1] if at else None
        return net if net is not None and net[0] == version else None
