"""A mesh that nobody disturbs: every kernel holds exactly what it should, and traffic crosses.

Nothing here changes the mesh, so all tests of one size share it; the last lets one daemon die.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import attrs
import pytest
from sealed import SealedCounters

from netlab import EchoServer, Lab, Mesh, ping, source_seen, until
from netlab.kernelview import Holdings, expected, foreign, holdings

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]


@attrs.frozen
class Grown:
    """A mesh that has converged, and what the routers' kernels held before there was one."""

    mesh: Mesh
    before: dict[int, str]
    empty: dict[int, Holdings]

    @property
    def lab(self) -> Lab:
        return self.mesh.lab


@pytest.fixture(scope="module", params=[3, 16])
def grown(request: pytest.FixtureRequest, shared_lab: NewLab, shared_mesh: NewMesh) -> Grown:
    lab = shared_lab(request.param)
    before = {zone.number: foreign(zone.router) for zone in lab.zones}
    empty = {zone.number: holdings(zone.router) for zone in lab.zones}
    mesh = shared_mesh(lab)
    mesh.grow(timeout=60)
    return Grown(mesh, before, empty)


def test_zones_that_know_one_seed_converge_on_one_table(grown: Grown) -> None:
    count = len(grown.lab.zones)
    states = [member.json("status") for member in grown.mesh.members.values()]
    assert [state["converged"] for state in states] == [True] * count
    assert len({state["root"] for state in states}) == 1
    for number, member in grown.mesh.members.items():
        if number != 1:
            config = (member.directory / "meshd.toml").read_text()
            (seeds,) = [line for line in config.splitlines() if line.startswith("seeds")]
            zone = grown.lab.zone(1)
            assert {str(zone.uplink4.ip), str(zone.uplink6.ip)} == {
                seed.rpartition(":")[0].strip("[]") for seed in seeds.split('"')[1::2]
            }
        last = member.events("converged")[-1]
        assert last["peers"] == f"{count - 1}/{count - 1}"
        assert last["prefixes"] == 2 * count


def test_every_kernel_holds_exactly_the_routes_guards_and_sets_of_the_mesh(grown: Grown) -> None:
    for zone in grown.lab.zones:
        assert grown.empty[zone.number] == Holdings()
        assert holdings(zone.router) == expected(zone, grown.lab.zones), zone.router.name


def test_what_was_there_before_is_untouched(grown: Grown) -> None:
    for zone in grown.lab.zones:
        assert grown.before[zone.number] == foreign(zone.router), zone.router.name


def test_every_private_zone_reaches_every_other_as_itself(grown: Grown) -> None:
    zones = grown.lab.zones
    with ExitStack() as stack:
        for zone in zones:
            stack.enter_context(EchoServer(zone.private, (zone.private4, zone.private6)))
        wrong = {
            (str(source), str(target)): str(seen)
            for here in zones
            for there in zones
            if here is not there
            for source, target in (
                (here.private4, there.private4),
                (here.private6, there.private6),
            )
            if (seen := source_seen(here.private, target)) != source
        }
    assert wrong == {}


def test_pings_cross_in_both_families(grown: Grown) -> None:
    first, last = grown.lab.zones[0], grown.lab.zones[-1]
    for here, there in ((first, last), (last, first)):
        assert ping(here.private, there.private4)
        assert ping(here.private, there.private6)


def test_nothing_was_wrong_on_the_way(grown: Grown) -> None:
    for member in grown.mesh.members.values():
        bad = member.events("error", "warning", "kernel-error", "kernel-repaired", "peer-failed")
        assert bad == [], member.name


@pytest.mark.parametrize("grown", [16], indirect=True)
def test_a_dead_peer_among_16_costs_no_datagram_to_the_others(grown: Grown) -> None:
    mesh, last = grown.mesh, grown.mesh[len(grown.lab.zones)]
    others = [member for member in mesh.members.values() if member is not last]
    with SealedCounters(grown.lab.switch) as passed:
        last.kill()
        try:
            for member in others:
                until(lambda who=member: who.events("peer-failed"), 20, "it is found")  # type: ignore[misc]
            began = time.monotonic()  # its host goes on to refuse who looks for it
            until(lambda: time.monotonic() > began + 1, 5, "they have gone on for a while")
            met = [member.json("status")["counters"] for member in others]
        finally:
            last.start()
    mesh.converge()
    # The control: errors there were, of a kind that the next send to anybody reports.
    assert sum(
        count for counters in met for name, count in counters.items() if "ECONNREFUSED" in name
    ) >= len(others)
    assert passed.gaps() == {}
    # The other control: most of those that were left have been heard to speak to each other.
    assert len(passed.seen) > len(others) * (len(others) - 1) / 2
