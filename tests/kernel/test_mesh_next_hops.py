"""Where the routes of a mesh lead when its members sit on two links of one router.

Every router has two uplinks: `net0` on the mesh's switch, `net1` on another with the default route.
Router 1 looks on.  Router 2 is on `net0`, router 3 on `net1`, router 4 announces an IPv6 address
only, and router 5 sits behind the default gateway.  Routers 2 and 3 have one more prefix together.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest

from netlab import Lab, Mesh, Namespace, ping, until

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]

SHARED4, SHARED6 = IPv4Network("10.99.0.0/24"), IPv6Network("fd00:6179:99::/64")
BEYOND4, BEYOND6 = "198.51.100.5", "2001:db8:ffff::5"
"""Router 5 as the mesh knows it: it is the default gateway that has the routes to these."""

PUSHED_S = 5
"""A change takes milliseconds to a kernel; this is for a machine that is busy with others."""

DETECTED_S = 20


@pytest.fixture(scope="module")
def mesh(shared_lab: NewLab, shared_mesh: NewMesh) -> Mesh:
    lab = shared_lab(5, second_uplink=True)
    mesh = shared_mesh(lab)
    second = lab.second_segment
    lab.internet.sysctl({"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})
    for address, near in ((BEYOND4, second.host4(5).ip), (BEYOND6, second.host6(5).ip)):
        lab.router(5).configure([f"addr add {address} dev lo"])
        lab.internet.configure([f"route add {address} via {near}"])
    for zone in lab.zones[1:3]:
        zone.router.configure([f"addr add {SHARED4[1]}/32 dev lo", f"addr add {SHARED6[1]} dev lo"])
    one = lab.zone(1)
    founder = mesh.found(1, options=at(one.uplink4.ip, one.uplink6.ip))
    settings = founder.directory / "meshd.toml"
    settings.write_text(settings.read_text() + "multipath = true\n")
    founder.command("reload")
    where: dict[int, tuple[object, ...]] = {
        2: (lab.zone(2).uplink4.ip, lab.zone(2).uplink6.ip),
        3: (second.host4(3).ip, second.host6(3).ip),
        4: (lab.zone(4).uplink6.ip,),
        5: (BEYOND4, BEYOND6),
    }
    for number, addresses in where.items():
        zone = lab.zone(number)
        mine = [zone.prefix4, zone.prefix6, *((SHARED4, SHARED6) if number in (2, 3) else ())]
        allowed = [word for prefix in mine for word in ("--allow", str(prefix))]
        token = mesh.invite(number, *allowed)
        mesh.join(number, token=token, announce=mine, options=at(*addresses))
    mesh.converge()
    return mesh


def at(*addresses: object) -> list[str]:
    return [word for address in addresses for word in ("--advertise", str(address))]


Ways = set[tuple[str, str]]


def ways(router: Namespace, prefix: object) -> Ways:
    """Gateway and device of each next hop of meshd's route to `prefix`."""
    family = "-6" if ":" in str(prefix) else "-4"
    found = router.ip(family, "route", "show", str(prefix), "proto", "142", "metric", "142")
    return {
        (way.get("gateway") or way["via"]["host"], way["dev"])
        for route in found
        for way in route.get("nexthops", [route])
    }


def source(router: Namespace, prefix: object) -> str | None:
    family = "-6" if ":" in str(prefix) else "-4"
    (route,) = router.ip(family, "route", "show", str(prefix), "proto", "142", "metric", "142")
    return route.get("prefsrc")


def becomes(router: Namespace, prefix: object, wanted: Ways, timeout: float = PUSHED_S) -> None:
    until(lambda: ways(router, prefix) == wanted, timeout, f"{prefix} goes by {wanted}")


def row(mesh: Mesh, prefix: object, name: str) -> dict[str, Any]:
    rows = mesh[1].json("routes")
    (found,) = [each for each in rows if (each["prefix"], each["node"]) == (str(prefix), name)]
    return dict(found)


def test_each_member_is_reached_through_the_link_it_sits_on(mesh: Mesh) -> None:
    lab, router = mesh.lab, mesh.lab.router(1)
    two, three, second = lab.zone(2), lab.zone(3), mesh.lab.second_segment
    assert ways(router, two.prefix4) == {(str(two.uplink4.ip), "net0")}
    assert ways(router, two.prefix6) == {(str(two.uplink6.ip), "net0")}
    assert ways(router, three.prefix4) == {(str(second.host4(3).ip), "net1")}
    assert ways(router, three.prefix6) == {(str(second.host6(3).ip), "net1")}
    for zone in (two, three):
        assert ping(lab.private(1), zone.private4)
        assert ping(lab.private(1), zone.private6)


def test_what_resolves_through_the_default_gateway_is_refused_and_guarded(mesh: Mesh) -> None:
    far = mesh.lab.zone(5)
    gateways = (mesh.lab.second_segment.gateway4, mesh.lab.second_segment.gateway6)
    for prefix, hop, gateway in zip(
        (far.prefix4, far.prefix6), (BEYOND4, BEYOND6), gateways, strict=True
    ):
        refused = row(mesh, prefix, "r5")
        assert (refused["state"], refused["rule"]) == ("refused", "next-hop")
        through = f"it resolves through the default gateway {gateway}"
        assert refused["reason"] == f"its next hop {hop} is not on-link: {through}"
    router = mesh.lab.router(1)
    for prefix in (far.prefix4, far.prefix6):
        family = f"-{prefix.version}"
        found = router.ip("-d", family, "route", "show", str(prefix), "proto", "142")
        assert [route["type"] for route in found] == ["unreachable"]
    with mesh.lab.capture_leaks() as leaks:
        assert not ping(mesh.lab.private(1), far.private4, timeout=1)
    assert leaks.packets == []


def test_an_ipv4_subnet_is_reached_through_a_router_that_has_only_an_ipv6_address(
    mesh: Mesh,
) -> None:
    four = mesh.lab.zone(4)
    router = mesh.lab.router(1)
    assert ways(router, four.prefix4) == {(str(four.uplink6.ip), "net0")}
    assert source(router, four.prefix4) == str(mesh.lab.zone(1).router4)
    assert row(mesh, four.prefix4, "r4")["next_hop"] == str(four.uplink6.ip)
    assert ping(mesh.lab.private(1), four.private4)
    assert ping(mesh.lab.private(4), mesh.lab.zone(1).private4)
    assert ping(router, four.private4)


def test_two_origins_carry_a_prefix_together_and_one_alone_when_the_other_dies(mesh: Mesh) -> None:
    lab, router, second = mesh.lab, mesh.lab.router(1), mesh.lab.second_segment
    near4, far4 = (str(lab.zone(2).uplink4.ip), "net0"), (str(second.host4(3).ip), "net1")
    near6, far6 = (str(lab.zone(2).uplink6.ip), "net0"), (str(second.host6(3).ip), "net1")
    assert ways(router, SHARED4) == {near4, far4}
    assert ways(router, SHARED6) == {near6, far6}
    assert {row(mesh, SHARED4, name)["state"] for name in ("r2", "r3")} == {"installed"}
    # Nobody else asked for it: the lowest key carries it for them.
    assert len(ways(lab.router(4), SHARED4)) == 1
    lab.switch.configure([f"link set {second.bridge}3 down"])
    try:
        becomes(router, SHARED4, {near4}, DETECTED_S)
        becomes(router, SHARED6, {near6})
        assert ping(lab.private(1), SHARED4[1], count=3)
        assert ping(lab.private(1), SHARED6[1], count=3)
    finally:
        lab.switch.configure([f"link set {second.bridge}3 up"])
    becomes(router, SHARED4, {near4, far4}, DETECTED_S)
    becomes(router, SHARED6, {near6, far6})


def test_of_two_links_the_one_that_goes_down_takes_its_next_hops_along(mesh: Mesh) -> None:
    lab, router, second = mesh.lab, mesh.lab.router(1), mesh.lab.second_segment
    near4, far4 = (str(lab.zone(2).uplink4.ip), "net0"), (str(second.host4(3).ip), "net1")
    near6, far6 = (str(lab.zone(2).uplink6.ip), "net0"), (str(second.host6(3).ip), "net1")
    assert ways(router, SHARED4) == {near4, far4}
    router.configure(["link set net1 down"])
    try:
        # The default route has gone with the link, too: there is no way to router 3 at all.
        becomes(router, SHARED4, {near4})
        becomes(router, SHARED6, {near6})
        becomes(router, lab.zone(3).prefix4, set())
        assert ping(lab.private(1), SHARED4[1])
    finally:
        router.configure([
            "link set net1 up", f"addr add {second.host6(1)} dev net1",
            f"route add default via {second.gateway4}", f"route add default via {second.gateway6}",
        ])  # fmt: skip
    becomes(router, SHARED4, {near4, far4}, DETECTED_S)
    becomes(router, SHARED6, {near6, far6}, DETECTED_S)
    becomes(router, lab.zone(3).prefix6, {far6}, DETECTED_S)


def test_the_highest_preference_carries_alone_and_can_be_changed_while_it_runs(mesh: Mesh) -> None:
    router, second = mesh.lab.router(1), mesh.lab.second_segment
    near, far = (str(mesh.lab.zone(2).uplink4.ip), "net0"), (str(second.host4(3).ip), "net1")
    settings = mesh[3].directory / "meshd.toml"
    before = settings.read_text()
    try:
        settings.write_text(before + "preference = 200\n")
        mesh[3].command("reload")
        becomes(router, SHARED4, {far})
        assert row(mesh, SHARED4, "r2")["reason"] == "r3 carries it"
        settings.write_text(before + "preference = 99\n")
        mesh[3].command("reload")
        becomes(router, SHARED4, {near})
    finally:
        settings.write_text(before)
        mesh[3].command("reload")
    becomes(router, SHARED4, {near, far})


def test_a_next_hop_that_moves_to_another_link_is_followed(mesh: Mesh) -> None:
    lab, router, two = mesh.lab, mesh.lab.router(1), mesh.lab.zone(2)
    router.configure([
        f"route add {two.uplink4.ip}/32 dev net1",
        f"route add {two.uplink6.ip}/128 dev net1",
    ])  # fmt: skip
    try:
        becomes(router, two.prefix4, {(str(two.uplink4.ip), "net1")})
        becomes(router, two.prefix6, {(str(two.uplink6.ip), "net1")})
        assert ping(lab.private(1), two.private4)
        # On net1 nobody has that address on IPv6: nothing but the route is asked for.
    finally:
        router.configure([
            f"route del {two.uplink4.ip}/32 dev net1",
            f"route del {two.uplink6.ip}/128 dev net1",
        ])  # fmt: skip
    becomes(router, two.prefix4, {(str(two.uplink4.ip), "net0")})
    becomes(router, two.prefix6, {(str(two.uplink6.ip), "net0")})
    assert ping(lab.private(1), two.private4)


def test_a_next_hop_behind_a_gateway_or_a_blackhole_is_refused_while_it_is(mesh: Mesh) -> None:
    lab, router, two = mesh.lab, mesh.lab.router(1), mesh.lab.zone(2)
    for route, reason in (
        (
            f"{two.uplink4.ip}/32 via {lab.zone(4).uplink4.ip}",
            f"its next hop {two.uplink4.ip} is not on-link: it resolves through"
            f" {lab.zone(4).uplink4.ip}, the gateway of {two.uplink4.ip}/32",
        ),
        (
            f"blackhole {two.uplink4.ip}/32",
            f"the route to its next hop {two.uplink4.ip} is blackhole {two.uplink4.ip}/32",
        ),
    ):
        router.configure([f"route add {route}"])
        try:
            becomes(router, two.prefix4, set())
            assert row(mesh, two.prefix4, "r2")["reason"] == reason
        finally:
            router.configure([f"route del {route}"])
        becomes(router, two.prefix4, {(str(two.uplink4.ip), "net0")})


def test_the_preferred_source_follows_our_addresses(mesh: Mesh) -> None:
    router, one, two = mesh.lab.router(1), mesh.lab.zone(1), mesh.lab.zone(2)
    for prefix, first, second, length in (
        (two.prefix4, one.router4, one.prefix4[9], 24),
        (two.prefix6, one.router6, one.prefix6[9], 64),
    ):
        assert source(router, prefix) == str(first)

        def says(wanted: str | None, prefix: object = prefix) -> None:
            until(
                lambda: ways(router, prefix) != set() and source(router, prefix) == wanted,
                PUSHED_S,
                f"the source is {wanted}",
            )

        # In this order: an IPv4 address takes those of its subnet along that came after it.
        router.configure([f"addr del {first}/{length} dev lan0"])
        router.configure([f"addr add {second}/{length} dev lan0"])
        says(str(second))
        router.configure([f"addr del {second}/{length} dev lan0"])
        says(None)
        router.configure([f"addr add {first}/{length} dev lan0"])
        says(str(first))


def test_a_peer_that_gets_another_address_is_followed(new_lab: NewLab, new_mesh: NewMesh) -> None:
    lab = new_lab(2)
    mesh = new_mesh(lab)
    mesh.grow()
    two, router = lab.zone(2), lab.router(1)
    other4, other6 = lab.segment.host4(77), lab.segment.host6(77)
    two.router.configure([
        f"addr del {two.uplink4} dev net0", f"addr del {two.uplink6} dev net0",
        f"addr add {other4} dev net0", f"addr add {other6} dev net0",
    ])  # fmt: skip
    becomes(router, two.prefix4, {(str(other4.ip), "net0")}, DETECTED_S)
    becomes(router, two.prefix6, {(str(other6.ip), "net0")}, DETECTED_S)
    assert ping(lab.private(1), two.private4, count=2)
