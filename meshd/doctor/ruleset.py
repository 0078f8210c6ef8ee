"""Packet filter rules as values, whoever wrote them and in whichever dialect they were listed.

``nft`` and ``iptables`` make them, ``judge`` follows a packet through them.  Only what decides
about a packet is kept; what is not understood is kept as such, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import attrs

from protocol.address import Prefix

Dialect = Literal["nft", "iptables", "iptables-legacy"]
"""By which program a chain is written: the command that mends it is one of that program's."""

Hook = Literal["prerouting", "input", "forward", "output", "postrouting"]

Verdict = Literal["", "accept", "drop", "reject", "return", "jump", "goto", "translate", "other"]
"""translate: the source is rewritten (masquerade, snat).  "": the rule decides nothing.  other:
it ends the chain in a way that is not known here."""

Field = Literal[
    "iif", "oif", "source", "destination", "version", "protocol", "port", "service", "state",
    "nat", "return-path", "local", "mark", "other",
]  # fmt: skip
"""port: the destination's.  service: something of a protocol that is not looked at, such as a
source port or an ICMP type.  state: of the connection, by name.  nat: the connection was
translated before.  return-path: its source is routed to where it came from.  local: the
destination is this host's.  other: a match that is not understood."""


@attrs.frozen
class Condition:
    """``values``: any of them fits; ``negated`` turns the answer round."""

    field: Field
    values: tuple[str | int | Prefix | tuple[int, int], ...] = ()
    negated: bool = False


@attrs.frozen
class Rule:
    """All of ``conditions`` hold: then ``verdict``, with the chain it goes to."""

    conditions: tuple[Condition, ...]
    verdict: Verdict
    target: str = ""
    text: str = ""
    """As its program lists it, for people."""


@attrs.frozen
class Chain:
    """A chain; one without ``hook`` is only jumped to."""

    dialect: Dialect
    family: str
    """ip, ip6 or inet."""
    table: str
    name: str
    rules: tuple[Rule, ...] = ()
    hook: Hook | None = None
    kind: str = "filter"
    """filter, nat or route."""
    priority: int = 0
    drops: bool = False
    """Its policy."""

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.dialect, self.family, self.table, self.name)

    def __str__(self) -> str:
        return f"{self.dialect} {self.family} {self.table} {self.name}"


@attrs.frozen
class Ruleset:
    """All chains that could be read."""

    chains: Mapping[tuple[str, str, str, str], Chain] = attrs.field(factory=dict)

    @classmethod
    def of(cls, *chains: Chain) -> Ruleset:
        return cls({chain.key: chain for chain in chains})

    def target(self, chain: Chain, name: str) -> Chain | None:
        """The chain that a rule of ``chain`` jumps to."""
        return self.chains.get((chain.dialect, chain.family, chain.table, name))

    def at(self, hook: Hook, version: int, kind: str = "filter") -> list[Chain]:
        """Base chains that packets of an IP version pass there, in that order."""
        families = ("inet", FAMILY[version])
        found = [
            chain
            for chain in self.chains.values()
            if chain.hook == hook and chain.kind == kind and chain.family in families
        ]
        return sorted(found, key=lambda chain: chain.priority)

    def has(self, table: str, chain: str = "") -> bool:
        """Whether there is a table of that name, with that chain in it."""
        return any(
            each.table == table and chain in ("", each.name) for each in self.chains.values()
        )


FAMILY: Final = {4: "ip", 6: "ip6"}
