"""Which routes of others bear on the mesh, so that a router with a full BGP table is left in peace.

A route concerns us if it has an address in common with anything the mesh announces, or with where
its members are reached: only then can it shadow, cover or resolve something of ours.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from protocol.address import Address, Prefix


class Interest:
    """Some prefixes and addresses, as ranges that do not overlap: one bisection a question."""

    def __init__(self, prefixes: Iterable[Prefix], addresses: Iterable[Address]) -> None:
        ranges = {(each.version, each.first, each.last) for each in prefixes}
        ranges |= {(each.version, int(each), int(each)) for each in addresses}
        self._starts: list[tuple[int, int]] = []
        self._ends: list[int] = []
        for version, first, last in sorted(ranges):
            # Prefixes nest or are apart, so one that begins inside another ends there too.
            inside = self._starts and self._starts[-1][0] == version and first <= self._ends[-1]
            if inside:
                self._ends[-1] = max(self._ends[-1], last)
            else:
                self._starts.append((version, first))
                self._ends.append(last)

    def meets(self, version: int, first: int, last: int) -> bool:
        """Whether an address from ``first`` to ``last`` is among them."""
        at = bisect_right(self._starts, (version, last))
        return at > 0 and self._starts[at - 1][0] == version and self._ends[at - 1] >= first
