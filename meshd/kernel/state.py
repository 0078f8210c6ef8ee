"""What a kernel holds: ours, and what of others policy judges by.

Everything that meshd may own in a kernel is one value, ``KernelState``.  What is ours is known by
marks that the kernel keeps, so a restarted daemon needs no file to know it again:

* routes: protocol 142 in the main table, whatever their metric; of several IPv6 next hops on
  one prefix and metric those of weight 142, for the kernel tells one protocol for all;
* NAT exclusion: all of ``table inet meshd``;
* the tunnel: the VXLAN device ``meshd0`` with our alias, and all that is on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any, Final

import attrs

from meshd.kernel.shape import SHAPES, Shape
from meshd.kernel.tunnel import Tunnel
from protocol.address import Address, Prefix

ROUTE_PROTOCOL: Final = 142
"""rtm_protocol of our routes. Free in iproute2's rt_protos; also in config/rt_protos.d."""

ROUTE_METRIC: Final = 142
"""Default of the option ``metric``: behind connected (0) and DHCP (100) routes of the
same prefix, before the usual metric of IPv6 (1024)."""

ROUTE_WEIGHT: Final = ROUTE_PROTOCOL
"""Weight of each of our IPv6 next hops. IPv6 lists all routes of one prefix and metric as one
under the protocol of the first (``rt6_fill_node``), and tells the weight of each: what has
another is somebody else's. All of ours having the same, traffic is shared equally."""

GUARD_METRIC: Final = 4294967294
"""Last but one of what 32 bits hold: the guard is taken only when nothing else is there.
The very last, 4294967295, is the kernel's own (IP6_RT_PRIO's null entry)."""


@attrs.frozen(cache_hash=True)
class NextHop:
    """One way out. The address may be of the other family than the prefix where that is IPv4
    (RTA_VIA, since Linux 5.2)."""

    address: Address
    device: str
    onlink: bool = False
    """The kernel takes it for on-link without a route that says so (RTNH_F_ONLINK)."""

    def words(self, version: int) -> str:
        """As ``ip route`` writes it for a prefix of family ``version``."""
        family = "" if self.address.version == version else f"inet{self.address.version} "
        return f"via {family}{self.address} dev {self.device}{' onlink' if self.onlink else ''}"


def _canonical(hops: Iterable[NextHop]) -> tuple[NextHop, ...]:
    def key(hop: NextHop) -> tuple[int, int, str]:
        return (hop.address.version, int(hop.address), hop.device)

    found = tuple(hops)
    return tuple(sorted(dict.fromkeys(found), key=key)) if len(found) > 1 else found


@attrs.frozen(cache_hash=True)
class NextHops:
    """Where a route leads: one next hop, or several that share its traffic equally."""

    hops: tuple[NextHop, ...] = attrs.field(converter=_canonical)
    """In an order of their own, IPv4 first, so that two that mean the same are equal."""
    source: Address | None = None
    """The preferred source (RTA_PREFSRC)."""

    @classmethod
    def via(cls, address: Address, device: str, source: Address | None = None) -> NextHops:
        """A single one."""
        return cls((NextHop(address, device),), source)

    def words(self, version: int, marks: str = "") -> str:
        """As ``ip route`` writes it for a prefix of family ``version``, with ``marks`` where
        protocol and metric stand."""
        source = f"src {self.source}" if self.source is not None else ""
        each = [hop.words(version) for hop in self.hops]
        if len(each) == 1:
            words = [*each, marks, source]
        else:
            weight = f" weight {ROUTE_WEIGHT}" if version == 6 else ""
            words = [marks, source, *(f"nexthop {hop}{weight}" for hop in each)]
        return " ".join(filter(None, words))

    def not_on_link(self) -> str:
        """What a kernel means by a network that is unreachable; it does not say which."""
        told = [f"{hop.address} is not on-link at {hop.device}" for hop in self.hops]
        return told[0] if len(told) == 1 else f"of these, one at least: {', '.join(told)}"


@attrs.frozen
class KernelState:
    """All that meshd may own in a kernel. Compares and prints."""

    routes: Mapping[Prefix, NextHops] = attrs.field(factory=dict)
    """Gateway routes at our metric."""
    guards: frozenset[Prefix] = frozenset()
    """``unreachable`` at GUARD_METRIC."""
    local: frozenset[Prefix] = frozenset()
    """What this node announces: the source side of the exclusion."""
    mesh: frozenset[Prefix] = frozenset()
    """What the mesh announces: its destination side. No element of a set lies in another."""
    uplinks: frozenset[str] = frozenset()
    """Interfaces by which ``local`` leaves translated; empty unless we are the NAT."""
    tunnel: Tunnel | None = None
    """To members that are not on-link."""
    admitted: frozenset[Prefix] = frozenset()
    """Addresses, as /32 and /128, from which the tunnel's UDP port takes anything."""

    def __str__(self) -> str:
        lines = [f"route {p} {self.routes[p].words(p.version)}" for p in sorted(self.routes)]
        sets = ("guard", self.guards), ("local", self.local), ("mesh", self.mesh)
        for name, prefixes in (*sets, ("admitted", self.admitted)):
            lines += [f"{name} {prefix}" for prefix in sorted(prefixes)]
        if self.tunnel is not None:
            lines.append(str(self.tunnel))
        lines += [f"uplink {name}" for name in sorted(self.uplinks)]
        return "\n".join(lines)


@attrs.frozen
class Interface:
    """A network interface. ``up`` is the administrator's switch (IFF_UP): the kernel takes
    routes through a device that is up, with a carrier or without."""

    name: str
    index: int
    up: bool
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    """Own addresses with the prefix length; the far end of a point-to-point pair shows as
    a foreign route without next hop."""
    tentative: frozenset[Address] = frozenset()
    """Those of them that nothing may be sent from: their uniqueness is not known, or not given
    (RFC 4862 section 5.4). On a link without carrier that lasts."""
    carrier: bool = True
    """It can send now (IFF_RUNNING): a cable is in, a bridge has a port that can."""
    mtu: int = 1500
    """Octets of the largest IP packet (IFLA_MTU). Ethernet's where nothing else is said."""


@attrs.frozen
class ForeignRoute:
    """A route of the main table that is not ours; one value for each of its next hops."""

    prefix: Prefix
    next_hop: Address | None
    """None: on-link, or a route that leads nowhere (blackhole, unreachable)."""
    device: str | None
    protocol: int
    """rtm_protocol; 0: an IPv6 next hop that joined a route of ours, and nobody knows whose."""
    metric: int
    kind: str = "unicast"
    """RTN_* in the words of ``ip``; anything else leads nowhere."""


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
    filtered: bool = False
    """Whether its chain before the tunnel is there."""
    others: bool = False
    """Others have chains in our table, as its shape lets them: it is not ours to delete."""
    strays: tuple[Stray, ...] = ()
    metric: int = ROUTE_METRIC
    """The metric that the backend takes for ours."""
    shape: Shape = SHAPES["exempt"]
    """What the backend takes for the shape of our table."""
    unread: str = ""
    """What could not be read, and why; empty when it was all."""
    slow: bool = False
    """Writing takes a program for each step: not in the event loop."""
    say: Callable[[Any], str] = attrs.field(default=str, eq=False, repr=False)
    """A step of a plan as a person would type it here; empty where nothing is to be typed."""
