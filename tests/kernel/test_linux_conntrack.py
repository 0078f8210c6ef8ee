"""Connections that a change of the exclusion leaves behind: which go, and which must not.

A client zone, a router (the namespace of the test's thread, with a foreign masquerade on its
uplink) and a far router; UDP makes real entries, and ``conntrack`` lists them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import NamedTuple

import attrs
import pytest
from ownnamespace import own_namespace, run

from meshd.kernel.linux import Linux
from meshd.kernel.plan import diff
from meshd.kernel.state import KernelState
from protocol.address import Prefix

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]

NUMBERS = count()
TRANSLATED, DIRECT = 7, 9
"""The ports that the foreign rule does and does not masquerade."""

FOREIGN = f"""
table inet foreign {{
  chain post {{ type nat hook postrouting priority srcnat; policy accept;
    oifname "net0" udp dport {TRANSLATED} masquerade
  }}
}}
"""

SEND = """
import socket, sys
source, port, destination, to = sys.argv[1:]
family = socket.AF_INET6 if ":" in source else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as sender:
    sender.bind((source, int(port)))
    sender.sendto(b"x", (destination, int(to)))
"""


class Entry(NamedTuple):
    source: str
    destination: str
    port: int
    reply_destination: str


@attrs.frozen
class Family:
    """The addresses of one family."""

    version: int
    announced: str
    unannounced: str
    far: str
    elsewhere: str
    uplink: str
    far_uplink: str
    bits: int

    @property
    def mesh(self) -> str:
        return str(Prefix.parse(f"{self.far}/{self.bits}", strict=False))

    @property
    def local(self) -> str:
        return str(Prefix.parse(f"{self.announced}/{self.bits}", strict=False))


FOUR = Family(4, "10.1.0.5", "10.9.0.5", "10.2.0.5", "10.3.0.5", "192.0.2.1", "192.0.2.2", 24)
SIX = Family(6, "fd01::5", "fd09::5", "fd02::5", "fd03::5", "2001:db8::1", "2001:db8::2", 64)


class Site:
    """The router's namespace is current; ``client`` and ``far`` are named ones."""

    def __init__(self, linux: Linux, client: str, far: str) -> None:
        self.linux, self.client, self.far = linux, client, far

    def send(self, source: str, port: int, destination: str, to: int, zone: str = "") -> None:
        program = ["ip", "netns", "exec", zone or self.client, sys.executable, "-c", SEND]
        flow = [source, str(port), destination, str(to)]
        subprocess.run([*program, *flow], check=True, capture_output=True)
        # On its way it may wait for a neighbour's address.
        deadline = time.monotonic() + 5
        family = 6 if ":" in source else 4
        while f"sport={port} " not in run(f"conntrack -L -p udp -f ipv{family}"):
            assert time.monotonic() < deadline, f"{source} -> {destination} never came by"
            time.sleep(0.01)

    def reach(self, desired: KernelState) -> None:
        assert self.linux.apply(diff(desired, self.linux.read())) == []

    def entries(self, family: Family) -> set[Entry]:
        found = set()
        for line in run(f"conntrack -L -p udp -f ipv{family.version}").splitlines():
            about: dict[str, list[str]] = {}
            for name, value in re.findall(r"(\w+)=(\S+)", line):
                about.setdefault(name, []).append(value)
            found.add(
                Entry(about["src"][0], about["dst"][0], int(about["sport"][0]), about["dst"][1])
            )
        return found


@pytest.fixture
def site() -> Iterator[Site]:
    with _site("exempt") as made:
        run("nft -f -", FOREIGN)
        yield made


@pytest.fixture
def translating_site() -> Iterator[Site]:
    """Nobody else translates: meshd is the NAT, or writes the sets for one."""
    with _site("masquerade") as made:
        yield made


@contextmanager
def _site(nat: str) -> Iterator[Site]:
    number = next(NUMBERS)
    client, far = (f"meshd-{os.getpid()}-{number}-{name}" for name in ("client", "far"))
    try:
        with own_namespace():
            for zone, device, near in ((client, "lan0", "lan"), (far, "net0", "net")):
                run(f"ip netns add {zone}")
                run(f"ip link add {device} type veth peer name {near} netns {zone}")
                run(f"ip link set {device} up")
                run(f"ip -n {zone} link set {near} up")
            _addresses("", "lan0", "10.1.0.1/24 10.9.0.1/24 fd01::1/64 fd09::1/64")
            _addresses("", "net0", "192.0.2.1/24 2001:db8::1/64")
            _addresses(client, "lan", "10.1.0.5/24 10.9.0.5/24 fd01::5/64 fd09::5/64")
            _addresses(far, "net", "192.0.2.2/24 10.2.0.5/24 2001:db8::2/64 fd02::5/64")
            run(f"ip -n {client} route add default via 10.1.0.1")
            run(f"ip -n {client} -6 route add default via fd01::1")
            for route in ("10.1.0.0/24 via 192.0.2.1", "fd01::/64 via 2001:db8::1"):
                run(f"ip -n {far} route add {route}")
            # As specific as our guards, which would stop anything wider.
            for far_net in ("10.2.0.0/24", "10.3.0.0/24"):
                run(f"ip route add {far_net} via 192.0.2.2")
            for far_net in ("fd02::/64", "fd03::/64"):
                run(f"ip route add {far_net} via 2001:db8::2")
            run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
            linux = Linux(nat=nat)
            try:
                yield Site(linux, client, far)
            finally:
                linux.close()
    finally:
        for zone in (client, far):
            subprocess.run(["ip", "netns", "del", zone], check=False, capture_output=True)


def _addresses(zone: str, device: str, addresses: str) -> None:
    for address in addresses.split():
        nodad = " nodad" if ":" in address else ""
        run(f"ip {f'-n {zone} ' if zone else ''}addr add {address} dev {device}{nodad}")


def lone(family: Family) -> KernelState:
    return KernelState(local=frozenset({Prefix.parse(family.local)}))


def joined(family: Family) -> KernelState:
    """Excluded and guarded; the route is the foreign one, which is there before and after."""
    mesh = frozenset({Prefix.parse(family.mesh)})
    return KernelState(guards=mesh, local=lone(family).local, mesh=mesh)


@pytest.mark.parametrize("family", [FOUR, SIX], ids=["IPv4", "IPv6"])
def test_joining_forgets_translated_flows_between_the_two_and_no_others(
    site: Site, family: Family
) -> None:
    f = family
    site.send(f.announced, 1001, f.far, TRANSLATED)
    site.send(f.announced, 1002, f.far, DIRECT)
    site.send(f.unannounced, 1003, f.far, TRANSLATED)
    site.send(f.announced, 1004, f.elsewhere, TRANSLATED)
    site.send(f.far, 1005, f.announced, TRANSLATED, zone=site.far)
    others = {
        Entry(f.announced, f.far, 1002, f.announced),
        Entry(f.unannounced, f.far, 1003, f.uplink),
        Entry(f.announced, f.elsewhere, 1004, f.uplink),
        Entry(f.far, f.announced, 1005, f.far),
    }
    assert site.entries(f) == {Entry(f.announced, f.far, 1001, f.uplink)} | others
    site.reach(joined(f))
    assert site.entries(f) == others
    # The same flow goes on, with its own source now, and others are translated as before.
    site.send(f.announced, 1001, f.far, TRANSLATED)
    site.send(f.unannounced, 1006, f.far, TRANSLATED)
    assert site.entries(f) == others | {
        Entry(f.announced, f.far, 1001, f.announced),
        Entry(f.unannounced, f.far, 1006, f.uplink),
    }


@pytest.mark.parametrize("family", [FOUR, SIX], ids=["IPv4", "IPv6"])
def test_parting_forgets_the_flows_between_the_two_in_both_directions(
    site: Site, family: Family
) -> None:
    f = family
    site.reach(joined(f))
    site.send(f.announced, 1001, f.far, TRANSLATED)
    site.send(f.far, 1002, f.announced, DIRECT, zone=site.far)
    site.send(f.unannounced, 1003, f.far, TRANSLATED)
    site.send(f.announced, 1004, f.elsewhere, TRANSLATED)
    site.send(f.unannounced, 1005, f.far, DIRECT)
    assert len(site.entries(f)) == 5
    site.reach(lone(f))
    assert site.entries(f) == {
        Entry(f.unannounced, f.far, 1003, f.uplink),
        Entry(f.announced, f.elsewhere, 1004, f.uplink),
        Entry(f.unannounced, f.far, 1005, f.unannounced),
    }


def test_a_wider_prefix_in_place_of_a_narrower_one_cuts_no_flow(site: Site) -> None:
    site.reach(joined(FOUR))
    site.send(FOUR.announced, 1001, FOUR.far, TRANSLATED)
    before = site.entries(FOUR)
    wide = frozenset({Prefix.parse("10.2.0.0/15")})
    site.reach(KernelState(guards=wide, local=lone(FOUR).local, mesh=wide))
    assert site.entries(FOUR) == before
    assert len(before) == 1


def test_announcing_one_more_subnet_frees_its_flows_from_translation(site: Site) -> None:
    site.reach(joined(FOUR))
    site.send(FOUR.unannounced, 1001, FOUR.far, TRANSLATED)
    both = frozenset({Prefix.parse("10.1.0.0/24"), Prefix.parse("10.9.0.0/24")})
    mesh = joined(FOUR).mesh
    site.reach(KernelState(guards=mesh, local=both, mesh=mesh))
    assert site.entries(FOUR) == set()
    site.send(FOUR.unannounced, 1001, FOUR.far, TRANSLATED)
    assert site.entries(FOUR) == {Entry(FOUR.unannounced, FOUR.far, 1001, FOUR.unannounced)}


def test_a_flushed_ruleset_leaves_no_translated_flow_once_it_is_repaired(site: Site) -> None:
    site.reach(joined(FOUR))
    run("nft delete table inet meshd")
    site.send(FOUR.announced, 1001, FOUR.far, TRANSLATED)
    assert {entry.reply_destination for entry in site.entries(FOUR)} == {FOUR.uplink}
    site.reach(joined(FOUR))
    assert site.entries(FOUR) == set()


def test_zones_of_connection_tracking_are_told_apart(site: Site) -> None:
    # The same addresses and ports in another zone are another connection.
    run("nft add table inet zoned")
    run("nft add chain inet zoned pre { type filter hook prerouting priority raw; }")
    run("nft add rule inet zoned pre iifname lan0 udp sport 1001 ct zone set 5")
    site.send(FOUR.announced, 1001, FOUR.far, TRANSLATED)
    assert "zone=5" in run("conntrack -L -p udp")
    site.reach(joined(FOUR))
    assert site.entries(FOUR) == set()


@pytest.mark.parametrize("family", [FOUR, SIX], ids=["IPv4", "IPv6"])
def test_where_meshd_is_the_nat_a_flow_into_the_mesh_is_freed_and_one_to_the_outside_goes_on(
    translating_site: Site, family: Family
) -> None:
    f, site = family, translating_site
    uplinks = frozenset({"net0"})
    site.reach(attrs.evolve(lone(f), uplinks=uplinks))
    site.send(f.announced, 1001, f.far, DIRECT)
    site.send(f.announced, 1002, f.elsewhere, DIRECT)
    site.send(f.unannounced, 1003, f.elsewhere, DIRECT)
    outside = {
        Entry(f.announced, f.elsewhere, 1002, f.uplink),
        Entry(f.unannounced, f.elsewhere, 1003, f.unannounced),
    }
    assert site.entries(f) == {Entry(f.announced, f.far, 1001, f.uplink)} | outside
    site.reach(attrs.evolve(joined(f), uplinks=uplinks))
    assert site.entries(f) == outside
    site.send(f.announced, 1001, f.far, DIRECT)
    site.send(f.announced, 1004, f.elsewhere, DIRECT)
    inside = Entry(f.announced, f.far, 1001, f.announced)
    outside |= {Entry(f.announced, f.elsewhere, 1004, f.uplink)}
    assert site.entries(f) == {inside} | outside
    site.reach(attrs.evolve(lone(f), uplinks=uplinks))
    assert site.entries(f) == outside
    site.send(f.announced, 1001, f.far, DIRECT)
    assert site.entries(f) == {Entry(f.announced, f.far, 1001, f.uplink)} | outside


def test_what_leaves_by_no_uplink_and_global_addresses_are_not_translated(
    translating_site: Site,
) -> None:
    site = translating_site
    wide = KernelState(
        local=frozenset({Prefix.parse("10.1.0.0/24"), Prefix.parse("2001:db8:1::/64")}),
        uplinks=frozenset({"net0"}),
    )
    _addresses("", "lan0", "2001:db8:1::1/64")
    _addresses(site.client, "lan", "2001:db8:1::5/64")
    site.reach(wide)
    site.send("2001:db8:1::5", 1001, SIX.far, DIRECT)
    assert {entry.reply_destination for entry in site.entries(SIX)} == {"2001:db8:1::5"}
    site.send(FOUR.announced, 1002, "10.9.0.1", DIRECT)
    site.reach(attrs.evolve(wide, uplinks=frozenset({"net7"})))
    site.send(FOUR.announced, 1003, FOUR.elsewhere, DIRECT)
    assert {entry.reply_destination for entry in site.entries(FOUR)} == {FOUR.announced}


def test_with_rules_of_ones_own_over_the_sets_flows_are_freed_too_and_off_touches_none() -> None:
    with _site("set") as site:
        run("nft -f -", FOREIGN)
        site.reach(lone(FOUR))
        run(
            "nft -f -",
            """
            add chain inet meshd mine { type nat hook postrouting priority srcnat - 1; }
            add rule inet meshd mine ip saddr @local4 ip daddr @mesh4 snat ip to ip saddr
            """,
        )
        site.send(FOUR.announced, 1001, FOUR.far, TRANSLATED)
        site.send(FOUR.announced, 1002, FOUR.elsewhere, TRANSLATED)
        outside = {Entry(FOUR.announced, FOUR.elsewhere, 1002, FOUR.uplink)}
        site.reach(joined(FOUR))
        assert site.entries(FOUR) == outside
        site.send(FOUR.announced, 1001, FOUR.far, TRANSLATED)
        inside = {Entry(FOUR.announced, FOUR.far, 1001, FOUR.announced)}
        assert site.entries(FOUR) == inside | outside
    with _site("off") as site:
        run("nft -f -", FOREIGN)
        site.send(FOUR.announced, 1001, FOUR.far, TRANSLATED)
        site.reach(KernelState(guards=joined(FOUR).guards))
        assert len(site.entries(FOUR)) == 1
        assert "meshd" not in run("nft list ruleset")
