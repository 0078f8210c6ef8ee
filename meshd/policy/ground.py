"""What is local, what a route must never cover, and how a next hop is reached. Pure.

The host's side of the import policy: it knows this host's addresses, its gateway and its name
servers, and where members are reached, and nothing of who announces what.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from meshd.kernel.state import Host, NextHop, NextHops
from meshd.policy.fib import SHORTEST, Fib
from meshd.policy.prefixes import Nets
from meshd.policy.refusal import Refusal, Rule
from protocol.address import Address, Endpoint, Prefix

BOGONS: Final[tuple[tuple[Prefix, str], ...]] = tuple(
    (Prefix.parse(text), what)
    for text, what in (
        ("0.0.0.0/8", "this network (RFC 791)"),
        ("127.0.0.0/8", "loopback (RFC 1122)"),
        ("169.254.0.0/16", "link-local (RFC 3927)"),
        ("192.0.0.0/24", "protocol assignments (RFC 6890)"),
        ("224.0.0.0/4", "multicast (RFC 1112)"),
        ("240.0.0.0/4", "reserved (RFC 1112)"),
        ("::/8", "reserved, loopback and mapped (RFC 4291)"),
        ("100::/8", "reserved, discard-only (RFC 6666)"),
        ("fe80::/10", "link-local (RFC 4291)"),
        ("fec0::/10", "site-local, deprecated (RFC 3879)"),
        ("ff00::/8", "multicast (RFC 4291)"),
    )
)
"""What no router forwards, or nobody may own. Private and documentation prefixes are not
among them: the first are what a mesh is for, the second are for laboratories."""


class _Precious(NamedTuple):
    """An address that this host, or the mesh, could not do without."""

    version: int
    value: int
    address: Address
    rule: Rule
    what: str


class Ground:
    """One host as policy sees it, for as long as nothing of it changes."""

    def __init__(
        self,
        local: Sequence[Prefix],
        host: Host,
        members: Iterable[tuple[str, tuple[Endpoint, ...]]],
    ) -> None:
        """``local``: announced here; ``members``: each one's name and where it is reached."""
        self._local = [(prefix, "announced here") for prefix in local]
        for interface in host.interfaces:
            self._local += [
                (Prefix.of(address.network), f"on {interface.name}")
                for address in interface.addresses
                if not address.is_link_local
            ]
        precious: list[tuple[Address, Rule, str]] = [
            (route.next_hop, "gateway", "our gateway")
            for route in host.foreign
            if route.prefix.prefixlen == 0 and route.next_hop is not None
        ]
        precious += [(address, "resolver", "our resolver") for address in host.resolvers]
        precious += [
            (where.address, "endpoint", f"where {name} is reached")
            for name, endpoints in members
            for where in endpoints
        ]
        self._precious = sorted(
            _Precious(address.version, int(address), address, rule, what)
            for address, rule, what in precious
        )
        self._touchy = Nets(
            (
                *(net for net, _ in BOGONS),
                *(net for net, _ in self._local),
                *(Prefix.single(each.address) for each in self._precious),
            )
        )
        """All that a prefix may meet: what meets none of it is refused by no reason below."""
        self.fib = Fib(host)
        usable = sorted(
            {
                address.ip
                for interface in host.interfaces
                for address in interface.addresses
                if address.ip not in interface.tentative
            },
            key=lambda each: (each.version, int(each)),
        )
        self._sources = {version: _inside(local, usable, version) for version in (4, 6)}
        self._leading: dict[tuple[NextHop, int], NextHops] = {}

    def refuses(self, prefix: Prefix) -> Refusal | None:
        """Why no node at all may announce ``prefix`` to this host; the first reason wins."""
        if prefix.prefixlen < SHORTEST[prefix.version]:
            return Refusal("too-short", f"shorter than /{SHORTEST[prefix.version]}")
        if self._touchy.overlapping(prefix) is None:
            return None
        for net, what in BOGONS:
            if net.overlaps(prefix):
                return Refusal("bogon", f"not to be routed: {net} is {what}")
        for net, what in self._local:
            if net.overlaps(prefix):
                return Refusal("local", f"overlaps {net}, {what}")
        at = bisect_left(self._precious, (prefix.version, prefix.first))
        if at < len(self._precious):
            found = self._precious[at]
            if found.version == prefix.version and found.value <= prefix.last:
                return Refusal(found.rule, f"covers {found.address}, {found.what}")
        return None

    def next_hop(self, endpoints: Iterable[Endpoint], version: int) -> NextHop | str:
        """The on-link next hop for prefixes of family ``version`` at one of ``endpoints``, or why
        there is none.

        An IPv4 prefix of a node that announces no IPv4 address goes through its IPv6 one.
        """
        found: dict[int, Address] = {where.family: where.address for where in endpoints}
        address = found.get(version) or (found.get(6) if version == 4 else None)
        if address is None:
            return f"its node announces no IPv{version} address to be the next hop"
        return self.fib.resolve(address)

    def leading(self, hop: NextHop, version: int) -> NextHops:
        """A route of that family through ``hop``: the same object each time, for comparing two
        that are is free."""
        found = self._leading.get((hop, version))
        if found is None:
            found = NextHops((hop,), self.preferred_source(version))
            self._leading[hop, version] = found
        return found

    def preferred_source(self, version: int) -> Address | None:
        """Our own address inside what we announce: the far side has a route back to it.

        The router's own traffic into the mesh then comes from its subnet; without such an
        address the kernel takes the uplink's.
        """
        return self._sources[version]


def _inside(
    announced: Iterable[Prefix], addresses: Sequence[Address], version: int
) -> Address | None:
    """Of the first of ``announced`` that holds any of ``addresses``, the lowest it holds."""
    own = [address for address in addresses if address.version == version]
    for net in announced:
        for address in own:
            if net.version == version and address in net:
                return address
    return None
