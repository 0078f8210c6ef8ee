"""docs/illumos.md shows what is really written."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

from zonebox import Zone, ZoneRunner

from meshd.kernel.illumos import pool
from meshd.kernel.illumos.backend import Illumos
from meshd.kernel.illumos.options import Options
from meshd.kernel.plan import diff
from meshd.kernel.state import KernelState, NextHops
from protocol.address import Prefix

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs/illumos.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", DOCS, re.DOTALL)


def joined(number: int, directory: Path) -> Zone:
    """Router zone ``number`` of the walk-through, when all three have met."""
    own = Prefix.parse(f"10.{number}.0.0/24")
    zone = Zone({"znic0": (f"192.0.2.{number}/24",), "zrstub0": (f"10.{number}.0.1/24",)})
    zone.do("route -n add default 192.0.2.254")
    if number == 2:
        zone.do("ippool -A -m 13 -t tree")
        zone.do("ipf -f -", "\n".join(pool.filter_lines("znic0", own, 13, "inet")))
        zone.do("ipnat -f -", "\n".join(pool.map_lines("znic0", own, "inet")))
    else:
        zap = f"map znic0 {own} -> 0/32 portmap tcp/udp auto\nmap znic0 {own} -> 0/32\n"
        (directory / "ipnat.conf").write_text(zap)
    options = Options(interface="znic0" if number != 2 else "", files=str(directory))
    backend = Illumos("auto" if number == 2 else "ipnat", options, directory, ZoneRunner(zone))
    others: dict[Prefix, int] = {
        Prefix.parse(f"10.{each}.0.0/24"): each for each in (1, 2, 3) if each != number
    }
    source = ip_address(f"10.{number}.0.1")
    routes = {
        prefix: NextHops.via(ip_address(f"192.0.2.{each}"), "znic0", source)
        for prefix, each in others.items()
    }
    nets = frozenset(others)
    wanted = KernelState(routes, nets, frozenset({own}), nets)
    assert backend.apply(diff(wanted, backend.read())) == []
    return zone


def test_the_files_and_routes_of_the_walk_through_are_those_that_are_written(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "r1", tmp_path / "r2"
    first.mkdir()
    second.mkdir()
    zone = joined(1, first)
    joined(2, second)
    for directory, name in ((first, "ipnat.conf"), (second, "ippool.conf")):
        held = (directory / name).read_text().replace(str(directory), "/var/meshd/state")
        assert held in BLOCKS
    listed = zone.do("netstat -rnv -f inet").splitlines(keepends=True)
    mesh = [line for line in listed if line.startswith(("10.2.", "10.3."))]
    assert "".join(mesh) in BLOCKS


def test_the_operators_lines_in_it_are_those_that_are_looked_for() -> None:
    own = Prefix.parse("10.2.0.0/24")
    for line in (
        *pool.filter_lines("znic0", own, 13, "inet"),
        *pool.map_lines("znic0", own, "inet"),
    ):
        assert f"\n{line}\n" in DOCS


def test_it_says_that_nothing_has_run_there() -> None:
    assert "**Nothing of ours has ever run on an illumos kernel.**" in DOCS
