"""Which routes of others bear on the mesh, so that a router with a full BGP table is left in peace.

A route concerns us if it has an address in common with anything the mesh announces, or with where
its members are reached: only then can it shadow, cover or resolve something of ours.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshd.policy.prefixes import Nets
from protocol.address import Address, Prefix


class Interest:
    """Some prefixes and addresses: one bisection a question, however many they are."""

    def __init__(self, prefixes: Iterable[Prefix], addresses: Iterable[Address]) -> None:
        self._nets = Nets((*prefixes, *map(Prefix.single, addresses)))

    def meets(self, version: int, first: int, last: int) -> bool:
        """Whether an address from ``first`` to ``last`` is among them."""
        return self._nets.between(version, first, last) is not None
