"""Import policy: from what the mesh says to what this kernel should hold. Pure.

Judged anew, as a whole, whenever the table, the host or the configuration changes; the
order in which anything arrived never matters.  Per prefix the first refusal wins, and
every prefix that is announced gets a row that says what became of it and why.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import attrs

from meshd.kernel.state import Host, Interface, KernelState, NextHop, order
from protocol import identity
from protocol.address import Address, Endpoint, Prefix
from protocol.members import Member, State
from protocol.objects import Announcement, Grant

RouteState = Literal["installed", "standby", "unreachable", "refused", "shadowed"]

HIDDEN_AFTER: Final = 24 * 3600.0
"""Seconds after which a failed sole origin loses its guard too (DESIGN 6; Serf's 24 h)."""

PER_NODE: Final = 1000
IN_ALL: Final = 20_000
"""Prefixes imported at most; a grant may name a smaller number for its node (DESIGN 6)."""

SHORTEST: Final = {4: 8, 6: 16}
"""Anything shorter is a piece of a default route, not a subnet."""

_BOGONS: Final = tuple(
    (ipaddress.ip_network(text), what)
    for text, what in (
        ("0.0.0.0/8", "this network (RFC 791)"),
        ("127.0.0.0/8", "loopback (RFC 1122)"),
        ("169.254.0.0/16", "link-local (RFC 3927)"),
        ("224.0.0.0/4", "multicast (RFC 1112)"),
        ("240.0.0.0/4", "reserved (RFC 1112)"),
        ("::/8", "reserved, loopback and mapped (RFC 4291)"),
        ("fe80::/10", "link-local (RFC 4291)"),
        ("ff00::/8", "multicast (RFC 4291)"),
    )
)


@attrs.frozen
class Origin:
    """One node and its prefixes, as the automaton knows them."""

    key: bytes = attrs.field(repr=identity.short_id)
    name: str
    grant: Grant
    announcement: Announcement
    prefixes: tuple[Prefix, ...]
    """Its last whole set."""
    state: Literal["alive", "suspect", "failed", "left"]
    seen: bool
    reachable: bool = True
    failed_for: float = 0.0
    """Seconds since it failed."""
    held: str = ""
    """Failed, and why its routes stay all the same where nobody else offers them."""
    why: str = ""

    @classmethod
    def of(cls, member: Member, grant: Grant, now: float, held: str = "") -> Origin:
        """``member`` as the automaton shows it at ``now``, in the automaton's seconds."""
        failed = member.state is State.FAILED
        return cls(
            key=member.key,
            name=member.name,
            grant=grant,
            announcement=member.announcement,
            prefixes=member.prefixes,
            state=member.state.value,
            seen=member.seen,
            reachable=member.reachable,
            failed_for=now - member.since if failed else 0.0,
            held=held if failed else "",
            why=member.reason,
        )

    @property
    def usable(self) -> bool:
        """A route may lead through it."""
        return self.seen and (self.state in ("alive", "suspect") or bool(self.held))


@attrs.frozen
class Route:
    """What became of one prefix of one node."""

    prefix: Prefix
    node: bytes = attrs.field(repr=identity.short_id)
    name: str
    next_hop: Address | None
    state: RouteState
    reason: str


@attrs.frozen
class Decision:
    """What the kernel should hold, and the rows that explain it."""

    desired: KernelState
    routes: tuple[Route, ...]
    clock_off: float | None = None
    """Seconds that our clock is ahead of what most members say, behind if negative, where that
    is too far to judge an end date by it; else None."""


@attrs.frozen
class _Claim:
    """A prefix that a node may announce, with what decides between it and others."""

    prefix: Prefix
    origin: Origin
    allowed: int
    """Length of the longest prefix of the grant that covers it."""
    exact: bool
    """The grant names the very prefix."""

    @property
    def rank(self) -> tuple[int, int, bytes]:
        return (-self.allowed, self.origin.grant.serial, self.origin.key)


def decide(
    origins: Iterable[Origin], local: Iterable[Prefix], host: Host, unix_now: float
) -> Decision:
    """Judge every announced prefix. ``local`` is what this node announces itself; ``unix_now``,
    in seconds, ends grants unless ``Decision.clock_off`` says that it cannot be right."""
    local = tuple(local)
    present = [origin for origin in origins if _is_present(origin)]
    clock_off = _clock_off(present, unix_now)
    dated = unix_now if clock_off is None else None
    ground = _Ground(local, host, [o.announcement.endpoints for o in present])
    rows: list[Route] = []
    claims: list[_Claim] = []
    for origin in sorted(present, key=lambda each: each.key):
        for number, prefix in enumerate(origin.prefixes):
            reason = _unauthorised(origin, prefix, number, dated) or ground.refuses(prefix)
            if reason:
                rows.append(_row(prefix, origin, None, "refused", reason))
            else:
                allowed = [net for net in origin.grant.allow if _covers(net, prefix)]
                longest = max(net.prefixlen for net in allowed)
                claims.append(_Claim(prefix, origin, longest, prefix in allowed))
    winners, losers = _settle_conflicts(claims)
    rows += losers
    routes: dict[Prefix, NextHop] = {}
    guards: set[Prefix] = set()
    for prefix, group in winners.items():
        if len(guards) >= IN_ALL:
            rows += [
                _row(prefix, c.origin, None, "refused", f"over {IN_ALL} prefixes in all")
                for c in group
            ]
            continue
        guards.add(prefix)
        rows += _choose(prefix, [claim.origin for claim in group], ground, routes)
    desired = KernelState(
        routes=routes,
        guards=frozenset(guards),
        local=outermost(local),
        mesh=outermost(guards),
    )
    ordered = tuple(sorted(rows, key=lambda row: (order(row.prefix), row.node)))
    return Decision(desired, ordered, clock_off)


def outermost(prefixes: Iterable[Prefix]) -> frozenset[Prefix]:
    """Those that lie in no other, neighbours not merged: an interval set takes no overlaps."""
    kept: list[Prefix] = []
    for prefix in sorted(prefixes, key=order):
        if not (kept and _covers(kept[-1], prefix)):
            kept.append(prefix)
    return frozenset(kept)


def overlaps(one: Prefix, other: Prefix) -> bool:
    """True when some address lies in both."""
    return _covers(one, other) or _covers(other, one)


def _is_present(origin: Origin) -> bool:
    return origin.state != "left" and not (
        origin.state == "failed" and origin.failed_for > HIDDEN_AFTER
    )


def _covers(wide: Prefix, narrow: Prefix) -> bool:
    if wide.version != narrow.version or wide.prefixlen > narrow.prefixlen:
        return False
    shift = wide.max_prefixlen - wide.prefixlen
    return int(wide.network_address) >> shift == int(narrow.network_address) >> shift


def _row(
    prefix: Prefix, origin: Origin, hop: Address | None, state: RouteState, reason: str
) -> Route:
    return Route(prefix, origin.key, origin.name, hop, state, reason)


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


def _unauthorised(origin: Origin, prefix: Prefix, number: int, unix_now: float | None) -> str:
    grant = origin.grant
    if grant.until and unix_now is not None and unix_now > grant.until + GRACE:
        return "its grant has ended"
    if grant.at and not all(
        any(where.address in net for net in grant.at) for where in origin.announcement.endpoints
    ):
        return "it sits at an underlay address outside its grant"
    if not any(_covers(net, prefix) for net in grant.allow):
        return "outside its grant, which allows " + ", ".join(map(str, grant.allow))
    limit = min(grant.limit or PER_NODE, PER_NODE)
    if number >= limit:
        return f"over the {limit} prefixes that this node may announce"
    return ""


class _Ground:
    """What is local, and what a route must never cover."""

    def __init__(
        self, local: Sequence[Prefix], host: Host, endpoints: Iterable[tuple[Endpoint, ...]]
    ) -> None:
        self._local = [(prefix, "announced here") for prefix in local]
        for interface in host.interfaces:
            self._local += [
                (address.network, f"on {interface.name}")
                for address in interface.addresses
                if not address.is_link_local
            ]
        precious: list[tuple[Address, str]] = [
            (route.next_hop, "our gateway")
            for route in host.foreign
            if route.prefix.prefixlen == 0 and route.next_hop is not None
        ]
        precious += [
            (where.address, "a member's own address") for each in endpoints for where in each
        ]
        self._precious = sorted((a.version, int(a), str(a), what) for a, what in precious)
        self.interfaces: tuple[Interface, ...] = host.interfaces
        self.foreign = {
            route.prefix: route.metric
            for route in sorted(host.foreign, key=lambda each: -each.metric)
        }
        self.own: set[Address] = {a.ip for i in host.interfaces for a in i.addresses}
        self.announced = local

    def refuses(self, prefix: Prefix) -> str:
        if prefix.prefixlen < SHORTEST[prefix.version]:
            return f"shorter than /{SHORTEST[prefix.version]}"
        for net, what in _BOGONS:
            if overlaps(net, prefix):
                return f"not to be routed: {what}"
        for net, what in self._local:
            if overlaps(net, prefix):
                return f"overlaps {net}, {what}"
        at = bisect_left(self._precious, (prefix.version, int(prefix.network_address)))
        if at < len(self._precious):
            version, value, text, what = self._precious[at]
            if version == prefix.version and value <= int(prefix.broadcast_address):
                return f"covers {text}, {what}"
        return ""

    def next_hop(self, origin: Origin, prefix: Prefix) -> NextHop | str:
        """The on-link next hop for ``prefix`` through ``origin``, or why there is none."""
        same = [w for w in origin.announcement.endpoints if w.family == prefix.version]
        if not same:
            return f"its node announces no IPv{prefix.version} address to be the next hop"
        address = same[0].address
        if address in self.own:
            return f"its next hop {address} is our own address"
        for interface in self.interfaces:
            if interface.up and any(address in own.network for own in interface.addresses):
                return NextHop(address, interface.name, self._preferred_source(prefix))
        return f"its next hop {address} is not on-link"

    def _preferred_source(self, prefix: Prefix) -> Address | None:
        """Our own address inside what we announce: the far side has a route back to it.

        The router's own traffic into the mesh then comes from its subnet; without such an
        address the kernel takes the uplink's.
        """
        for net in self.announced:
            for address in sorted(self.own, key=lambda each: (each.version, int(each))):
                if net.version == prefix.version and address in net:
                    return address
        return None


def _settle_conflicts(
    claims: list[_Claim],
) -> tuple[dict[Prefix, list[_Claim]], list[Route]]:
    """Who may announce what: longest allowed prefix, then the lower grant serial.

    The stronger claim stands and refuses every weaker one of another node that overlaps
    it; several nodes are origins of one prefix only if each one's grant names that very
    prefix.
    """
    accepted: dict[Prefix, list[_Claim]] = {}
    exact: dict[_Lead, list[_Claim]] = {}
    inside: dict[_Lead, list[_Claim]] = {}
    losers: list[Route] = []
    for claim in sorted(claims, key=lambda each: each.rank):
        prefix = claim.prefix
        leads = [_lead(prefix, length) for length in range(prefix.prefixlen + 1)]
        winner = _stronger(claim, inside.get(leads[-1], ())) or next(
            filter(None, (_stronger(claim, exact.get(lead, ())) for lead in leads)), None
        )
        if winner is not None:
            reason = f"{winner.prefix} belongs to {winner.origin.name}, " + (
                "whose grant is more specific"
                if winner.allowed > claim.allowed
                else f"whose grant is older (serial {winner.origin.grant.serial})"
            )
            losers.append(_row(prefix, claim.origin, None, "refused", reason))
            continue
        accepted.setdefault(prefix, []).append(claim)
        exact.setdefault(leads[-1], []).append(claim)
        for lead in leads:
            inside.setdefault(lead, []).append(claim)
    return accepted, losers


_Lead = tuple[int, int, int]
"""Version, length, leading bits: a prefix without the cost of making one."""


def _lead(prefix: Prefix, length: int) -> _Lead:
    shift = prefix.max_prefixlen - length
    return prefix.version, length, int(prefix.network_address) >> shift


def _stronger(claim: _Claim, others: Iterable[_Claim]) -> _Claim | None:
    """The first of ``others``, all stronger and overlapping, that excludes ``claim``."""
    for other in others:
        both_named = other.exact and claim.exact and other.prefix == claim.prefix
        if other.origin.key != claim.origin.key and not both_named:
            return other
    return None


def _choose(
    prefix: Prefix, origins: list[Origin], ground: _Ground, routes: dict[Prefix, NextHop]
) -> Iterable[Route]:
    """Among equal origins: alive, reached by us, highest preference, lowest key."""
    ranked = sorted(
        origins,
        key=lambda each: (
            each.state == "failed",
            not each.reachable,
            -each.announcement.preference,
            each.key,
        ),
    )
    for origin in ranked:
        hop = ground.next_hop(origin, prefix)
        address = hop.address if isinstance(hop, NextHop) else None
        if isinstance(hop, str):
            yield _row(prefix, origin, None, "refused", hop)
        elif not origin.seen:
            yield _row(prefix, origin, address, "standby", "not seen since we started")
        elif not origin.usable:
            yield _row(prefix, origin, address, "unreachable", f"{origin.state}: {origin.why}")
        elif prefix in routes:
            chosen = next(each for each in ranked if each.usable)
            yield _row(prefix, origin, address, "standby", f"{chosen.name} carries it")
        else:
            routes[prefix] = hop
            metric = ground.foreign.get(prefix)
            if metric is not None:
                reason = f"a foreign route for the same prefix has metric {metric}"
                yield _row(prefix, origin, address, "shadowed", reason)
            else:
                yield _row(prefix, origin, address, "installed", _note(origin))


def _note(origin: Origin) -> str:
    if origin.held:
        return origin.held
    if not origin.reachable:
        return "others reach it, we do not: kept for want of another origin"
    return ""
