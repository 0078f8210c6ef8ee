"""Six zones, and cables that are pulled: one, our own, and most of all at once.

Zones 2 and 3 both announce one more subnet. The default route lies on a switch of its own, where
everything that leaks is seen. One mesh for the module; each test but the last heals what it cut.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network

import attrs
import pytest

from netlab import Lab, Mesh, PacedFlow, Zone, ping, until
from netlab.kernelview import Holdings, Network, expected, holdings, settle

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]

SHARED = IPv4Network("10.77.0.0/24")
HOST = SHARED[2]
"""A host in it, behind either of the two."""

DETECTED_S = 20
"""A silent node is found in seconds; this is for a machine that is busy with others."""


@attrs.define(eq=False)
class World:
    """The mesh, and which of the two routes to SHARED is in use."""

    mesh: Mesh
    active: Zone
    standby: Zone

    def expected(
        self, zone: Zone, *, lost: tuple[Zone, ...] = (), through: Zone | None = None
    ) -> Holdings:
        """In the kernel of `zone`, which is none of the two, when `lost` are known to be gone."""
        zones = self.mesh.lab.zones
        others = [other for other in zones if other is not zone and other not in lost]
        remote: list[tuple[Network, Zone]] = [
            (prefix, other) for other in others for prefix in (other.prefix4, other.prefix6)
        ]
        gone: list[Network] = [p for each in lost for p in (each.prefix4, each.prefix6)]
        remote.append((SHARED, through or self.active))
        return expected(zone, zones, remote=remote, unreachable=gone)

    def settle_all(self) -> None:
        """Every cable in its place: wait until all is as in the beginning."""
        self.mesh.converge()
        for number in (1, 4, 5, 6):
            zone = self.mesh.lab.zone(number)
            settle(zone.router, self.expected(zone), DETECTED_S)


@pytest.fixture(scope="module")
def world(shared_lab: NewLab, shared_mesh: NewMesh) -> World:
    lab = shared_lab(6, second_uplink=True)
    mesh = shared_mesh(lab)

    def here(zone: Zone) -> list[str]:
        return ["--advertise", str(zone.uplink4.ip), "--advertise", str(zone.uplink6.ip)]

    def join(zone: Zone) -> None:
        own: list[Network] = [zone.prefix4, zone.prefix6]
        if zone.number not in (2, 3):
            mesh.join(zone.number, options=here(zone))
            return
        zone.router.configure([f"addr add {SHARED[1]}/24 dev lan0"])
        zone.private.configure([f"addr add {HOST}/24 dev net0"])
        allow = [word for net in (*own, SHARED) for word in ("--allow", str(net))]
        token = mesh.invite(zone.number, *allow)
        mesh.join(zone.number, announce=[*own, SHARED], token=token, options=here(zone))

    mesh.found(1, options=here(lab.zone(1)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(join, lab.zones[1:]))
    mesh.converge()
    second, third = lab.zone(2), lab.zone(3)
    routes = {route.prefix: route.gateway for route in holdings(lab.router(1)).routes}
    chosen = routes[str(SHARED)] == str(second.uplink4.ip)
    world = World(mesh, *((second, third) if chosen else (third, second)))
    world.settle_all()
    return world


def test_a_prefix_of_two_nodes_goes_on_through_the_other_and_one_node_lost_is_lost_at_once(
    world: World,
) -> None:
    mesh, lab, first = world.mesh, world.mesh.lab, world.mesh.lab.zone(1)
    lost, other = world.active, world.standby
    with (
        lab.capture_leaks() as leaks,
        PacedFlow(first.private, lost.private, HOST) as before,
        PacedFlow(first.private, other.private, HOST, port=99) as after,
    ):
        until(lambda: before.received > 100, 5, "it arrives at the one")
        lab.cut(lost.number)
        sent, received = after.sent, after.received
        until(lambda: after.received > received + 100, DETECTED_S, "it arrives at the other")
        print(f"{(after.sent - sent) - (after.received - received)} packets lost over the cut")
        # No brake on a single one: of what it alone announces the guards are left.
        for number in (1, 4, 5, 6):
            zone = lab.zone(number)
            settle(zone.router, world.expected(zone, lost=(lost,), through=other), DETECTED_S)
        assert not ping(first.private, lost.private4, timeout=1)
    assert leaks.packets == []
    assert before.translated == after.translated == 0
    assert all(member.events("isolated") == [] for member in mesh.members.values()
               if member.zone is not lost)  # fmt: skip
    lab.heal(lost.number)
    world.settle_all()


def test_our_own_cable_pulled_removes_no_route_and_is_told(world: World) -> None:
    lab, first, member = world.mesh.lab, world.mesh.lab.zone(1), world.mesh[1]
    whole = world.expected(first)
    seen = len(member.events("isolated"))
    with lab.capture_leaks() as leaks:
        lab.cut(1)
        until(lambda: len(member.events("isolated")) > seen, DETECTED_S, "it is told")
        until(lambda: len(_failed(world)) == 5, DETECTED_S, "all are found silent")
        settle(first.router, whole)
        assert not ping(first.private, lab.zone(4).private4, timeout=1)
        # The others have lost one, and are not slowed by that.
        fourth = lab.zone(4)
        settle(fourth.router, world.expected(fourth, lost=(first,)), DETECTED_S)
        assert holdings(first.router) == whole
    assert leaks.packets == []
    assert member.json("status")["isolated"] is True
    lab.heal(1)
    world.settle_all()
    assert member.json("status")["isolated"] is False
    assert member.events("isolation-over")


def test_most_lost_at_once_are_held_and_a_live_other_origin_is_taken_at_once(
    world: World,
) -> None:
    lab, first, member = world.mesh.lab, world.mesh.lab.zone(1), world.mesh[1]
    lost = [world.active, *(lab.zone(number) for number in (4, 5, 6))]
    seen = len(member.events("isolated"))
    with lab.capture_leaks() as leaks:
        for zone in lost:
            lab.cut(zone.number)
        until(lambda: len(member.events("isolated")) > seen, DETECTED_S, "it is told")
        # Only the shared subnet has moved.
        settle(first.router, world.expected(first, through=world.standby), DETECTED_S)
        with PacedFlow(first.private, world.standby.private, HOST) as flow:
            until(lambda: flow.received > 100, 5, "it arrives at the other")
        assert (flow.lost, flow.translated) == (0, 0)
        until(lambda: len(_failed(world)) == 4, DETECTED_S, "all are found silent")
        assert holdings(first.router) == world.expected(first, through=world.standby)
    assert leaks.packets == []


def _failed(world: World) -> list[str]:
    return [peer["name"] for peer in world.mesh[1].json("peers") if peer["state"] == "failed"]
