"""What happens in a soak is drawn from its seed, and keeps to what its rules rest on."""

from __future__ import annotations

from random import Random

import pytest

from netlab import Lab
from soaking.faults import BREAKING, KINDS, PATIENCE, REST, Drawer, Fault
from soaking.world import World


def drawn(seed: int, zones: int, rounds: int) -> list[list[Fault]]:
    """Rounds of faults, each carried out in the world alone."""
    world = World.of(Lab(zones).zones)
    drawer = Drawer(world, Random(seed))
    found = []
    for number in range(rounds):
        faults = []
        for fault in drawer.round():
            _follow(world, fault, float(number))
            faults.append(fault)
            assert len(world.impaired()) <= drawer.most
        found.append(faults)
    return found


def _follow(world: World, fault: Fault, now: float) -> None:
    router = world[fault.zone]
    if fault.kind in ("stop", "kill"):
        world.end(router, {}, now)
    elif fault.kind in ("cut", "interface-down"):
        world.part(router, {}, now, down=fault.kind == "interface-down")
    elif fault.kind == "start":
        world.start(router, now)
    elif fault.kind in ("heal", "interface-up"):
        world.join(router, now)
    elif fault.kind == "announce":
        world.announce(router, fault.prefixes, 0.0)
    elif fault.kind == "withdraw":
        world.withdraw(router, fault.prefixes, 0.0)
    elif fault.kind == "foreign-add":
        router.foreign.append(fault.what)
    elif fault.kind == "foreign-remove":
        router.foreign.remove(fault.what)


@pytest.mark.parametrize("zones", [6, 16])
def test_the_same_seed_gives_the_same_faults_in_the_same_order(zones: int) -> None:
    assert drawn(5, zones, 100) == drawn(5, zones, 100)
    assert drawn(5, zones, 100) != drawn(6, zones, 100)


def test_every_kind_of_fault_comes_up() -> None:
    kinds = {fault.kind for faults in drawn(1, 16, 300) for fault in faults}
    assert kinds == set(KINDS)


def test_a_zone_has_one_fault_a_round() -> None:
    for faults in drawn(2, 16, 200):
        zones = [fault.zone for fault in faults]
        assert len(zones) == len(set(zones))


def test_a_withdrawn_subnet_is_left_alone_for_longer_than_damping_looks() -> None:
    withdrawn: dict[object, int] = {}
    again = 0
    for number, faults in enumerate(drawn(3, 6, 600)):
        for fault in faults:
            for prefix in fault.prefixes:
                if fault.kind == "announce" and prefix in withdrawn:
                    again += 1
                    assert number - withdrawn[prefix] >= REST
                elif fault.kind == "withdraw":
                    withdrawn[prefix] = number
    assert again


def test_what_was_broken_is_mended_in_time() -> None:
    world = World.of(Lab(16).zones)
    drawer = Drawer(world, Random(4))
    since: dict[int, int] = {}
    for number in range(400):
        for fault in drawer.round():
            _follow(world, fault, float(number))
            if fault.kind in BREAKING:
                since.setdefault(fault.zone, number)
            if world[fault.zone].follows:
                since.pop(fault.zone, None)
        # It may be ill in two ways, each mended in a round of its own.
        assert all(number - when <= PATIENCE + 2 for when in since.values())


def test_a_guard_is_taken_only_from_below_a_route_that_stays() -> None:
    world = World.of(Lab(8).zones)
    drawer = Drawer(world, Random(7))
    seen = 0
    for number in range(400):
        faults = list(_carried_out(drawer, world, float(number)))
        disturbed = {fault.zone for fault in faults}
        for fault in faults:
            if fault.kind == "delete-guards":
                seen += 1
                owners = {world.owner(prefix).number for prefix in fault.prefixes}
                assert not owners & disturbed
                assert all(world[owner].follows for owner in owners)
    assert seen


def _carried_out(drawer: Drawer, world: World, now: float) -> list[Fault]:
    faults = []
    for fault in drawer.round():
        _follow(world, fault, now)
        faults.append(fault)
    return faults
