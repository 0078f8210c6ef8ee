"""One contract for every backend: what holds in memory holds on a real kernel.

The Linux backend gets a network namespace of its own, made for the thread of the test and
gone with it.  The hands of others are ``ip`` and ``nft`` there, methods in memory, and the system's
tools on illumos, where they are fakes (tests/illumos says what else holds of it).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_interface
from pathlib import Path
from random import Random
from typing import Final, Protocol

import attrs
import pytest
import trio
from ownnamespace import own_namespace, run
from zonebox import Zone, ZoneRunner

from meshd.kernel.illumos import pool
from meshd.kernel.illumos.backend import Illumos
from meshd.kernel.illumos.options import Options
from meshd.kernel.knowledge import after
from meshd.kernel.linux import Linux
from meshd.kernel.memory import Memory
from meshd.kernel.plan import AddElement, AddGuard, AddRoute, Plan, RemoveElement, RemoveRoute, diff
from meshd.kernel.port import Backend, Change
from meshd.kernel.state import (
    ForeignRoute,
    Interface,
    KernelState,
    NextHop,
    NextHops,
    Reading,
)
from netlab import until
from protocol.address import Prefix

NET0 = Interface("net0", 2, True, (ip_interface("192.0.2.1/24"), ip_interface("2001:db8::1/64")))
NET1 = Interface("net1", 3, True, (ip_interface("192.0.3.1/24"), ip_interface("2001:db8:1::1/64")))


@attrs.frozen
class Words:
    """What a backend calls things."""

    occupied: str = "a foreign route has this prefix and metric 142"
    foreign: tuple[int, int] = (4, 142)
    """Protocol and metric of a foreign route."""
    purged: tuple[str, ...] = (
        "nft delete table inet meshd",
        "ip -6 route del unreachable fd02::/64 proto 142 metric 4294967294",
    )
    deleted: str = "our route 10.2.0.0/24 deleted"
    flushed: str | None = "table inet meshd: table deleted"
    """None: nobody is told of that."""
    written: str = "route of protocol 4 10.5.0.0/24 written"
    down: str = "link net0 down"


ALL: Final[frozenset[str]] = frozenset()


ANNOUNCED: Final = Prefix.parse("10.1.0.0/24")


class World(Protocol):
    """A backend, and the hands of others on the kernel behind it."""

    backend: Backend
    words: Words
    lacks: frozenset[str]
    """What there is not in this kernel: tests that need it are skipped."""

    def delete_route(self, prefix: Prefix) -> None: ...
    def flush_ruleset(self) -> None: ...
    def add_foreign(self, prefix: Prefix, metric: int) -> None: ...
    def link(self, *, up: bool, name: str = "net0") -> None: ...


class InMemory:
    words, lacks = Words(), ALL

    def __init__(self) -> None:
        self.memory = Memory([NET0, NET1])
        self.backend: Backend = self.memory

    def delete_route(self, prefix: Prefix) -> None:
        self.memory.delete_route(prefix)

    def flush_ruleset(self) -> None:
        self.memory.flush_ruleset()

    def add_foreign(self, prefix: Prefix, metric: int) -> None:
        gateway = ip_address("192.0.2.9" if prefix.version == 4 else "2001:db8::9")
        self.memory.add_foreign(ForeignRoute(prefix, gateway, "net0", 4, metric))

    def link(self, *, up: bool, name: str = "net0") -> None:
        one = NET0 if name == "net0" else NET1
        self.memory.set_interface(attrs.evolve(one, up=up))


class OnLinux:
    words, lacks = Words(), ALL

    def __init__(self) -> None:
        self.backend: Backend = Linux()

    def delete_route(self, prefix: Prefix) -> None:
        run(f"ip -{prefix.version} route del {prefix} metric 142")

    def flush_ruleset(self) -> None:
        run("nft flush ruleset")

    def add_foreign(self, prefix: Prefix, metric: int) -> None:
        gateway = "192.0.2.9" if prefix.version == 4 else "2001:db8::9"
        run(f"ip -{prefix.version} route add {prefix} via {gateway} proto static metric {metric}")

    def link(self, *, up: bool, name: str = "net0") -> None:
        run(f"ip link set {name} {'up' if up else 'down'}")


class OnFakes:
    """illumos: a zone whose operator has prepared it as docs/illumos.md says."""

    lacks = frozenset({
        "metrics", "guards under routes", "IPv4 over IPv6", "next hops declared on-link",
        "dead next hops", "IPv6 to exclude", "word of every change",
    })  # fmt: skip

    def __init__(self, form: str, files: Path) -> None:
        self.zone = Zone({each.name: map(str, each.addresses) for each in (NET0, NET1)})
        if form == "ippool":
            self.zone.do("ippool -A -m 13 -t tree")
            self.zone.do("ipf -f -", "\n".join(pool.filter_lines("net0", ANNOUNCED, 13, "inet")))
            self.zone.do("ipnat -f -", "\n".join(pool.map_lines("net0", ANNOUNCED, "inet")))
        self.form = form
        gone = "ippool -r -m 13 -i 10.2.0.0/24"
        if form == "ipnat":
            gone = "ipnat: remove map net0 from 10.1.0.0/24 to 10.2.0.0/24 -> 0/0"
        self.words = Words(
            occupied="a foreign route has this prefix",
            foreign=(0, 0),
            purged=(gone, "route -n delete -inet6 fd02::/64 ::1 -reject"),
            flushed=None,
            written="route 10.5.0.0/24 written",
            down="link net0 changed",
        )
        options = Options(interface="net0", files=str(files))
        self.backend: Backend = Illumos(form, options, files, ZoneRunner(self.zone))

    def delete_route(self, prefix: Prefix) -> None:
        (found,) = [each for each in self.zone.machine.routes if each["dest"] == str(prefix)]
        family = "-inet6" if prefix.version == 6 else "-inet"
        self.zone.do(f"route -n delete {family} {prefix} {found['gateway']}")

    def flush_ruleset(self) -> None:
        if self.form == "ipnat":
            self.zone.do("ipnat -C")
        if self.form == "ippool":
            found = self.zone.machine.pool("13")
            for node in list(found["nodes"]) if found is not None else []:
                self.zone.do(f"ippool -r -m 13 -i {node}")

    def add_foreign(self, prefix: Prefix, metric: int) -> None:
        del metric
        gateway = "-inet6 {} 2001:db8::9" if prefix.version == 6 else "{} 192.0.2.9"
        self.zone.do(f"route -n add {gateway.format(prefix)}")

    def link(self, *, up: bool, name: str = "net0") -> None:
        self.zone.do(f"ifconfig {name} {'up' if up else 'down'}")


@pytest.fixture
def namespace() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("needs root for a network namespace")
    with own_namespace():
        run("ip link set lo up")
        for number, interface in enumerate((NET0, NET1)):
            run(f"ip link add {interface.name} type veth peer name far{number}")
            for device in (f"far{number}", interface.name):
                # Link-local addresses would come up, and be told, a second later.
                run(f"ip link set {device} addrgenmode none up")
            for address in interface.addresses:
                run(f"ip addr add {address} dev {interface.name} nodad")
        # That a link has its carrier is told whenever the kernel finds time; then nothing is due.
        until(lambda: run("ip -o link show type veth").count("state UP") == 4, 10, "links are up")
        yield


@pytest.fixture(
    params=["memory", pytest.param("linux", marks=pytest.mark.kernel), "ippool", "ipnat"]
)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "memory":
        yield InMemory()
        return
    if request.param in ("ippool", "ipnat"):
        yield OnFakes(request.param, tmp_path)
        return
    request.getfixturevalue("namespace")
    world = OnLinux()
    yield world
    world.backend.close()


def needs(world: World, what: str) -> None:
    if what in world.lacks:
        pytest.skip(f"{world.backend.name} has no {what}")


def nets(*texts: str) -> frozenset[Prefix]:
    return frozenset(Prefix.parse(text) for text in texts)


def hop(address: str, source: str | None = None) -> NextHops:
    return NextHops.via(ip_address(address), "net0", ip_address(source) if source else None)


FOUR, SIX = Prefix.parse("10.2.0.0/24"), Prefix.parse("fd02::/64")
BOTH = frozenset({FOUR, SIX})
LOCAL = nets("10.1.0.0/24", "fd01::/64")
JOINED = KernelState(
    {FOUR: hop("192.0.2.2", "192.0.2.1"), SIX: hop("2001:db8::2", "2001:db8::1")},
    BOTH,
    LOCAL,
    BOTH,
)


def reach(world: World, desired: KernelState) -> None:
    backend = world.backend
    assert backend.apply(diff(desired, backend.read())) == []
    assert backend.read().state == desired
    assert not diff(desired, backend.read())


def reasons(world: World, plan: Plan) -> dict[str, str]:
    return {
        str(failure.prefix): failure.reason.partition(" (")[0]
        for failure in world.backend.apply(plan)
    }


def test_a_fresh_kernel_holds_nothing_of_ours(world: World) -> None:
    world.backend.check()
    reading = world.backend.read()
    assert reading.state == KernelState()
    assert (reading.problems, reading.table, reading.strays) == ((), False, ())


def test_the_host_shows_its_interfaces(world: World) -> None:
    found = {interface.name: interface for interface in world.backend.read().host.interfaces}
    assert found["net0"].up
    assert set(NET0.addresses) <= set(found["net0"].addresses)
    world.link(up=False)
    found = {interface.name: interface for interface in world.backend.read().host.interfaces}
    assert not found["net0"].up


def test_what_is_written_is_read_back_in_both_families(world: World) -> None:
    reach(world, JOINED)


def test_next_hops_change_and_everything_goes_again(world: World) -> None:
    reach(world, JOINED)
    moved = {FOUR: hop("192.0.2.3", "192.0.2.1"), SIX: hop("2001:db8::3")}
    reach(world, KernelState(moved, BOTH, LOCAL, BOTH))
    reach(world, KernelState(guards=BOTH, local=LOCAL))
    reach(world, KernelState(local=LOCAL))
    reach(world, KernelState())
    assert not world.backend.read().table


def several(*addresses: str, source: str | None = None) -> NextHops:
    """Next hops at net0 and, where the third group or octet says so, at net1."""
    hops = [
        NextHop(ip_address(text), "net1" if ip_address(text) in OTHER[version] else "net0")
        for text in addresses
        for version in (ip_address(text).version,)
    ]
    return NextHops(tuple(hops), ip_address(source) if source else None)


OTHER = {4: Prefix.parse("192.0.3.0/24"), 6: Prefix.parse("2001:db8:1::/64")}

ONE_AND_MORE = {
    "one": (several("192.0.2.2"), several("2001:db8::2")),
    "two": (several("192.0.3.2", "192.0.2.2"), several("2001:db8:1::2", "2001:db8::2")),
    "two, with a source": (
        several("192.0.2.2", "192.0.3.2", source="192.0.2.1"),
        several("2001:db8::2", "2001:db8:1::2", source="2001:db8::1"),
    ),
    "two others": (several("192.0.2.3", "192.0.2.4"), several("2001:db8::3", "2001:db8::4")),
    "three": (
        several("192.0.2.2", "192.0.3.2", "192.0.3.3"),
        several("2001:db8::2", "2001:db8:1::2", "2001:db8:1::3"),
    ),
    "another one": (several("192.0.3.9"), several("2001:db8:1::9")),
}


@pytest.mark.parametrize("first", list(ONE_AND_MORE))
def test_one_next_hop_becomes_several_and_several_one(world: World, first: str) -> None:
    def state(name: str) -> KernelState:
        four, six = ONE_AND_MORE[name]
        return KernelState({FOUR: four, SIX: six}, BOTH, LOCAL, BOTH)

    reach(world, state(first))
    for name in ONE_AND_MORE:
        reach(world, state(name))
        reach(world, state(first))
    assert world.backend.apply(diff(KernelState(local=LOCAL), world.backend.read())) == []
    assert world.backend.read().state == KernelState(local=LOCAL)


def test_an_ipv4_prefix_is_reached_through_ipv6_next_hops(world: World) -> None:
    needs(world, "IPv4 over IPv6")
    reach(world, JOINED)
    for hops in (
        several("2001:db8::2", source="192.0.2.1"),
        several("2001:db8::2", "2001:db8:1::2"),
        several("2001:db8::2", "192.0.2.2"),
    ):
        reach(world, attrs.evolve(JOINED, routes={FOUR: hops, SIX: JOINED.routes[SIX]}))
    assert world.backend.apply(diff(KernelState(), world.backend.read())) == []


def test_an_ipv6_prefix_is_not_reached_through_an_ipv4_next_hop(world: World) -> None:
    wrong = KernelState({SIX: several("192.0.2.2")}, BOTH, LOCAL, BOTH)
    failed = reasons(world, diff(wrong, world.backend.read()))
    assert failed == {str(SIX): "an IPv6 route cannot have an IPv4 next hop"}


def test_a_next_hop_can_be_declared_on_link(world: World) -> None:
    needs(world, "next hops declared on-link")
    far4 = NextHop(ip_address("198.51.100.2"), "net0", onlink=True)
    far6 = NextHop(ip_address("2001:db8:ffff::2"), "net0", onlink=True)
    near4, near6 = several("192.0.3.2").hops[0], several("2001:db8:1::2").hops[0]
    for four, six in (
        ((far4,), (far6,)),
        ((near4, far4), (near6, far6)),
        ((far6,), (far6,)),
        ((near4,), (near6,)),
    ):
        routes = {FOUR: NextHops(four), SIX: NextHops(six)}
        reach(world, attrs.evolve(JOINED, routes=routes))


def test_of_several_next_hops_one_that_is_not_on_link_refuses_them_all(world: World) -> None:
    reach(world, JOINED)
    bad = {FOUR: several("192.0.2.2", "198.51.100.1"), SIX: JOINED.routes[SIX]}
    failed = reasons(world, diff(attrs.evolve(JOINED, routes=bad), world.backend.read()))
    assert failed == {
        str(FOUR): "of these, one at least: 192.0.2.2 is not on-link at net0,"
        " 198.51.100.1 is not on-link at net0"
    }
    assert world.backend.read().state == JOINED


def test_of_several_next_hops_those_of_a_link_that_goes_down_stay_until_replaced(
    world: World,
) -> None:
    needs(world, "dead next hops")
    both = {FOUR: ONE_AND_MORE["two"][0], SIX: ONE_AND_MORE["two"][1]}
    reach(world, attrs.evolve(JOINED, routes=both))
    world.link(up=False, name="net1")
    assert world.backend.read().state.routes == both
    fewer = {FOUR: several("192.0.2.2"), SIX: several("2001:db8::2")}
    reach(world, attrs.evolve(JOINED, routes=fewer))
    world.link(up=False)
    assert world.backend.read().state.routes == {}


def test_covers_replace_what_they_cover_and_give_way_again(world: World) -> None:
    inner = nets("10.2.0.0/24", "10.2.1.0/24", "fd02::/64")
    reach(world, KernelState(local=LOCAL, mesh=inner))
    reach(world, KernelState(local=LOCAL, mesh=nets("10.2.0.0/16", "fd02::/48", "10.3.0.0/16")))
    reach(world, KernelState(local=LOCAL, mesh=inner))


def test_neighbours_stay_prefixes_of_their_own(world: World) -> None:
    four = nets("10.2.0.0/24", "10.2.1.0/24", "10.2.2.0/23", "10.2.4.0/32", "10.2.4.1/32")
    reach(world, KernelState(local=LOCAL, mesh=four | nets("fd02::/64", "fd02:0:0:1::/64")))
    reach(world, KernelState(local=LOCAL, mesh=nets("10.2.1.0/24", "fd02:0:0:1::/64")))


@pytest.mark.parametrize("prefix", [FOUR, SIX], ids=str)
def test_a_foreign_route_on_our_key_is_refused_and_stays(world: World, prefix: Prefix) -> None:
    world.add_foreign(prefix, 142)
    failed = reasons(world, diff(JOINED, world.backend.read()))
    assert failed == {str(prefix): world.words.occupied}
    reading = world.backend.read()
    there = {(r.prefix, r.protocol, r.metric) for r in reading.host.foreign}
    assert (prefix, *world.words.foreign) in there
    assert set(reading.state.routes) == BOTH - {prefix}
    assert reading.state.mesh == BOTH


@pytest.mark.parametrize("prefix", [FOUR, SIX], ids=str)
def test_a_foreign_route_at_another_metric_is_seen_and_left_alone(
    world: World, prefix: Prefix
) -> None:
    needs(world, "metrics")
    world.add_foreign(prefix, 50)
    before = [r for r in world.backend.read().host.foreign if r.prefix == prefix]
    reach(world, JOINED)
    assert [r for r in world.backend.read().host.foreign if r.prefix == prefix] == before != []


def test_a_next_hop_that_is_not_on_link_is_refused_and_the_others_go_on(world: World) -> None:
    stray = {FOUR: hop("198.51.100.1"), SIX: JOINED.routes[SIX]}
    failed = reasons(world, diff(KernelState(stray, BOTH, LOCAL, BOTH), world.backend.read()))
    assert failed == {str(FOUR): "198.51.100.1 is not on-link at net0"}
    assert set(world.backend.read().state.routes) == {SIX}


def test_a_device_that_does_not_exist_is_named(world: World) -> None:
    nowhere = KernelState({FOUR: NextHops.via(ip_address("192.0.2.2"), "net7")}, mesh=BOTH)
    failed = reasons(world, diff(nowhere, world.backend.read()))
    assert failed == {str(FOUR): "there is no device net7"}


def test_a_source_that_is_not_ours_is_refused(world: World) -> None:
    foreign = KernelState({FOUR: hop("192.0.2.2", "192.0.2.77")}, mesh=BOTH)
    assert set(reasons(world, diff(foreign, world.backend.read()))) == {str(FOUR)}


def test_an_element_that_overlaps_is_refused_and_the_others_go_in(world: World) -> None:
    reach(world, KernelState(local=LOCAL, mesh=BOTH))
    inside, apart = Prefix.parse("10.2.0.128/25"), Prefix.parse("10.7.0.0/24")
    plan = Plan((AddElement("mesh", inside), AddElement("mesh", apart)))
    assert set(reasons(world, plan)) == {str(inside)}
    assert world.backend.read().state.mesh == BOTH | {apart}


def test_what_is_absent_cannot_be_removed_and_the_rest_can(world: World) -> None:
    reach(world, JOINED)
    absent = Prefix.parse("10.8.0.0/24")
    plan = Plan(
        (
            RemoveRoute(absent, hop("192.0.2.2"), 142),
            RemoveRoute(FOUR, JOINED.routes[FOUR], 142),
            RemoveElement("mesh", Prefix.parse("10.9.0.0/24")),
            RemoveElement("mesh", FOUR),
        )
    )
    assert set(reasons(world, plan)) == {str(absent), "10.9.0.0/24"}
    state = world.backend.read().state
    assert set(state.routes) == state.mesh == {SIX}


def test_a_route_that_is_there_is_not_added_again(world: World) -> None:
    reach(world, JOINED)
    plan = Plan((AddRoute(FOUR, hop("192.0.2.3"), 142),))
    assert set(reasons(world, plan)) == {str(FOUR)}
    assert world.backend.read().state == JOINED


def test_routes_go_with_their_link_and_the_guards_stay(world: World) -> None:
    reach(world, JOINED)
    world.link(up=False)
    state = world.backend.read().state
    assert (dict(state.routes), state.mesh) == ({}, BOTH)
    if "guards under routes" not in world.lacks:
        assert state.guards == BOTH
        return
    # They come as soon as it is seen, ahead of everything else.
    plan = diff(attrs.evolve(JOINED, routes={}), world.backend.read())
    assert set(plan.steps[:2]) == {AddGuard(FOUR), AddGuard(SIX)}
    reach(world, attrs.evolve(JOINED, routes={}))


def test_a_flushed_ruleset_is_written_again(world: World) -> None:
    reach(world, JOINED)
    world.flush_ruleset()
    reading = world.backend.read()
    if "IPv6 to exclude" not in world.lacks:
        assert not reading.table
        assert reading.state.mesh == frozenset()
    assert FOUR not in reading.state.mesh
    reach(world, JOINED)


def test_purge_leaves_nothing_and_says_what_it_removed(world: World) -> None:
    reach(world, JOINED)
    said = world.backend.purge()
    assert set(world.words.purged) <= set(said)
    reading = world.backend.read()
    assert reading.state == KernelState()
    assert not reading.table
    assert world.backend.purge() == []


async def test_changes_by_others_are_told_and_own_ones_are_not(world: World) -> None:
    with trio.fail_after(10):
        async with world.backend.changes(lambda *_: True) as changes:
            reach(world, JOINED)
            world.delete_route(FOUR)
            assert (await changes.receive()).what == world.words.deleted
            reach(world, JOINED)
            world.flush_ruleset()
            if world.words.flushed is not None:
                await told(changes, world.words.flushed)
            world.add_foreign(Prefix.parse("10.5.0.0/24"), 50)
            await told(changes, world.words.written)
            world.link(up=False)
            await told(changes, world.words.down)


async def told(changes: trio.MemoryReceiveChannel[Change], what: str) -> None:
    """Wait for ``what``; a real kernel tells more beside it."""
    while (await changes.receive()).what != what:
        pass


def shown(reading: Reading) -> tuple[object, ...]:
    """What plans are about. The host's links and their routes come and go for a while after a
    cable does, and nobody writes them."""
    about = (reading.problems, reading.table, reading.filtered, reading.strays)
    return (reading.state, *about)


@pytest.mark.parametrize("seed", range(3))
async def test_what_was_read_and_what_was_written_since_is_what_there_is_while_nobody_disturbs(
    world: World, seed: int
) -> None:
    needs(world, "word of every change")
    rng, backend = Random(seed), world.backend
    prefixes = [*nets("10.2.0.0/24", "10.3.0.0/24", "10.4.0.0/16", "fd02::/64", "fd03::/64")]
    others = [Prefix.parse(f"10.{number}.0.0/24") for number in range(50, 90)]

    def wanted() -> KernelState:
        chosen = frozenset(prefix for prefix in prefixes if rng.random() < 0.6)
        routed = {p for p in chosen if rng.random() < 0.8}
        last = rng.choice("23")
        hops = {4: hop(f"192.0.2.{last}"), 6: hop(f"2001:db8::{last}")}
        local = LOCAL if rng.random() < 0.8 else frozenset()
        return KernelState({p: hops[p.version] for p in routed}, chosen, local, chosen)

    def disturb() -> None:
        deed = rng.choice(["delete", "flush", "foreign", "down", "up"])
        there = [*backend.read().state.routes]
        if deed == "delete" and there:
            world.delete_route(rng.choice(there))
        elif deed == "flush":
            world.flush_ruleset()
        elif deed == "foreign":
            world.add_foreign(others.pop(), 50)
        else:
            world.link(up=deed == "up", name="net1")

    alone = 0
    async with backend.changes(lambda *_: False):
        known = backend.read()
        for _ in range(60):
            if rng.random() < 0.25:
                disturb()
            if not backend.undisturbed():
                known = backend.read()
                continue
            plan = diff(wanted(), known)
            expected = after(known, plan) if backend.apply(plan) == [] else None
            alone += expected is not None and backend.undisturbed()
            found = backend.read()
            if expected is not None:
                assert shown(expected) == shown(found), f"seed {seed}: {plan}"
            known = expected or found
    assert alone > 15


async def test_however_much_is_written_none_of_it_disturbs(world: World) -> None:
    needs(world, "word of every change")
    many = frozenset(Prefix.parse(f"10.60.{number}.0/24") for number in range(250))
    wanted = KernelState(dict.fromkeys(many, hop("192.0.2.2")), many, LOCAL, many)
    async with world.backend.changes(lambda *_: False):
        for desired in (wanted, KernelState()):
            plan = diff(desired, world.backend.read())
            assert len(plan) >= 500
            assert world.backend.apply(plan) == []
            assert world.backend.undisturbed()


@pytest.mark.parametrize("deed", ["delete", "flush", "foreign", "down"])
async def test_what_others_do_disturbs_at_once_also_where_it_concerns_nobody(
    world: World, deed: str
) -> None:
    needs(world, "word of every change")
    async with world.backend.changes(lambda *_: False):
        reach(world, JOINED)
        assert world.backend.undisturbed()
        match deed:
            case "delete":
                world.delete_route(FOUR)
            case "flush":
                world.flush_ruleset()
            case "foreign":
                world.add_foreign(Prefix.parse("10.5.0.0/24"), 50)
            case "down":
                world.link(up=False)
        assert not world.backend.undisturbed()
        world.backend.read()
        # A link tells of itself for a moment longer.
        await until_async(world.backend.undisturbed, world.backend.read)


async def until_async(condition: Callable[[], bool], meanwhile: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.01)
            meanwhile()
