"""What the Linux backend makes of a tunnel, read with ``ip``, ``bridge`` and ``nft`` only."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import attrs
import pytest
from ownnamespace import own_namespace, run

from meshd.kernel.linux import Linux
from meshd.kernel.plan import diff
from meshd.kernel.state import KernelState, NextHop, NextHops
from meshd.kernel.tunnel import DEVICE, Device, Forward, Tunnel
from protocol.address import Prefix

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace"),
]

FOUR, SIX = Prefix.parse("10.2.0.0/24"), Prefix.parse("fd02::/64")
FAR, NEXT = ip_address("198.51.100.2"), ip_address("fe80::2")
MINE, THEIRS = (bytes([2, 0, 0, 0, 0, n]) for n in (1, 2))
WANTED = KernelState(
    routes={
        FOUR: NextHops((NextHop(FAR, DEVICE, onlink=True),)),
        SIX: NextHops((NextHop(NEXT, DEVICE),)),
    },
    guards=frozenset({FOUR, SIX}),
    local=frozenset({Prefix.parse("10.1.0.0/24"), Prefix.parse("fd01::/64")}),
    mesh=frozenset({FOUR, SIX}),
    tunnel=Tunnel(
        Device(77, 6180, ip_address("192.0.2.1"), MINE, 1450),
        {FAR: THEIRS, NEXT: THEIRS},
        frozenset({Forward(THEIRS, FAR, 7000)}),
    ),
    admitted=frozenset({Prefix.parse("198.51.100.2/32"), Prefix.parse("2001:db8:9::2/128")}),
)

FILTER = """
table inet byhand {
  set tunnel4 { type ipv4_addr; flags interval; elements = { 198.51.100.2 } }
  set tunnel6 { type ipv6_addr; flags interval; elements = { 2001:db8:9::2 } }
  chain tunnel { type filter hook input priority filter - 1;
    udp dport 6180 ip saddr != @tunnel4 counter drop
    udp dport 6180 ip6 saddr != @tunnel6 counter drop
  }
}
"""

COMMANDS = """\
ip link add meshd0 address 02:00:00:00:00:01 mtu 1450 type vxlan id 77 local 192.0.2.1 dstport 6180 nolearning
ip link set meshd0 alias "meshd: subnets of members on other links"
ip link set meshd0 addrgenmode none
ip link set meshd0 up
ip neigh replace 198.51.100.2 lladdr 02:00:00:00:00:02 dev meshd0 nud permanent
ip neigh replace fe80::2 lladdr 02:00:00:00:00:02 dev meshd0 nud permanent
bridge fdb replace 02:00:00:00:00:02 dev meshd0 dst 198.51.100.2 port 7000 self permanent
ip route add 10.2.0.0/24 via 198.51.100.2 dev meshd0 onlink proto 142 metric 142
"""  # noqa: E501


@contextmanager
def namespace(*, ipv6: bool = True) -> Iterator[None]:
    with own_namespace():
        if not ipv6:
            for which in ("all", "default"):
                run(f"sysctl -q -w net.ipv6.conf.{which}.disable_ipv6=1")
        run("ip link add net0 type veth peer name far0")
        for device in ("far0", "net0"):
            run(f"ip link set {device} addrgenmode none up")
        run("ip addr add 192.0.2.1/24 dev net0")
        yield


@pytest.fixture
def linux() -> Iterator[Linux]:
    with namespace():
        backend = Linux(tunnel_port=6180)
        yield backend
        backend.close()


def seen() -> dict[str, Any]:
    """The device, its entries and the routes through it."""
    (link,) = json.loads(run("ip -j -d link show meshd0"))
    drop = ("ifindex", "txqlen")
    return {
        "link": {key: value for key, value in link.items() if key not in drop},
        "addresses": json.loads(run("ip -j addr show meshd0"))[0]["addr_info"],
        "forwarding": json.loads(run("bridge -j fdb show dev meshd0")),
        "neighbours": sorted(run("ip neigh show dev meshd0").splitlines()),
        "routes": run("ip -4 -d route show dev meshd0"),
    }


def test_a_plan_prints_the_commands_that_make_the_same_by_hand(linux: Linux) -> None:
    plan = diff(WANTED, linux.read())
    assert all(line in str(plan).splitlines() for line in COMMANDS.splitlines())
    assert linux.apply(plan) == []
    made = seen()
    with namespace():
        for line in COMMANDS.splitlines():
            words = line.split('"')  # one argument has blanks in it, and is the last
            run(words[0]) if len(words) == 1 else _run_with(words)
        assert seen() == made


def _run_with(words: list[str]) -> None:
    run("ip -batch -", f'{words[0].removeprefix("ip ")}"{words[1]}"\n')


def test_the_filter_is_what_nft_itself_would_write(linux: Linux) -> None:
    assert linux.apply(diff(WANTED, linux.read())) == []
    run("nft -f -", FILTER)
    ours, by_hand = (
        [
            {**what, "table": ""}
            for entry in json.loads(run(f"nft -j list table inet {table}"))["nftables"]
            for kind, what in _plain(entry).items()
            if kind in ("set", "chain", "rule")
            and (what.get("chain") or what["name"]) in ("tunnel", "tunnel4", "tunnel6")
        ]
        for table in ("meshd", "byhand")
    )
    assert ours == by_hand
    assert len(ours) == 5


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if key != "handle"}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def test_a_damaged_filter_is_found_and_written_anew(linux: Linux) -> None:
    assert linux.apply(diff(WANTED, linux.read())) == []
    run("nft flush chain inet meshd tunnel")
    assert linux.read().problems == ("the rules of chain tunnel are not meshd's",)
    assert linux.apply(diff(WANTED, linux.read())) == []
    assert not diff(WANTED, linux.read())


def test_a_device_that_a_killed_process_left_without_its_mark_is_finished(linux: Linux) -> None:
    run(COMMANDS.splitlines()[0])
    index = json.loads(run("ip -j link show meshd0"))[0]["ifindex"]
    assert linux.read().state.tunnel is None
    assert linux.apply(diff(WANTED, linux.read())) == []
    assert not diff(WANTED, linux.read())
    assert json.loads(run("ip -j link show meshd0"))[0]["ifindex"] == index


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ("meshd0 type vxlan id 78 dstport 6180", "a VXLAN device whose alias does not begin with"),
        ("meshd0 type veth peer name x", "a veth device that is not ours is called meshd0"),
        (
            "vx0 type vxlan id 77 dstport 6180",
            "another device has VNI 77 at UDP port 6180: delete it",
        ),
    ],
)
def test_what_stands_in_the_way_is_named_with_the_remedy(
    linux: Linux, theirs: str, said: str
) -> None:
    run(f"ip link add {theirs}")
    before = run("ip -d -o link show")
    failure = linux.apply(diff(WANTED, linux.read()))[0]
    assert said in failure.reason
    assert run("ip -d -o link show") == before


def test_a_port_that_a_program_has_is_named_and_nothing_half_made_stays(linux: Linux) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 6180))
        failure = linux.apply(diff(WANTED, linux.read()))[0]
        assert failure.reason == "somebody else has that UDP port: set tunnel_port here"
        assert "meshd0" not in run("ip -o link show")
    assert linux.apply(diff(WANTED, linux.read())) == []


def test_ipv4_is_tunnelled_where_ipv6_is_switched_off() -> None:
    with namespace(ipv6=False):
        linux = Linux(tunnel_port=6180)
        tunnel = WANTED.tunnel
        assert tunnel is not None
        only = attrs.evolve(
            WANTED,
            routes={FOUR: WANTED.routes[FOUR]},
            guards=frozenset({FOUR}),
            tunnel=attrs.evolve(tunnel, neighbours={FAR: THEIRS}),
        )
        assert linux.apply(diff(only, linux.read())) == []
        assert not diff(only, linux.read())
        assert seen()["routes"].startswith("unicast 10.2.0.0/24 via 198.51.100.2 proto 142")
        linux.close()


def test_a_mode_that_shares_the_table_loses_the_filter_and_nothing_of_others() -> None:
    with namespace():
        linux = Linux(nat="set", tunnel_port=6180)
        assert linux.apply(diff(WANTED, linux.read())) == []
        run("nft add chain inet meshd theirs { type filter hook forward priority 0; }")
        assert "tunnel4" in run("nft list table inet meshd")
        linux.purge()
        left = run("nft list table inet meshd")
        assert "chain theirs" in left
        assert "tunnel" not in left
        assert not diff(KernelState(), linux.read())
        linux.close()


def test_without_nat_the_table_is_the_filter_alone() -> None:
    with namespace():
        linux = Linux(nat="off", tunnel_port=6180)
        bare = attrs.evolve(WANTED, local=frozenset(), mesh=frozenset())
        assert linux.apply(diff(bare, linux.read())) == []
        assert "exempt" not in run("nft list table inet meshd")
        assert "chain tunnel" in run("nft list table inet meshd")
        assert not diff(bare, linux.read())
        linux.purge()
        assert "meshd" not in run("nft list tables")
        linux.close()
