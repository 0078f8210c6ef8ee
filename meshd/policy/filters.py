"""What the operator of this host lets in, on top of what the grants allow. Pure.

Written in the config's table ``[import]``.  A filter takes away, and never adds: no entry of
it lets in what another rule refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

import attrs

from meshd.policy.prefixes import Nets
from meshd.policy.refusal import Refusal
from protocol.address import Prefix

PER_NODE: Final = 1000
IN_ALL: Final = 20_000
"""Prefixes imported at most; a grant or the config may name smaller numbers (DESIGN 6)."""


@attrs.frozen
class Filter:
    """One table: for all nodes, or for those of one name or id."""

    allow: tuple[Prefix, ...] = ()
    """A prefix must lie inside one of these; empty: any may come in."""
    deny: tuple[Prefix, ...] = ()
    """A prefix must overlap none of these, whatever ``allow`` says: one that covers an entry would
    take its traffic too."""
    limit: int = PER_NODE
    """Prefixes of one node, at most."""
    refuse: bool = False
    """Nothing of it comes in."""


@attrs.frozen
class Filters:
    """All that ``[import]`` says."""

    all: Filter = Filter()
    """What holds for everybody: ``allow``, ``deny`` and ``limit_per_node``."""
    limit: int = IN_ALL
    """Prefixes of all nodes together, at most."""
    nodes: Mapping[str, Filter] = attrs.field(factory=dict)
    """By the name in a node's grant, or by its id, 64 hex digits. A node keeps to every table that
    names it, and to what holds for everybody."""

    def of(self, node: bytes, name: str) -> Iterator[tuple[str, Filter]]:
        """The tables that a node keeps to, each with the name it has in the config."""
        yield "import", self.all
        for label in (name, node.hex()) if self.nodes else ():
            if label in self.nodes:
                yield f"import.node.{label}", self.nodes[label]


OPEN: Final = Filters()
"""The config's default: nothing is taken away."""


class Screen:
    """A table made ready for many prefixes."""

    def __init__(self, table: str, made: Filter) -> None:
        self._table, self._refuse = table, made.refuse
        self._allow = Nets(made.allow) if made.allow else None
        self._deny = Nets(made.deny)
        self.has_rules = bool(made.refuse or made.allow or made.deny)
        """False: it only counts, and refuses no prefix."""

    def refuses(self, prefix: Prefix) -> Refusal | None:
        """Why the operator does not want ``prefix``, if so."""
        if self._refuse:
            return Refusal("denied", f"this host's config says {self._table}.refuse")
        denied = self._deny.overlapping(prefix)
        if denied is not None:
            told = f"overlaps {denied} in {self._table}.deny of this host's config"
            return Refusal("denied", told)
        if self._allow is not None and self._allow.containing(prefix) is None:
            return Refusal("not-allowed", f"not inside {self._table}.allow of this host's config")
        return None


@lru_cache(maxsize=1024)
def screen(table: str, made: Filter) -> Screen:
    """The screen of a table; they change only when the config does."""
    return Screen(table, made)
