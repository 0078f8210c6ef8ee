"""Where routes lead: by the kernel's own table, to one origin or to several."""

from __future__ import annotations

import ipaddress
from typing import Any

import attrs
import pytest
from origins import GATEWAY, HOST, INSIDE, UPLINK, judge, net, origin, row, surroundings

from meshd.kernel.plan import AddRoute, RemoveRoute, ReplaceRoute
from meshd.kernel.state import ForeignRoute, Host, Interface, NextHop, NextHops
from meshd.policy.decide import Decision
from meshd.policy.fib import Fib

FAR = "10.2.0.0/24"


def interface(name: str, *addresses: str, up: bool = True) -> Interface:
    return Interface(name, 9, up, tuple(map(ipaddress.ip_interface, addresses)))


def foreign(
    prefix: str,
    via: str | None,
    device: str | None = "net0",
    metric: int = 0,
    kind: str = "unicast",
) -> ForeignRoute:
    gateway = ipaddress.ip_address(via) if via else None
    return ForeignRoute(net(prefix), gateway, device, 3, metric, kind)


def way(host: Host, address: str) -> str:
    """``dev NAME``, or why ``address`` is no next hop."""
    found = Fib(host).resolve(ipaddress.ip_address(address))
    return found if isinstance(found, str) else f"dev {found.device}"


def routes(decision: Decision) -> dict[str, str]:
    return {str(p): hops.words(p.version) for p, hops in decision.desired.routes.items()}


def off_link(address: str, through: str) -> str:
    return f"its next hop {address} is not on-link: it resolves through {through}"


FAR_AWAY, NEAR = "203.0.113.7", "192.0.2.7"


@pytest.mark.parametrize(
    ("foreign", "address", "found"),
    [
        ([], NEAR, "dev net0"),
        ([], "2001:db8::7", "dev net0"),
        ([foreign("198.51.100.0/24", None)], "198.51.100.7", "dev net0"),
        ([foreign("198.51.100.7/32", None, "br0")], "198.51.100.7", "dev br0"),
        ([foreign("2001:db8:9::/64", None, "br0")], "2001:db8:9::7", "dev br0"),
        # The longest prefix counts, and then the lowest metric.
        ([foreign("192.0.2.7/32", None, "br0", 900)], NEAR, "dev br0"),
        ([foreign("192.0.2.0/24", None, "br0", 5)], NEAR, "dev net0"),
        (
            [foreign("203.0.113.0/24", None, "br0", 9), foreign("203.0.113.0/24", None, "net0", 8)],
            FAR_AWAY,
            "dev net0",
        ),
        ([GATEWAY, foreign("203.0.113.0/24", None, "br0", 9)], FAR_AWAY, "dev br0"),
        # An interface that is down is not used, nor one that is not there.
        ([foreign("192.0.2.7/32", None, "down0")], NEAR, "dev net0"),
        ([foreign("192.0.2.7/32", None, "gone0")], NEAR, "dev net0"),
        ([foreign("203.0.0.0/16", "192.0.2.9", "down0"), GATEWAY], FAR_AWAY,
         off_link(FAR_AWAY, "the default gateway 192.0.2.254")),
        ([], "192.0.2.1", "its next hop 192.0.2.1 is our own address"),
        ([], "10.1.0.1", "its next hop 10.1.0.1 is our own address"),
        ([], FAR_AWAY, f"there is no route to its next hop {FAR_AWAY}"),
        ([GATEWAY], "2001:db8:7::7", "there is no route to its next hop 2001:db8:7::7"),
        ([GATEWAY], FAR_AWAY, off_link(FAR_AWAY, "the default gateway 192.0.2.254")),
        ([foreign("::/0", "fe80::1", "net0", 1024)], "2001:db8:7::7",
         off_link("2001:db8:7::7", "the default gateway fe80::1")),
        (
            [foreign("192.0.2.7/32", "10.1.0.9", "br0")],
            NEAR,
            off_link(NEAR, "10.1.0.9, the gateway of 192.0.2.7/32"),
        ),
        # On a point-to-point uplink the default route has no gateway, and leads as far away.
        ([foreign("0.0.0.0/0", None, "br0")], FAR_AWAY,
         off_link(FAR_AWAY, "0.0.0.0/0 at br0, a default route")),
        ([foreign("128.0.0.0/1", None, "br0")], FAR_AWAY,
         off_link(FAR_AWAY, "128.0.0.0/1 at br0, a default route")),
        ([foreign("192.0.2.7/32", None, None)], NEAR,
         f"the route to its next hop {NEAR}, 192.0.2.7/32, does not say where it leads"),
        ([foreign("192.0.2.7/32", None, None, kind="blackhole")], NEAR,
         f"the route to its next hop {NEAR} is blackhole 192.0.2.7/32"),
        ([foreign("192.0.2.0/25", None, None, kind="unreachable")], NEAR,
         f"the route to its next hop {NEAR} is unreachable 192.0.2.0/25"),
    ],
)  # fmt: skip
def test_a_next_hop_is_what_the_kernels_own_table_has_on_a_link(
    foreign: list[ForeignRoute], address: str, found: str
) -> None:
    down = interface("down0", up=False)
    assert way(surroundings(UPLINK, INSIDE, down, foreign=foreign), address) == found


def test_a_peer_at_the_far_end_of_a_point_to_point_link_is_on_link() -> None:
    tunnel = interface("wg0", "10.9.0.1/32")
    host = surroundings(UPLINK, tunnel, foreign=[GATEWAY, foreign("10.9.0.2/32", None, "wg0")])
    assert way(host, "10.9.0.2") == "dev wg0"
    assert "default gateway" in way(host, "10.9.0.3")


def test_each_member_is_reached_through_its_own_link() -> None:
    second = interface("net1", "198.51.100.1/24", "2001:db8:1::1/64")
    default = foreign("0.0.0.0/0", "198.51.100.254", "net1", 50)
    host = surroundings(UPLINK, INSIDE, second, foreign=[GATEWAY, default])
    decision = judge(
        origin(0, FAR, "fd00:2::/64"),
        origin(1, "10.3.0.0/24", "fd00:3::/64", endpoints=("198.51.100.3", "2001:db8:1::3")),
        host=host,
    )
    assert routes(decision) == {
        "10.2.0.0/24": "via 192.0.2.2 dev net0 src 10.1.0.1",
        "10.3.0.0/24": "via 198.51.100.3 dev net1 src 10.1.0.1",
        "fd00:2::/64": "via 2001:db8::2 dev net0 src fd00:1::1",
        "fd00:3::/64": "via 2001:db8:1::3 dev net1 src fd00:1::1",
    }
    assert row(decision, "10.3.0.0/24", 1).device == "net1"


def test_a_route_that_is_refused_for_its_next_hop_leaves_its_guard() -> None:
    decision = judge(origin(0, FAR, endpoints=("203.0.113.7",)))
    assert (row(decision, FAR).state, row(decision, FAR).rule) == ("refused", "next-hop")
    assert routes(decision) == {}
    assert decision.desired.guards == {net(FAR)}


def test_what_only_a_mesh_route_would_reach_is_no_next_hop() -> None:
    # Our own routes are not in the host's facts; and n0 may not cover n1's address anyway.
    decision = judge(
        origin(0, "203.0.113.0/24", allow=("203.0.113.0/24",)),
        origin(1, "10.3.0.0/24", endpoints=("203.0.113.7",)),
    )
    assert row(decision, "203.0.113.0/24").rule == "endpoint"
    assert "through the default gateway" in row(decision, "10.3.0.0/24", 1).reason


def test_an_ipv4_prefix_goes_through_ipv6_where_its_node_has_no_ipv4_address() -> None:
    decision = judge(origin(0, FAR, "fd00:2::/64", endpoints=("2001:db8::2",)))
    assert routes(decision) == {
        "10.2.0.0/24": "via inet6 2001:db8::2 dev net0 src 10.1.0.1",
        "fd00:2::/64": "via 2001:db8::2 dev net0 src fd00:1::1",
    }
    assert row(decision, FAR).state == "installed"


def test_an_ipv6_prefix_does_not_go_through_ipv4() -> None:
    decision = judge(origin(0, FAR, "fd00:2::/64", endpoints=("192.0.2.2",)))
    assert set(routes(decision)) == {FAR}
    refused = row(decision, "fd00:2::/64")
    assert refused.reason == "its node announces no IPv6 address to be the next hop"


def test_nothing_is_sent_from_an_address_whose_uniqueness_is_not_known() -> None:
    tentative = attrs.evolve(INSIDE, tentative=frozenset({ipaddress.ip_address("fd00:1::1")}))
    decision = judge(
        origin(0, FAR, "fd00:2::/64"), host=attrs.evolve(HOST, interfaces=(UPLINK, tentative))
    )
    assert routes(decision) == {
        "10.2.0.0/24": "via 192.0.2.2 dev net0 src 10.1.0.1",
        "fd00:2::/64": "via 2001:db8::2 dev net0",
    }


def pair(*states: dict[str, Any], multipath: bool = True) -> Decision:
    """Nodes that may all have one prefix, with what is special about each."""
    nodes = (origin(n, FAR, allow=(FAR,), **state) for n, state in enumerate(states))
    return judge(*nodes, multipath=multipath)


def told(decision: Decision) -> dict[str, tuple[str, str]]:
    return {each.name: (each.state, each.reason) for each in decision.routes}


ALL = "nexthop via 192.0.2.2 dev net0 nexthop via 192.0.2.3 dev net0 nexthop via 192.0.2.4 dev net0"


def test_several_origins_carry_a_prefix_together_where_that_is_asked_for() -> None:
    decision = pair({}, {}, {})
    assert routes(decision) == {FAR: f"src 10.1.0.1 {ALL}"}
    assert {each.state for each in decision.routes} == {"installed"}
    assert decision.desired.guards == decision.desired.mesh == {net(FAR)}


def test_one_of_several_carries_it_where_that_is_not_asked_for() -> None:
    decision = pair({}, {}, {}, multipath=False)
    assert routes(decision) == {FAR: "via 192.0.2.2 dev net0 src 10.1.0.1"}
    assert told(decision)["n1"] == told(decision)["n2"] == ("standby", "n0 carries it")


def test_only_those_of_the_highest_preference_share() -> None:
    decision = pair({"preference": 7}, {"preference": 200}, {"preference": 200})
    assert routes(decision) == {
        FAR: "src 10.1.0.1 nexthop via 192.0.2.3 dev net0 nexthop via 192.0.2.4 dev net0"
    }
    assert told(decision)["n0"] == ("standby", "n1, n2 carry it")


@pytest.mark.parametrize(
    "worse",
    [
        {"state": "failed"},
        {"state": "failed", "held": "held, for we may be cut off"},
        {"reachable": False},
        {"seen": False},
        {"endpoints": ("203.0.113.7",)},
    ],
    ids=str,
)
def test_one_that_is_not_as_good_leaves_the_others(worse: dict[str, Any]) -> None:
    others = "nexthop via 192.0.2.2 dev net0 nexthop via 192.0.2.4 dev net0"
    assert routes(pair({}, worse, {})) == {FAR: f"src 10.1.0.1 {others}"}
    assert routes(pair({}, worse)) == {FAR: "via 192.0.2.2 dev net0 src 10.1.0.1"}


@pytest.mark.parametrize("worse", [{"state": "failed", "held": "held"}, {"reachable": False}])
def test_none_that_is_kept_for_want_of_another_shares(worse: dict[str, Any]) -> None:
    assert routes(pair(worse, worse)) == {FAR: "via 192.0.2.2 dev net0 src 10.1.0.1"}


def test_one_that_failed_again_and_again_does_not_share() -> None:
    decision, now = pair({}, {}), 0.0
    for _ in range(6):
        for state in ("failed", "alive"):
            now += 1.0
            nodes = (
                origin(0, FAR, allow=(FAR,)),
                origin(1, FAR, allow=(FAR,), state=state),
            )
            decision = judge(*nodes, multipath=True, previous=decision, at=now)
    assert routes(decision) == {FAR: "via 192.0.2.2 dev net0 src 10.1.0.1"}
    assert row(decision, FAR, 1).rule == "unstable"


def test_the_order_of_arrival_changes_nothing_about_several() -> None:
    nodes = [origin(n, FAR, allow=(FAR,)) for n in range(3)]
    assert judge(*nodes, multipath=True) == judge(*reversed(nodes), multipath=True)


def hop(address: str, device: str = "net0", *, onlink: bool = False) -> NextHop:
    return NextHop(ipaddress.ip_address(address), device, onlink)


def test_next_hops_have_no_order_and_none_is_there_twice() -> None:
    first, second = hop("192.0.2.2"), hop("192.0.2.3")
    assert NextHops((second, first, second)) == NextHops((first, second))
    assert NextHops((first, second)) != NextHops((first, attrs.evolve(second, onlink=True)))


def test_a_plan_names_all_next_hops_as_ip_does() -> None:
    far, four, six = hop("2001:db8::9", "vx0", onlink=True), net(FAR), net("fd02::/64")
    both = NextHops((far, hop("192.0.2.2")), ipaddress.ip_address("192.0.2.1"))
    assert str(AddRoute(four, both, 142)) == (
        "ip route add 10.2.0.0/24 proto 142 metric 142 src 192.0.2.1"
        " nexthop via 192.0.2.2 dev net0 nexthop via inet6 2001:db8::9 dev vx0 onlink"
    )
    assert str(ReplaceRoute(six, NextHops((far, hop("2001:db8::2"))), 142)) == (
        "ip -6 route change fd02::/64 proto 142 metric 142"
        " nexthop via 2001:db8::2 dev net0 weight 142"
        " nexthop via 2001:db8::9 dev vx0 onlink weight 142"
    )
    assert str(RemoveRoute(four, NextHops((far,)), 142)) == (
        "ip route del 10.2.0.0/24 via inet6 2001:db8::9 dev vx0 onlink proto 142 metric 142"
    )
