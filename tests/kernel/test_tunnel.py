"""Members on two links with a plain router between: their subnets are joined through the tunnel.

The first mesh is only looked at, and shared: four zones, two on each side, each with another
program's masquerade on its uplink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from tunnelview import DEVICE, biggest, expected, tunnel

from netlab import EchoServer, Flow, Lab, Mesh, ping, source_seen, udp_source_seen
from netlab.kernelview import foreign, holdings

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]


@pytest.fixture(scope="module")
def before() -> dict[int, str]:
    """What the routers' kernels held before there was a mesh."""
    return {}


@pytest.fixture(scope="module")
def across(shared_lab: NewLab, shared_mesh: NewMesh, before: dict[int, str]) -> Iterator[Mesh]:
    lab = shared_lab(4, routed=True)
    before |= {zone.number: foreign(zone.router) for zone in lab.zones}
    mesh = shared_mesh(lab)
    mesh.config = 'tunnel = "vxlan"\n'
    mesh.grow()
    with ExitStack() as stack:
        for zone in lab.zones:
            stack.enter_context(EchoServer(zone.private, (zone.private4, zone.private6)))
        yield mesh


def test_all_private_zones_reach_one_another_as_themselves(across: Mesh) -> None:
    wrong = {
        (str(source), str(target)): (str(tcp), str(udp))
        for here in across.lab.zones
        for there in across.lab.zones
        if here is not there
        for source, target in ((here.private4, there.private4), (here.private6, there.private6))
        if {tcp := source_seen(here.private, target), udp := udp_source_seen(here.private, target)}
        != {source}
    }
    assert wrong == {}


def test_routers_reach_private_zones_across_too(across: Mesh) -> None:
    near, far = across.lab.zone(1), across.lab.zone(4)
    assert source_seen(near.router, far.private4) == near.router4
    assert source_seen(near.router, far.private6) == near.router6


def test_device_entries_and_routes_are_those_of_the_members_beyond_and_no_others(
    across: Mesh,
) -> None:
    halves = {1: (3, 4), 2: (3, 4), 3: (1, 2), 4: (1, 2)}
    for number, beyond in halves.items():
        found = tunnel(across.lab.router(number))
        assert found == expected(across[number], [across[each] for each in beyond])


def test_who_shares_a_link_is_routed_to_directly(across: Mesh) -> None:
    lab = across.lab
    first, second, third = lab.zones[:3]
    with lab.capture(second.router, "udp port 6180") as near:
        for _ in range(3):
            assert source_seen(first.private, second.private4) == first.private4
            assert source_seen(first.private, second.private6) == first.private6
    assert near.packets == []
    with lab.capture(third.router, "udp port 6180") as far:
        assert source_seen(first.private, third.private4) == first.private4
    assert far.packets  # the control: that is what would have been seen
    rows = {row["prefix"]: row["device"] for row in across[1].json("routes")}
    assert rows[str(second.prefix4)] == "net0"
    assert rows[str(third.prefix4)] == DEVICE


def test_packets_of_the_tunnels_mtu_cross_and_larger_ones_are_answered(across: Mesh) -> None:
    near, far = across.lab.zone(1), across.lab.zone(3)
    # Before anybody has learned of a path's MTU.
    for address in (far.private4, far.private6):
        assert "mtu" in biggest(near.private, address, 1451).lower()
    for address in (far.private4, far.private6):
        assert biggest(near.private, address, 1450) == ""


def test_tcp_of_full_size_crosses(across: Mesh) -> None:
    near, far = across.lab.zone(2), across.lab.zone(4)
    for address in (far.private4, far.private6):
        with Flow(near.private, address) as flow:
            for _ in range(16):
                flow.exchange(bytes(60_000))


def test_the_table_has_a_filter_for_members_addresses_before_the_tunnel(across: Mesh) -> None:
    for zone in across.lab.zones:
        sets = holdings(zone.router).sets
        others = [str(each.uplink4.ip) for each in across.lab.zones if each is not zone]
        assert sets["tunnel4"] == tuple(sorted(f"{address}/32" for address in others))
        assert sets["tunnel6"] == ()
        listed = zone.router.run(["nft", "list", "chain", "inet", "meshd", "tunnel"]).stdout
        assert "type filter hook input priority filter - 1; policy accept;" in listed
        for ip, name in (("ip", "tunnel4"), ("ip6", "tunnel6")):
            assert f"udp dport 6180 {ip} saddr != @{name} counter packets 0 bytes 0 drop" in listed


def test_nothing_foreign_was_touched_and_nothing_was_wrong(
    across: Mesh, before: dict[int, str]
) -> None:
    for zone in across.lab.zones:
        assert foreign(zone.router) == before[zone.number], zone.router.name
    for member in across.members.values():
        bad = member.events("error", "warning", "kernel-error", "kernel-repaired", "peer-failed")
        assert bad == [], member.name


def test_a_member_without_a_tunnel_is_refused_with_that_reason_on_both_sides(
    new_lab: NewLab, new_mesh: NewMesh
) -> None:
    lab = new_lab(2, routed=True)
    mesh = new_mesh(lab)
    mesh.config = 'tunnel = "vxlan"\n'
    mesh.found(1)
    mesh.config = ""
    mesh.join(2)
    mesh.converge()
    for number, said in ((1, 'its node has no tunnel: set tunnel = "vxlan" there'),
                         (2, 'its node has a tunnel: set tunnel = "vxlan" here too')):  # fmt: skip
        rows = mesh[number].json("routes")
        assert [row["state"] for row in rows] == ["refused", "refused"]
        assert all(said in row["reason"] and "default gateway" in row["reason"] for row in rows)
    # Guarded all the same: nothing leaks to the default gateway meanwhile.
    with lab.capture_leaks() as leaks:
        assert not ping(lab.private(1), lab.zone(2).private4, timeout=1)
    assert leaks.packets == []
    assert tunnel(lab.router(2)) is None


def test_always_tunnels_on_one_link_too_and_works_with_who_does_not(
    new_lab: NewLab, new_mesh: NewMesh
) -> None:
    lab = new_lab(3)
    first, second, third = lab.zones
    mesh = new_mesh(lab)
    mesh.config = 'tunnel = "vxlan"\nwhen = "always"\n'
    mesh.found(1)
    mesh.join(2)
    mesh.config = 'tunnel = "vxlan"\n'
    mesh.join(3)
    mesh.converge()
    assert tunnel(first.router) == expected(mesh[1], [mesh[2], mesh[3]])
    assert tunnel(third.router) == expected(mesh[3], [])
    with ExitStack() as stack:
        for zone in lab.zones:
            stack.enter_context(EchoServer(zone.private, (zone.private4, zone.private6)))
        for here, there in ((first, second), (first, third), (third, first)):
            for source, target in (
                (here.private4, there.private4),
                (here.private6, there.private6),
            ):
                with lab.capture(there.router, "udp port 6180") as outer:
                    assert source_seen(here.private, target) == source
                assert bool(outer.packets) == (here is first)


def test_the_underlay_may_be_ipv6_and_subnets_of_both_families_cross(
    new_lab: NewLab, new_mesh: NewMesh
) -> None:
    lab = new_lab(2, routed=True, nat=["random"])
    near, far = lab.zones
    mesh = new_mesh(lab)
    mesh.config = 'tunnel = "vxlan"\n'
    mesh.found(1, options=["--advertise", str(near.uplink6.ip)])
    mesh.join(2, options=["--advertise", str(far.uplink6.ip)])
    mesh.converge()
    for one, other in ((1, 2), (2, 1)):
        found = tunnel(lab.router(one))
        assert found == expected(mesh[one], [mesh[other]], version=6, mtu=1430)
    with EchoServer(far.private, (far.private4, far.private6)):
        assert source_seen(near.private, far.private4) == near.private4
        assert source_seen(near.private, far.private6) == near.private6
    for address in (far.private4, far.private6):
        assert "mtu" in biggest(near.private, address, 1431).lower()
        assert biggest(near.private, address, 1430) == ""
