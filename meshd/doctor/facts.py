"""What the checks judge by: one look at a host and, if it runs, at its daemon."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from meshd.config import Config
from meshd.doctor.ruleset import Ruleset
from meshd.kernel.state import ForeignRoute
from protocol.address import Address, Prefix

Json = dict[str, Any]


@attrs.frozen
class Link:
    """A network interface."""

    name: str
    mtu: int
    up: bool = True
    addresses: tuple[Address, ...] = ()
    ports: tuple[str, ...] = ()
    """Of a bridge: the interfaces in it."""
    bridge: bool = False


@attrs.frozen
class Hop:
    """A way out that a route of ours names."""

    address: Address
    device: str


@attrs.frozen
class Path:
    """Where the kernel sends what this host itself sends to an address."""

    device: str | None
    """None: nowhere."""
    gateway: Address | None = None
    source: Address | None = None
    table: int = 254
    """main"""


@attrs.frozen
class Daemon:
    """What the daemon answered to ``status``, ``peers`` and ``routes``."""

    status: Json
    peers: list[Json]
    routes: list[Json]


@attrs.frozen
class Translation:
    """A connection between two subnets of the mesh whose source is rewritten."""

    source: Address
    destination: Address
    seen_as: Address


@attrs.frozen
class Networkd:
    """systemd-networkd, which runs."""

    manages_routes: bool
    manages_rules: bool
    manages_next_hops: bool
    file: str = ""
    """Where the first of them is decided; empty: nowhere, so that its default holds."""


@attrs.frozen
class Clock:
    """What the kernel knows of its own clock."""

    synchronised: bool


@attrs.frozen
class Facts:
    """None and empty: not there, or not seen; ``unseen`` says which and why."""

    config: Config | None = None
    daemon: Daemon | None = None
    sysctls: Mapping[str, str] = attrs.field(factory=dict)
    """By their path below /proc/sys/net, such as ``ipv4/ip_forward``."""
    links: Mapping[str, Link] = attrs.field(factory=dict)
    routes: Mapping[Prefix, tuple[Hop, ...]] = attrs.field(factory=dict)
    """Ours, in the kernel, each with its next hops."""
    local: tuple[Prefix, ...] = ()
    """What this node announces: by the daemon's word, else the config's."""
    foreign: tuple[ForeignRoute, ...] = ()
    paths: Mapping[Address, Path] = attrs.field(factory=dict)
    """To members' endpoints, and to one address in each subnet that we have a route to."""
    table: bool | None = None
    """Whether ``table inet meshd`` is there."""
    rules: Ruleset | None = None
    programs: frozenset[str] = frozenset()
    """Commands that are installed, of those that a fix may use."""
    translations: tuple[Translation, ...] | None = None
    networkd: Networkd | None = None
    network_manager: bool = False
    clock: Clock | None = None
    unseen: Mapping[str, str] = attrs.field(factory=dict)
    """What could not be looked at (daemon, config, nftables, iptables, ...), and the reason."""
    option: str = ""
    """`` --dir DIR`` as it must be repeated in a command we suggest, or nothing."""

    def sysctl(self, path: str) -> int | None:
        """A number, or None where there is no such setting."""
        text = self.sysctls.get(path, "")
        return int(text) if text.lstrip("-").isdecimal() else None

    @property
    def versions(self) -> list[int]:
        """The IP versions that the mesh's subnets have here; none while none is known."""
        return sorted({prefix.version for prefix in (*self.local, *self.routes)})

    def inside(self, prefix: Prefix) -> str | None:
        """The interface behind which a local prefix lies."""
        for link in self.links.values():
            if any(address in prefix for address in link.addresses):
                return link.name
        covers = [
            route
            for route in self.foreign
            if route.device is not None
            and route.prefix.prefixlen > 0
            and prefix.overlaps(route.prefix)
        ]
        best = max(covers, key=lambda route: route.prefix.prefixlen, default=None)
        return best.device if best is not None else None

    def insides(self) -> dict[str, list[Prefix]]:
        """Local prefixes by the interface they lie behind; those without one are left out."""
        found: dict[str, list[Prefix]] = {}
        for prefix in self.local:
            device = self.inside(prefix)
            if device is not None:
                found.setdefault(device, []).append(prefix)
        return found

    def uplinks(self) -> dict[str, list[Prefix]]:
        """The mesh's subnets by the interface that our routes leave through."""
        found: dict[str, list[Prefix]] = {}
        for prefix, hops in self.routes.items():
            for device in dict.fromkeys(hop.device for hop in hops):
                found.setdefault(device, []).append(prefix)
        return found

    def endpoints(self) -> Iterator[tuple[str, Address, int, Path | None]]:
        """Each member that has an address: its name, that, its port and the way to it."""
        if self.daemon is not None:
            for peer in self.daemon.peers:
                where = parse_endpoint(peer.get("endpoint"))
                if where is not None and peer.get("state") != "left":
                    yield str(peer.get("name")), *where, self.paths.get(where[0])


def parse_endpoint(text: object) -> tuple[Address, int] | None:
    """``192.0.2.1:6179`` or ``[2001:db8::1]:6179``."""
    if not isinstance(text, str):
        return None
    host, _, port = text.rpartition(":")
    try:
        return ipaddress.ip_address(host.strip("[]")), int(port)
    except ValueError:
        return None


def first_host(prefix: Prefix) -> Address:
    """A host's address in a subnet."""
    lowest = prefix.network_address
    return lowest + 1 if prefix.prefixlen < prefix.max_prefixlen else lowest
