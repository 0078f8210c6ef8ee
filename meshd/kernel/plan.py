"""From what is there to what is wanted: a pure diff, whose plan is a value.

The order is the point, for traffic flows while a plan is carried out:

1. guards that are new, so that nothing of a prefix can leak to a default route;
2. routes that go, so that only the guard takes their traffic, and a tunnel that goes;
3. the exclusion sets, removals and additions in one nftables transaction;
4. a tunnel that comes, behind its filter in 3, and who is behind it;
5. routes that come or change their next hop, now that their traffic is excluded from NAT;
6. connection tracking: entries that carry the decision of before;
7. who is behind the tunnel no more, and guards that go.

Adding a prefix walks 1, 3, 4, 5, 6 and removing one 2, 3, 6, 7.  A step prints as the command
that a person would type for it.  Nothing here touches a kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import attrs

from meshd.kernel import tunnel
from meshd.kernel.shape import FILTER, UPLINKS, SetName, Shape
from meshd.kernel.state import (
    GUARD_METRIC,
    ROUTE_PROTOCOL,
    KernelState,
    NextHops,
    Reading,
    Stray,
)
from meshd.kernel.tunnel import DEVICE, TunnelStep
from protocol.address import Address, Prefix


class Flow(NamedTuple):
    """A connection-tracking entry, addresses as integers (a table may hold 262,144)."""

    version: int
    source: int
    destination: int
    reply_destination: int
    """Where replies are sent to. Not the source: the source is translated."""


def flow(source: Address, destination: Address, reply_destination: Address | None = None) -> Flow:
    """The entry of a connection, untranslated unless replies go elsewhere."""
    reply = source if reply_destination is None else reply_destination
    return Flow(source.version, int(source), int(destination), int(reply))


class Cover:
    """Which addresses lie in any of some prefixes; costs one lookup per length present."""

    def __init__(self, prefixes: Iterable[Prefix]) -> None:
        networks: dict[tuple[int, int], set[int]] = {}
        for prefix in prefixes:
            shift = prefix.max_prefixlen - prefix.prefixlen
            key = (prefix.version, shift)
            networks.setdefault(key, set()).add(prefix.first >> shift)
        self._by_version = {
            version: [(s, found) for (v, s), found in networks.items() if v == version]
            for version in (4, 6)
        }

    def holds(self, version: int, address: int) -> bool:
        return any(address >> shift in found for shift, found in self._by_version[version])


@attrs.frozen
class AddGuard:
    """Put the unreachable under a prefix."""

    prefix: Prefix

    def __str__(self) -> str:
        return f"{_ip(self.prefix)} route add unreachable {_written(self.prefix, GUARD_METRIC)}"


@attrs.frozen
class RemoveGuard:
    """Take the unreachable away."""

    prefix: Prefix

    def __str__(self) -> str:
        return f"{_ip(self.prefix)} route del unreachable {_written(self.prefix, GUARD_METRIC)}"


@attrs.frozen
class AddRoute:
    """Put in the route to a prefix."""

    prefix: Prefix
    next_hops: NextHops = attrs.field(hash=False)
    """Not hashed, for it is slow to; a plan has one step of a kind for a prefix."""
    metric: int

    def __str__(self) -> str:
        return f"{_ip(self.prefix)} route add {_route(self.prefix, self.next_hops, self.metric)}"


@attrs.frozen
class ReplaceRoute:
    """Next hops or source change; the key stays, so no packet finds a gap."""

    prefix: Prefix
    next_hops: NextHops = attrs.field(hash=False)
    metric: int

    def __str__(self) -> str:
        return f"{_ip(self.prefix)} route change {_route(self.prefix, self.next_hops, self.metric)}"


@attrs.frozen
class RemoveRoute:
    """Take the route away."""

    prefix: Prefix
    next_hops: NextHops = attrs.field(hash=False)
    metric: int

    def __str__(self) -> str:
        return f"{_ip(self.prefix)} route del {_route(self.prefix, self.next_hops, self.metric)}"


@attrs.frozen
class RemoveStray:
    """Take away what is of ours and belongs nowhere."""

    stray: Stray

    @property
    def prefix(self) -> Prefix:
        return self.stray.prefix

    def __str__(self) -> str:
        return f"{_ip(self.prefix)} route del {_written(self.prefix, self.stray.metric)}"


@attrs.frozen
class AddElement:
    """Put a prefix into a set of the table."""

    name: SetName
    prefix: Prefix

    def __str__(self) -> str:
        return f"nft add element inet meshd {self.name}{self.prefix.version} {{ {self.prefix} }}"


@attrs.frozen
class RemoveElement:
    """Take a prefix out of a set."""

    name: SetName
    prefix: Prefix

    def __str__(self) -> str:
        return f"nft delete element inet meshd {self.name}{self.prefix.version} {{ {self.prefix} }}"


@attrs.frozen
class AddUplink:
    """Traffic of ours that leaves by ``device`` is translated from now on."""

    device: str

    def __str__(self) -> str:
        return f'nft add element inet meshd {UPLINKS} {{ "{self.device}" }}'


@attrs.frozen
class RemoveUplink:
    """``device`` leads to no default gateway any more."""

    device: str

    def __str__(self) -> str:
        return f'nft delete element inet meshd {UPLINKS} {{ "{self.device}" }}'


@attrs.frozen
class BuildTable:
    """Our table anew with these elements, in place of whatever bears its name."""

    shape: Shape
    local: frozenset[Prefix]
    mesh: frozenset[Prefix]
    uplinks: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    """Why the table that is there will not do. Empty when there is none."""
    keep: bool = False
    """What others have in it stays: only what is ours is written anew."""
    admitted: frozenset[Prefix] = frozenset()

    def elements(self, name: str) -> list[Prefix] | list[str]:
        """What the set of that name is to hold, sorted."""
        if name == UPLINKS:
            return sorted(self.uplinks)
        prefixes = {"local": self.local, "mesh": self.mesh, "tunnel": self.admitted}[name[:-1]]
        return sorted(p for p in prefixes if p.version == int(name[-1]))

    def __str__(self) -> str:
        text = f"nft add {self.text}"
        if self.keep:
            flushed = "; ".join(f"flush set inet meshd {each.name}" for each in self.shape.sets)
            return f"nft {flushed}  # {'; '.join(self.problems)}\n{text}"
        gone = [f"nft delete table inet meshd  # {problem}\n" for problem in self.problems[:1]]
        return "".join([*gone, text])

    @property
    def text(self) -> str:
        """The table in nft's words."""
        return self.shape.text(
            {
                each.name: [
                    f'"{element}"' if isinstance(element, str) else element
                    for element in self.elements(each.name)
                ]
                for each in self.shape.sets
            }
        )


def table_text(shape: Shape, state: KernelState) -> str:
    """Our table for ``state``, in nft's words."""
    return BuildTable(shape, state.local, state.mesh, state.uplinks).text


@attrs.frozen
class RemoveTable:
    """Take the whole table away."""

    def __str__(self) -> str:
        return "nft delete table inet meshd"


@attrs.frozen
class RemoveFilter:
    """Take the chain before the tunnel away, with its sets, and leave what others have there."""

    def __str__(self) -> str:
        gone = (f"chain inet meshd {FILTER}", "set inet meshd tunnel4", "set inet meshd tunnel6")
        return f"nft {'; '.join(f'delete {each}' for each in gone)}"


@attrs.frozen
class DropTranslated:
    """Forget connections between these that were translated before they were excluded.

    Only those: an untranslated one is live and right as it is.
    """

    sources: frozenset[Prefix]
    destinations: frozenset[Prefix]

    def takes(self) -> _Taker:
        return _Translated(Cover(self.sources), Cover(self.destinations))

    def __str__(self) -> str:
        return _conntrack("delete translated flows", self.sources, "->", self.destinations)


@attrs.frozen
class DropFlows:
    """Forget all connections between these, both ways, unless they are still excluded:
    an identity mapping outlives its element and would carry a private source abroad."""

    ours: frozenset[Prefix]
    theirs: frozenset[Prefix]
    still_ours: frozenset[Prefix]
    still_theirs: frozenset[Prefix]

    def takes(self) -> _Taker:
        return _Between(
            (Cover(self.ours), Cover(self.theirs)),
            (Cover(self.still_ours), Cover(self.still_theirs)),
        )

    def __str__(self) -> str:
        return _conntrack("delete flows", self.ours, "<->", self.theirs)


TableStep = (
    BuildTable | RemoveTable | RemoveFilter | AddElement | RemoveElement | AddUplink | RemoveUplink
)
RouteStep = AddGuard | RemoveGuard | AddRoute | ReplaceRoute | RemoveRoute | RemoveStray
FlowStep = DropTranslated | DropFlows
Step = TableStep | RouteStep | FlowStep | TunnelStep


@attrs.frozen
class Failure:
    """A step that was not done. ``reason`` is in words, without the step itself."""

    step: Step
    reason: str

    @property
    def prefix(self) -> Prefix | None:
        """What it was about, when it was about one prefix."""
        return getattr(self.step, "prefix", None)

    def __str__(self) -> str:
        return f"{str(self.step).splitlines()[0]}: {self.reason}"


@attrs.frozen
class Plan:
    """Steps in the order in which they must be done. False when nothing is to do."""

    steps: tuple[Step, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __str__(self) -> str:
        return "\n".join(map(str, self.steps))


def diff(
    desired: KernelState,
    actual: Reading | KernelState,
    *,
    recheck: bool = False,
    swept: frozenset[Prefix] = frozenset(),
) -> Plan:
    """What leads from ``actual`` to ``desired``; nothing when they agree.

    Every route of ``desired`` lies in an element of its ``mesh``.  Every route gets a guard,
    asked for or not.  The table exists as long as a prefix set of ``desired`` holds something
    or it has a tunnel, so the empty state plans a complete removal.  ``recheck``
    looks at the connections of everything excluded and not of what changes only: due at
    the first plan of a process, whose predecessor may have died before its step 5, and
    after a step 5 that failed.  ``swept``: guards whose connections are forgotten already.
    """
    reading = actual if isinstance(actual, Reading) else _plain(actual)
    state, metric = reading.state, reading.metric
    routes, there = frozenset(desired.routes), frozenset(state.routes)
    guards = desired.guards if desired.guards >= routes else desired.guards | routes
    behind = tunnel.steps(desired.tunnel, state.tunnel)
    # Routes through a device that is made anew are made anew behind it.
    kept = there
    if behind.removal:
        kept = frozenset(p for p in there if not _leads_through(state.routes[p], DEVICE))
    holds = desired.local or desired.mesh or desired.tunnel is not None
    wanted = bool(reading.shape.sets and holds)

    added, removed = _change(routes, kept)
    if kept is not there:
        removed |= there - kept
    moved = sorted(p for p in _moved(desired.routes, state.routes) if p in kept)
    guards_new, guards_gone = _change(guards, state.guards)
    local_new, local_gone = _change(desired.local, state.local)
    mesh_new, mesh_gone = _change(desired.mesh, state.mesh)
    strays = sorted(reading.strays, key=lambda stray: (stray.prefix, stray.metric))

    steps: list[Step] = []
    steps += [AddGuard(prefix) for prefix in sorted(guards_new)]
    steps += [RemoveRoute(prefix, state.routes[prefix], metric) for prefix in sorted(removed)]
    steps += [RemoveStray(stray) for stray in strays if stray.prefix not in desired.routes]
    steps += behind.removal

    rebuilt = wanted and bool(reading.problems or not reading.table)
    if rebuilt:
        sets = (desired.local, desired.mesh, desired.uplinks)
        about = (reading.problems, reading.others, desired.admitted)
        steps.append(BuildTable(reading.shape, *sets, *about))
    elif wanted or reading.others:
        steps += _elements("local", local_new, local_gone)
        steps += _elements("mesh", mesh_new, mesh_gone)
        if wanted or not reading.filtered:
            steps += _elements("tunnel", *_change(desired.admitted, state.admitted))
        else:
            steps.append(RemoveFilter())
        steps += [RemoveUplink(name) for name in sorted(state.uplinks - desired.uplinks)]
        steps += [AddUplink(name) for name in sorted(desired.uplinks - state.uplinks)]
    elif reading.table:
        steps.append(RemoveTable())

    steps += behind.making
    steps += [AddRoute(prefix, desired.routes[prefix], metric) for prefix in sorted(added)]
    steps += [ReplaceRoute(prefix, desired.routes[prefix], metric) for prefix in moved]
    steps += [RemoveStray(stray) for stray in strays if stray.prefix in desired.routes]

    everything = rebuilt or recheck
    steps += _translated(
        desired,
        desired.local if everything else local_new,
        desired.mesh if everything else mesh_new | added,
    )
    # Also for a guard that goes: its element may have gone in a plan that was cut short.
    steps += _leftover(desired, state, local_gone, mesh_gone | (guards_gone - swept))
    steps += behind.sweeping
    steps += [RemoveGuard(prefix) for prefix in sorted(guards_gone)]
    return Plan(tuple(steps))


def _change(
    wanted: frozenset[Prefix], there: frozenset[Prefix]
) -> tuple[frozenset[Prefix], frozenset[Prefix]]:
    """What of ``wanted`` is new, and what of ``there`` goes."""
    new = wanted - there
    if len(there) + len(new) == len(wanted):  # Nothing goes, and it need not be looked for.
        return new, frozenset()
    return new, there - wanted


def _moved(
    desired: Mapping[Prefix, NextHops], actual: Mapping[Prefix, NextHops]
) -> Iterator[Prefix]:
    """What leads elsewhere in ``actual``. Thousands of prefixes have few next hops between them:
    each two are compared once."""
    differ: dict[tuple[int, int], bool] = {}
    for prefix, hops in desired.items():
        there = actual.get(prefix)
        if there is hops or there is None:
            continue
        pair = id(hops), id(there)  # both live as long as what holds them
        if pair not in differ:
            differ[pair] = hops != there
        if differ[pair]:
            yield prefix


def _leads_through(hops: NextHops, device: str) -> bool:
    return any(hop.device == device for hop in hops.hops)


def _plain(state: KernelState) -> Reading:
    return Reading(state=state, table=bool(state.local or state.mesh or state.tunnel is not None))


def _elements(
    name: SetName, new: frozenset[Prefix], gone: frozenset[Prefix]
) -> Iterator[TableStep]:
    # Removals first: a cover and what it covers must not be in a set together.
    for prefix in sorted(gone):
        yield RemoveElement(name, prefix)
    for prefix in sorted(new):
        yield AddElement(name, prefix)


def _translated(
    desired: KernelState, local: frozenset[Prefix], mesh: frozenset[Prefix]
) -> Iterator[FlowStep]:
    sides = [(desired.local, mesh)]
    if not mesh >= desired.mesh:
        sides.append((local, desired.mesh))
    for sources, destinations in map(_same_families, sides):
        if sources:
            yield DropTranslated(sources, destinations)


def _leftover(
    desired: KernelState, state: KernelState, local: frozenset[Prefix], mesh: frozenset[Prefix]
) -> Iterator[FlowStep]:
    """``local`` and ``mesh``: what of each is excluded no more."""
    if not (local or mesh):
        return
    everyone = desired.mesh | state.mesh
    sides = [(desired.local | state.local, mesh)]
    if not mesh >= everyone:
        sides.append((local, everyone))
    for ours, theirs in map(_same_families, sides):
        if ours:
            yield DropFlows(ours, theirs, desired.local, desired.mesh)


def _same_families(
    pair: tuple[frozenset[Prefix], frozenset[Prefix]],
) -> tuple[frozenset[Prefix], frozenset[Prefix]]:
    """Only what has a counterpart: no connection leads from one family to the other."""
    left, right = pair
    if not (left and right):
        return frozenset(), frozenset()
    both = {prefix.version for prefix in left} & {prefix.version for prefix in right}
    return (
        frozenset(prefix for prefix in left if prefix.version in both),
        frozenset(prefix for prefix in right if prefix.version in both),
    )


class _Translated:
    def __init__(self, sources: Cover, destinations: Cover) -> None:
        self._sources, self._destinations = sources, destinations

    def __call__(self, entry: Flow) -> bool:
        version, source, destination, reply_destination = entry
        return (
            reply_destination != source
            and self._destinations.holds(version, destination)
            and self._sources.holds(version, source)
        )


class _Between:
    def __init__(self, pair: tuple[Cover, Cover], still: tuple[Cover, Cover]) -> None:
        self._pair, self._still = pair, still

    def __call__(self, entry: Flow) -> bool:
        version, source, destination, _ = entry
        return any(
            _joins(self._pair, version, a, b) and not _joins(self._still, version, a, b)
            for a, b in ((source, destination), (destination, source))
        )


_Taker = _Translated | _Between


def _joins(pair: tuple[Cover, Cover], version: int, ours: int, theirs: int) -> bool:
    return pair[1].holds(version, theirs) and pair[0].holds(version, ours)


def _ip(prefix: Prefix) -> str:
    return "ip" if prefix.version == 4 else "ip -6"


def _written(prefix: Prefix, metric: int) -> str:
    return f"{prefix} proto {ROUTE_PROTOCOL} metric {metric}"


def _route(prefix: Prefix, next_hops: NextHops, metric: int) -> str:
    marks = f"proto {ROUTE_PROTOCOL} metric {metric}"
    return f"{prefix} {next_hops.words(prefix.version, marks)}"


def _conntrack(verb: str, left: frozenset[Prefix], arrow: str, right: frozenset[Prefix]) -> str:
    """``conntrack: VERB LEFT ARROW RIGHT``, for each family that has both sides."""
    parts = []
    for version in (4, 6):
        sides = [
            ", ".join(str(p) for p in sorted(side) if p.version == version)
            for side in (left, right)
        ]
        if all(sides):
            parts.append(f"{sides[0]} {arrow} {sides[1]}")
    return f"conntrack: {verb} {'; '.join(parts)}"
