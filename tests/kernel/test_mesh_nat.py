"""NAT: none between announced subnets, and as before for everything else, whatever stands there.

One router for each kind of foreign masquerade. The foreign rules translate a whole private subnet,
of which only the lower half is announced; a host in the upper half is behind the same router and
not in the mesh.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import attrs
import pytest

from netlab import NAT_KINDS, EchoServer, Flow, Lab, Mesh, Zone, ping, source_seen
from netlab.kernelview import Network, expected, holdings
from netlab.lab import OUTSIDE4, OUTSIDE6
from netlab.traffic import ECHO_PORT, Address

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]


@attrs.frozen
class World:
    mesh: Mesh
    by_hand: dict[tuple[str, Address], Address]
    """Before the mesh, with a route made by hand: (kind, target) to the source that it saw."""
    without: dict[tuple[str, Address], bool]
    """Before the mesh, with no route: whether anything answered."""

    def zone(self, kind: str) -> Zone:
        return self.mesh.lab.zone(NAT_KINDS.index(kind) + 1)

    def far(self, kind: str) -> Zone:
        return self.mesh.lab.zone((NAT_KINDS.index(kind) + 1) % len(NAT_KINDS) + 1)


def lower_halves(zone: Zone) -> tuple[Network, Network]:
    """What the zone announces."""
    return next(zone.prefix4.subnets()), next(zone.prefix6.subnets())


def outsiders(zone: Zone) -> tuple[Address, Address]:
    """Addresses in the halves that the zone keeps to itself."""
    return zone.prefix4[200], zone.prefix6[(1 << 63) + 2]


@pytest.fixture(scope="module")
def world(shared_lab: NewLab, shared_mesh: NewMesh) -> Iterator[World]:
    lab = shared_lab(len(NAT_KINDS), nat=NAT_KINDS)
    with ExitStack() as stack:
        for zone in lab.zones:
            four, six = outsiders(zone)
            zone.private.configure(
                [f"addr add {four}/24 dev net0", f"addr add {six}/64 dev net0 preferred_lft 0"]
            )
            stack.enter_context(EchoServer(zone.private, (zone.private4, zone.private6)))
        stack.enter_context(EchoServer(lab.internet, (OUTSIDE4, OUTSIDE6)))
        world = World(shared_mesh(lab), {}, {})
        for kind in NAT_KINDS:
            _look_before(world, kind)
        world.mesh.found(1, announce=lower_halves(lab.zone(1)))
        for zone in lab.zones[1:]:
            world.mesh.join(zone.number, announce=lower_halves(zone))
        world.mesh.converge()
        yield world


def _look_before(world: World, kind: str) -> None:
    near, far = world.zone(kind), world.far(kind)
    for prefix, hop, target in (
        (far.prefix4, far.uplink4.ip, far.private4),
        (far.prefix6, far.uplink6.ip, far.private6),
    ):
        world.without[kind, target] = ping(near.private, target, timeout=1)
        near.router.configure([f"route add {prefix} via {hop}"])
        world.by_hand[kind, target] = source_seen(near.private, target)
        near.router.configure([f"route del {prefix} via {hop}"])
    # Or flows of now would be remembered, and these tests are about new ones.
    near.router.run(["conntrack", "-F"])


def seen_from(zone: Zone, source: Address, target: Address, kind: socket.SocketKind) -> Address:
    """The source address that an echo server sees for a packet that leaves as `source`."""
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    with zone.private.socket(family, kind) as client:
        client.settimeout(3)
        client.bind((str(source), 0))
        client.connect((str(target), ECHO_PORT))
        if kind is socket.SOCK_DGRAM:
            client.send(b"?")
        return ip_address(client.recv(256).split()[0].decode())


every_kind = pytest.mark.parametrize("kind", NAT_KINDS)
every_transport = pytest.mark.parametrize("transport", [socket.SOCK_STREAM, socket.SOCK_DGRAM])


@every_kind
def test_before_the_mesh_nothing_crosses_or_it_arrives_translated(world: World, kind: str) -> None:
    near, far = world.zone(kind), world.far(kind)
    for target, uplink in ((far.private4, near.uplink4), (far.private6, near.uplink6)):
        assert not world.without[kind, target]
        assert world.by_hand[kind, target] == uplink.ip


@every_kind
@every_transport
def test_a_subnet_in_the_mesh_sees_the_others_private_sources(
    world: World, kind: str, transport: socket.SocketKind
) -> None:
    near = world.zone(kind)
    for far in world.mesh.lab.zones:
        if far is not near:
            for source, target in (
                (near.private4, far.private4),
                (near.private6, far.private6),
            ):
                assert seen_from(near, source, target, transport) == source


@every_kind
def test_pings_arrive_with_the_private_source(world: World, kind: str) -> None:
    near, far = world.zone(kind), world.far(kind)
    requests = "icmp[icmptype] == icmp-echo or (icmp6 and ip6[40] == 128)"
    with world.mesh.lab.capture(far.private, requests) as seen:
        assert ping(near.private, far.private4)
        assert ping(near.private, far.private6)
    four, six = seen.packets
    assert f"ICMP {near.private4} > {far.private4}" == four
    assert f"ICMPv6 {near.private6} > {far.private6}" == six


@every_kind
def test_a_long_transfer_crosses_whole(world: World, kind: str) -> None:
    near, far = world.zone(kind), world.far(kind)
    for target in (far.private4, far.private6):
        with Flow(near.private, target) as flow:
            for _ in range(32):
                flow.exchange(bytes(range(256)) * 256)


@every_kind
@every_transport
def test_traffic_to_anywhere_else_is_still_translated(
    world: World, kind: str, transport: socket.SocketKind
) -> None:
    near = world.zone(kind)
    for source, target, uplink in (
        (near.private4, OUTSIDE4, near.uplink4),
        (near.private6, OUTSIDE6, near.uplink6),
    ):
        assert seen_from(near, source, target, transport) == uplink.ip


@every_kind
@every_transport
def test_a_source_that_is_not_announced_is_still_translated_on_its_way_into_the_mesh(
    world: World, kind: str, transport: socket.SocketKind
) -> None:
    near, far = world.zone(kind), world.far(kind)
    four, six = outsiders(near)
    for source, target, uplink in (
        (four, far.private4, near.uplink4),
        (six, far.private6, near.uplink6),
    ):
        assert seen_from(near, source, target, transport) == uplink.ip


@every_kind
def test_a_router_itself_speaks_to_the_mesh_from_its_own_subnet(world: World, kind: str) -> None:
    near, far = world.zone(kind), world.far(kind)
    assert source_seen(near.router, far.private4) == near.router4
    assert source_seen(near.router, far.private6) == near.router6


@every_kind
def test_the_kernel_remembers_a_flow_within_the_mesh_as_untranslated(
    world: World, kind: str
) -> None:
    near, far = world.zone(kind), world.far(kind)
    for family, source, target in (
        ("ipv4", near.private4, far.private4),
        ("ipv6", near.private6, far.private6),
    ):
        seen_from(near, source, target, socket.SOCK_DGRAM)
        listed = near.router.run(
            ["conntrack", "-L", "-f", family, "-p", "udp", "-s", str(source), "-d", str(target)]
        ).stdout
        assert f"src={target} dst={source}" in listed


def test_a_masquerade_without_source_match_rewrites_gossip_ports_and_does_no_harm(
    world: World,
) -> None:
    near = world.zone("random")
    ports = []
    for family, uplink in (("ipv4", near.uplink4), ("ipv6", near.uplink6)):
        flows = near.router.run(["conntrack", "-L", "-f", family, "-p", "udp"]).stdout
        pattern = rf"src={uplink.ip} .* sport=6179 .* src=\S+ .* dport=(\d+)"
        ports += re.findall(pattern, flows)
    assert ports
    assert "6179" not in ports
    for member in world.mesh.members.values():
        assert member.events("peer-suspect", "peer-failed") == []
    moved = world.mesh[near.number].events("observed-at")
    assert moved
    assert {event["endpoint"].rpartition(":")[2] for event in moved} <= set(ports)


def test_only_what_is_announced_is_excluded(world: World) -> None:
    zones = world.mesh.lab.zones
    for zone in zones:
        remote = [(p, z) for z in zones if z is not zone for p in lower_halves(z)]
        wanted = expected(zone, zones, local=lower_halves(zone), remote=remote)
        assert holdings(zone.router) == wanted
