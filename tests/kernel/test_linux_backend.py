"""What the Linux backend leaves in a real kernel, read with ``ip`` and ``nft`` only.

Each test has a network namespace of its own, made for its thread and gone with it.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from ownnamespace import own_namespace, run

from meshd.kernel import netlink
from meshd.kernel.linux import Linux
from meshd.kernel.plan import BuildTable, ReplaceRoute, diff
from meshd.kernel.state import KernelState, NextHops, Reading
from protocol.address import Prefix

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace"),
]

GUARD = 4294967294

TABLE = """
table inet meshd {
  set local4 { type ipv4_addr; flags interval; elements = { 10.1.0.0/24 } }
  set mesh4 { type ipv4_addr; flags interval; elements = { 10.2.0.0/24, 10.2.1.0/24 } }
  set local6 { type ipv6_addr; flags interval; elements = { fd01::/64 } }
  set mesh6 { type ipv6_addr; flags interval; elements = { fd02::/64 } }
  chain exempt { type nat hook postrouting priority srcnat - 1;
    ip saddr @local4 ip daddr @mesh4 counter snat ip to ip saddr
    ip6 saddr @local6 ip6 daddr @mesh6 counter snat ip6 to ip6 saddr
  }
}
"""
"""The table for JOINED, as the design has it and as a person would write it."""

_WHERE, _RULES = TABLE.index("  chain"), TABLE.rindex("}")
BY_HAND = {
    "exempt": TABLE,
    "masquerade": f"""{TABLE[:_WHERE]}
  set uplinks {{ type ifname; elements = {{ "net1" }} }}
{TABLE[_WHERE:_RULES]}
  chain translate {{ type nat hook postrouting priority srcnat;
    ip saddr @local4 oifname @uplinks counter masquerade
    ip6 saddr fc00::/7 ip6 saddr @local6 oifname @uplinks counter masquerade
  }}
}}
""",
    "set": TABLE[:_WHERE] + "}",
}
"""The same for each mode of ``nat``."""

MINE = """
add chain inet meshd mine { type nat hook postrouting priority srcnat - 1; }
add rule inet meshd mine ip saddr @local4 ip daddr @mesh4 counter snat ip to ip saddr
"""
"""A chain of the operator's, as config/meshd.toml teaches it for nat = "set"."""

FOREIGN = """
table ip docker {
  set meshd { type ipv4_addr; flags interval; elements = { 10.2.0.0/24 } }
  chain post { type nat hook postrouting priority srcnat;
    oifname != "br0" ip saddr 10.1.0.0/24 counter masquerade
  }
}
table ip meshd {
  chain exempt { type filter hook forward priority 0; policy accept;
  }
}
"""


@pytest.fixture
def linux() -> Iterator[Linux]:
    with _router("exempt") as backend:
        yield backend


@contextmanager
def _router(nat: str) -> Iterator[Linux]:
    with own_namespace():
        run("ip link set lo up")
        for number in (0, 1):
            run(f"ip link add net{number} type veth peer name far{number}")
            for device in (f"far{number}", f"net{number}"):
                run(f"ip link set {device} addrgenmode none up")
            run(f"ip addr add 192.0.{number + 2}.1/24 dev net{number}")
            run(f"ip addr add 2001:db8:{number}::1/64 dev net{number} nodad")
        run("ip route add default via 192.0.3.254")
        run("ip -6 route add default via 2001:db8:1::fe")
        backend = Linux(nat=nat)
        yield backend
        backend.close()


def nets(*texts: str) -> frozenset[Prefix]:
    return frozenset(Prefix.parse(text) for text in texts)


def hop(address: str, source: str | None = None) -> NextHops:
    return NextHops.via(ip_address(address), "net0", ip_address(source) if source else None)


FOUR, SIX = Prefix.parse("10.2.0.0/24"), Prefix.parse("fd02::/64")
LOCAL = nets("10.1.0.0/24", "fd01::/64")
MESH = nets("10.2.0.0/24", "10.2.1.0/24", "fd02::/64")
JOINED = KernelState(
    {FOUR: hop("192.0.2.2", "192.0.2.1"), SIX: hop("2001:db8::2", "2001:db8::1")},
    nets("10.2.0.0/24", "fd02::/64"),
    LOCAL,
    MESH,
)
MOVED = KernelState(
    {FOUR: hop("192.0.2.3", "192.0.2.1"), SIX: hop("2001:db8::3")},
    JOINED.guards,
    LOCAL,
    MESH,
)


def reach(linux: Linux, desired: KernelState) -> None:
    assert linux.apply(diff(desired, linux.read())) == []


def routes(which: str = "proto 142") -> list[tuple[str, str, str | None, str | None, int]]:
    """Destination, type, gateway, source and metric of the main table's routes."""
    found = []
    for family in ("-4", "-6"):
        for route in json.loads(run(f"ip -j {family} -d route show table main {which}")):
            found.append(
                (
                    route["dst"],
                    route["type"],
                    route.get("gateway"),
                    route.get("prefsrc"),
                    route.get("metric", 0),
                )
            )
    return sorted(found, key=str)


def ruleset(table: str = "") -> list[Any]:
    """The ruleset or one table, without handles and counts."""
    listed = json.loads(run(f"nft -j list table {table}" if table else "nft -j list ruleset"))
    return [_plain(entry) for entry in listed["nftables"] if "metainfo" not in entry]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        dropped = {"handle", "packets", "bytes"}
        return {key: _plain(inner) for key, inner in value.items() if key not in dropped}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


@pytest.fixture(scope="module")
def by_hand() -> dict[str, list[Any]]:
    """What nft makes of BY_HAND."""
    found = {}
    for mode, text in BY_HAND.items():
        with own_namespace():
            run("nft -f -", text)
            found[mode] = ruleset("inet meshd")
    return found


@pytest.fixture
def written_by_hand(by_hand: dict[str, list[Any]]) -> list[Any]:
    return by_hand["exempt"]


def wanted(mode: str) -> KernelState:
    return attrs.evolve(JOINED, uplinks=frozenset({"net1"} if mode == "masquerade" else ()))


def test_routes_and_guards_are_written_exactly(linux: Linux) -> None:
    reach(linux, JOINED)
    assert routes() == [
        ("10.2.0.0/24", "unicast", "192.0.2.2", "192.0.2.1", 142),
        ("10.2.0.0/24", "unreachable", None, None, GUARD),
        ("fd02::/64", "unicast", "2001:db8::2", "2001:db8::1", 142),
        ("fd02::/64", "unreachable", None, None, GUARD),
    ]


def test_the_table_is_what_nft_itself_would_write(linux: Linux, written_by_hand: list[Any]) -> None:
    reach(linux, JOINED)
    assert ruleset("inet meshd") == written_by_hand
    # And a person can save it and load it again.
    text = run("nft list ruleset")
    run("nft flush ruleset")
    run("nft -f -", text)
    assert not diff(JOINED, linux.read())


@pytest.mark.parametrize("mode", list(BY_HAND))
def test_every_mode_writes_the_table_that_nft_itself_would_write(
    linux: Linux, by_hand: dict[str, list[Any]], mode: str
) -> None:
    with closing(Linux(nat=mode)) as other:
        reach(other, wanted(mode))
        assert ruleset("inet meshd") == by_hand[mode]
        assert not diff(wanted(mode), other.read())
        # What the plan prints is what nft takes, and makes the same of.
        run("nft delete table inet meshd")
        (build,) = (step for step in diff(wanted(mode), other.read()) if "set" in str(step))
        run("nft -f -", str(build).removeprefix("nft "))
        assert ruleset("inet meshd") == by_hand[mode]


@pytest.mark.parametrize("new", [*BY_HAND, "off"])
@pytest.mark.parametrize("old", list(BY_HAND))
def test_another_mode_takes_over_in_one_transaction(
    linux: Linux, by_hand: dict[str, list[Any]], old: str, new: str
) -> None:
    with closing(Linux(nat=old)) as before, closing(Linux(nat=new)) as after:
        reach(before, wanted(old))
        desired = wanted(new)
        if new == "off":
            desired = attrs.evolve(desired, local=nets(), mesh=nets())
        ear = Ear(Ear.TABLES)
        reach(after, desired)
        assert ear.heard().count(Ear.NEW_GENERATION) == (old != new)
        assert ruleset() == by_hand.get(new, [])
        assert not diff(desired, after.read())


class Ear:
    """The kernel's notifications, from the moment it is made; just their types."""

    NEW_ROUTE, DELETE_ROUTE = 24, 25
    NEW_GENERATION = 10 << 8 | 15
    ROUTES = (0, (7, 11))  # NETLINK_ROUTE: RTNLGRP_IPV4_ROUTE and _IPV6_ROUTE
    TABLES = (12, (7,))  # NETLINK_NETFILTER: NFNLGRP_NFTABLES

    def __init__(self, what: tuple[int, tuple[int, ...]]) -> None:
        family, groups = what
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
        self._socket.bind((0, 0))
        self._socket.setblocking(False)
        for group in groups:
            self._socket.setsockopt(270, 1, group)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP

    def heard(self) -> list[int]:
        kinds: list[int] = []
        with self._socket, suppress(BlockingIOError):
            while True:
                data, at = self._socket.recv(1 << 16), 0
                while at < len(data):
                    length, kind = struct.unpack_from("=IH", data, at)
                    kinds.append(kind)
                    at += (length + 3) & ~3
        return kinds


def test_a_next_hop_changes_without_a_moment_without_route(linux: Linux) -> None:
    reach(linux, JOINED)
    ear = Ear(Ear.ROUTES)
    reach(linux, MOVED)
    assert ear.heard() == [Ear.NEW_ROUTE, Ear.NEW_ROUTE]
    assert routes() == [
        ("10.2.0.0/24", "unicast", "192.0.2.3", "192.0.2.1", 142),
        ("10.2.0.0/24", "unreachable", None, None, GUARD),
        ("fd02::/64", "unicast", "2001:db8::3", None, 142),
        ("fd02::/64", "unreachable", None, None, GUARD),
    ]


def test_everything_about_the_table_is_one_transaction(linux: Linux) -> None:
    ear = Ear(Ear.TABLES)
    reach(linux, JOINED)
    assert ear.heard().count(Ear.NEW_GENERATION) == 1
    wide = KernelState(
        JOINED.routes, JOINED.guards, nets("10.9.0.0/24"), nets("10.2.0.0/15", "fd02::/48")
    )
    ear = Ear(Ear.TABLES)
    reach(linux, wide)
    assert ear.heard().count(Ear.NEW_GENERATION) == 1
    assert elements("mesh4") == ["10.2.0.0/15"]
    assert elements("mesh6") == ["fd02::/48"]
    assert elements("local4") == ["10.9.0.0/24"]
    assert elements("local6") == []


def elements(name: str) -> list[str]:
    (found,) = (e["set"] for e in ruleset("inet meshd") if e.get("set", {}).get("name") == name)
    return [f"{e['prefix']['addr']}/{e['prefix']['len']}" for e in found.get("elem", ())]


def test_a_second_pass_writes_nothing(linux: Linux) -> None:
    reach(linux, JOINED)
    assert not diff(JOINED, linux.read())
    restarted = Linux()
    assert not diff(JOINED, restarted.read())
    restarted.close()


def test_the_guard_holds_traffic_when_the_link_goes_although_there_is_a_default_route(
    linux: Linux,
) -> None:
    reach(linux, JOINED)
    assert "dev net0" in run("ip route get 10.2.0.5")
    assert "dev net0" in run("ip -6 route get fd02::5")
    run("ip link set net0 down")
    for family, far in (("-4", "10.2.0.5"), ("-6", "fd02::5")):
        get = subprocess.run(
            ["ip", family, "route", "get", far], capture_output=True, text=True, check=False
        )
        assert get.returncode != 0
        assert "dev net1" not in get.stdout


DAMAGE = {
    "rules flushed": "flush chain inet meshd exempt",
    "chain deleted": "flush chain inet meshd exempt\ndelete chain inet meshd exempt",
    "rule added": "add rule inet meshd exempt ip saddr 10.1.0.0/24 accept",
    "rule inserted": "insert rule inet meshd exempt meta mark 7 return",
    "match inverted": """
        flush chain inet meshd exempt
        add rule inet meshd exempt ip saddr != @local4 ip daddr @mesh4 counter snat ip to ip saddr
        add rule inet meshd exempt ip6 saddr @local6 ip6 daddr @mesh6 counter snat ip6 to ip6 saddr
    """,
    "another action": """
        flush chain inet meshd exempt
        add rule inet meshd exempt ip saddr @local4 ip daddr @mesh4 counter snat ip to ip daddr
        add rule inet meshd exempt ip6 saddr @local6 ip6 daddr @mesh6 counter snat ip6 to ip6 saddr
    """,
    "rules swapped": """
        flush chain inet meshd exempt
        add rule inet meshd exempt ip6 saddr @local6 ip6 daddr @mesh6 counter snat ip6 to ip6 saddr
        add rule inet meshd exempt ip saddr @local4 ip daddr @mesh4 counter snat ip to ip saddr
    """,
    "no rule for IPv6": """
        flush chain inet meshd exempt
        add rule inet meshd exempt ip saddr @local4 ip daddr @mesh4 counter snat ip to ip saddr
    """,
    "policy drop": "add chain inet meshd exempt { policy drop; }",
    "set deleted": "flush chain inet meshd exempt\ndelete set inet meshd mesh6",
    "range in a set": "add element inet meshd mesh4 { 10.7.0.1-10.7.0.5 }",
    "dormant": "add table inet meshd { flags dormant; }",
    "another priority": """
        delete table inet meshd
        table inet meshd {
          set local4 { type ipv4_addr; flags interval; elements = { 10.1.0.0/24 }
          }
          chain exempt { type nat hook postrouting priority srcnat + 1; policy accept;
          }
        }
    """,
    "not ours at all": """
        delete table inet meshd
        table inet meshd {
          set mesh4 { type inet_service; elements = { 22 }
          }
          chain exempt { type filter hook forward priority 0; policy accept;
          }
        }
    """,
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_table_is_seen_and_built_anew_at_once(
    linux: Linux, damage: str, written_by_hand: list[Any]
) -> None:
    reach(linux, JOINED)
    run("nft -f -", DAMAGE[damage])
    reading = linux.read()
    assert len(reading.problems) > 0
    plan = diff(JOINED, reading)
    assert isinstance(plan.steps[0], BuildTable)
    ear = Ear(Ear.TABLES)
    assert linux.apply(plan) == []
    assert ear.heard().count(Ear.NEW_GENERATION) == 1
    assert ruleset("inet meshd") == written_by_hand
    assert not diff(JOINED, linux.read())


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_table_can_be_purged(linux: Linux, damage: str) -> None:
    reach(linux, JOINED)
    run("nft -f -", DAMAGE[damage])
    linux.purge()
    assert ruleset() == []
    assert routes() == []


MODE_DAMAGE = {
    "masquerade": {
        "rules flushed": "flush chain inet meshd translate",
        "chain deleted": "flush chain inet meshd translate\ndelete chain inet meshd translate",
        "random ports": """
            flush chain inet meshd translate
            add rule inet meshd translate ip saddr @local4 oifname @uplinks counter masquerade
            add rule inet meshd translate ip6 saddr fc00::/7 \\
                ip6 saddr @local6 oifname @uplinks counter masquerade random
        """,
        "global addresses too": """
            flush chain inet meshd translate
            add rule inet meshd translate ip saddr @local4 oifname @uplinks counter masquerade
            add rule inet meshd translate ip6 saddr @local6 oifname @uplinks counter masquerade
        """,
        "another chain": "add chain inet meshd mine",
        "another set": "add set inet meshd mine { type inet_service; }",
    },
    "set": {
        "a set deleted": "delete set inet meshd mesh6",
        "range in a set": "add element inet meshd mesh4 { 10.7.0.1-10.7.0.5 }",
        "a set of ports": """
            delete set inet meshd mesh4
            add set inet meshd mesh4 { type inet_service; }
        """,
    },
}


@pytest.mark.parametrize(
    ("mode", "damage"), [(mode, each) for mode, found in MODE_DAMAGE.items() for each in found]
)
def test_damage_is_seen_and_mended_and_can_be_purged_in_every_mode(
    linux: Linux, by_hand: dict[str, list[Any]], mode: str, damage: str
) -> None:
    with closing(Linux(nat=mode)) as other:
        reach(other, wanted(mode))
        run("nft -f -", MODE_DAMAGE[mode][damage])
        assert len(other.read().problems) > 0
        reach(other, wanted(mode))
        assert ruleset("inet meshd") == by_hand[mode]
        assert not diff(wanted(mode), other.read())
        run("nft -f -", MODE_DAMAGE[mode][damage])
        other.purge()
        assert (ruleset(), routes()) == ([], [])


def test_an_uplink_taken_out_by_hand_comes_back_alone(linux: Linux) -> None:
    with closing(Linux(nat="masquerade")) as other:
        reach(other, wanted("masquerade"))
        run('nft delete element inet meshd uplinks { "net1" }')
        assert str(diff(wanted("masquerade"), other.read())).splitlines() == [
            'nft add element inet meshd uplinks { "net1" }'
        ]
        reach(other, wanted("masquerade"))
        assert other.read().state.uplinks == {"net1"}


def mine() -> list[Any]:
    return [entry for entry in ruleset() if "mine" in json.dumps(entry)]


@pytest.mark.parametrize(
    "damage",
    [
        "delete element inet meshd mesh4 { 10.2.1.0/24 }",
        "flush set inet meshd mesh4",
        "add element inet meshd mesh4 { 10.7.0.1-10.7.0.5 }",
        "delete set inet meshd mesh6",
        "add chain inet meshd exempt { type nat hook postrouting priority srcnat - 1; }",
    ],
)
def test_a_chain_of_the_operators_survives_the_mending_of_the_sets(
    linux: Linux, damage: str
) -> None:
    with closing(Linux(nat="set")) as other:
        reach(other, JOINED)
        run("nft -f -", MINE)
        assert not diff(JOINED, other.read())
        chain, table = mine(), ruleset("inet meshd")
        run("nft -f -", damage)
        ear = Ear(Ear.TABLES)
        reach(other, JOINED)
        assert ear.heard().count(Ear.NEW_GENERATION) == 1
        assert mine() == chain
        assert sorted(map(str, ruleset("inet meshd"))) == sorted(map(str, table))


def test_a_set_that_cannot_be_used_costs_the_operators_chain_and_the_plan_says_so(
    linux: Linux,
) -> None:
    with closing(Linux(nat="set")) as other:
        reach(other, JOINED)
        run("nft -f -", "delete set inet meshd mesh6\nadd set inet meshd mesh6 { type mark; }")
        run("nft -f -", MINE)
        plan = str(diff(JOINED, other.read()))
        said = "nft delete table inet meshd  # set mesh6 is not an interval set of ipv6_addr"
        assert said in plan
        reach(other, JOINED)
        assert mine() == []


def test_purge_leaves_the_operators_chain_with_empty_sets(linux: Linux) -> None:
    with closing(Linux(nat="set")) as other:
        reach(other, JOINED)
        run("nft -f -", MINE)
        chain = mine()
        other.purge()
        assert mine() == chain
        assert [elements(name) for name in ("local4", "mesh4", "local6", "mesh6")] == [[]] * 4
        assert other.purge() == []
        run("nft delete chain inet meshd mine")
        assert other.purge() == ["nft delete table inet meshd"]
        assert ruleset() == []


def test_an_element_taken_out_by_hand_comes_back_alone(linux: Linux) -> None:
    reach(linux, JOINED)
    run("nft delete element inet meshd mesh4 { 10.2.1.0/24 }")
    assert str(diff(JOINED, linux.read())).splitlines() == [
        "nft add element inet meshd mesh4 { 10.2.1.0/24 }",
        "conntrack: delete translated flows 10.1.0.0/24 -> 10.2.1.0/24",
    ]
    reach(linux, JOINED)
    assert elements("mesh4") == ["10.2.0.0/24", "10.2.1.0/24"]


@pytest.mark.parametrize("mode", list(BY_HAND))
def test_nothing_foreign_is_touched_by_joining_changing_or_purging(mode: str) -> None:
    with _router(mode) as linux:
        _join_change_and_purge(linux, mode)


def _join_change_and_purge(linux: Linux, mode: str) -> None:
    run("nft -f -", FOREIGN)
    for number, protocol in enumerate(("static", "bird", "kernel"), 60):
        run(f"ip route add 10.2.0.0/24 via 192.0.2.9 proto {protocol} metric {number}")
        run(f"ip -6 route add fd02::/64 via 2001:db8::9 proto {protocol} metric {number}")
    run("ip route add unreachable 10.2.0.0/24 proto static metric 4294967295")
    run("ip route add 10.2.0.0/24 via 192.0.2.9 proto 142 table 7")
    tables, every_route = ruleset(), routes("")
    other_table = run("ip route show table 7")
    reach(linux, wanted(mode))
    reach(linux, attrs.evolve(wanted(mode), routes=MOVED.routes))
    assert [e for e in ruleset() if "inet" not in str(e)] == tables
    linux.purge()
    assert ruleset() == tables
    assert routes("") == every_route
    assert run("ip route show table 7") == other_table


def test_a_foreign_route_on_our_very_key_stays_as_it_is(linux: Linux) -> None:
    run("ip route add 10.2.0.0/24 via 192.0.2.9 proto static metric 142")
    run("ip -6 route add fd02::/64 via 2001:db8::9 proto static metric 142")
    before = routes("proto static")
    failed = linux.apply(diff(JOINED, linux.read()))
    assert {str(failure.prefix) for failure in failed} == {"10.2.0.0/24", "fd02::/64"}
    assert routes("proto static") == before
    assert [kind for _, kind, *_ in routes()] == ["unreachable", "unreachable"]


def test_a_refusal_comes_with_the_kernels_own_words(linux: Linux) -> None:
    lost = KernelState({FOUR: hop("198.51.100.1")}, local=LOCAL, mesh=MESH)
    (failure,) = linux.apply(diff(lost, linux.read()))
    assert failure.reason == ("198.51.100.1 is not on-link at net0 (Nexthop has invalid gateway)")


@pytest.mark.parametrize("verb", ["append", "prepend"])
def test_a_route_that_shares_its_key_is_not_replaced(linux: Linux, verb: str) -> None:
    # REPLACE takes the first route of a key, whoever's it is.
    reach(linux, JOINED)
    run(f"ip route {verb} 10.2.0.0/24 via 192.0.2.9 proto static metric 142")
    foreign = [route for route in routes("") if route[2] == "192.0.2.9"]
    failed = linux.apply(diff(MOVED, linux.read()))
    assert [type(failure.step) for failure in failed] == [ReplaceRoute]
    assert failed[0].reason == "a foreign route has this prefix and metric 142"
    assert [route for route in routes("") if route[2] == "192.0.2.9"] == foreign
    linux.purge()
    assert [route for route in routes("") if route[0] == "10.2.0.0/24"] == foreign
    assert routes() == []


def test_a_foreign_ipv6_sibling_on_our_key_survives(linux: Linux) -> None:
    # IPv6 joins routes of one key into a multipath route and lists it as the first one's.
    reach(linux, JOINED)
    run("ip -6 route append fd02::/64 via 2001:db8::9 proto static metric 142")
    failed = linux.apply(diff(MOVED, linux.read()))
    assert [str(failure.prefix) for failure in failed] == ["fd02::/64"]
    assert "2001:db8::9" in run("ip -6 route show fd02::/64")
    linux.purge()
    assert "2001:db8::9" in run("ip -6 route show fd02::/64")
    assert "2001:db8::2" not in run("ip -6 route show fd02::/64")


def test_routes_of_another_metric_or_kind_with_our_protocol_are_ours_to_remove(
    linux: Linux,
) -> None:
    for command in (
        "ip route add 10.2.0.0/24 via 192.0.2.2 proto 142 metric 77",
        "ip route add 10.6.0.0/24 via 192.0.2.2 proto 142 metric 77",
        "ip route add blackhole 10.6.0.0/24 proto 142 metric 142",
        "ip route add 10.7.0.0/24 dev net0 scope link proto 142 metric 142",
        "ip route add 10.8.0.0/24 proto 142 nexthop via 192.0.2.2 nexthop via 192.0.3.2",
        "ip -6 route add fd02::/64 via 2001:db8::2 proto 142 metric 77",
        "ip -6 route add unreachable fd06::/64 proto 142 metric 9",
        "ip -6 route add fd07::/64 proto 142 nexthop via 2001:db8::2 nexthop via 2001:db8:1::2",
    ):
        run(command)
    assert len(linux.read().strays) == 8
    reach(linux, JOINED)
    assert [route[0] for route in routes()] == ["10.2.0.0/24"] * 2 + ["fd02::/64"] * 2
    assert linux.read().strays == ()


def test_another_metric_takes_the_place_of_the_old_one(linux: Linux) -> None:
    reach(linux, JOINED)
    other = Linux(metric=77)
    reach(other, JOINED)
    other.close()
    assert {route[4] for route in routes()} == {77, GUARD}
    assert len(routes()) == 4


def test_foreign_routes_are_listed_as_they_are(linux: Linux) -> None:
    run("ip route add 10.5.0.0/24 metric 9 nexthop via 192.0.2.5 nexthop via 192.0.3.5")
    run("ip route add blackhole 10.6.0.0/24 proto static")
    found = {
        (str(r.prefix), str(r.next_hop), r.device, r.protocol, r.metric)
        for r in linux.read().host.foreign
    }
    assert found >= {
        ("0.0.0.0/0", "192.0.3.254", "net1", 3, 0),
        ("::/0", "2001:db8:1::fe", "net1", 3, 1024),
        ("192.0.2.0/24", "None", "net0", 2, 0),
        ("2001:db8::/64", "None", "net0", 2, 256),
        ("10.5.0.0/24", "192.0.2.5", "net0", 3, 9),
        ("10.5.0.0/24", "192.0.3.5", "net1", 3, 9),
        ("10.6.0.0/24", "None", None, 4, 0),
    }
    assert "127.0.0.1/32" not in {prefix for prefix, *_ in found}  # the local table's


def test_thousands_of_routes_and_elements_go_in_and_out(linux: Linux) -> None:
    many = [Prefix(4, 0x0A000000 + (number << 9), 24) for number in range(3000)]
    many += [Prefix.parse(f"fd02:{number:x}::/48") for number in range(3000)]
    via = {4: hop("192.0.2.2"), 6: hop("2001:db8::2")}
    desired = KernelState(
        {prefix: via[prefix.version] for prefix in many}, frozenset(many), LOCAL, frozenset(many)
    )
    reach(linux, desired)
    assert len(routes()) == 12000
    assert len(elements("mesh4")) == len(elements("mesh6")) == 3000
    assert not diff(desired, linux.read())
    reach(linux, KernelState())
    assert routes() == []
    assert ruleset() == []


def test_calls_from_several_threads_take_turns(linux: Linux) -> None:
    reach(linux, JOINED)
    readings: list[Reading] = []

    def read() -> None:
        readings.extend(linux.read() for _ in range(50))

    threads = [threading.Thread(target=read, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(readings) == 200
    assert all(reading.state == JOINED for reading in readings)


async def test_more_changes_than_can_be_listened_to_are_a_change(
    linux: Linux, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netlink, "_BUFFER", 4096)
    batch = "".join(f"route add 10.{n >> 8}.{n & 255}.0/24 via 192.0.2.9\n" for n in range(999))
    async with linux.changes(lambda *_: True) as changes:
        run("ip -batch -", batch)
        with trio.fail_after(10):
            seen = [(await changes.receive()).what]
            while "more changes than could be listened to" not in seen:
                seen.append((await changes.receive()).what)
            run("ip addr add 192.0.2.50/24 dev net0")
            while seen[-1] != "address 192.0.2.50/24 added":
                seen.append((await changes.receive()).what)


async def test_other_tables_and_other_routing_tables_are_no_change(linux: Linux) -> None:
    async with linux.changes(lambda *_: True) as changes:
        run("nft -f -", FOREIGN)
        run("ip route add 10.9.0.0/24 via 192.0.2.9 table 7")
        run("ip route add 10.8.0.0/24 via 192.0.2.9 proto static")
        with trio.fail_after(10):
            assert (await changes.receive()).what == "route of protocol 4 10.8.0.0/24 written"


CHECK = """
from meshd.errors import UsageError
from meshd.kernel.linux import Linux
try:
    Linux().check()
except UsageError as error:
    print(error)
else:
    print("fine")
"""


@pytest.mark.parametrize(
    ("unshared", "says"), [("--user", "CAP_NET_ADMIN is missing"), ("-rn", "fine")]
)
def test_the_check_says_in_one_line_what_is_missing(unshared: str, says: str) -> None:
    done = subprocess.run(
        ["unshare", unshared, sys.executable, "-c", CHECK],
        cwd=Path(__file__).parents[2],
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout.startswith(says)
    assert done.stdout.count("\n") == 1


def test_the_check_leaves_no_trace(linux: Linux) -> None:
    ear = Ear(Ear.TABLES)
    linux.check()
    assert ear.heard() == []
    reach(linux, JOINED)
    before = ruleset()
    linux.check()
    assert ruleset() == before
