"""Next hops in a real kernel: one, several, of the other family; read with ``ip`` only.

Each test has a network namespace of its own, made for its thread and gone with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from ownnamespace import own_namespace, run

from meshd.kernel.linux import Linux
from meshd.kernel.plan import diff
from meshd.kernel.state import Interface, KernelState, NextHop, NextHops
from meshd.policy.fib import Fib
from netlab import until
from protocol.address import Prefix

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace"),
]

FOUR, SIX = Prefix.parse("10.2.0.0/24"), Prefix.parse("fd02::/64")


@pytest.fixture
def linux() -> Iterator[Linux]:
    with own_namespace():
        run("ip link set lo up")
        for number in (0, 1):
            run(f"ip link add net{number} type veth peer name far{number}")
            for device in (f"far{number}", f"net{number}"):
                run(f"ip link set {device} addrgenmode none up")
            run(f"ip addr add 192.0.{number + 2}.1/24 dev net{number}")
            run(f"ip addr add 2001:db8:{number}::1/64 dev net{number} nodad")
        backend = Linux()
        yield backend
        backend.close()


def hops(*which: str) -> NextHops:
    """``"192.0.2.2 net0"`` and so on; the source is the kernel's choice."""
    found = (text.split() for text in which)
    return NextHops(tuple(NextHop(ip_address(address), device) for address, device in found))


def hold(linux: Linux, four: NextHops, six: NextHops) -> None:
    """The kernel holds exactly these."""
    routes = {FOUR: four, SIX: six}
    mesh = frozenset(routes)
    desired = KernelState(routes, mesh, frozenset({Prefix.parse("10.1.0.0/24")}), mesh)
    assert linux.apply(diff(desired, linux.read())) == []
    assert not diff(desired, linux.read())


def listed(prefix: object, metric: int = 142) -> list[tuple[str, set[tuple[str, str, int]]]]:
    """Protocol and next hops (address, device, weight; 0 if not told) of a prefix's routes."""
    family = "-6" if ":" in str(prefix) else "-4"
    found = []
    for route in json.loads(run(f"ip -j -N {family} route show {prefix} metric {metric}")):
        ways = {
            (way.get("gateway") or way["via"]["host"], way["dev"], way.get("weight", 0))
            for way in route.get("nexthops", [route])
        }
        found.append((str(route["protocol"]), ways))
    return found


ONE = (hops("192.0.2.2 net0"), hops("2001:db8::2 net0"))
TWO = (
    hops("192.0.2.2 net0", "192.0.3.2 net1"),
    hops("2001:db8::2 net0", "2001:db8:1::2 net1"),
)


def test_several_next_hops_share_the_traffic_equally(linux: Linux) -> None:
    hold(linux, *TWO)
    assert listed(FOUR) == [("142", {("192.0.2.2", "net0", 1), ("192.0.3.2", "net1", 1)})]
    six = {("2001:db8::2", "net0", 142), ("2001:db8:1::2", "net1", 142)}
    assert listed(SIX) == [("142", six)]
    run("sysctl -qw net.ipv4.fib_multipath_hash_policy=1 net.ipv6.fib_multipath_hash_policy=1")
    for address in ("10.2.0.5", "fd02::5"):
        through = [
            run(f"ip route get {address} ipproto udp sport {port} dport 9") for port in range(40)
        ]
        # 40 flows on one of two ways is a chance of one in 10^12; and the hash seed is random.
        assert {"net0", "net1"} == {text.split("dev ")[1].split()[0] for text in through}


class Asking:
    """Looks for routes to two addresses as fast as it can, from a thread of this namespace."""

    def __enter__(self) -> Asking:
        self._stop = False
        self.lost = self.asked = 0
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def _ask(self) -> None:
        batch = "route get 10.2.0.5\nroute get fd02::5\n" * 200
        while not self._stop or not self.asked:
            done = subprocess.run(
                ["ip", "-force", "-batch", "-"], input=batch, text=True, capture_output=True,
                check=False,
            )  # fmt: skip
            self.asked += 400
            self.lost += 400 - done.stdout.count(" via ")

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()


def test_no_look_at_the_table_finds_a_gap_while_next_hops_change(linux: Linux) -> None:
    hold(linux, *ONE)
    others = (hops("192.0.2.7 net0", "192.0.2.8 net0"), hops("2001:db8:1::7 net1"))
    with Asking() as asking:
        for _ in range(30):
            for next_hops in (TWO, others, ONE):
                hold(linux, *next_hops)
    assert asking.asked >= 400
    assert asking.lost == 0
    linux.purge()
    assert "via" not in run("ip route show 10.2.0.0/24") + run("ip -6 route show fd02::/64")


@pytest.mark.parametrize("ours", [ONE, TWO], ids=["one", "two"])
def test_a_foreign_next_hop_that_joins_ours_is_told_apart_and_survives(
    linux: Linux, ours: tuple[NextHops, NextHops]
) -> None:
    hold(linux, *ours)
    run("ip -6 route append fd02::/64 via 2001:db8::9 proto static metric 142")
    reading = linux.read()
    assert reading.state.routes == {FOUR: ours[0], SIX: ours[1]}
    (foreign,) = [each for each in reading.host.foreign if each.prefix == SIX]
    assert (str(foreign.next_hop), foreign.device, foreign.metric) == ("2001:db8::9", "net0", 142)
    # IPv6 replaces all next hops of a key together, so nothing of it is replaced.
    moved = KernelState(
        {FOUR: ONE[0], SIX: hops("2001:db8:1::3 net1")}, mesh=frozenset((FOUR, SIX))
    )
    (failure,) = linux.apply(diff(moved, linux.read()))
    assert failure.reason == "a foreign route has this prefix and metric 142"
    assert len(listed(SIX)[0][1]) == len(ours[1].hops) + 1
    linux.purge()
    assert listed(SIX) == [("4", {("2001:db8::9", "net0", 0)})]


def test_a_list_that_another_hand_has_ordered_is_ours_all_the_same(linux: Linux) -> None:
    run("ip route add 10.2.0.0/24 proto static metric 143 via 192.0.2.9")
    for prefix, *gateways in ((FOUR, "192.0.3.2", "192.0.2.2"),
                              (SIX, "2001:db8:1::2", "2001:db8::2")):  # fmt: skip
        one, other = gateways
        ways = f"nexthop via {one} dev net1 nexthop via {other} dev net0"
        run(f"ip -{prefix.version} route add {prefix} proto 142 metric 142 {ways}")
    assert linux.read().state.routes == {FOUR: TWO[0], SIX: TWO[1]}
    linux.purge()
    assert run("ip route show proto 142") == run("ip -6 route show proto 142") == ""
    assert listed(FOUR, 143) == [("4", {("192.0.2.9", "net0", 0)})]


def test_ours_behind_a_foreign_next_hop_are_found_and_go(linux: Linux) -> None:
    # The kernel lists all under the protocol of the first.
    run("ip -6 route add fd02::/64 via 2001:db8::9 proto static metric 142")
    for hop in ("2001:db8::2", "2001:db8::3"):
        way = f"nexthop via {hop} dev net0 weight 142"
        run(f"ip -6 route append fd02::/64 proto 142 metric 142 {way}")
    assert [protocol for protocol, _ in listed(SIX)] == ["4"]
    assert linux.read().state.routes == {SIX: hops("2001:db8::2 net0", "2001:db8::3 net0")}
    linux.purge()
    assert listed(SIX) == [("4", {("2001:db8::9", "net0", 0)})]


def test_an_address_that_is_not_known_to_be_unique_is_told_and_is_no_source(linux: Linux) -> None:
    run("ip link add lan0 type veth peer name port0")
    run("ip link set lan0 up")
    own = ip_address("fd01::1")

    def inside() -> Interface:
        return next(each for each in linux.read().host.interfaces if each.name == "lan0")

    until(lambda: not inside().carrier, 10, "the kernel has noticed that its far end is down")
    run("ip addr add fd01::1/64 dev lan0")
    run("ip addr add 10.1.0.1/24 dev lan0")
    assert inside().up
    assert own in inside().tentative
    assert ip_address("10.1.0.1") not in inside().tentative
    sourced = KernelState({SIX: NextHops(ONE[1].hops, own)}, mesh=frozenset((SIX,)))
    (failure,) = linux.apply(diff(sourced, linux.read()))
    assert failure.reason == "Invalid source address"
    # With a carrier the kernel asks whether somebody else has the address.
    run("ip link set port0 up")
    until(lambda: own not in inside().tentative, 10, "the address is ours")
    assert inside().carrier
    assert linux.apply(diff(sourced, linux.read())) == []


def test_the_commands_of_a_plan_do_what_the_plan_does(linux: Linux) -> None:
    onlink = NextHops((NextHop(ip_address("198.51.100.2"), "net0", onlink=True),))
    mixed = hops("192.0.2.2 net0", "2001:db8:1::2 net1")
    states = [
        KernelState({FOUR: four, SIX: six})
        for four, six in (
            ONE, TWO, (hops("2001:db8::2 net0"), hops("2001:db8:1::3 net1")), (mixed, TWO[1]),
            (onlink, ONE[1]),
        )
    ]  # fmt: skip
    for state in (*states, KernelState()):
        plan = diff(state, linux.read())
        for command in str(plan).splitlines():
            run(command)
        assert linux.read().state.routes == state.routes
        assert not diff(state, linux.read())


PLACES = """
addr add 10.9.0.1 peer 10.9.0.2/32 dev net1
route add 198.51.100.0/25 dev net0
route add 198.51.100.9/32 dev net1 metric 7
route add 198.51.100.9/32 dev net0 metric 8
route add 198.51.100.16/28 via 192.0.3.9
route add blackhole 198.51.100.32/28
route add unreachable 198.51.100.48/28
route add default via 192.0.2.254
route add default via 192.0.3.254 metric 5
route add 2001:db8:9::/64 dev net1
route add 2001:db8:a::/64 via 2001:db8::9
route add unreachable 2001:db8:b::/64
route add default via 2001:db8:1::fe
"""


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("192.0.2.7", "net0"),
        ("192.0.3.7", "net1"),
        ("10.9.0.2", "net1"),
        ("10.9.0.3", None),
        ("198.51.100.7", "net0"),
        ("198.51.100.9", "net1"),
        ("198.51.100.17", None),
        ("198.51.100.33", None),
        ("198.51.100.49", None),
        ("203.0.113.7", None),
        ("192.0.2.1", None),
        ("2001:db8::7", "net0"),
        ("2001:db8:1::7", "net1"),
        ("2001:db8:9::7", "net1"),
        ("2001:db8:a::7", None),
        ("2001:db8:b::7", None),
        ("2001:db8:c::7", None),
        ("2001:db8::1", None),
    ],
)
def test_what_policy_calls_on_link_the_kernel_takes_at_that_device(
    linux: Linux, address: str, found: str | None
) -> None:
    run("ip -batch -", PLACES)
    hop = Fib(linux.read().host).resolve(ip_address(address))
    assert (hop.device if isinstance(hop, NextHop) else None) == found
    if found is None:
        # IPv4 takes some of these: it looks for a gateway among routes of scope link alone, while
        # a packet to that address takes the longer route.
        return
    prefix = FOUR if "." in address else SIX
    # Without a device: where the kernel itself finds the gateway.
    run(f"ip -{prefix.version} route add {prefix} via {address}")
    (taken,) = json.loads(run(f"ip -j -{prefix.version} route show {prefix}"))
    assert taken["dev"] == found
