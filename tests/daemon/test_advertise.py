"""Which addresses are announced when nobody named any: none is guessed."""

from __future__ import annotations

import ipaddress

from meshd.advertise import advertised
from meshd.kernel.state import Host, Interface
from protocol.address import Endpoint, Prefix

SUBNET = Prefix.parse("10.1.0.0/24")


def host(*addresses: str, up: bool = True) -> Host:
    found = tuple(ipaddress.ip_interface(address) for address in addresses)
    return Host((Interface("net0", 2, up, found),))


def choose(where: Host, *seeds: Endpoint, current: tuple[Endpoint, ...] = ()) -> list[str]:
    return [str(each) for each in advertised((), seeds, where, [SUBNET], 6179, current)]


def test_what_the_operator_names_is_what_is_announced() -> None:
    given = (Endpoint("203.0.113.1", 7000),)
    assert advertised(given, (), host("192.0.2.1/24"), [SUBNET], 6179) == given


def test_the_only_address_outside_what_is_announced_is_taken_in_each_family() -> None:
    where = host("192.0.2.1/24", "10.1.0.1/24", "2001:db8::1/64", "fe80::1/64", "127.0.0.1/8")
    assert choose(where) == ["192.0.2.1:6179", "[2001:db8::1]:6179"]


def test_of_two_that_would_do_none_is_guessed() -> None:
    assert choose(host("192.0.2.1/24", "198.51.100.1/24")) == []


def test_an_address_of_an_interface_that_is_down_does_not_count() -> None:
    assert choose(host("192.0.2.1/24", up=False)) == []


def test_the_source_towards_a_seed_decides() -> None:
    where = host("192.0.2.1/24", "198.51.100.1/24")
    assert choose(where, Endpoint("127.0.0.1", 6179)) == ["127.0.0.1:6179"]


def test_what_is_announced_already_stays_while_it_is_ours() -> None:
    where = host("192.0.2.1/24", "198.51.100.1/24")
    assert choose(where, current=(Endpoint("192.0.2.1", 6179),)) == ["192.0.2.1:6179"]
    assert choose(where, current=(Endpoint("192.0.2.9", 6179),)) == []
