"""Of all nodes' sheets: who may have a prefix, who carries it, what is said of the rest. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import attrs

from meshd.kernel.state import NextHops
from meshd.policy.conflicts import Claim, apart, settle, verdict
from meshd.policy.prefixes import outermost
from meshd.policy.refusal import Rule
from meshd.policy.route import Route, Winner
from meshd.policy.sheet import Sheet
from protocol.address import Prefix


@attrs.frozen(eq=False)
class Choice:
    """What a decision comes to."""

    routes: Mapping[Prefix, NextHops]
    prefixes: frozenset[Prefix]
    """Those that somebody has, reached now or not."""
    outermost: frozenset[Prefix]
    """Of ``prefixes`` those that lie in no other."""
    rows: tuple[Route, ...]
    """One for each prefix of each node, sorted."""


def choose(sheets: Sequence[Sheet], multipath: bool) -> Choice:
    """``multipath``: all that are as good as the best carry a prefix, not one of them."""
    claims = sorted(chain.from_iterable(each.claims for each in sheets))
    alone, groups = apart(claims)
    rows = list(chain.from_iterable(each.rows for each in sheets))
    rows += [claim.row for claim in alone]
    routes = {claim.prefix: claim.hops for claim in alone if claim.hops is not None}
    prefixes = [claim.prefix for claim in alone]
    tops = list(prefixes)
    for group in groups:
        winners, losers = settle(group)
        for loser, winner in losers:
            rows.append(
                loser.row._replace(
                    next_hop=None,
                    state="refused",
                    reason=verdict(winner, loser),
                    rule="conflict",
                    device=None,
                    winner=Winner(winner.node, winner.prefix),
                )
            )
        for prefix, several in winners.items():
            hops, told = _carriers(several, multipath=multipath)
            rows += told
            if hops is not None:
                routes[prefix] = hops
        prefixes += winners
        tops += outermost(winners)
    rows.sort()
    return Choice(routes, frozenset(prefixes), frozenset(tops), tuple(rows))


def _carriers(claims: Iterable[Claim], *, multipath: bool) -> tuple[NextHops | None, list[Route]]:
    """Among equal origins: alive, reached by us, stable, highest preference, lowest key."""
    rows: list[Route] = []
    carriers: list[Claim] = []
    for claim in sorted(claims, key=lambda each: (each.bearer.rank, each.node)):
        if claim.hops is not None:
            if carriers and not (multipath and _share(carriers[0], claim)):
                rows.append(_standby(claim, carriers))
                continue
            carriers.append(claim)
        rows.append(claim.row)
    leading = [claim.hops for claim in carriers if claim.hops is not None]
    if len(leading) < 2:
        return (leading[0] if leading else None), rows
    return NextHops(tuple(hop for each in leading for hop in each.hops), leading[0].source), rows


def _share(one: Claim, other: Claim) -> bool:
    rank = one.bearer.rank
    return not any(rank[:3]) and rank == other.bearer.rank


def _standby(claim: Claim, carriers: Sequence[Claim]) -> Route:
    names = ", ".join(each.row.name for each in carriers)
    reason = f"{names} {'carries' if len(carriers) == 1 else 'carry'} it"
    rule: Rule = "standby"
    if claim.bearer.until is not None:
        reason, rule = f"{reason}: this one failed again and again", "unstable"
    return claim.row._replace(state="standby", reason=reason, rule=rule, until=claim.bearer.until)
