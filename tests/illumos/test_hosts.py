"""What netstat, ifconfig and route monitor print, as people and their source show it."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest

from meshd.kernel.illumos import hosts
from meshd.kernel.illumos.hosts import Row
from protocol.address import Prefix

NEW = """
IRE Table: IPv4
  Destination             Mask           Gateway          Device  MTU  Ref Flg  Out  In/Fwd
-------------------- --------------- -------------------- ------ ----- --- --- ----- ------
default              0.0.0.0         192.0.2.254                  1500   5 UG  5666596      0
127.0.0.1            255.255.255.255 127.0.0.1            lo0     8232   2 UH   31396  31391
192.0.2.0            255.255.255.0   192.0.2.1            net0    1500   3 U     2181      0
10.2.0.0             255.255.255.0   192.0.2.2                    1500   1 UGS      0      0
10.3.0.0             255.255.255.0   127.0.0.1            lo0     8232   1 URB      0      0
10.3.0.0             255.255.0.0     192.0.2.3                    1500   1 UG       0      0
10.2.0.7             255.255.255.255 192.0.2.2                    1500   1 UGHS5666596      0

IRE Table: IPv6
  Destination/Mask            Gateway                    If    MTU  Ref Flags  Out   In/Fwd
--------------------------- --------------------------- ----- ----- --- ----- ------ ------
::1                         ::1                         lo0    8252   2 UH         0      0
2001:db8::/64               2001:db8::1                 net0   1500   2 U          0      0
fd02::/64                   ::1                         lo0    8252   1 U          0      0
2001:db8:1234:5678:9abc:def0::/96 2001:db8::5678:9abc:def0       1500   1 UGS   1234567      0
default                     2001:db8::ffff                     1500   1 UG         0      0
fd03::/64                       --                      net0   1500   1 U          0      0
"""
OLD = """
IRE Table: IPv4
  Destination             Mask           Gateway          Device Mxfrg  Rtt  Ref Flg  Out  In/Fwd
-------------------- --------------- -------------------- ------ ----- ----- --- --- ----- ------
192.0.2.0            255.255.255.0   192.0.2.1            net0    1500*    0   1 U       83     0
10.2.0.0             255.255.255.0   192.0.2.2                    1500*    0   1 UG       0     0
"""


def row(prefix: str, gateway: str | None, device: str | None, flags: str) -> Row:
    return Row(Prefix.parse(prefix), ip_address(gateway) if gateway else None, device, flags)


def test_a_routing_table_is_read_with_and_without_devices() -> None:
    found = hosts.table(NEW)
    assert found == [
        row("0.0.0.0/0", "192.0.2.254", None, "UG"),
        row("127.0.0.1/32", "127.0.0.1", "lo0", "UH"),
        row("192.0.2.0/24", "192.0.2.1", "net0", "U"),
        row("10.2.0.0/24", "192.0.2.2", None, "UGS"),
        row("10.3.0.0/24", "127.0.0.1", "lo0", "URB"),
        row("10.3.0.0/16", "192.0.2.3", None, "UG"),
        row("10.2.0.7/32", "192.0.2.2", None, "UGHS"),
        row("::1/128", "::1", "lo0", "UH"),
        row("2001:db8::/64", "2001:db8::1", "net0", "U"),
        row("fd02::/64", "::1", "lo0", "U"),
        row("2001:db8:1234:5678:9abc:def0::/96", "2001:db8::5678:9abc:def0", None, "UGS"),
        row("::/0", "2001:db8::ffff", None, "UG"),
        row("fd03::/64", None, "net0", "U"),
    ]
    assert [str(each.prefix) for each in found if each.leads_nowhere] == [
        "10.3.0.0/24",
        "fd02::/64",
    ]


def test_an_older_table_has_a_column_more() -> None:
    assert hosts.table(OLD) == [
        row("192.0.2.0/24", "192.0.2.1", "net0", "U"),
        row("10.2.0.0/24", "192.0.2.2", None, "UG"),
    ]


@pytest.mark.parametrize(
    "line", ["", "10.2.0.0", "10.2.0.0 255.255.0.255 x 1500 1 U 0 0", "a " * 9]
)
def test_what_is_no_row_is_left_out(line: str) -> None:
    assert hosts.table(f"IRE Table: IPv4\n{line}\n") == []
    assert hosts.table(NEW.replace("IRE Table", "Something")) == []


IFCONFIG = """\
lo0: flags=2001000849<UP,LOOPBACK,RUNNING,MULTICAST,IPv4,VIRTUAL> mtu 8232 index 1
\tinet 127.0.0.1 netmask ff000000
net0: flags=1100943<UP,BROADCAST,RUNNING,PROMISC,MULTICAST,ROUTER,IPv4> mtu 1500 index 2
\tinet 192.0.2.1 netmask ffffff00 broadcast 192.0.2.255
\tether 2:8:20:1:2:3
net0:1: flags=1100943<UP,BROADCAST,RUNNING,MULTICAST,ROUTER,IPv4> mtu 1500 index 2
\tinet 192.0.2.7 netmask ffffff00 broadcast 192.0.2.255
net1: flags=1100842<BROADCAST,RUNNING,MULTICAST,IPv4> mtu 1500 index 3
\tinet 10.1.0.1 netmask ffffff00 broadcast 10.1.0.255
mesh0: flags=10010008d1<UP,POINTOPOINT,RUNNING,NOARP,MULTICAST,IPv4,FIXEDMTU> mtu 1480 index 4
\tinet tunnel src 203.0.113.1 tunnel dst 198.51.100.7
\tinet 10.255.0.1 --> 10.255.0.2 netmask ffffffff
net0: flags=20002004841<UP,RUNNING,MULTICAST,DHCP,IPv6> mtu 1500 index 2
\tinet6 fe80::8:20ff:fe01:203/10
net0:1: flags=20002080841<UP,RUNNING,MULTICAST,ADDRCONF,IPv6> mtu 1500 index 2
\tinet6 2001:db8::1/64
"""


def test_interfaces_are_read_with_all_their_addresses() -> None:
    found = {each.name: each for each in hosts.interfaces(IFCONFIG)}
    assert list(found) == ["lo0", "net0", "net1", "mesh0"]
    assert [each.index for each in found.values()] == [1, 2, 3, 4]
    assert [each.name for each in found.values() if each.up] == ["lo0", "net0", "mesh0"]
    assert set(found["net0"].addresses) == {
        ip_interface(text)
        for text in (
            "192.0.2.1/24",
            "192.0.2.7/24",
            "fe80::8:20ff:fe01:203/10",
            "2001:db8::1/64",
        )
    }
    assert found["mesh0"].addresses == (ip_interface("10.255.0.1/32"),)
    assert hosts.on_link(found.values(), ip_address("192.0.2.99")) == "net0"
    assert hosts.on_link(found.values(), ip_address("10.1.0.9")) is None  # down
    assert hosts.on_link(found.values(), ip_address("198.51.100.1")) is None


def heard(text: str) -> list[hosts.Event]:
    events = hosts.Events()
    return [event for line in text.splitlines() if (event := events.feed(line)) is not None]


def route_message(kind: str, errno: int = 0) -> str:
    return (
        "got message of size 200\n"
        f"{kind}: len 200, pid: 77, seq 1, errno {errno}, flags:<UP,GATEWAY,DONE,STATIC>\n"
        "locks:  inits: \nsockaddrs: <DST,GATEWAY,NETMASK>\n 10.2.0.0 192.0.2.2 255.255.255.0\n"
    )


def test_events_are_put_together_from_their_lines() -> None:
    prefix = Prefix.parse("10.2.0.0/24")
    assert heard(
        route_message("RTM_ADD: Add Route") + route_message("RTM_DELETE: Delete Route")
    ) == [
        hosts.Event(77, "10.2.0.0/24 written", prefix),
        hosts.Event(77, "10.2.0.0/24 deleted", prefix),
    ]
    assert heard(
        "RTM_IFINFO: iface status change: len 128, if# 2, flags:<UP>\nsockaddrs: <IFP>\n net0\n"
        "RTM_NEWADDR: address being brought up on iface: len 128, metric 0, flags:<UP>\n"
        "sockaddrs: <NETMASK,IFP,IFA>\n 255.255.255.0 net0 192.0.2.1\n"
    ) == [
        hosts.Event(0, "link net0 changed"),
        hosts.Event(0, "addresses or routes changed"),
    ]


def test_questions_and_refusals_are_no_events() -> None:
    assert heard(route_message("RTM_GET: Report Metrics")) == []
    assert heard(route_message("RTM_ADD: Add Route", errno=17)) == []
    assert heard("nonsense\n sockaddrs\n\n") == []
