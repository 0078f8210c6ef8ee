"""Routes, links and addresses over NETLINK_ROUTE: what a message says, and how one is made.

Main table only.  A write never reaches a route that is not ours: a new key is made with
NLM_F_EXCL, a deletion names protocol and metric, and ``ReplaceRoute`` is refused where
``Routes.shared`` shows that somebody else stands on the same key.

Several next hops are one object in IPv4.  In IPv6 they are routes of their own that bear one
key, whoever made them: the kernel lists them together under the protocol of the first, replaces
them together, and deletes each that a request names.  So ours have a weight that tells them from
others (``ROUTE_WEIGHT``), a single one too, and a deletion names them.
See rtnetlink(7), linux/rtnetlink.h, and for IPv4's and IPv6's different ideas of a key
``fib_table_insert`` and ``fib6_add_rt2node``.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final, Literal, NamedTuple

import attrs

from meshd.kernel.netlink import (
    CREATE,
    EXCL,
    REPLACE,
    Channel,
    Message,
    Part,
    Refusal,
    attribute,
    attributes,
)
from meshd.kernel.plan import (
    AddGuard,
    AddRoute,
    RemoveGuard,
    RemoveRoute,
    RemoveStray,
    ReplaceRoute,
    RouteStep,
)
from meshd.kernel.state import (
    GUARD_METRIC,
    ROUTE_PROTOCOL,
    ROUTE_WEIGHT,
    ForeignRoute,
    Interface,
    NextHop,
    NextHops,
    Stray,
)
from protocol.address import Address, Prefix

NEW_LINK, DEL_LINK, GET_LINK = 16, 17, 18
NEW_ADDRESS, DEL_ADDRESS, GET_ADDRESS = 20, 21, 22
NEW_ROUTE, DEL_ROUTE, GET_ROUTE = 24, 25, 26

NEW_NEXT_HOP, DEL_NEXT_HOP = 104, 105

GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400 | 1 << 31
"""RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR and _IPV6_ROUTE, and RTNLGRP_NEXTHOP (32):
of the routes that go with a next hop object (``ip nexthop``) nothing else is told."""

_AF: Final = {4: 2, 6: 10}
_FAMILIES: Final = tuple(_AF.values())

_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_LINK: Final = struct.Struct("=BxHiII")  # struct ifinfomsg
_ADDRESS: Final = struct.Struct("=BBBBI")  # struct ifaddrmsg
_HOP: Final = struct.Struct("=HBBi")  # struct rtnexthop
_U16: Final = struct.Struct("=H")
_U32: Final = struct.Struct("=I")

_MAIN: Final = 254  # RT_TABLE_MAIN
_UNIVERSE, _NOWHERE = 0, 255  # RT_SCOPE_*
_UNICAST, _UNREACHABLE = 1, 7  # RTN_*
_KINDS: Final = {1: "unicast", 6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw"}
_UNSPECIFIED: Final = 0  # RTPROT_UNSPEC
_CLONED: Final = 0x200  # RTM_F_CLONED
_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC = 1, 4, 5, 6, 7  # RTA_*
_MULTIPATH, _TABLE, _VIA = 9, 15, 18
_ONLINK: Final = 4  # RTNH_F_ONLINK
_IF_NAME, _IF_MTU, _EXT_MASK, _SKIP_STATS = 3, 4, 29, 1 << 3  # IFLA_*, RTEXT_FILTER_SKIP_STATS
_IF_UP, _IF_RUNNING, _IF_LOWER_UP = 0x1, 0x40, 0x10000  # IFF_*
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_NOT_TO_BE_USED: Final = 0x40 | 0x08  # IFA_F_TENTATIVE, IFA_F_DADFAILED


@attrs.define(eq=False)
class Routes:
    """One dump of both families, sorted by owner."""

    routes: dict[Prefix, NextHops] = attrs.field(factory=dict)
    guards: set[Prefix] = attrs.field(factory=set)
    strays: list[Stray] = attrs.field(factory=list)
    foreign: list[ForeignRoute] = attrs.field(factory=list)
    shared: set[Prefix] = attrs.field(factory=set)
    """Prefixes of ours whose key (prefix and metric) holds a next hop that is not ours."""


def read_interfaces(channel: Channel) -> dict[int, Interface]:
    """Index to interface, with addresses, in the kernel's order."""
    links: dict[int, tuple[str, int, int]] = {}
    ask = _LINK.pack(0, 0, 0, 0, 0) + attribute(_EXT_MASK, _U32.pack(_SKIP_STATS))
    for part in channel.dump(GET_LINK, ask):
        _, _, index, flags, _ = _LINK.unpack_from(part.data, part.at)
        found = attributes(part.data, part.at + _LINK.size, part.end)
        name = os.fsdecode(found[_IF_NAME].rstrip(b"\0"))
        links[index] = name, flags, _U32.unpack(found[_IF_MTU])[0]
    tentative: dict[int, set[Address]] = {}
    addresses: dict[int, list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]] = {}
    for part in channel.dump(GET_ADDRESS, _ADDRESS.pack(0, 0, 0, 0, 0)):
        family, length, _, _, index = _ADDRESS.unpack_from(part.data, part.at)
        if family not in _FAMILIES:
            continue
        found = attributes(part.data, part.at + _ADDRESS.size, part.end)
        # IFA_ADDRESS is the far end of a point-to-point link; IFA_LOCAL is always ours.
        packed = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
        own = ipaddress.ip_interface((packed, length))
        addresses.setdefault(index, []).append(own)
        if _U32.unpack(found[_IFA_FLAGS])[0] & _NOT_TO_BE_USED:
            tentative.setdefault(index, set()).add(own.ip)
    return {
        index: Interface(
            name,
            index,
            bool(flags & _IF_UP),
            tuple(addresses.get(index, ())),
            frozenset(tentative.get(index, ())),
            bool(flags & _IF_RUNNING),
            mtu,
        )
        for index, (name, flags, mtu) in links.items()
    }


def read_indices(channel: Channel, names: Iterable[str]) -> dict[str, int]:
    """Name to index, of those that there are. About 10 us each."""
    found: dict[str, int] = {}
    for name in names:
        ask = _LINK.pack(0, 0, 0, 0, 0) + attribute(_EXT_MASK, _U32.pack(_SKIP_STATS))
        try:
            part = channel.get(GET_LINK, ask + attribute(_IF_NAME, os.fsencode(name) + b"\0"))
        except Refusal as refusal:
            if refusal.errno != errno.ENODEV:
                raise
            continue
        if part is not None:
            _, _, found[name], _, _ = _LINK.unpack_from(part.data, part.at)
    return found


def read_routes(channel: Channel, names: Mapping[int, str], metric: int) -> Routes:
    """The main table. ``names`` gives the device of an interface index."""
    found = Routes()
    for family in _FAMILIES:
        ask = _ROUTE.pack(family, 0, 0, 0, _MAIN, 0, 0, 0, 0)
        for part in channel.dump(GET_ROUTE, ask):
            # A kernel without IPv6 answers for all families at once.
            if part.data[part.at] == family:
                _sort(found, part.data[part.at : part.end], names, metric)
    found.shared |= {
        route.prefix
        for route in found.foreign
        if route.metric == metric and route.prefix in found.routes
    }
    return found


def _sort(
    found: Routes,
    raw: bytes,
    names: Mapping[int, str],
    metric: int,
) -> None:
    entry = _parse(raw)
    if entry is None:
        return
    prefix, priority, protocol, kind = entry.prefix, entry.priority, entry.protocol, entry.kind
    for hop in entry.others:
        # Listed under our protocol though not ours: nobody knows whose it is.
        owner = protocol if protocol != ROUTE_PROTOCOL else _UNSPECIFIED
        device = names.get(hop.oif) if kind == _UNICAST else None
        word = _KINDS.get(kind, str(kind))
        found.foreign.append(ForeignRoute(prefix, hop.address, device, owner, priority, word))
    if not entry.ours:
        return
    if kind == _UNREACHABLE and priority == GUARD_METRIC:
        found.guards.add(prefix)
        return
    devices = tuple(names.get(hop.oif) for hop in entry.ours)
    hops = _next_hops(entry.ours, devices, entry.source) if kind == _UNICAST else None
    if hops is not None and priority == metric and prefix not in found.routes:
        found.routes[prefix] = hops
    else:
        found.strays.append(Stray(prefix, priority, _deletion(raw)))


@lru_cache(maxsize=8192)  # as many as a mesh has members
def _next_hops(
    hops: tuple[_Hop, ...], devices: tuple[str | None, ...], source: Address | None
) -> NextHops | None:
    """None unless all of them are gateways at devices that are still there."""
    found = [
        NextHop(hop.address, device, hop.onlink)
        for hop, device in zip(hops, devices, strict=True)
        if hop.address is not None and device is not None
    ]
    return NextHops(tuple(found), source) if len(found) == len(hops) else None


class _Hop(NamedTuple):
    address: Address | None
    oif: int
    onlink: bool
    weight: int


class _Entry(NamedTuple):
    prefix: Prefix
    priority: int
    protocol: int
    """Of the first next hop, and of all in IPv4."""
    kind: int
    ours: tuple[_Hop, ...]
    others: tuple[_Hop, ...]
    source: Address | None


@lru_cache(maxsize=49152)
# A route that did not change is listed in the same octets: reading 10,000 routes again
# with their guards is a matter of looking them up. As many as policy imports, twice.
def _parse(raw: bytes) -> _Entry | None:
    """One route message; None for what is not the main table's, or a cache entry."""
    family, length, _, _, table, protocol, _, kind, flags = _ROUTE.unpack_from(raw)
    if table != _MAIN or flags & _CLONED:
        return None
    about = attributes(raw, _ROUTE.size)
    hops = tuple(_hops(about, flags))
    marked = tuple(hop for hop in hops if hop.weight == ROUTE_WEIGHT)
    if family == _AF[6] and len(hops) > 1 and marked:
        ours = marked
    else:
        ours = hops if protocol == ROUTE_PROTOCOL else ()
    return _Entry(
        Prefix.from_octets(about.get(_DST, bytes(4 if family == _AF[4] else 16)), length),
        _U32.unpack(about[_PRIORITY])[0] if _PRIORITY in about else 0,
        protocol,
        kind,
        ours,
        tuple(hop for hop in hops if hop not in ours),
        _address(about[_PREFSRC]) if _PREFSRC in about else None,
    )


def _hops(about: Mapping[int, bytes], flags: int) -> Iterator[_Hop]:
    """At least one; ``flags`` are the route's own."""
    if _MULTIPATH in about:
        data, at = about[_MULTIPATH], 0
        while at + _HOP.size <= len(data):
            length, flags, weight, index = _HOP.unpack_from(data, at)
            gateway = _gateway(attributes(data, at + _HOP.size, at + length))
            # Flags also tell of what is dead or without carrier: that changes by itself.
            yield _Hop(gateway, index, bool(flags & _ONLINK), weight + 1)
            at += max(_HOP.size, (length + 3) & ~3)
    else:
        index = _U32.unpack(about[_OIF])[0] if _OIF in about else 0
        yield _Hop(_gateway(about), index, bool(flags & _ONLINK), 1)


def _gateway(about: Mapping[int, bytes]) -> Address | None:
    if _GATEWAY in about:
        return _address(about[_GATEWAY])
    if _VIA in about:  # struct rtvia: the other family's address behind a u16
        return _address(about[_VIA][2:])
    return None


@lru_cache(maxsize=8192)  # as many next hops as a mesh has members
def _address(packed: bytes) -> Address:
    return ipaddress.ip_address(packed)


def encode(step: RouteStep, indices: Mapping[str, int]) -> Message:
    """The request that does ``step``; ``Refusal`` when its device does not exist."""
    match step:
        case AddGuard(prefix=prefix):
            body = _body(prefix, _UNREACHABLE, _UNIVERSE, GUARD_METRIC)
            return Message(NEW_ROUTE, CREATE | EXCL, body)
        case RemoveGuard(prefix=prefix):
            return Message(DEL_ROUTE, 0, _body(prefix, _UNREACHABLE, _NOWHERE, GUARD_METRIC))
        case AddRoute(prefix=prefix, next_hops=hops, metric=metric):
            return Message(NEW_ROUTE, CREATE | EXCL, _leading(prefix, hops, metric, indices))
        case ReplaceRoute(prefix=prefix, next_hops=hops, metric=metric):
            # Without CREATE: a route that has gone meanwhile is not ours to replace.
            return Message(NEW_ROUTE, REPLACE, _leading(prefix, hops, metric, indices))
        case RemoveRoute(prefix=prefix, next_hops=hops, metric=metric):
            # IPv4 compares a list in its own order, which another hand may have chosen.
            named = prefix.version == 6 or len(hops.hops) == 1
            towards = [_towards(prefix, hops, indices)] if named else []
            return Message(DEL_ROUTE, 0, _body(prefix, _UNICAST, _NOWHERE, metric, *towards))
        case RemoveStray(stray=stray):
            return Message(DEL_ROUTE, 0, stray.handle)


def _leading(prefix: Prefix, hops: NextHops, metric: int, indices: Mapping[str, int]) -> bytes:
    # Those of a single next hop are the route's; with several, each has its own.
    flags = _ONLINK if len(hops.hops) == 1 and hops.hops[0].onlink else 0
    towards = _towards(prefix, hops, indices)
    return _body(prefix, _UNICAST, _UNIVERSE, metric, towards, flags=flags)


def _body(
    prefix: Prefix, kind: int, scope: int, metric: int, *more: bytes, flags: int = 0
) -> bytes:
    version, _, length = prefix
    head, priority = _head(version, length, kind, scope, flags), _priority(metric)
    return b"".join((head, prefix.octets, priority, *more))


@lru_cache(maxsize=1024)
def _head(version: int, length: int, kind: int, scope: int, flags: int) -> bytes:
    """What stands before the destination's octets in a request."""
    route = (_AF[version], length, 0, 0, _MAIN, ROUTE_PROTOCOL, scope, kind, flags)
    return _ROUTE.pack(*route) + _U16.pack(8 if version == 4 else 20) + _U16.pack(_DST)


@lru_cache(maxsize=16)
def _priority(metric: int) -> bytes:
    return attribute(_PRIORITY, _U32.pack(metric))


def _towards(prefix: Prefix, hops: NextHops, indices: Mapping[str, int]) -> bytes:
    for hop in hops.hops:
        if hop.device not in indices:
            raise Refusal(errno.ENODEV, f"there is no device {hop.device}")
        if prefix.version == 6 and hop.address.version == 4:
            raise Refusal(errno.EINVAL, "an IPv6 route cannot have an IPv4 next hop")
    return _through(prefix.version, hops, tuple(indices[hop.device] for hop in hops.hops))


@lru_cache(maxsize=8192)  # as many as a mesh has members
def _through(version: int, hops: NextHops, indices: tuple[int, ...]) -> bytes:
    """The attributes that say where a route of a family leads."""
    if version == 4 and len(hops.hops) == 1:
        (hop,) = hops.hops
        found = _to_gateway(hop, version) + attribute(_OIF, _U32.pack(indices[0]))
    else:
        weight = ROUTE_WEIGHT if version == 6 else 1
        ways = zip(hops.hops, indices, strict=True)
        found = attribute(
            _MULTIPATH, b"".join(_way(hop, version, weight, index) for hop, index in ways)
        )
    if hops.source is not None:
        found += attribute(_PREFSRC, hops.source.packed)
    return found


def _to_gateway(hop: NextHop, version: int) -> bytes:
    if hop.address.version == version:
        return attribute(_GATEWAY, hop.address.packed)
    return attribute(_VIA, _U16.pack(_AF[hop.address.version]) + hop.address.packed)


def _way(hop: NextHop, version: int, weight: int, index: int) -> bytes:
    """One entry of RTA_MULTIPATH. It holds its weight less one."""
    gateway = _to_gateway(hop, version)
    flags = _ONLINK if hop.onlink else 0
    return _HOP.pack(_HOP.size + len(gateway), flags, weight - 1, index) + gateway


def _deletion(raw: bytes) -> bytes:
    """The body of a request that deletes exactly the route listed as ``raw``."""
    family, length, _, _, _, _, _, kind, _ = _ROUTE.unpack_from(raw)
    about = attributes(raw, _ROUTE.size)
    header = _ROUTE.pack(family, length, 0, 0, _MAIN, ROUTE_PROTOCOL, _NOWHERE, kind, 0)
    named = (_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC, _MULTIPATH, _VIA)
    return header + b"".join(
        attribute(number, about[number]) for number in named if number in about
    )


def span(part: Part) -> tuple[int, int, int] | None:
    """Of a notification about somebody else's route: the family's number, first and last address.

    None for any other. Written for speed: a router with a full BGP table has many of them.
    """
    data, at = part.data, part.at
    if part.kind not in (NEW_ROUTE, DEL_ROUTE) or data[at + 5] == ROUTE_PROTOCOL:
        return None
    version = 4 if data[at] == _AF[4] else 6
    bits = 32 if version == 4 else 128
    shift = bits - data[at + 1]
    first = 0
    at += _ROUTE.size
    while at + 4 <= part.end:
        (length,), (kind,) = _U16.unpack_from(data, at), _U16.unpack_from(data, at + 2)
        if kind == _DST:
            first = int.from_bytes(data[at + 4 : at + length], "big")
            break
        at += max(4, (length + 3) & ~3)
    return version, first, first | ((1 << shift) - 1)


def shows(part: Part) -> bool:
    """A notification for which there are no words may all the same be of what a reading shows."""
    return part.kind in (NEW_NEXT_HOP, DEL_NEXT_HOP)


def describe(part: Part) -> tuple[str, Literal["ours", "host", "others"]] | None:
    """A notification in words, and what it is about (``port.Change``); None when it does not
    concern the main table."""
    data, at, end = part.data, part.at, part.end
    if part.kind in (NEW_ROUTE, DEL_ROUTE):
        entry = _parse(data[at:end]) if data[at] in _FAMILIES else None
        if entry is None:
            return None
        owner, ours = f"route of protocol {entry.protocol}", entry.protocol == ROUTE_PROTOCOL
        if ours:
            owner = "our guard" if entry.kind == _UNREACHABLE else "our route"
        verb = "written" if part.kind == NEW_ROUTE else "deleted"
        return f"{owner} {entry.prefix} {verb}", "ours" if ours else "others"
    if part.kind in (NEW_LINK, DEL_LINK):
        _, _, index, flags, _ = _LINK.unpack_from(data, at)
        about = attributes(data, at + _LINK.size, end)
        name = os.fsdecode(about.get(_IF_NAME, b"").rstrip(b"\0")) or str(index)
        state = "up" if flags & _IF_LOWER_UP else "without carrier"
        if part.kind == DEL_LINK:
            state = "deleted"
        elif not flags & _IF_UP:
            state = "down"
        return f"link {name} {state}", "host"
    if part.kind in (NEW_ADDRESS, DEL_ADDRESS):
        _, length, _, _, _ = _ADDRESS.unpack_from(data, at)
        about = attributes(data, at + _ADDRESS.size, end)
        packed = about.get(_IFA_LOCAL) or about[_IFA_ADDRESS]
        verb = "added" if part.kind == NEW_ADDRESS else "deleted"
        return f"address {_address(packed)}/{length} {verb}", "host"
    return None
