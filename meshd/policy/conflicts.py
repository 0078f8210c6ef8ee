"""Who may announce a prefix that several nodes claim (DESIGN 6). Pure.

The grant with the longest allowed prefix that covers it wins; of equally long ones the older
grant, unless both name the very prefix: then both are its origins.  More-specifics and aggregates
of another node's prefix are claims like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import attrs

from meshd.kernel.state import NextHops
from meshd.policy.origin import SENIORITY, Origin, seniority
from meshd.policy.prefixes import HOST_BITS
from meshd.policy.route import Route
from protocol.address import Prefix


@attrs.frozen(eq=False)
class Bearer:
    """A node as one that may carry a prefix."""

    origin: Origin
    rank: tuple[bool, bool, bool, int]
    """Among equal origins the lowest is the best; whoever has nothing against it begins with
    three noes."""
    until: float | None
    """It failed again and again, and counts as unstable until then."""


class Claim(NamedTuple):
    """A prefix that a node may announce, with what decides between it and others. They sort by
    prefix, then by node."""

    prefix: Prefix
    node: bytes
    longest: Prefix
    """The longest prefix of its grant that covers it."""
    bearer: Bearer
    hops: NextHops | None
    """How it would be reached; None: it cannot be now, and ``row`` says why."""
    row: Route
    """What is to be said of it while no other is preferred."""

    @property
    def exact(self) -> bool:
        """The grant names the very prefix."""
        return self.longest == self.prefix

    @property
    def rank(self) -> tuple[int, int, bytes]:
        """The lowest is the strongest."""
        return (-self.longest.prefixlen, seniority(self.bearer.origin.grant), self.node)


def apart(claims: Iterable[Claim]) -> tuple[list[Claim], list[list[Claim]]]:
    """Those of ``claims``, in their order, that meet no other; and the others in groups, each of
    what lies in one outermost prefix. Nearly all are alone, and need no settling."""
    alone: list[Claim] = []
    groups: list[list[Claim]] = []
    group: list[Claim] = []
    family = reach = 0
    for claim in claims:
        version, first, length = claim[0]
        if first <= reach and version == family:
            group.append(claim)
            continue
        if len(group) == 1:
            alone += group
        elif group:
            groups.append(group)
        family, reach = version, first | HOST_BITS[version][length]
        group = [claim]
    if len(group) == 1:
        alone += group
    elif group:
        groups.append(group)
    return alone, groups


def settle(
    claims: Iterable[Claim],
) -> tuple[dict[Prefix, list[Claim]], list[tuple[Claim, Claim]]]:
    """Prefix to its origins, and each claim that is refused with the one that stands against it.

    The stronger claim stands and refuses every weaker one of another node that overlaps it.
    """
    accepted: dict[Prefix, list[Claim]] = {}
    refused: list[tuple[Claim, Claim]] = []
    exact: dict[_Lead, list[Claim]] = {}
    inside: dict[_Lead, list[Claim]] = {}
    for claim in sorted(claims, key=lambda each: each.rank):
        prefix = claim.prefix
        leads = [_lead(prefix, length) for length in range(prefix.prefixlen + 1)]
        winner = _stronger(claim, inside.get(leads[-1], ())) or next(
            filter(None, (_stronger(claim, exact.get(lead, ())) for lead in leads)), None
        )
        if winner is not None:
            refused.append((claim, winner))
            continue
        accepted.setdefault(prefix, []).append(claim)
        exact.setdefault(leads[-1], []).append(claim)
        for lead in leads:
            inside.setdefault(lead, []).append(claim)
    return accepted, refused


def verdict(winner: Claim, loser: Claim) -> str:
    """Why ``winner`` has the prefix and ``loser`` has not, with what decided of both grants."""
    older, newer = seniority(winner.bearer.origin.grant), seniority(loser.bearer.origin.grant)
    if winner.longest.prefixlen > loser.longest.prefixlen:
        why = f"grant is more specific ({winner.longest} against {loser.longest})"
    elif older < newer:
        why = f"grant is older ({SENIORITY} {older} against {newer})"
    else:
        why = "grant is as old, and whose key is lower"
    return f"{winner.prefix} belongs to {winner.bearer.origin.name}, whose {why}"


_Lead = tuple[int, int, int]
"""Version, length, leading bits: a prefix without the cost of making one."""


def _lead(prefix: Prefix, length: int) -> _Lead:
    shift = prefix.max_prefixlen - length
    return prefix.version, length, prefix.first >> shift


def _stronger(claim: Claim, others: Iterable[Claim]) -> Claim | None:
    """The first of ``others``, all stronger and overlapping, that excludes ``claim``."""
    for other in others:
        both_named = other.exact and claim.exact and other.prefix == claim.prefix
        if other.node != claim.node and not both_named:
            return other
    return None
