"""What happens to a router's kernel beside meshd: put right at once, and told with who it was.

One mesh for the module. Each test leaves it as it found it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Interface
from typing import Any

import attrs
import pytest

from netlab import CommandError, EchoServer, Lab, Mesh, source_seen, until
from netlab.kernelview import Deletions, Holdings, expected, holdings, settle
from netlab.traffic import Address

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]

SOON_S = 3
"""A repair takes less than one; this is for a machine that is busy with others."""


@pytest.fixture(scope="module")
def mesh(shared_lab: NewLab, shared_mesh: NewMesh) -> Mesh:
    mesh = shared_mesh(shared_lab(3, nat=["none", "docker", "none"]))
    mesh.grow()
    for zone in mesh.lab.zones:
        settle(zone.router, expected(zone, mesh.lab.zones))
    return mesh


FORGOTTEN_S = 0.6
"""The next look, half a second later at most, takes the notices of a deed that came late."""


def told_after(mesh: Mesh, deed: Callable[[], object], event: str = "kernel-repaired") -> Any:
    """The event that the first router logs of `deed`, once its kernel is right again."""
    wanted = expected(mesh.lab.zone(1), mesh.lab.zones)
    before = len(mesh[1].events(event))
    deed()
    settle(mesh.lab.router(1), wanted, SOON_S)
    until(lambda: len(mesh[1].events(event)) > before, SOON_S, "it is told")
    time.sleep(FORGOTTEN_S)
    return mesh[1].events(event)[before]


def by_hand(mesh: Mesh, command: str) -> Callable[[], object]:
    return lambda: mesh.lab.router(1).run(["sh", "-c", command])


@pytest.mark.parametrize(
    ("command", "found", "by"),
    [
        ("ip route del {far4} metric 142", "route {far4} was gone", "ip"),
        ("ip -6 route del {far6} metric 142", "route {far6} was gone", "ip"),
        ("ip route del unreachable {far4} metric 4294967294", "guard {far4} was gone", "ip"),
        ("ip route change {far4} via 192.0.2.3 proto 142 metric 142",
         "route {far4} led via 192.0.2.3 dev net0", "ip"),
        ("nft delete element inet meshd mesh4 {{ {far4} }}",
         "{far4} was gone from set mesh4", "nft"),
        ("nft add element inet meshd local4 {{ 10.9.0.0/24 }}",
         "10.9.0.0/24 was in set local4", "nft"),
        ("nft flush chain inet meshd exempt", "the rules of chain exempt are not meshd's", "nft"),
        ("nft delete table inet meshd", "table inet meshd was gone", "nft"),
        ("nft flush ruleset", "table inet meshd was gone", "nft"),
    ],
)  # fmt: skip
def test_what_was_found_and_who_did_it_is_told(
    mesh: Mesh, command: str, found: str, by: str
) -> None:
    far = mesh.lab.zone(2)
    nets = {"far4": far.prefix4, "far6": far.prefix6}
    event = told_after(mesh, by_hand(mesh, command.format(**nets)))
    assert event["found"] == [found.format(**nets)]
    (suspect,) = event["by"]
    if by == "nft":
        assert re.match(r"nft \(pid \d+[:)]", suspect)
    else:
        # A process as short as this has often ended before it can be looked at.
        assert re.match(r"((perhaps )?ip|a process that has ended) \(pid \d+[:)]", suspect)


def test_a_program_that_stays_is_named_with_its_command(mesh: Mesh) -> None:
    far = mesh.lab.zone(2)

    command = ["ip", "-batch", "-"]
    process = mesh.lab.router(1).popen(command, stdin=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None
        line = f"route del {far.prefix4} metric 142\n"
        process.stdin.write(line)
        event = told_after(mesh, process.stdin.flush)
        assert event["by"] == [f"ip (pid {process.pid}: ip -batch -)"]
    finally:
        process.communicate(timeout=5)
    counted = mesh[1].json("status")["kernel"]["repairs"]
    assert counted["by"]["ip"] >= 1
    assert counted["total"] >= counted["by"]["ip"]


def test_a_script_that_deletes_a_route_without_end_is_repaired_without_end_and_told_at_times(
    mesh: Mesh,
) -> None:
    first, second, _ = mesh.lab.zones
    deleting = f"""
import subprocess, time
end = time.monotonic() + 1.5
while time.monotonic() < end:
    subprocess.run("ip route del {second.prefix4} metric 142".split(), stderr=subprocess.DEVNULL)
    time.sleep(0.005)
"""
    before = len(mesh[1].events("kernel-repaired"))
    total = mesh[1].json("status")["kernel"]["repairs"]["total"]
    first.router.run([sys.executable, "-c", deleting])
    settle(first.router, expected(first, mesh.lab.zones), SOON_S)
    repaired = mesh[1].json("status")["kernel"]["repairs"]["total"] - total
    told = len(mesh[1].events("kernel-repaired")) - before
    print(f"repairs: {repaired}, told: {told}")
    assert repaired >= 2
    assert told <= repaired
    assert mesh[1].events("kernel-error") == []


def test_an_interface_that_goes_down_and_up_is_told_as_the_reason(mesh: Mesh) -> None:
    first = mesh.lab.zone(1)
    wanted = expected(first, mesh.lab.zones)
    first.router.configure(["link set net0 down"])
    # What leads nowhere is not wanted: the guards stay.
    settle(first.router, attrs.evolve(wanted, routes=()), SOON_S)
    event = told_after(
        mesh,
        lambda: first.router.configure(
            ["link set net0 up", f"addr replace {first.uplink6} dev net0 nodad"]
        ),
        "kernel-changed",
    )
    assert any("net0" in each for each in event["after"])


def test_an_interface_that_flaps_faster_than_it_is_looked_at_is_repaired(mesh: Mesh) -> None:
    first = mesh.lab.zone(1)
    wanted = expected(first, mesh.lab.zones)
    first.router.configure(
        [
            *["link set net0 down", "link set net0 up"] * 5,
            f"addr replace {first.uplink6} dev net0 nodad",
        ]
    )
    took = settle(first.router, wanted, SOON_S)
    print(f"routes back {took:.3f} s after the flap")


def test_another_address_on_the_private_side_is_the_preferred_source_at_once(mesh: Mesh) -> None:
    first = mesh.lab.zone(1)
    wanted = expected(first, mesh.lab.zones)
    other = first.prefix4[9]
    # With the address the kernel drops all routes that prefer it, without a word.
    first.router.configure(
        [f"addr del {first.router4}/24 dev lan0", f"addr add {other}/24 dev lan0"]
    )
    took = settle(first.router, _with_source(wanted, first.router4, other), SOON_S)
    print(f"preferred source right after {took:.3f} s")
    first.router.configure(
        [f"addr del {other}/24 dev lan0", f"addr add {first.router4}/24 dev lan0"]
    )
    settle(first.router, wanted, SOON_S)


def _with_source(wanted: Holdings, old: Address, new: Address) -> Holdings:
    routes = [
        attrs.evolve(route, source=str(new)) if route.source == str(old) else route
        for route in wanted.routes
    ]
    return attrs.evolve(wanted, routes=tuple(sorted(routes, key=str)))


def test_another_address_on_the_uplink_is_everybodys_next_hop_at_once(mesh: Mesh) -> None:
    lab = mesh.lab
    first = lab.zone(1)
    moved = attrs.evolve(first, uplink4=IPv4Interface("192.0.2.101/24"))
    for here, there in ((first, moved), (moved, first)):
        first.router.configure(
            [
                f"addr del {here.uplink4} dev net0",
                f"addr add {there.uplink4} dev net0",
                f"route add default via {lab.segment.gateway4}",
            ]
        )
        zones = (there, *lab.zones[1:])
        for zone in zones:
            took = settle(zone.router, expected(zone, zones), SOON_S)
            print(f"{zone.router.name}: {took:.3f} s")
        with EchoServer(first.private, (first.private4,)):
            assert source_seen(lab.private(2), first.private4) == lab.zone(2).private4


def test_a_next_hop_that_moves_to_another_interface_takes_its_routes_along(mesh: Mesh) -> None:
    lab = mesh.lab
    first = lab.zone(1)
    wanted = expected(first, lab.zones)
    bridged = [attrs.evolve(route, device="br9") for route in wanted.routes]
    addresses = (first.uplink4, f"{first.uplink6} nodad")
    gateways = (lab.segment.gateway4, lab.segment.gateway6)
    first.router.configure(["link add br9 type bridge mcast_snooping 0", "link set br9 up"])
    try:
        for old, new, port in (("net0", "br9", "master br9"), ("br9", "net0", "nomaster")):
            first.router.configure(
                [
                    *(f"addr del {each} dev {old}".replace(" nodad", "") for each in addresses),
                    f"link set net0 {port}",
                    *(f"addr add {each} dev {new}" for each in addresses),
                    *(f"route replace default via {each}" for each in gateways),
                ]
            )
            there = attrs.evolve(wanted, routes=tuple(sorted(bridged, key=str)))
            took = settle(first.router, there if new == "br9" else wanted, SOON_S)
            print(f"next hops at {new} after {took:.3f} s")
            with EchoServer(lab.private(2), (lab.zone(2).private4,)):
                assert source_seen(first.private, lab.zone(2).private4) == first.private4
    finally:
        with suppress(CommandError):
            first.router.configure(["link del br9"])


def test_a_foreign_flap_of_thousands_of_routes_is_no_reason_to_look(mesh: Mesh) -> None:
    first = mesh.lab.zone(1)
    gateway = mesh.lab.segment.gateway4
    # 8.0.0.0/11 and on: in nobody's way. The last of them covers a subnet of the mesh.
    apart = [f"8.{n >> 8}.{n & 255}.0/24" for n in range(5000)]
    busy = _processor_time(mesh)
    with Deletions(first.router) as watch:
        for verb in ("add", "del"):
            first.router.configure([f"route {verb} {net} via {gateway}" for net in apart])
    print(f"10,000 foreign notices cost {_processor_time(mesh) - busy:.2f} s of processor time")
    assert len(watch.seen) >= 5000
    # The control: one in our way is noticed, and shows.
    over = str(mesh.lab.zone(2).prefix4)
    first.router.configure([f"route add {over} via {gateway} metric 7"])

    def state() -> str:
        rows = mesh[1].json("routes")
        return next(str(row["state"]) for row in rows if row["prefix"] == over)

    until(lambda: state() == "shadowed", SOON_S, "it is seen")
    first.router.configure([f"route del {over} via {gateway} metric 7"])
    until(lambda: state() == "installed", SOON_S, "and that it has gone")


def _processor_time(mesh: Mesh) -> float:
    process = mesh[1].process
    assert process is not None
    time.sleep(0.2)
    with open(f"/proc/{process.pid}/stat", encoding="utf-8") as stat:
        words = stat.read().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


def test_all_of_it_left_the_mesh_as_it_was(mesh: Mesh) -> None:
    for zone in mesh.lab.zones:
        assert holdings(zone.router) == expected(zone, mesh.lab.zones)
    for member in mesh.members.values():
        assert member.events("peer-failed", "warning") == []
