"""Two zones that take themselves for illumos in one mesh with a Linux zone.

Their daemons run the real backend against fakes of the system's tools, by a Python without epoll.
What is shown is that: no illumos kernel had a part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
import pytest
from sunos import MixedMesh, SunosHost

from meshd.kernel.illumos import blocks
from netlab import EchoServer, Lab, Zone, ping, source_seen, until
from netlab.kernelview import expected, holdings
from netlab.lab import OUTSIDE4

NewLab = Callable[..., Lab]

WITHIN = 60
"""Seconds: each command is a Python of its own, and the machine may be busy."""


@attrs.frozen
class World:
    mesh: MixedMesh
    pooled: SunosHost
    listed: SunosHost
    linux: Zone


@pytest.fixture(scope="module")
def world(shared_lab: NewLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    lab = shared_lab(3, nat=["none", "none", "docker"])
    place = tmp_path_factory.mktemp("illumos")
    hosts = {
        number: SunosHost(lab.zone(number), place / f"zone{number}", form)
        for number, form in ((1, "ippool"), (2, "ipnat"))
    }
    directory = place / "mesh"
    directory.mkdir()
    mesh = MixedMesh(lab, directory).of(hosts)
    with mesh:
        mesh.found(1)
        mesh.join(2)
        mesh.join(3)
        mesh.converge(60)
        yield World(mesh, hosts[1], hosts[2], lab.zone(3))


def settle(world: World) -> None:
    """All agree, and every kernel holds what they agree on."""
    world.mesh.converge(60)
    for member in world.mesh.members.values():
        for other in world.mesh.lab.zones:
            member.wait("--prefix", str(other.prefix4), "--prefix", str(other.prefix6))
    # A route counts as installed when that is decided; there each takes some programs more.
    for host in (world.pooled, world.listed):
        for other in world.mesh.lab.zones:
            if other is not host.zone:
                until(
                    partial(leads_to, host, other), WITHIN, f"{host.zone.number} to {other.number}"
                )


def leads_to(host: SunosHost, other: Zone) -> bool:
    """Whether its table has the gateway routes to the other zone, and nothing beside them."""
    hops = {other.prefix4: other.uplink4.ip, other.prefix6: other.uplink6.ip}
    return all(host.leads(prefix) == {str(hop)} for prefix, hop in hops.items())


def test_private_hosts_reach_one_another_from_their_own_addresses(world: World) -> None:
    settle(world)
    zones = [world.pooled.zone, world.listed.zone, world.linux]
    for far in zones:
        with EchoServer(far.private, (far.private4, far.private6)):
            for near in zones:
                if near is not far:
                    assert source_seen(near.private, far.private4) == near.private4
                    assert source_seen(near.private, far.private6) == near.private6
                    assert ping(near.private, far.private4)


def test_the_mesh_would_not_be_translated_there_and_the_rest_would(world: World) -> None:
    for host in (world.pooled, world.listed):
        others = [zone for zone in world.mesh.lab.zones if zone is not host.zone]
        for other in others:
            assert host.translated(other.private4) == host.zone.private4
        assert host.translated(OUTSIDE4) == host.zone.uplink4.ip


def test_the_linux_zone_has_what_it_has_among_its_own(world: World) -> None:
    settle(world)
    assert holdings(world.linux.router) == expected(world.linux, world.mesh.lab.zones)


def test_the_files_for_the_next_boot_say_the_same(world: World) -> None:
    near = str(world.listed.zone.prefix4)
    marker, *pooled, end = (world.pooled.files / "ippool.conf").read_text().splitlines()
    assert (marker.startswith(blocks.BEGIN), end) == (True, blocks.END)
    assert f"{near};" in pooled[1]
    marker, *listed, end = (world.listed.files / "ipnat.conf").read_text().splitlines()
    assert (marker.startswith(blocks.BEGIN), end) == (True, blocks.END)
    assert f"from {near} to {world.pooled.zone.prefix4} -> 0/0" in listed[0]
    assert "portmap tcp/udp auto" in listed[-2]


def test_status_and_routes_are_as_anywhere(world: World) -> None:
    member = world.mesh[1]
    status = member.json("status")
    assert status["kernel"] == status["kernel"] | {
        "backend": "illumos",
        "in_sync": True,
        "error": None,
    }
    assert {row["state"] for row in member.json("routes")} == {"installed"}
    assert member.json("plan")["steps"] == []


def test_only_what_is_allowed_was_ever_run(world: World) -> None:
    for host in (world.pooled, world.listed):
        commands = host.commands()
        assert {tool for tool, *_ in commands} <= {
            *("route", "netstat", "ifconfig", "ippool", "ipnat", "ipfstat", "look"),
        }
        words = {word for _, *rest in commands for word in rest}
        assert not words & {"-p", "-F", "-Fa", "-C", "-CF"}


def test_a_route_that_somebody_deletes_is_back_and_that_is_told(world: World) -> None:
    far = world.linux.prefix4
    gateway = str(world.linux.uplink4.ip)
    for host, number in ((world.pooled, 1), (world.listed, 2)):
        host.run("route", "-n", "delete", str(far), gateway)
        until(lambda host=host: host.leads(far) == {gateway}, WITHIN, "the route is back")  # type: ignore[misc]
        until(lambda number=number: world.mesh[number].events("kernel-repaired"), WITHIN, "told")  # type: ignore[misc]


def test_a_daemon_that_is_killed_leaves_all_and_the_next_one_takes_it_over(world: World) -> None:
    member, host = world.mesh[2], world.listed
    member.kill()
    before = {str(zone.prefix4): host.leads(zone.prefix4) for zone in world.mesh.lab.zones}
    assert ping(host.zone.private, world.linux.private4)
    member.start()
    settle(world)
    after = {str(zone.prefix4): host.leads(zone.prefix4) for zone in world.mesh.lab.zones}
    assert after == before
    assert host.translated(world.linux.private4) == host.zone.private4


def test_who_leaves_is_forgotten_and_who_comes_back_is_there_again(world: World) -> None:
    leaver, far = world.mesh[3], world.linux.prefix4
    leaver.command("leave")
    leaver.exit_status()
    for host in (world.pooled, world.listed):
        until(lambda host=host: host.leads(far) == set(), WITHIN, "the routes are gone")  # type: ignore[misc]
        until(
            lambda host=host: host.translated(world.linux.private4) == host.zone.uplink4.ip,  # type: ignore[misc]
            WITHIN,
            "what goes there is translated",
        )
    leaver.start()
    settle(world)
    assert world.pooled.translated(world.linux.private4) == world.pooled.zone.private4


def test_leaving_takes_everything_of_ours_away(world: World, tmp_path: Path) -> None:
    """Comes last: the first two zones are no members any more."""
    del tmp_path
    for number, host in ((1, world.pooled), (2, world.listed)):
        world.mesh[number].command("leave")
        world.mesh[number].exit_status()
        with host.machine() as machine:
            assert [each["dest"] for each in machine.routes] == ["0.0.0.0/0"]
            assert all(pool["nodes"] == [] for pool in machine.pools)
            ours = [rule for rule in machine.nat if not rule["tag"]]
            assert ours == []
        assert list(host.files.iterdir()) == []
        assert "nothing of ours" in world.mesh[number].command("purge").stdout
