"""What a kernel holds: ours, and what of others policy judges by.

Everything that meshd may own in a kernel is one value, ``KernelState``.  What is ours is known by
marks that the kernel keeps, so a restarted daemon needs no file to know it again:

* routes: protocol 142 in the main table, whatever their metric;
* NAT exclusion: all of ``table inet meshd``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from ipaddress import IPv4Interface, IPv6Interface
from typing import Final

import attrs

from meshd.kernel.shape import SHAPES, Shape
from protocol.address import Address, Family, Prefix, unpack_prefixes
from protocol.errors import Rejected

ROUTE_PROTOCOL: Final = 142
"""rtm_protocol of our routes. Free in iproute2's rt_protos; also in config/rt_protos.d."""

ROUTE_METRIC: Final = 142
"""Default of the option ``metric``: behind connected (0) and DHCP (100) routes of the
same prefix, before the usual metric of IPv6 (1024)."""

GUARD_METRIC: Final = 4294967294
"""Last but one of what 32 bits hold: the guard is taken only when nothing else is there.
The very last, 4294967295, is the kernel's own (IP6_RT_PRIO's null entry)."""


def order(prefix: Prefix) -> tuple[int, int, int]:
    """Sort key over both families: IPv4 first, then by address, then the shorter."""
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def interned(packed: bytes, length: int) -> Prefix:
    """The prefix, as the very object that the codec makes of it where a mesh can announce
    it: comparing 20,000 prefixes of a kernel with those of a mesh is then free."""
    family: Family = 4 if len(packed) == 4 else 6
    try:
        return unpack_prefixes(bytes([length]) + packed[: (length + 7) // 8], family)[0]
    except Rejected:  # IPv4-mapped
        return ipaddress.IPv6Network((packed, length))


@attrs.frozen
class NextHop:
    """Where a route leads. ``source`` is the preferred source (RTA_PREFSRC)."""

    address: Address
    device: str
    source: Address | None = None

    def __str__(self) -> str:
        source = f" src {self.source}" if self.source is not None else ""
        return f"via {self.address} dev {self.device}{source}"


@attrs.frozen
class KernelState:
    """All that meshd may own in a kernel. Compares and prints."""

    routes: Mapping[Prefix, NextHop] = attrs.field(factory=dict)
    """Gateway routes at our metric."""
    guards: frozenset[Prefix] = frozenset()
    """``unreachable`` at GUARD_METRIC."""
    local: frozenset[Prefix] = frozenset()
    """What this node announces: the source side of the exclusion."""
    mesh: frozenset[Prefix] = frozenset()
    """What the mesh announces: its destination side. No element of a set lies in another."""
    uplinks: frozenset[str] = frozenset()
    """Interfaces by which ``local`` leaves translated; empty unless we are the NAT."""

    def __str__(self) -> str:
        lines = [f"route {p} {self.routes[p]}" for p in sorted(self.routes, key=order)]
        for name, prefixes in (("guard", self.guards), ("local", self.local), ("mesh", self.mesh)):
            lines += [f"{name} {prefix}" for prefix in sorted(prefixes, key=order)]
        lines += [f"uplink {name}" for name in sorted(self.uplinks)]
        return "\n".join(lines)


@attrs.frozen
class Interface:
    """A network interface. ``up`` is the administrator's switch (IFF_UP), not the carrier:
    the kernel takes routes through a device that is up and has no carrier."""

    name: str
    index: int
    up: bool
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    """Own addresses with the prefix length; the far end of a point-to-point pair shows as
    a foreign route without next hop."""


@attrs.frozen
class ForeignRoute:
    """A route of the main table that is not ours; one value for each of its next hops."""

    prefix: Prefix
    next_hop: Address | None
    """None: on-link, or a route that leads nowhere (blackhole, unreachable)."""
    device: str | None
    protocol: int
    metric: int


@attrs.frozen
class Host:
    """Facts that policy judges by."""

    interfaces: tuple[Interface, ...] = ()
    foreign: tuple[ForeignRoute, ...] = ()
    resolvers: tuple[Address, ...] = ()
    """The name servers it asks. Not the kernel's to say: ``meshd.resolver`` reads them."""


@attrs.frozen
class Stray:
    """A route that carries our protocol and is neither at our metric nor a guard, such as
    one from before the option ``metric`` was changed. ``handle`` is the backend's own."""

    prefix: Prefix
    metric: int
    handle: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen
class Reading:
    """One look at the kernel."""

    state: KernelState
    host: Host = Host()
    problems: tuple[str, ...] = ()
    """How our table differs from what we write. One is enough to rebuild it."""
    table: bool = False
    """Whether our table is there at all."""
    others: bool = False
    """Others have chains in our table, as its shape lets them: it is not ours to delete."""
    strays: tuple[Stray, ...] = ()
    metric: int = ROUTE_METRIC
    """The metric that the backend takes for ours."""
    shape: Shape = SHAPES["exempt"]
    """What the backend takes for the shape of our table."""
