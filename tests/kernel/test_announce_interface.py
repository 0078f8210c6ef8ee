"""Announcing what is there: interfaces that come, change and go, and checks that gate a subnet.

One mesh of two; router 1 gets bridges, router 2 shows what reaches the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from netlab import Lab, Mesh, ping, until

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]

PUSHED_S = 5
"""A change takes milliseconds to a kernel; this is for a machine that is busy with others."""


@pytest.fixture(scope="module")
def mesh(shared_lab: NewLab, shared_mesh: NewMesh) -> Mesh:
    mesh = shared_mesh(shared_lab(2))
    mesh.grow()
    return mesh


def routed(mesh: Mesh, prefix: str) -> bool:
    """Router 2 has a route of meshd's to `prefix`."""
    family = "-6" if ":" in prefix else "-4"
    wanted = ("route", "show", prefix, "proto", "142", "metric", "142")
    return mesh.lab.router(2).ip(family, *wanted) != []


def reached(mesh: Mesh, *prefixes: str) -> None:
    until(lambda: all(routed(mesh, each) for each in prefixes), PUSHED_S, f"{prefixes} are routed")


def gone(mesh: Mesh, *prefixes: str) -> None:
    until(
        lambda: not any(routed(mesh, each) for each in prefixes), PUSHED_S, f"{prefixes} are gone"
    )


def told(mesh: Mesh, item: str) -> dict[str, Any]:
    (found,) = [each for each in mesh[1].json("status")["announce"] if each["announce"] == item]
    return dict(found)


def sets(mesh: Mesh) -> set[str]:
    """What router 1 excludes from NAT as its own."""
    found = set()
    for entry in mesh.lab.router(1).nft("list", "table", "inet", "meshd"):
        what = entry.get("set", {})
        if what.get("name", "").startswith("local"):
            found |= {f"{e['prefix']['addr']}/{e['prefix']['len']}" for e in what.get("elem", ())}
    return found


def test_the_subnets_of_an_interface_are_announced_as_they_come_and_go(mesh: Mesh) -> None:
    router = mesh.lab.router(1)
    done = mesh[1].command("announce", "interface:br7")
    assert done.stderr.strip() == (
        "left out: interface:br7: there is no interface of that name yet"
    )
    (left,) = mesh[1].events("left-out")
    assert left["announce"] == "interface:br7"
    router.configure([
        "link add br7 type bridge", "link set br7 up",
        "addr add 10.7.0.1/24 dev br7", "addr add fd00:6179:7::1/64 dev br7",
    ])  # fmt: skip
    reached(mesh, "10.7.0.0/24", "fd00:6179:7::/64")
    assert told(mesh, "interface:br7")["prefixes"] == ["10.7.0.0/24", "fd00:6179:7::/64"]
    assert ping(mesh.lab.private(2), IPv4Address("10.7.0.1"))
    assert {"10.7.0.0/24", "fd00:6179:7::/64"} < sets(mesh)
    router.configure(["addr add 10.70.0.1/24 dev br7", "addr del 10.7.0.1/24 dev br7"])
    reached(mesh, "10.70.0.0/24")
    gone(mesh, "10.7.0.0/24")
    # Down takes everything along, also what a kernel still has by name; up brings it back.
    router.configure(["link set br7 down"])
    gone(mesh, "10.70.0.0/24", "fd00:6179:7::/64")
    assert told(mesh, "interface:br7")["left_out"] == [
        {"prefix": None, "reason": "the interface is down"}
    ]
    router.configure(["link set br7 up", "addr add fd00:6179:7::1/64 dev br7"])
    reached(mesh, "10.70.0.0/24", "fd00:6179:7::/64")
    router.configure(["link del br7"])
    gone(mesh, "10.70.0.0/24", "fd00:6179:7::/64")
    mesh[1].command("withdraw", "interface:br7")
    assert not sets(mesh) & {"10.7.0.0/24", "10.70.0.0/24", "fd00:6179:7::/64"}


def test_what_an_interface_has_outlives_a_restart_of_the_daemon(mesh: Mesh) -> None:
    router = mesh.lab.router(1)
    router.configure(["link add br8 type bridge", "addr add 10.8.0.1/24 dev br8",
                      "link set br8 up"])  # fmt: skip
    mesh[1].command("announce", "interface:br8")
    reached(mesh, "10.8.0.0/24")
    assert mesh[1].stop() == 0
    mesh[1].start()
    mesh.converge()
    assert told(mesh, "interface:br8")["prefixes"] == ["10.8.0.0/24"]
    assert routed(mesh, "10.8.0.0/24")
    mesh[1].command("withdraw", "interface:br8")
    gone(mesh, "10.8.0.0/24")
    router.configure(["link del br8"])


def test_docker0_and_what_the_grant_does_not_allow_are_left_out_and_said(mesh: Mesh) -> None:
    router = mesh.lab.router(1)
    router.configure([
        "link add docker0 type bridge", "link set docker0 up",
        "addr add 172.17.0.1/16 dev docker0", "addr add 198.18.7.1/24 dev docker0",
        "addr add 10.17.0.1/24 dev docker0",
    ])  # fmt: skip
    done = mesh[1].command("announce", "interface:docker0")
    docker, grant = sorted(done.stderr.splitlines())
    assert docker == (
        "left out: 172.17.0.0/16 of interface:docker0: Docker gives docker0 such a subnet on every"
        " host by itself; name it in announce if this one is meant"
    )
    assert grant.startswith(
        "left out: 198.18.7.0/24 of interface:docker0: outside the grant of r1, which allows"
    )
    reached(mesh, "10.17.0.0/24")
    said = mesh[1].command("status").stdout
    assert "left out" in said
    assert "172.17.0.0/16 of interface:docker0: Docker gives docker0" in said
    found = {event.get("prefix") for event in mesh[1].events("left-out")}
    assert {"172.17.0.0/16", "198.18.7.0/24"} <= found
    assert not routed(mesh, "172.17.0.0/16")
    mesh[1].command("announce", "172.17.0.0/16")
    reached(mesh, "172.17.0.0/16")
    mesh[1].command("withdraw", "172.17.0.0/16", "interface:docker0")
    gone(mesh, "172.17.0.0/16", "10.17.0.0/24")
    router.configure(["link del docker0"])


def check(mesh: Mesh, table: str) -> None:
    """Reload router 1 with this at the end of its config."""
    settings = mesh[1].directory / "meshd.toml"
    own = settings.read_text().partition("\n[health")[0].rstrip()
    settings.write_text(f"{own}\n\n{table}")
    assert "health" in mesh[1].command("reload").stdout


def test_a_program_gates_an_announcement(mesh: Mesh, tmp_path: Path) -> None:
    prefix, well = str(mesh.lab.zone(1).prefix4), tmp_path / "well"
    well.touch()
    command = json.dumps(["/usr/bin/test", "-e", str(well)])
    quick = "interval = 0.2\nrise = 2\nfall = 2\n"
    check(mesh, f'[health."{prefix}"]\ncommand = {command}\n{quick}')
    try:
        until(lambda: told(mesh, prefix)["health"]["asked"] > 2, PUSHED_S, "it is asked")
        assert routed(mesh, prefix)
        well.unlink()
        gone(mesh, prefix)
        (down,) = mesh[1].events("health-down")
        assert (down["announce"], down["reason"]) == (prefix, "exit 1: withdrawn")
        assert told(mesh, prefix)["left_out"] == [{"prefix": prefix, "reason": "unhealthy: exit 1"}]
        assert routed(mesh, str(mesh.lab.zone(1).prefix6))
        well.touch()
        reached(mesh, prefix)
        (up,) = mesh[1].events("health-up")
        assert up["announce"] == prefix
    finally:
        check(mesh, "")
    assert told(mesh, prefix)["health"] is None


def test_a_check_that_is_taken_away_lets_its_prefix_go(mesh: Mesh) -> None:
    prefix = str(mesh.lab.zone(1).prefix4)
    port = 'tcp = "127.0.0.1:9"\ninterval = 0.2\n'
    check(mesh, f'[health."{prefix}"]\n{port}')
    try:
        gone(mesh, prefix)  # the first answer is enough
        assert mesh[1].events("health-down")[-1]["reason"] == "Connection refused: withdrawn"
    finally:
        check(mesh, "")
    reached(mesh, prefix)


def test_the_carrier_of_an_interface_gates_what_it_has(mesh: Mesh) -> None:
    router = mesh.lab.router(1)
    router.configure([
        "link add br9 type bridge", "addr add 10.9.0.1/24 dev br9", "link set br9 up",
        "link add far9 type veth peer name port9", "link set port9 master br9 up",
        "link set far9 up",
    ])  # fmt: skip
    check(mesh, '[health."interface:br9"]\ninterface = "br9"\ninterval = 0.1\nfall = 1\n')
    try:
        mesh[1].command("announce", "interface:br9")
        reached(mesh, "10.9.0.0/24")
        router.configure(["link set far9 down"])
        gone(mesh, "10.9.0.0/24")
        assert mesh[1].events("health-down")[-1]["reason"] == "br9 has no carrier: withdrawn"
        router.configure(["link set far9 up"])
        reached(mesh, "10.9.0.0/24")
    finally:
        mesh[1].command("withdraw", "interface:br9")
        check(mesh, "")
        router.configure(["link del far9", "link del br9"])


def test_a_program_that_hangs_blocks_nothing_and_ends_with_the_daemon(
    mesh: Mesh, tmp_path: Path
) -> None:
    prefix, pid = str(mesh.lab.zone(1).prefix4), tmp_path / "pid"
    script = tmp_path / "check"
    script.write_text(f"#!/bin/sh\necho $$ > {pid}.new && mv {pid}.new {pid}\nexec sleep 600\n")
    script.chmod(0o755)
    check(mesh, f'[health."{prefix}"]\ncommand = ["{script}"]\ntimeout = 3600\n')
    try:
        until(pid.exists, PUSHED_S, "it runs")
        mesh[1].command("announce", "10.77.0.0/24")
        reached(mesh, "10.77.0.0/24")
        mesh[1].command("withdraw", "10.77.0.0/24")
        assert routed(mesh, prefix)
        assert mesh[1].stop() == 0
        running = Path("/proc", pid.read_text().strip())
        until(lambda: not running.exists() or _is_zombie(running), PUSHED_S, "it ended")
    finally:
        if not mesh[1].running:
            mesh[1].start()
            mesh.converge()
        check(mesh, "")


def _is_zombie(process: Path) -> bool:
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
