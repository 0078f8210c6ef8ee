"""The other modes of ``nat``: meshd as the zone's only NAT, and as the keeper of sets alone."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from netlab import EchoServer, Lab, Mesh, source_seen, until
from netlab.kernelview import Holdings, expected, foreign, holdings, settle
from netlab.lab import OUTSIDE4, OUTSIDE6

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]

MODES = ("masquerade", "set", "masquerade")
"""Of the zones in turn. Nothing else on their routers translates."""

MINE = """\
add chain inet meshd mine { type nat hook postrouting priority srcnat - 1; }
add rule inet meshd mine ip saddr @local4 ip daddr @mesh4 snat ip to ip saddr
add rule inet meshd mine ip6 saddr @local6 ip6 daddr @mesh6 snat ip6 to ip6 saddr
add table inet theirs
add chain inet theirs post { type nat hook postrouting priority srcnat; }
add rule inet theirs post oifname "net0" masquerade
"""
"""What an operator writes who has nat = "set": a chain over our sets, and a NAT elsewhere."""


@pytest.fixture(scope="module")
def mesh(shared_lab: NewLab, shared_mesh: NewMesh) -> Iterator[Mesh]:
    lab = shared_lab(3, nat=["none"])
    mesh = shared_mesh(lab)
    with ExitStack() as stack:
        mesh.config = 'nat = "masquerade"\n'
        mesh.found(1)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda number: mesh.join(number, run=None), (2, 3)))
        config = mesh[2].directory / "meshd.toml"
        config.write_text(config.read_text().replace('"masquerade"', '"set"'))
        for number in (2, 3):
            mesh[number].start()
        for zone in lab.zones:
            stack.enter_context(EchoServer(zone.private, (zone.private4, zone.private6)))
        stack.enter_context(EchoServer(lab.internet, (OUTSIDE4, OUTSIDE6)))
        mesh.converge()
        lab.router(2).run(["nft", "-f", "-"], stdin=MINE)
        for router in (lab.router(1), lab.router(2), lab.router(3)):
            router.run(["conntrack", "-F"])
        yield mesh


def test_every_mode_holds_its_table(mesh: Mesh) -> None:
    zones = mesh.lab.zones
    for zone, mode in zip(zones, MODES, strict=True):
        found = holdings(zone.router)
        if mode == "set":
            assert [part["name"] for part in found.chain if isinstance(part, dict)] == ["mine"]
            found = Holdings(found.routes, found.guards, found.sets, (), found.rest)
        assert found == expected(zone, zones, nat=mode)
        member = mesh[zone.number]
        assert member.json("status")["kernel"]["nat"] == mode
        # What it says of its table is what nft makes the same of.
        chains = [part["name"] for part in expected(zone, zones, nat=mode).chain if "name" in part]
        table = member.json("plan")["table"]
        assert re.findall(r"chain (\w+)", table) == chains
        assert f"elements = {{ {zone.prefix4} }}" in table


def test_the_mesh_sees_private_sources_and_the_outside_the_uplinks(mesh: Mesh) -> None:
    zones = mesh.lab.zones
    for near in zones:
        for far in zones:
            if near is not far:
                assert source_seen(near.private, far.private4) == near.private4
                assert source_seen(near.private, far.private6) == near.private6
        assert source_seen(near.private, OUTSIDE4) == near.uplink4.ip
        assert source_seen(near.private, OUTSIDE6) == near.uplink6.ip


def test_an_uplink_that_goes_and_comes_back_leaks_no_private_source(mesh: Mesh) -> None:
    lab = mesh.lab
    first, gateway = lab.zone(1), lab.segment
    with lab.capture_leaks() as leaks:
        first.router.configure(["link set net0 down"])
        first.router.configure(
            [
                "link set net0 up",
                f"addr replace {first.uplink6} dev net0 nodad",
                f"route replace default via {gateway.gateway4}",
                f"route replace default via {gateway.gateway6}",
            ]
        )
        assert source_seen(first.private, OUTSIDE4) == first.uplink4.ip
        assert source_seen(first.private, OUTSIDE6) == first.uplink6.ip
        settle(first.router, expected(first, lab.zones, nat="masquerade"))
    assert leaks.packets == []


def test_the_operators_chain_survives_what_happens_to_our_sets(mesh: Mesh) -> None:
    zones = mesh.lab.zones
    second = zones[1]
    whole, before = holdings(second.router), foreign(second.router)
    for deed in (
        f"delete element inet meshd mesh4 {{ {zones[0].prefix4} }}",
        "flush set inet meshd local6",
        "add element inet meshd mesh4 { 10.99.0.1-10.99.0.7 }",
    ):
        second.router.run(["nft", deed])
        settle(second.router, whole, timeout=2)
    mesh[2].stop()
    mesh[2].start()
    mesh.converge()
    assert holdings(second.router) == whole
    assert foreign(second.router) == before


def test_leaving_takes_all_but_the_operators_chain(mesh: Mesh) -> None:
    # The last in this module: the mesh is of no use to others afterwards.
    first, second, third = mesh.lab.zones
    mine = holdings(second.router).chain
    mesh[2].command("leave")
    mesh[2].exit_status()
    left = holdings(second.router)
    assert (left.routes, left.guards, left.rest) == ((), (), ())
    assert set(left.sets.values()) == {()}
    assert left.chain == mine
    second.router.run(["nft", "delete", "chain", "inet", "meshd", "mine"])
    mesh[2].command("purge")
    assert holdings(second.router) == Holdings()

    # And another mode at the next start is adopted, with all there is of the mesh.
    until(lambda: len(holdings(first.router).routes) == 2, 5, "it has heard of that")
    mesh[1].stop()
    config = mesh[1].directory / "meshd.toml"
    config.write_text(config.read_text().replace('"masquerade"', '"exempt"'))
    with mesh.lab.capture_leaks() as leaks:
        mesh[1].start()
        mesh.converge()
        settle(first.router, expected(first, (first, third)))
        assert source_seen(first.private, third.private4) == first.private4
    assert leaks.packets == []
    mesh[3].command("leave")
    mesh[3].exit_status()
    assert holdings(third.router) == Holdings()
