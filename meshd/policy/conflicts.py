"""Who may announce a prefix that several nodes claim (DESIGN 6). Pure.

The grant with the longest allowed prefix that covers it wins; of equally long ones the older
grant, unless both name the very prefix: then both are its origins.  More-specifics and aggregates
of another node's prefix are claims like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from meshd.policy.origin import SENIORITY, Origin, seniority
from protocol.address import Prefix


@attrs.frozen
class Claim:
    """A prefix that a node may announce, with what decides between it and others."""

    prefix: Prefix
    origin: Origin
    longest: Prefix
    """The longest prefix of its grant that covers it."""
    over: str
    """Not empty: it belongs to an earlier set of its node, whose new one is over a limit."""

    @property
    def exact(self) -> bool:
        """The grant names the very prefix."""
        return self.longest == self.prefix

    @property
    def rank(self) -> tuple[int, int, bytes]:
        return (-self.longest.prefixlen, seniority(self.origin.grant), self.origin.key)


def settle(
    claims: Iterable[Claim],
) -> tuple[dict[Prefix, list[Claim]], list[tuple[Claim, Claim]]]:
    """Prefix to its origins, and each claim that is refused with the one that stands against it.

    The stronger claim stands and refuses every weaker one of another node that overlaps it.
    """
    accepted: dict[Prefix, list[Claim]] = {}
    refused: list[tuple[Claim, Claim]] = []
    for group in _apart(claims):
        if len(group) == 1:
            accepted[group[0].prefix] = group
        else:
            _settle(group, accepted, refused)
    return accepted, refused


def _apart(claims: Iterable[Claim]) -> Iterator[list[Claim]]:
    """Groups of which no two overlap: whatever lies in one outermost prefix.

    Nearly all claims are alone, and judged by that.
    """
    group: list[Claim] = []
    for claim in sorted(claims, key=lambda each: each.prefix):
        if group and not group[0].prefix.covers(claim.prefix):
            yield group
            group = []
        group.append(claim)
    if group:
        yield group


def _settle(
    claims: Iterable[Claim],
    accepted: dict[Prefix, list[Claim]],
    refused: list[tuple[Claim, Claim]],
) -> None:
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


def verdict(winner: Claim, loser: Claim) -> str:
    """Why ``winner`` has the prefix and ``loser`` has not, with what decided of both grants."""
    older, newer = seniority(winner.origin.grant), seniority(loser.origin.grant)
    if winner.longest.prefixlen > loser.longest.prefixlen:
        why = f"grant is more specific ({winner.longest} against {loser.longest})"
    elif older < newer:
        why = f"grant is older ({SENIORITY} {older} against {newer})"
    else:
        why = "grant is as old, and whose key is lower"
    return f"{winner.prefix} belongs to {winner.origin.name}, whose {why}"


_Lead = tuple[int, int, int]
"""Version, length, leading bits: a prefix without the cost of making one."""


def _lead(prefix: Prefix, length: int) -> _Lead:
    shift = prefix.max_prefixlen - length
    return prefix.version, length, prefix.first >> shift


def _stronger(claim: Claim, others: Iterable[Claim]) -> Claim | None:
    """The first of ``others``, all stronger and overlapping, that excludes ``claim``."""
    for other in others:
        both_named = other.exact and claim.exact and other.prefix == claim.prefix
        if other.origin.key != claim.origin.key and not both_named:
            return other
    return None
