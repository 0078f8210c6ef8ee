"""Which prefix lies in which: by integers, for a table of 20,000 is judged at each change."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from meshd.kernel.state import order
from protocol.address import Prefix


def covers(wide: Prefix, narrow: Prefix) -> bool:
    """True when every address of ``narrow`` lies in ``wide``."""
    length = wide.prefixlen
    if length > narrow.prefixlen or wide.version != narrow.version:
        return False
    shift = wide.max_prefixlen - length
    return int(wide.network_address) >> shift == int(narrow.network_address) >> shift


def overlaps(one: Prefix, other: Prefix) -> bool:
    """True when some address lies in both."""
    return covers(one, other) or covers(other, one)


def outermost(prefixes: Iterable[Prefix]) -> frozenset[Prefix]:
    """Those that lie in no other, neighbours not merged: an interval set takes no overlaps."""
    kept: list[Prefix] = []
    for prefix in sorted(prefixes, key=order):
        if not (kept and covers(kept[-1], prefix)):
            kept.append(prefix)
    return frozenset(kept)


class Nets:
    """Some prefixes, and which of them another meets: one bisection, however many they are."""

    def __init__(self, prefixes: Iterable[Prefix]) -> None:
        self._kept = sorted(outermost(prefixes), key=order)
        self._starts = [(net.version, int(net.network_address)) for net in self._kept]

    def overlapping(self, prefix: Prefix) -> Prefix | None:
        """One that has an address in common with ``prefix``."""
        last = self._before(prefix.version, int(prefix.broadcast_address))
        return last if last is not None and overlaps(last, prefix) else None

    def containing(self, prefix: Prefix) -> Prefix | None:
        """The widest in which ``prefix`` lies."""
        last = self._before(prefix.version, int(prefix.network_address))
        return last if last is not None and covers(last, prefix) else None

    def _before(self, version: int, address: int) -> Prefix | None:
        """The last that begins at ``address`` or before: no two of them overlap, so if that
        one does not reach so far, none does."""
        at = bisect_right(self._starts, (version, address))
        return self._kept[at - 1] if at else None
