"""Import policy: from what the mesh says to what this kernel should hold. Pure.

Judged anew, as a whole, whenever the table, the host or the configuration changes; the
order in which anything arrived never matters.  Per prefix the first refusal wins, and
every prefix that is announced gets a row that says what became of it and why.

What came before matters in two places only, and both stand in the previous ``Decision``: a
node whose new set is over a limit keeps its last set, and what flaps is held back.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import attrs

from meshd.kernel.state import Host, KernelState, NextHop, NextHops
from meshd.policy.conflicts import Claim, settle, verdict
from meshd.policy.damping import Damping, Key
from meshd.policy.filters import OPEN, Filters, screen
from meshd.policy.ground import Ground
from meshd.policy.limits import within_limits
from meshd.policy.origin import Origin
from meshd.policy.prefixes import Nets, outermost
from meshd.policy.refusal import Refusal, Rule
from meshd.policy.tunnel import Terms, Tunnelling
from protocol import identity
from protocol.address import Address, Prefix

RouteState = Literal["installed", "standby", "unreachable", "refused", "shadowed"]

HIDDEN_AFTER: Final = 24 * 3600.0
"""Seconds after which a failed sole origin loses its guard too (DESIGN 6; Serf's 24 h)."""


class Winner(NamedTuple):
    """What stands against a prefix that is refused for a conflict."""

    node: bytes
    prefix: Prefix


@attrs.frozen
class Route:
    """What became of one prefix of one node."""

    prefix: Prefix
    node: bytes = attrs.field(repr=identity.short_id)
    name: str
    next_hop: Address | None
    state: RouteState
    reason: str
    rule: Rule = ""
    device: str | None = None
    """Where the next hop is on-link."""
    until: float | None = None
    """Held back until then, in the seconds of ``decide``'s ``now``, unless it flaps again."""
    winner: Winner | None = None
    """Refused for a conflict with it."""


@attrs.frozen
class Decision:
    """What the kernel should hold, the rows that explain it, and what the next one must know."""

    desired: KernelState
    routes: tuple[Route, ...]
    clock_off: float | None = None
    """Seconds that our clock is ahead of what most members say, behind if negative, where that
    is too far to judge an end date by it; else None."""
    look_again: float = math.inf
    """Seconds after which time alone changes it."""
    in_force: Mapping[bytes, tuple[Prefix, ...]] = attrs.field(factory=dict)
    """Node to its set of prefixes that kept to the limits last; the other rules judge these."""
    failed: frozenset[bytes] = frozenset()
    """Nodes that no route leads through."""
    damping: Damping = attrs.field(factory=Damping)


NOTHING: Final = Decision(KernelState(), ())
"""Before the first."""


def decide(
    origins: Iterable[Origin],
    local: Iterable[Prefix],
    host: Host,
    unix_now: float,
    *,
    now: float = 0.0,
    filters: Filters = OPEN,
    previous: Decision = NOTHING,
    multipath: bool = False,
    tunnel: Terms | None = None,
    revoked: Container[bytes] = frozenset(),
    expelled: bool = False,
) -> Decision:
    """Judge every announced prefix.

    ``local`` is what this node announces itself; ``unix_now``, in seconds, ends grants unless
    ``Decision.clock_off`` says that it cannot be right; ``now``, in seconds of any clock that
    only goes forward, is for damping.  ``multipath``: all origins that are as
    good as the best carry a prefix, not one of them.  ``tunnel``: how members are reached that
    are on no link of ours; None, not at all.  ``revoked`` holds the keys that are, and
    ``expelled`` says that ours is: then nothing is imported.  The store has dropped these
    already, and this is the last door before the kernel.
    """
    local = tuple(local)
    present = sorted((each for each in origins if _is_present(each)), key=lambda each: each.key)
    clock_off = _clock_off(present, unix_now)
    dated = unix_now if clock_off is None else None
    outright = {each.key: _unauthorised(each, dated, revoked, expelled) for each in present}
    # Who may not be where it says it is shall not keep others' prefixes out by it.
    members = [each for each in present if outright[each.key] is None]
    ground = Ground(local, host, [(o.name, o.announcement.endpoints) for o in members])
    tunnelling = Tunnelling(tunnel, host, ground.fib, members)
    judges = {each.key: _Judge(each, outright[each.key], ground, filters) for each in present}
    in_force, over = within_limits(
        present, previous.in_force, filters, lambda each, prefix: judges[each.key].welcomes(prefix)
    )
    failed = frozenset(o.key for o in present if o.state == "failed" and not o.held)
    damping = previous.damping.after(_gone(previous, in_force, failed), now)
    rows: list[Route] = []
    claims: list[Claim] = []
    for origin in present:
        for prefix, refusal in _judged(judges[origin.key], in_force[origin.key], over):
            wait = damping.held((origin.key, prefix), now)
            if refusal is not None:
                rows.append(_row(prefix, origin, None, "refused", refusal))
            elif wait:
                # It counts as withdrawn: another that may have the prefix is used meanwhile.
                why = Refusal("damped", "withdrawn again and again: held back")
                rows.append(_row(prefix, origin, None, "standby", why, until=now + wait))
            else:
                longest = max(
                    (net for net in origin.grant.allow if net.covers(prefix)),
                    key=lambda net: net.prefixlen,
                )
                claims.append(Claim(prefix, origin, longest, over.get(origin.key, "")))
    unstable = {o.key: wait for o in present if (wait := damping.held((o.key, None), now))}
    winners, losers = settle(claims)
    for loser, winner in losers:
        why = Refusal("conflict", verdict(winner, loser))
        against = Winner(winner.origin.key, winner.prefix)
        rows.append(_row(loser.prefix, loser.origin, None, "refused", why, winner=against))
    routes: dict[Prefix, NextHops] = {}
    chooser = _Chooser(ground, tunnelling, unstable, now, multipath=multipath)
    for prefix, group in winners.items():
        hops, told = chooser.choose(prefix, group)
        rows += told
        if hops is not None:
            routes[prefix] = hops
    # What is held back keeps its guard, announced or not: its traffic must not leak meanwhile.
    carried = Nets(winners)
    guards = {
        prefix
        for node, prefix in damping.holding(now)
        if prefix is not None
        and node in judges
        and judges[node].welcomes(prefix)
        and carried.containing(prefix) is None
    }
    look_again = min((damping.held(key, now) for key in damping.holding(now)), default=math.inf)
    desired = KernelState(
        routes=routes,
        guards=frozenset((*winners, *guards)),
        local=outermost(local),
        mesh=outermost((*winners, *guards)),
        tunnel=tunnelling.wanted(routes.values()),
        admitted=tunnelling.admitted,
    )
    ordered = tuple(sorted(rows, key=lambda row: (row.prefix, row.node)))
    return Decision(desired, ordered, clock_off, look_again, in_force, failed, damping)


def _is_present(origin: Origin) -> bool:
    return origin.state != "left" and not (
        origin.state == "failed" and origin.failed_for > HIDDEN_AFTER
    )


def _row(
    prefix: Prefix,
    origin: Origin,
    hop: NextHop | None,
    state: RouteState,
    why: Refusal,
    *,
    until: float | None = None,
    winner: Winner | None = None,
) -> Route:
    address, device = (hop.address, hop.device) if hop is not None else (None, None)
    return Route(
        prefix, origin.key, origin.name, address, state, why.reason, why.rule, device, until, winner
    )


GRACE: Final = 86_400.0
"""Seconds that a grant is honoured beyond its end: clocks differ (DESIGN 3)."""

CLOCK_TRUST: Final = 8 * 86_400.0
"""Seconds between our clock and the members' sequences beyond which it is the clock that is
wrong (DESIGN 3): a live member announces at least every 7.7 days, with a new boot key."""


def _clock_off(present: Sequence[Origin], unix_now: float) -> float | None:
    """How far our clock is ahead of the median of the newest sequences, if too far.

    Sequences are unix milliseconds where their owner's clock is right.  One that is gone says
    nothing of today: those that were not seen count only while nobody was.
    """
    counted = [each for each in present if each.seen] or present
    sequences = sorted(each.announcement.sequence for each in counted)
    if not sequences:
        return None
    middle, odd = divmod(len(sequences), 2)
    median = sequences[middle] if odd else (sequences[middle - 1] + sequences[middle]) / 2
    ahead = unix_now - median / 1000
    return ahead if abs(ahead) > CLOCK_TRUST else None


class _Judge:
    """The rules for the prefixes of one node."""

    def __init__(
        self, origin: Origin, outright: Refusal | None, ground: Ground, filters: Filters
    ) -> None:
        """``outright``: why nothing at all of it is taken, if so."""
        self.origin = origin
        self._outright, self._ground = outright, ground
        self._screens = [screen(*each) for each in filters.of(origin.key, origin.grant.name)]

    def refuses(self, prefix: Prefix) -> Refusal | None:
        """By grant or ground, whatever the limits say."""
        if self._outright is not None:
            return self._outright
        if not any(net.covers(prefix) for net in self.origin.grant.allow):
            allowed = ", ".join(map(str, self.origin.grant.allow)) or "nothing"
            return Refusal("outside-grant", f"outside its grant, which allows {allowed}")
        return self._ground.refuses(prefix)

    def filters(self, prefix: Prefix) -> Refusal | None:
        """By the operator's word."""
        found = (each.refuses(prefix) for each in self._screens)
        return next((refusal for refusal in found if refusal is not None), None)

    def welcomes(self, prefix: Prefix) -> bool:
        """Nothing stands against it but limits, conflicts and next hops."""
        return self.refuses(prefix) is None and self.filters(prefix) is None


def _unauthorised(
    origin: Origin, unix_now: float | None, revoked: Container[bytes], expelled: bool
) -> Refusal | None:
    """Why nothing at all of ``origin`` is taken."""
    grant = origin.grant
    if expelled:
        return Refusal("self-revoked", "this host is a member no more: it imports nothing")
    if origin.key in revoked:
        return Refusal("revoked", "its node is revoked")
    if grant.until and unix_now is not None and unix_now > grant.until + GRACE:
        return Refusal("grant-ended", "its grant has ended")
    for where in origin.announcement.endpoints:
        if grant.at and not any(where.address in net for net in grant.at):
            within = ", ".join(map(str, grant.at))
            return Refusal(
                "underlay",
                f"its underlay address {where.address} is outside its grant, which says {within}",
            )
    return None


def _judged(
    judge: _Judge, in_force: tuple[Prefix, ...], over: Mapping[bytes, str]
) -> Iterator[tuple[Prefix, Refusal | None]]:
    """Each prefix that a node announces or that is in force of it, with what stands against it."""
    announced, excess = judge.origin.prefixes, over.get(judge.origin.key)
    kept = frozenset(in_force) if excess else frozenset(announced)
    for prefix in dict.fromkeys((*in_force, *announced) if excess else announced):
        refusal = judge.refuses(prefix)
        if refusal is None and excess and prefix not in kept:
            stays = f"its last set of {len(in_force):,} stays" if in_force else "none is taken"
            refusal = Refusal("over-limit", f"{excess}: {stays}")
        yield prefix, refusal or judge.filters(prefix)


def _gone(
    previous: Decision, in_force: Mapping[bytes, tuple[Prefix, ...]], failed: frozenset[bytes]
) -> Iterator[Key]:
    """What has flapped since: prefixes that were withdrawn, nodes that failed."""
    for node, before in previous.in_force.items():
        after = in_force.get(node, ())
        if after is not before:
            there = frozenset(after)
            yield from ((node, prefix) for prefix in before if prefix not in there)
        if node in failed and node not in previous.failed:
            yield node, None


class _Chooser:
    """Who carries a prefix, of those that may have it."""

    def __init__(
        self,
        ground: Ground,
        tunnelling: Tunnelling,
        unstable: Mapping[bytes, float],
        now: float,
        *,
        multipath: bool,
    ) -> None:
        """``unstable``: nodes that fail again and again, and for how long they count as such."""
        self._ground, self._tunnelling = ground, tunnelling
        self._unstable, self._now = unstable, now
        self._multipath = multipath
        self._ways: dict[tuple[bytes, int], NextHop | str] = {}
        """Node and family to how its prefixes are reached, or why they are not."""
        self._shared: dict[tuple[int, tuple[NextHop, ...]], NextHops] = {}

    def choose(
        self, prefix: Prefix, claims: Iterable[Claim]
    ) -> tuple[NextHops | None, list[Route]]:
        """Among equal origins: alive, reached by us, stable, highest preference, lowest key."""
        rows: list[Route] = []
        carriers: list[Claim] = []
        hops: list[NextHop] = []
        for claim in sorted(claims, key=lambda each: (self._rank(each), each.origin.key)):
            origin = claim.origin
            found = self._way(origin, prefix.version)
            if isinstance(found, str):
                rows.append(_row(prefix, origin, None, "refused", Refusal("next-hop", found)))
            elif not origin.seen:
                why = Refusal("unseen", "not seen since we started")
                rows.append(_row(prefix, origin, found, "standby", why))
            elif not origin.usable:
                why = Refusal("failed", f"{origin.state}: {origin.why}")
                rows.append(_row(prefix, origin, found, "unreachable", why))
            elif carriers and not self._share(carriers[0], claim):
                rows.append(self._standby(prefix, origin, found, carriers))
            else:
                carriers.append(claim)
                hops.append(found)
                rows.append(self._carries(prefix, claim, found))
        if not hops:
            return None, rows
        return self._leading(tuple(hops), prefix.version), rows

    def _way(self, origin: Origin, version: int) -> NextHop | str:
        key = origin.key, version
        if key not in self._ways:
            near = self._ground.next_hop(origin.announcement.endpoints, version)
            self._ways[key] = self._tunnelling.next_hop(origin, version, near)
        return self._ways[key]

    def _leading(self, hops: tuple[NextHop, ...], version: int) -> NextHops:
        """One value for all prefixes that are reached alike: comparing them is then free."""
        key = version, hops
        if key not in self._shared:
            self._shared[key] = NextHops(hops, self._ground.preferred_source(version))
        return self._shared[key]

    def _rank(self, claim: Claim) -> tuple[bool, bool, bool, int]:
        """The lowest is the best; whoever has nothing against it begins with three noes."""
        origin = claim.origin
        return (
            origin.state == "failed",
            not origin.reachable,
            origin.key in self._unstable,
            -origin.announcement.preference,
        )

    def _share(self, one: Claim, other: Claim) -> bool:
        rank = self._rank(one)
        return self._multipath and not any(rank[:3]) and rank == self._rank(other)

    def _standby(
        self, prefix: Prefix, origin: Origin, hop: NextHop, carriers: Sequence[Claim]
    ) -> Route:
        names = ", ".join(each.origin.name for each in carriers)
        carry = f"{names} {'carries' if len(carriers) == 1 else 'carry'} it"
        if origin.key not in self._unstable:
            return _row(prefix, origin, hop, "standby", Refusal("standby", carry))
        why = Refusal("unstable", f"{carry}: this one failed again and again")
        until = self._now + self._unstable[origin.key]
        return _row(prefix, origin, hop, "standby", why, until=until)

    def _carries(self, prefix: Prefix, claim: Claim, hop: NextHop) -> Route:
        foreign = self._ground.fib.exact(prefix)
        if foreign is None:
            return _row(prefix, claim.origin, hop, "installed", _note(claim))
        reason = f"a foreign route for the same prefix has metric {foreign.metric}"
        return _row(prefix, claim.origin, hop, "shadowed", Refusal("shadowed", reason))


def _note(claim: Claim) -> Refusal:
    """What an operator should know of a route that is in use."""
    if claim.origin.held:
        return Refusal("held", claim.origin.held)
    if not claim.origin.reachable:
        told = "others reach it, we do not: kept for want of another origin"
        return Refusal("unreachable", told)
    if claim.over:
        return Refusal("kept-set", f"of its last set: {claim.over}")
    return Refusal("", "")
