"""Which members are reached through the tunnel, and what it must consist of for that. Pure.

A member that is not on-link, or any where the operator says so, is reached by a route into our
VXLAN device.  Its next hop there is an address whose hardware address we know without asking:
IPv4 prefixes take the member's own underlay address, so that a host without IPv6 can do it;
IPv6 prefixes the link-local address that follows from its key, since the kernel refuses a global
one that a route leads to by another device (``ip6_route_check_nh_onlink``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import attrs

from meshd.kernel.state import Host, NextHop, NextHops
from meshd.kernel.tunnel import DEVICE, OVERHEAD, Device, Forward, Tunnel
from meshd.policy.fib import Fib
from meshd.policy.origin import SENIORITY, Origin, seniority
from protocol.address import Address, Endpoint, Prefix
from protocol.tunnel import hardware_address, link_local

ETHERNET: Final = 1500
"""The underlay's MTU while no member is known to whom a route leads."""


@attrs.frozen
class Terms:
    """What the operator decided, and what follows from our mesh, our key and where we are."""

    port: int
    """UDP, where we listen."""
    always: bool
    """Also to members that are on-link."""
    identifier: int
    """VNI"""
    hardware: bytes
    endpoints: tuple[Endpoint, ...] = ()
    """Those that we announce."""

    @property
    def local(self) -> Address | None:
        """Our end: a VXLAN device sends and takes one family only (``vxlan_open``)."""
        return _underlay(self.endpoints)


def _underlay(endpoints: Iterable[Endpoint]) -> Address | None:
    """Where a node's tunnel ends that has these: at its IPv4 address if it announces one."""
    found = {where.family: where.address for where in endpoints}
    return found.get(4) or found.get(6)


@lru_cache(maxsize=8192)  # as many as a mesh has members
def _derived(node: bytes) -> tuple[bytes, Address]:
    hardware = hardware_address(node)
    return hardware, link_local(hardware)


@attrs.frozen
class _Peer:
    """A member as the tunnel reaches it."""

    hardware: bytes
    link_local: Address
    address: Address
    port: int
    shared: bool = False
    """Another, who was granted earlier, announces the same address: as a next hop that is his."""

    @property
    def hops(self) -> tuple[Address, ...]:
        """The next hops that are its own."""
        if self.shared or self.address.version == 6:
            return (self.link_local,)
        return (self.link_local, self.address)

    def next_hop(self, version: int) -> NextHop:
        if version == 4 and self.address in self.hops:
            return NextHop(self.address, DEVICE, onlink=True)
        return NextHop(self.link_local, DEVICE)


class End(NamedTuple):
    """A member, alive or not, as one with whom there may be a tunnel. They sort by seniority."""

    seniority: int
    key: bytes
    name: str
    endpoints: tuple[Endpoint, ...]
    port: int
    """0: it has no tunnel."""
    usable: bool

    @classmethod
    def of(cls, origin: Origin) -> End:
        """``origin`` may be routed to, as far as its grant goes."""
        said = origin.announcement
        since = seniority(origin.grant)
        return cls(since, origin.key, origin.name, said.endpoints, said.tunnel, origin.usable)


class Tunnelling:
    """The tunnel as policy sees it, for as long as nothing of that changes."""

    def __init__(self, terms: Terms | None, host: Host, fib: Fib, members: Sequence[End]) -> None:
        """``terms``: None where there is to be no tunnel."""
        self._terms, self._fib = terms, fib
        self._mtu = {interface.name: interface.mtu for interface in host.interfaces}
        self._own = {own.ip for interface in host.interfaces for own in interface.addresses}
        self._peers: Mapping[bytes, _Peer | str] = {}
        self._behind: dict[Address, _Peer] = {}
        """Next hops to whose they are, of members that a route may lead through."""
        self.admitted: frozenset[Prefix] = frozenset()
        """Addresses from which the tunnel's port is to take anything."""
        if terms is not None and self._why_none(terms) is None:
            self._peers = self._meet(terms, members)
            self.admitted = self._admit(terms, members)

    def next_hop(self, origin: Origin, version: int, near: NextHop | str) -> NextHop | str:
        """How prefixes of family ``version`` of ``origin`` are reached, or why they are not;
        ``near`` is the answer that our links give."""
        terms = self._terms
        on_link = isinstance(near, NextHop)
        if terms is None:
            if not on_link and origin.announcement.tunnel:
                return f'{near}; its node has a tunnel: set tunnel = "vxlan" here too'
            return near
        if on_link and not terms.always:
            return near
        if any(where.address in self._own for where in origin.announcement.endpoints):
            return near
        found = self._why_none(terms) or self._peers.get(origin.key) or "it may not be routed to"
        if isinstance(found, _Peer):
            return found.next_hop(version)
        return found if on_link or found == near else f"{near}; {found}"

    def wanted(self, routes: Iterable[NextHops]) -> Tunnel | None:
        """The tunnel that carries ``routes``, with those entries that they need and no others."""
        terms = self._terms
        if terms is None or terms.local is None or self._why_none(terms) is not None:
            return None
        used = {
            hop.address: self._behind[hop.address]
            for hops in routes
            for hop in hops.hops
            if hop.device == DEVICE
        }
        device = Device(
            terms.identifier,
            terms.port,
            terms.local,
            terms.hardware,
            self._path_mtu() - OVERHEAD[terms.local.version],
        )
        return Tunnel(
            device,
            {address: each.hardware for address, each in used.items()},
            frozenset(Forward(each.hardware, each.address, each.port) for each in used.values()),
        )

    def _why_none(self, terms: Terms) -> str | None:
        """Why there can be no tunnel here, whoever is to be reached."""
        if terms.local is None:
            return "this host announces no address to have a tunnel at: advertise one"
        if terms.local not in self._own:
            return f"{terms.local}, which this host announces, is not on it: a tunnel must end here"
        return None

    def _meet(self, terms: Terms, members: Sequence[End]) -> dict[bytes, _Peer | str]:
        """Every member to its place behind the tunnel, or to why it has none."""
        claimed = {terms.hardware: "this host"}
        met: dict[bytes, _Peer | str] = {}
        for member in sorted(members):
            found = self._peer(terms, member)
            # What is gone claims nothing: a host that was made anew sits where its former self did.
            if isinstance(found, _Peer) and member.usable:
                holder = claimed.get(found.hardware)
                if holder is not None:
                    found = f"{holder} has the same hardware address, and the lower {SENIORITY}"
                else:
                    claimed[found.hardware] = member.name
                    found = attrs.evolve(found, shared=found.address in self._behind)
                    self._behind |= dict.fromkeys(found.hops, found)
            met[member.key] = found
        return met

    def _peer(self, terms: Terms, member: End) -> _Peer | str:
        address = _underlay(member.endpoints)
        if not member.port:
            return 'its node has no tunnel: set tunnel = "vxlan" there'
        if address is None:
            return "its node announces no address"
        assert terms.local is not None
        if address.version != terms.local.version:
            ends = f"its tunnel ends at IPv{address.version}, ours at IPv{terms.local.version}"
            return f"{ends}: both must announce an IPv4 address, or neither"
        route = self._fib.lookup(address)
        if route is None or route.kind != "unicast":
            return str(self._fib.resolve(address))
        if route.device == DEVICE:
            return f"the route to its address {address} leads into the tunnel itself"
        return _Peer(*_derived(member.key), address, member.port)

    def _admit(self, terms: Terms, members: Sequence[End]) -> frozenset[Prefix]:
        """Also of members that are silent now: they may be back before we hear of it."""
        assert terms.local is not None
        found = (_underlay(each.endpoints) for each in members if each.port)
        return frozenset(
            Prefix.single(address)
            for address in found
            if address is not None and address.version == terms.local.version
        )

    def _path_mtu(self) -> int:
        """The smallest of the devices by which members are reached, also those that are silent:
        at a restart all are, and the device is not to change for that."""
        peers = [each for each in self._peers.values() if isinstance(each, _Peer)]
        routes = (self._fib.lookup(each.address) for each in peers)
        devices = {route.device for route in routes if route is not None}
        return min((self._mtu[d] for d in devices if d in self._mtu), default=ETHERNET)
