"""The tunnel in every backend, by one contract: in memory as on a real kernel.

As in ``test_backends``, the Linux backend has a network namespace of its own. It knows our device
by name, kind and alias; what it makes is read back with its own reader here, and with ``ip`` and
``bridge`` in ``kernel/test_tunnel_device``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from typing import Any, Protocol

import attrs
import pytest
import trio
from ownnamespace import own_namespace, run

from meshd.kernel.linux import Linux
from meshd.kernel.memory import Memory
from meshd.kernel.plan import AddRoute, RemoveRoute, diff
from meshd.kernel.port import Backend, Change
from meshd.kernel.state import Interface, KernelState, NextHop, NextHops
from meshd.kernel.tunnel import (
    DEVICE,
    AddDevice,
    AddForward,
    AddNeighbour,
    Device,
    Forward,
    RemoveDevice,
    Tunnel,
)
from protocol.address import Prefix

UPLINK = Interface("net0", 2, True, (ip_interface("192.0.2.1/24"), ip_interface("2001:db8::1/64")))
FOUR, SIX = Prefix.parse("10.2.0.0/24"), Prefix.parse("fd02::/64")
FAR, NEXT = ip_address("198.51.100.2"), ip_address("fe80::2")
MINE, THEIRS, OTHERS = (bytes([2, 0, 0, 0, 0, n]) for n in (1, 2, 3))
DEVICE_OF_OURS = Device(77, 6180, ip_address("192.0.2.1"), MINE, 1450)
JOINED = KernelState(
    routes={
        FOUR: NextHops((NextHop(FAR, DEVICE, onlink=True),)),
        SIX: NextHops((NextHop(NEXT, DEVICE),)),
    },
    guards=frozenset({FOUR, SIX}),
    local=frozenset({Prefix.parse("10.1.0.0/24"), Prefix.parse("fd01::/64")}),
    mesh=frozenset({FOUR, SIX}),
    tunnel=Tunnel(
        DEVICE_OF_OURS, {FAR: THEIRS, NEXT: THEIRS}, frozenset({Forward(THEIRS, FAR, 6180)})
    ),
    admitted=frozenset({Prefix.parse("198.51.100.2/32")}),
)
LONE = attrs.evolve(
    JOINED,
    routes={},
    guards=frozenset(),
    mesh=frozenset(),
    tunnel=Tunnel(DEVICE_OF_OURS),
    admitted=frozenset(),
)


class World(Protocol):
    """A backend, and the hands of others on the kernel behind it."""

    backend: Backend

    def delete_device(self) -> None: ...
    def take_down(self) -> None: ...
    def change_device(self) -> None: ...
    def delete_entries(self) -> None: ...
    def put_in_the_way(self) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.memory = Memory([UPLINK], tunnel_port=6180)
        self.backend: Backend = self.memory

    @property
    def tunnel(self) -> Tunnel:
        found = self.memory.read().state.tunnel
        assert found is not None
        return found

    def delete_device(self) -> None:
        self.memory.set_tunnel(None)

    def take_down(self) -> None:
        device = attrs.evolve(self.tunnel.device, up=False)
        self.memory.set_tunnel(attrs.evolve(self.tunnel, device=device))

    def change_device(self) -> None:
        device = attrs.evolve(self.tunnel.device, hardware=OTHERS, mtu=1280)
        self.memory.set_tunnel(Tunnel(device, {}, self.tunnel.forwarding))

    def delete_entries(self) -> None:
        self.memory.set_tunnel(Tunnel(self.tunnel.device))

    def put_in_the_way(self) -> None:
        self.memory.set_interface(Interface(DEVICE, 9, True))


class OnLinux:
    def __init__(self) -> None:
        self.backend: Backend = Linux(tunnel_port=6180)

    def delete_device(self) -> None:
        run("ip link del meshd0")

    def take_down(self) -> None:
        run("ip link set meshd0 down")

    def change_device(self) -> None:
        run("ip link set meshd0 address 02:00:00:00:00:03 mtu 1280")

    def delete_entries(self) -> None:
        run("ip neigh del 198.51.100.2 dev meshd0")
        run("ip neigh del fe80::2 dev meshd0")
        run("bridge fdb del 02:00:00:00:00:02 dev meshd0 dst 198.51.100.2")

    def put_in_the_way(self) -> None:
        run("ip link add meshd0 type bridge")


@pytest.fixture(params=["memory", "linux"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "memory":
        yield InMemory()
        return
    if os.geteuid() != 0:
        pytest.skip("needs root for a network namespace")
    with own_namespace():
        run("ip link set lo up")
        run("ip link add net0 type veth peer name far0")
        for device in ("far0", "net0"):
            run(f"ip link set {device} addrgenmode none up")
        run("ip addr add 192.0.2.1/24 dev net0")
        run("ip addr add 2001:db8::1/64 dev net0 nodad")
        made = OnLinux()
        yield made
        made.backend.close()


def reach(world: World, desired: KernelState) -> None:
    assert world.backend.apply(diff(desired, world.backend.read())) == []
    reading = world.backend.read()
    assert reading.state == desired
    assert not diff(desired, reading)


def test_a_tunnel_and_who_is_behind_it_are_read_back_as_written(world: World) -> None:
    reach(world, LONE)
    reach(world, JOINED)


def test_what_is_behind_it_goes_again_and_then_the_tunnel(world: World) -> None:
    reach(world, JOINED)
    reach(world, LONE)
    reach(world, KernelState())
    assert all(each.name != DEVICE for each in world.backend.read().host.interfaces)


def test_another_endpoint_or_port_of_a_member_replaces_its_entry(world: World) -> None:
    reach(world, JOINED)
    for forward in (Forward(THEIRS, ip_address("198.51.100.3"), 6180), Forward(THEIRS, FAR, 7000)):
        assert JOINED.tunnel is not None
        moved = attrs.evolve(JOINED.tunnel, forwarding=frozenset({forward}))
        desired = attrs.evolve(JOINED, tunnel=moved)
        assert [str(s) for s in diff(desired, world.backend.read())] == [str(AddForward(forward))]
        reach(world, desired)


@pytest.mark.parametrize(
    "change",
    [{"identifier": 78}, {"port": 6181}, {"local": ip_address("2001:db8::1")}],
    ids=["vni", "port", "local"],
)
def test_what_cannot_be_changed_in_place_makes_another_device(
    world: World, change: dict[str, Any]
) -> None:
    reach(world, JOINED)
    assert JOINED.tunnel is not None
    device = attrs.evolve(DEVICE_OF_OURS, **change)
    forward = Forward(THEIRS, ip_address("2001:db8:9::2") if device.local.version == 6 else FAR, 1)
    made = Tunnel(device, JOINED.tunnel.neighbours, frozenset({forward}))
    desired = attrs.evolve(JOINED, tunnel=made)
    plan = list(map(type, diff(desired, world.backend.read())))
    # The routes go first and come last: meanwhile the guards have their traffic.
    assert plan[0] is RemoveRoute
    assert plan.index(RemoveDevice) < plan.index(AddDevice) < plan.index(AddNeighbour)
    assert plan.index(AddForward) < plan.index(AddRoute)
    reach(world, desired)


def test_what_somebody_changed_is_given_back(world: World) -> None:
    reach(world, JOINED)
    for hand in (world.change_device, world.take_down, world.delete_entries, world.delete_device):
        hand()
        reading = world.backend.read()
        assert reading.state.guards == JOINED.guards
        assert reading.state != JOINED
        reach(world, JOINED)


def test_an_entry_that_nobody_wants_goes(world: World) -> None:
    assert JOINED.tunnel is not None
    more = Tunnel(
        DEVICE_OF_OURS,
        {**JOINED.tunnel.neighbours, ip_address("198.51.100.9"): OTHERS},
        JOINED.tunnel.forwarding | {Forward(OTHERS, ip_address("198.51.100.9"), 1)},
    )
    reach(world, attrs.evolve(JOINED, tunnel=more))
    reach(world, JOINED)


def test_the_mtu_follows_in_place(world: World) -> None:
    reach(world, JOINED)
    assert JOINED.tunnel is not None
    smaller = attrs.evolve(JOINED.tunnel, device=attrs.evolve(DEVICE_OF_OURS, mtu=1350))
    desired = attrs.evolve(JOINED, tunnel=smaller)
    assert len(diff(desired, world.backend.read())) == 1
    reach(world, desired)


def test_a_foreign_device_of_that_name_is_named_and_nothing_of_it_touched(world: World) -> None:
    world.put_in_the_way()
    before = world.backend.read()
    failures = world.backend.apply(diff(JOINED, before))
    (refused,) = [each.reason for each in failures if isinstance(each.step, AddDevice)]
    assert "not ours is called meshd0" in refused
    assert "ip link set meshd0 name OTHER" in refused
    # Neither entries nor routes are put where the device is another's; the guards stand.
    after = world.backend.read()
    assert after.state.guards == JOINED.guards
    assert after.state.routes == {}
    assert after.state.tunnel is None
    reasons = {each.reason for each in failures if isinstance(each.step, AddRoute | AddNeighbour)}
    assert reasons == {f"not done, because {refused}"}
    world.backend.purge()
    assert any(each.name == DEVICE for each in world.backend.read().host.interfaces)


def test_a_forwarding_entry_of_the_other_family_is_refused(world: World) -> None:
    reach(world, LONE)
    forward = Forward(THEIRS, ip_address("2001:db8:9::2"), 6180)
    tunnel = Tunnel(DEVICE_OF_OURS, {FAR: THEIRS}, frozenset({forward}))
    failures = world.backend.apply(diff(attrs.evolve(LONE, tunnel=tunnel), world.backend.read()))
    assert [(type(each.step), each.reason) for each in failures] == [
        (AddForward, "Address family not supported by protocol")
    ]


def test_purge_takes_the_tunnel_along(world: World) -> None:
    reach(world, JOINED)
    done = world.backend.purge()
    assert "ip link del meshd0" in done
    assert world.backend.read().state == KernelState()


async def test_what_others_do_to_the_tunnel_is_told_and_own_entries_are_not(world: World) -> None:
    async with world.backend.changes(lambda *_: True) as changes:
        await trio.to_thread.run_sync(reach, world, JOINED)
        # Links and addresses, unlike routes and entries, do not tell who changed them.
        own = await _heard(changes)
        assert [what for what in own if not what.startswith(("link ", "address "))] == []
        for hand in (world.delete_entries, world.delete_device):
            hand()
            assert any(DEVICE in what for what in await _heard(changes))
            await trio.to_thread.run_sync(reach, world, JOINED)
            await _heard(changes)


async def _heard(changes: trio.MemoryReceiveChannel[Change]) -> list[str]:
    """All that is told until nothing is for a moment."""
    told: list[str] = []
    while True:
        with trio.move_on_after(0.2):
            told.append((await changes.receive()).what)
            continue
        return told
