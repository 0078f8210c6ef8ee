"""What the soak takes for right: the design's rules, told by hand for one router or two."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from netlab import Lab
from netlab.kernelview import Holdings, Network, expected
from soaking.world import EITHER, GUARD, ROUTE, Router, Way, World, extras

LONG = 1000.0
"""Seconds after which nothing that went before matters."""


@pytest.fixture
def world() -> World:
    return World.of(Lab(6).zones)


def way(world: World, here: int, there: int, now: float) -> object:
    """How one zone deals with the subnets of another, which are dealt with alike."""
    zone = world[there].zone
    ways = world.ways(world[here], now)
    assert ways[zone.prefix4] == ways[zone.prefix6]
    return ways[zone.prefix4]


def held(world: World, router: Router, now: float) -> Holdings:
    """What a kernel holds that does as it should, with a route wherever it may."""
    return world.wanted(router, Holdings(), now)


def test_a_mesh_without_faults_is_what_the_kernel_tests_expect() -> None:
    zones = Lab(6).zones
    world = World.of(zones)
    for zone in zones:
        assert held(world, world[zone.number], 0.0) == expected(zone, zones)


def test_a_subnet_is_everywhere_while_it_is_announced_and_nowhere_after(world: World) -> None:
    extra = extras(world[1].zone)[0]
    world.announce(world[1], [extra], 0.0)
    assert world.ways(world[2], LONG)[extra] == ROUTE
    assert str(extra) in held(world, world[1], LONG).sets["local4"]
    world.withdraw(world[1], [extra], LONG)
    assert extra not in world.ways(world[2], LONG)


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("ago", [1.0, 10.0])
@pytest.mark.parametrize("stays", [False, True])
def test_who_was_killed_may_remember_a_change_of_just_before_until_it_hears_otherwise(
    world: World, attached: bool, killed: bool, ago: float, stays: bool
) -> None:
    extra = extras(world[1].zone)[0]
    world.announce(world[1], [extra], LONG - ago)
    if not stays:
        world.withdraw(world[1], [extra], LONG - ago)
    world.end(world[3], world.ways(world[3], LONG), LONG, killed=killed)
    world.learn(world[3], Holdings(), LONG)  # its kernel has nothing of it
    if not attached:
        world.part(world[3], world.ways(world[3], LONG), LONG, down=True)
    world.start(world[3], LONG + 60)
    if attached:
        assert (extra in world.ways(world[3], LONG + 60)) == stays  # it is told
        return
    may_remember = killed and ago < 4
    ways = world.ways(world[3], LONG + 60).get(extra, frozenset({Way.ABSENT}))
    assert ways == (GUARD | {Way.ABSENT} if may_remember else {Way.ABSENT})
    for late in (1, 30):  # it has not put it there yet, and then it will not
        world.learn(world[3], Holdings(), LONG + 60 + late)
        assert (extra in world[3].ways) == (may_remember and late < 15)


def test_a_daemon_that_is_gone_keeps_its_routes_for_the_restart_window_only(world: World) -> None:
    world.end(world[3], world.ways(world[3], LONG), LONG)
    assert way(world, 1, 3, LONG + 20) == ROUTE
    assert way(world, 1, 3, LONG + 30) == EITHER  # found to be gone a moment sooner or later
    assert way(world, 1, 3, LONG + 60) == GUARD
    assert way(world, 3, 1, LONG + 60) == ROUTE  # its own kernel stays as it is
    world.start(world[3], LONG + 61)
    assert way(world, 1, 3, LONG + 61) == ROUTE


def test_a_route_that_does_not_wait_for_its_daemon_is_noticed(world: World) -> None:
    world.end(world[3], world.ways(world[3], LONG), LONG)
    gone = world[3].zone
    assert world.dropped(world[1], held(world, world[1], LONG + 5), LONG + 5) == []
    assert world.dropped(world[1], Holdings(), LONG + 5) == [str(gone.prefix4), str(gone.prefix6)]
    assert world.dropped(world[1], Holdings(), LONG + 60) == []


def test_a_host_that_is_cut_off_leaves_guards_and_may_hold_its_own_routes(world: World) -> None:
    world.part(world[3], world.ways(world[3], LONG), LONG, down=False)
    assert way(world, 1, 3, LONG) == GUARD
    assert way(world, 3, 1, LONG) == EITHER  # held, where it finds itself isolated in time
    extra = extras(world[1].zone)[0]
    world.announce(world[1], [extra], 0.0)
    assert extra not in world.ways(world[3], LONG)  # which it cannot have heard of
    world.join(world[3], LONG + 5)
    assert way(world, 1, 3, LONG + 5) == ROUTE
    assert world.ways(world[3], LONG + 5)[extra] == ROUTE


def test_an_interface_that_is_down_has_guards_alone_and_routes_again_if_a_daemon_runs(
    world: World,
) -> None:
    for number in (3, 4):
        if number == 4:
            world.end(world[4], world.ways(world[4], LONG), LONG)
        world.part(world[number], world.ways(world[number], LONG), LONG, down=True)
        assert way(world, number, 1, LONG) == GUARD
        world.join(world[number], LONG + 1)
    assert way(world, 3, 1, LONG + 2) == ROUTE
    assert way(world, 4, 1, LONG + 2) == GUARD


def test_what_is_announced_behind_a_cut_cable_is_told_when_it_is_back(world: World) -> None:
    world.part(world[2], world.ways(world[2], LONG), LONG, down=False)
    extra = extras(world[2].zone)[1]
    world.announce(world[2], [extra], 0.0)
    assert extra not in world.ways(world[1], LONG)
    world.join(world[2], LONG + 1)
    assert world.ways(world[1], LONG + 1)[extra] == ROUTE


def test_what_came_in_the_round_in_which_a_daemon_ended_may_be_there_or_not(world: World) -> None:
    before = world.ways(world[2], LONG)
    extra = extras(world[1].zone)[0]
    world.announce(world[1], [extra], 0.0)
    world.end(world[2], before, LONG)
    router = world[2]
    assert world.ways(router, LONG)[extra] == frozenset(Way)  # or half done
    zones = [each.zone for each in world.routers.values()]
    without = expected(router.zone, zones)
    for right in (without, expected(router.zone, zones, bare=[extra]),
                  expected(router.zone, zones, unreachable=[extra])):  # fmt: skip
        assert world.wanted(router, right, LONG) == right
    # What was found once is then known.
    world.learn(router, without, LONG)
    assert extra not in world.ways(router, LONG)


def test_a_guard_without_its_exclusion_is_wrong_where_nothing_was_under_way(world: World) -> None:
    router = world[2]
    world.end(router, world.ways(router, LONG), LONG)
    zones = [each.zone for each in world.routers.values()]
    gone = world[1].zone.prefix4
    assert world.ways(router, LONG)[gone] == ROUTE
    extra = extras(world[1].zone)[0]
    for wrong in (Holdings(), expected(router.zone, zones, bare=[extra])):
        assert world.wanted(router, wrong, LONG) == expected(router.zone, zones) != wrong


def test_nothing_else_than_what_is_right_is_taken_for_right(world: World) -> None:
    router = world[1]
    right = held(world, router, LONG)
    gone: Network = ip_network(str(world[2].zone.prefix4))
    zones = [each.zone for each in world.routers.values()]
    remote: list[tuple[Network, object]] = [
        (net, zone)
        for zone in zones
        for net in (zone.prefix4, zone.prefix6)
        if zone is not router.zone and net != gone
    ]
    unguarded = expected(router.zone, zones, remote=remote)  # type: ignore[arg-type]
    unrouted = expected(router.zone, zones, remote=remote, unreachable=[gone])  # type: ignore[arg-type]
    for wrong in (unguarded, unrouted, Holdings()):
        assert world.wanted(router, wrong, LONG) == right != wrong
