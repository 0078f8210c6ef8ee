"""Where an address leads by the routes of others, looked up as the kernel does. Pure.

The longest prefix of the main table that holds the address, of those the lowest metric.  Our own
routes are not among them: a next hop that is reached through the mesh would be reached through
itself.  What is behind an interface that is down does not count, as the kernel does not use it.
"""

from __future__ import annotations

from typing import Final

from meshd.kernel.state import ForeignRoute, Host, NextHop
from protocol.address import Address, Prefix

SHORTEST: Final = {4: 8, 6: 16}
"""Anything shorter is a piece of a default route, not a subnet."""


class Fib:
    """The routes of one host, for as long as none of them changes."""

    def __init__(self, host: Host) -> None:
        self._own = {own.ip for interface in host.interfaces for own in interface.addresses}
        self._best: dict[tuple[int, int, int], ForeignRoute] = {}
        """By prefix: the route with the lowest metric."""
        self._resolved: dict[Address, NextHop | str] = {}
        up = {interface.name for interface in host.interfaces if interface.up}
        for route in host.foreign:
            if route.kind == "unicast" and route.device is not None and route.device not in up:
                continue
            best = self._best.setdefault(route.prefix, route)
            if route.metric < best.metric:
                self._best[route.prefix] = route
        lengths = {(version, length) for version, _, length in self._best}
        self._lengths = sorted(lengths, reverse=True)
        """Those that there are, of each version the longest first."""

    def exact(self, prefix: Prefix) -> ForeignRoute | None:
        """The route for this very prefix."""
        return self._best.get(prefix)

    def lookup(self, address: Address) -> ForeignRoute | None:
        """The route that a packet to ``address`` takes."""
        value, bits = int(address), address.max_prefixlen
        for version, length in self._lengths:
            if version == address.version:
                shift = bits - length
                found = self._best.get((version, value >> shift << shift, length))
                if found is not None:
                    return found
        return None

    def resolve(self, address: Address) -> NextHop | str:
        """``address`` as a next hop on one of our links, or why it is none.

        The kernel takes a gateway where a route to it has none itself (``fib_check_nh_v4_gw``,
        ``ip6_route_check_nh``); in IPv4 it looks among such routes alone, and would send past a
        longer one that leads elsewhere or nowhere.  A default route has none either on a
        point-to-point link; what is sent there all the same ends at a provider.
        """
        if address not in self._resolved:
            self._resolved[address] = self._judge(address)
        return self._resolved[address]

    def _judge(self, address: Address) -> NextHop | str:
        if address in self._own:
            return f"its next hop {address} is our own address"
        found = self.lookup(address)
        if found is None:
            return f"there is no route to its next hop {address}"
        if found.kind != "unicast":
            return f"the route to its next hop {address} is {found.kind} {found.prefix}"
        gateway, device, prefix = found.next_hop, found.device, found.prefix
        if device is None:
            return f"the route to its next hop {address}, {prefix}, does not say where it leads"
        through = f"its next hop {address} is not on-link: it resolves through"
        if gateway is not None and prefix.prefixlen == 0:
            return f"{through} the default gateway {gateway}"
        if gateway is not None:
            return f"{through} {gateway}, the gateway of {prefix}"
        if prefix.prefixlen < SHORTEST[prefix.version]:
            return f"{through} {prefix} at {device}, a default route"
        return NextHop(address, device)
