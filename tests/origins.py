"""Nodes, a host and a decision in one line each, for tests of the import policy."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from random import Random
from typing import Any

from meshd.kernel.memory import connected
from meshd.kernel.state import ForeignRoute, Host, Interface
from meshd.policy.decide import Decision, decide
from meshd.policy.origin import Origin
from meshd.policy.route import Route
from protocol.address import Prefix, endpoint
from protocol.identity import BootKey, Identity, Mesh
from protocol.objects import Announcement, Grant

RNG = Random(6179)
AUTHORITY = Identity.generate(RNG.randbytes)
MESH = Mesh.founded_by(AUTHORITY.public, Identity.generate(RNG.randbytes).public)
BOOT = BootKey.generate(RNG.randbytes)
IDENTITIES = sorted((Identity.generate(RNG.randbytes) for _ in range(8)), key=lambda i: i.public)


def net(text: str) -> Prefix:
    return Prefix.parse(text)


UPLINK = Interface(
    "net0",
    2,
    True,
    (ipaddress.ip_interface("192.0.2.1/24"), ipaddress.ip_interface("2001:db8::1/64")),
)
INSIDE = Interface(
    "br0", 3, True, (ipaddress.ip_interface("10.1.0.1/24"), ipaddress.ip_interface("fd00:1::1/64"))
)
GATEWAY = ForeignRoute(net("0.0.0.0/0"), ipaddress.ip_address("192.0.2.254"), "net0", 3, 0)


def surroundings(*interfaces: Interface, foreign: Iterable[ForeignRoute] = ()) -> Host:
    """A host whose kernel has made its connected routes."""
    return Host(interfaces, (*connected(interfaces), *foreign))


HOST = surroundings(UPLINK, INSIDE, foreign=[GATEWAY])
LOCAL = (net("10.1.0.0/24"), net("fd00:1::/64"))


def origin(
    number: int,
    *prefixes: str,
    allow: tuple[str, ...] = ("10.0.0.0/8", "172.16.0.0/12", "fc00::/7", "0.0.0.0/0", "::/0"),
    at: tuple[str, ...] = (),
    serial: int | None = None,
    since: int | None = None,
    limit: int = 0,
    until: int = 0,
    endpoints: tuple[str, ...] | None = None,
    preference: int = 100,
    sequence: int = 1,
    **state: object,
) -> Origin:
    identity = IDENTITIES[number]
    if endpoints is None:
        endpoints = (f"192.0.2.{number + 2}", f"2001:db8::{number + 2}")
    grant = Grant.sign(
        AUTHORITY,
        MESH,
        node=identity.public,
        name=f"n{number}",
        serial=number if serial is None else serial,
        since=since,
        allow=map(net, allow),
        at=map(net, at),
        limit=limit,
        until=until,
    )
    announcement = Announcement.sign(
        identity,
        MESH,
        sequence=sequence,
        boot_key=BOOT.public,
        preference=preference,
        endpoints=[endpoint(each, 6179) for each in endpoints],
        prefixes=map(net, prefixes),
    )
    fields = {"prefixes": announcement.prefixes, "state": "alive", "seen": True, **state}
    return Origin(identity.public, f"n{number}", grant, announcement, **fields)  # type: ignore[arg-type]


def judge(*origins: Origin, host: Host = HOST, now: float = 0.0, **more: Any) -> Decision:
    """``now``: unix seconds, for grants; ``more`` is what ``decide`` takes besides."""
    monotonic = more.pop("at", 0.0)
    return decide(origins, LOCAL, host, now, now=monotonic, **more)


def row(decision: Decision, prefix: str, number: int = 0) -> Route:
    (found,) = [r for r in decision.routes if r.prefix == net(prefix) and r.name == f"n{number}"]
    return found
