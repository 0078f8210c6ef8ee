"""What one node's prefixes come to while no other node is looked at. Pure.

Nearly all that a decision says is said here, node by node, so that it need not be said again while
nothing about that node has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import attrs

from meshd.kernel.state import NextHop, NextHops
from meshd.policy.conflicts import Bearer, Claim
from meshd.policy.ground import Ground
from meshd.policy.judge import BY_OPERATOR, Judge
from meshd.policy.origin import Origin
from meshd.policy.refusal import Refusal
from meshd.policy.route import Route, RouteState
from meshd.policy.tunnel import Tunnelling
from protocol.address import Address, Prefix


@attrs.frozen(eq=False)
class Sheet:
    """Each prefix of a node stands in one of the two."""

    rows: tuple[Route, ...]
    """What is refused, or held back."""
    claims: tuple[Claim, ...]


class _Way(NamedTuple):
    """How all prefixes of one family of a node are reached, and what is to be said of that."""

    hops: NextHops | None
    address: Address | None
    device: str | None
    state: RouteState
    why: Refusal


def sheet(
    origin: Origin,
    judge: Judge,
    ground: Ground,
    tunnelling: Tunnelling,
    in_force: tuple[Prefix, ...],
    over: str,
    held: Mapping[Prefix | None, float],
) -> Sheet:
    """``in_force``: its set that kept to the limits; ``over``: why that is not the one that it
    announces, if so; ``held``: what of it is held back and until when, under None itself."""
    key, name, announced = origin.key, origin.name, origin.prefixes
    kept = frozenset(in_force) if over else frozenset()
    verdicts = judge.verdicts(dict.fromkeys((*in_force, *announced)) if over else announced)
    bearer = _bearer(origin, held.get(None))
    ways: dict[int, _Way] = {}
    foreign = ground.fib.exact
    rows: list[Route] = []
    claims: list[Claim] = []
    for prefix, verdict in verdicts.items():
        refused = verdict if isinstance(verdict, Refusal) else None
        if over and prefix not in kept and (refused is None or refused.rule in BY_OPERATOR):
            stays = f"its last set of {len(in_force):,} stays" if in_force else "none is taken"
            refused = Refusal("over-limit", f"{over}: {stays}")
        if refused is not None:
            reason, rule = refused.reason, refused.rule
            rows.append(Route(prefix, key, name, None, "refused", reason, rule))
            continue
        assert isinstance(verdict, Prefix)
        if prefix in held:
            # It counts as withdrawn: another that may have the prefix is used meanwhile.
            reason = "withdrawn again and again: held back"
            rows.append(
                Route(prefix, key, name, None, "standby", reason, "damped", None, held[prefix])
            )
            continue
        version = prefix[0]
        if version not in ways:
            ways[version] = _way(origin, version, ground, tunnelling, over)
        hops, address, device, state, (rule, reason) = ways[version]
        other = foreign(prefix) if hops is not None else None
        if other is not None:
            state, rule = "shadowed", "shadowed"
            reason = f"a foreign route for the same prefix has metric {other.metric}"
        row = Route(prefix, key, name, address, state, reason, rule, device)
        claims.append(Claim(prefix, key, verdict, bearer, hops, row))
    return Sheet(tuple(rows), tuple(claims))


def _bearer(origin: Origin, unstable: float | None) -> Bearer:
    rank = (
        origin.state == "failed",
        not origin.reachable,
        unstable is not None,
        -origin.announcement.preference,
    )
    return Bearer(origin, rank, unstable)


def _way(origin: Origin, version: int, ground: Ground, tunnelling: Tunnelling, over: str) -> _Way:
    near = ground.next_hop(origin.announcement.endpoints, version)
    found = tunnelling.next_hop(origin, version, near)
    if isinstance(found, str):
        return _Way(None, None, None, "refused", Refusal("next-hop", found))
    if not origin.seen:
        why = Refusal("unseen", "not seen since we started")
        return _without(found, "standby", why)
    if not origin.usable:
        return _without(found, "unreachable", Refusal("failed", f"{origin.state}: {origin.why}"))
    return _Way(
        ground.leading(found, version),
        found.address,
        found.device,
        "installed",
        _note(origin, over),
    )


def _without(hop: NextHop, state: RouteState, why: Refusal) -> _Way:
    return _Way(None, hop.address, hop.device, state, why)


def _note(origin: Origin, over: str) -> Refusal:
    """What an operator should know of a route that is in use."""
    if origin.held:
        return Refusal("held", origin.held)
    if not origin.reachable:
        told = "others reach it, we do not: kept for want of another origin"
        return Refusal("unreachable", told)
    if over:
        return Refusal("kept-set", f"of its last set: {over}")
    return Refusal("", "")
