"""What is announced of what an operator wants: of interfaces what is there, allowed and well."""

from __future__ import annotations

import ipaddress
from typing import Any

import attrs
import pytest
from origins import net, origin, surroundings

from meshd.errors import UsageError
from meshd.kernel.state import ForeignRoute, Host, Interface
from meshd.local.selection import LeftOut, Selection, candidates, select
from meshd.values import Announced, Followed, announced, distinct_announced
from protocol.objects import Grant

ALLOW = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")


def interface(name: str, *addresses: str, up: bool = True) -> Interface:
    return Interface(name, 7, up, tuple(map(ipaddress.ip_interface, addresses)))


def grant(*allow: str, limit: int = 0) -> Grant:
    return origin(0, allow=allow or ALLOW, limit=limit).grant


def chosen(host: Host, *texts: str, **more: Any) -> Selection:
    wanted = [announced(text) for text in texts]
    return select(wanted, host, more.pop("grant", grant()), **more)


def prefixes(selection: Selection) -> dict[str, str]:
    return {str(prefix): str(source) for prefix, source in selection.prefixes.items()}


def reasons(selection: Selection) -> dict[str, str]:
    return {str(each.prefix or each.source): each.reason for each in selection.left_out}


BR0 = interface("br0", "10.1.0.1/24", "fd00:1::1/64", "fe80::1/64")


def test_an_interface_stands_for_its_subnets_in_both_families() -> None:
    found = chosen(surroundings(BR0), "interface:br0", "10.9.0.0/24")
    assert prefixes(found) == {
        "10.1.0.0/24": "interface:br0",
        "fd00:1::/64": "interface:br0",
        "10.9.0.0/24": "10.9.0.0/24",
    }
    assert found.left_out == ()


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([], "there is no interface of that name yet"),
        ([attrs.evolve(BR0, up=False)], "the interface is down"),
        ([interface("br0", "fe80::1/64", "169.254.3.1/16")], "the interface has no subnet"),
        ([interface("br0", "127.0.0.1/8", "::1/128")], "the interface has no subnet"),
    ],
)
def test_an_interface_without_a_subnet_is_named_with_the_reason(
    found: list[Interface], reason: str
) -> None:
    selection = chosen(surroundings(*found), "interface:br0", "10.9.0.0/24")
    assert prefixes(selection) == {"10.9.0.0/24": "10.9.0.0/24"}
    assert selection.left_out == (LeftOut(Followed("br0"), None, reason),)


def test_an_address_counts_where_its_network_has_a_route_or_is_the_address() -> None:
    there = interface("br0", "10.1.0.1/24", "10.2.0.1/24", "10.3.0.1/32", "fd00:3::1/128")
    route = ForeignRoute(net("10.1.0.0/24"), None, "br0", 2, 0)
    elsewhere = ForeignRoute(net("10.2.0.0/24"), None, "net0", 2, 0)
    found = chosen(Host((there,), (route, elsewhere)), "interface:br0")
    assert set(prefixes(found)) == {"10.1.0.0/24", "10.3.0.1/32", "fd00:3::1/128"}


def test_what_the_grant_does_not_allow_is_left_out_by_name() -> None:
    found = chosen(surroundings(BR0), "interface:br0", grant=grant("10.0.0.0/8"))
    assert set(prefixes(found)) == {"10.1.0.0/24"}
    assert reasons(found) == {
        "fd00:1::/64": "outside the grant of n0, which allows 10.0.0.0/8",
    }


def test_a_subnet_that_holds_our_own_address_for_the_mesh_is_left_out() -> None:
    here = [ipaddress.ip_address("10.1.0.1")]
    found = chosen(surroundings(BR0), "interface:br0", reached_at=here)
    assert set(prefixes(found)) == {"fd00:1::/64"}
    assert "it holds 10.1.0.1, where the mesh reaches this host" in reasons(found).values()
    # What is named outright is the operator's word.
    assert "10.1.0.0/24" in prefixes(chosen(surroundings(BR0), "10.1.0.0/24", reached_at=here))


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("docker0", "172.17.0.1/16"),
        ("br-7f", "172.17.0.1/16"),
        ("docker0", "172.18.0.1/16"),
        ("docker0", "172.31.0.1/16"),
        ("docker0", "192.168.16.1/20"),
    ],
)
def test_what_docker_gives_docker0_by_itself_must_be_named_outright(
    name: str, address: str
) -> None:
    host = surroundings(interface(name, address))
    subnet = str(ipaddress.ip_interface(address).network)
    found = chosen(host, f"interface:{name}")
    assert prefixes(found) == {}
    assert "Docker gives docker0 such a subnet on every host" in reasons(found)[subnet]
    assert "name it in announce" in reasons(found)[subnet]
    named = chosen(host, f"interface:{name}", subnet)
    assert prefixes(named) == {subnet: subnet}
    assert named.left_out == ()


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("docker0", "10.5.0.1/24"),
        ("docker0", "172.18.4.1/24"),
        ("docker0", "192.168.4.1/24"),
        ("br-7f", "172.18.0.1/16"),
    ],
)
def test_what_an_operator_gave_docker0_is_announced(name: str, address: str) -> None:
    found = chosen(surroundings(interface(name, address)), f"interface:{name}")
    assert set(prefixes(found)) == {str(ipaddress.ip_interface(address).network)}


def test_of_what_overlaps_the_outer_one_is_announced() -> None:
    host = surroundings(BR0)
    outer = chosen(host, "interface:br0", "10.1.0.0/16")
    assert set(prefixes(outer)) == {"10.1.0.0/16", "fd00:1::/64"}
    assert reasons(outer) == {"10.1.0.0/24": "inside 10.1.0.0/16"}
    inner = chosen(host, "interface:br0", "10.1.0.128/25")
    assert set(prefixes(inner)) == {"10.1.0.0/24", "fd00:1::/64"}
    assert reasons(inner) == {"10.1.0.128/25": "inside 10.1.0.0/24"}


def test_what_is_named_and_found_is_announced_once() -> None:
    for texts in (("interface:br0", "10.1.0.0/24"), ("10.1.0.0/24", "interface:br0")):
        found = chosen(surroundings(BR0), *texts)
        assert prefixes(found)["10.1.0.0/24"] == "10.1.0.0/24"
        assert found.left_out == ()
    twice = interface("br1", "10.1.0.2/24")
    found = chosen(surroundings(BR0, twice), "interface:br0", "interface:br1")
    assert prefixes(found)["10.1.0.0/24"] == "interface:br0"


def test_the_limit_of_the_grant_leaves_out_what_was_only_found() -> None:
    found = chosen(
        surroundings(BR0), "interface:br0", "10.7.0.0/24", "10.8.0.0/24", grant=grant(limit=3)
    )
    assert set(prefixes(found)) == {"10.1.0.0/24", "10.7.0.0/24", "10.8.0.0/24"}
    assert reasons(found) == {"fd00:1::/64": "the grant allows 3 prefixes, and they are used"}


def test_what_is_unhealthy_is_left_out_by_prefix_or_by_interface() -> None:
    host = surroundings(BR0)

    def with_(*ill: str) -> tuple[set[str], dict[str, str]]:
        bad: dict[Announced, str] = {announced(text): f"unhealthy: {text}" for text in ill}
        found = chosen(host, "interface:br0", "10.9.0.0/24", unhealthy=bad)
        assert all(each.unhealthy for each in found.left_out)
        return set(prefixes(found)), reasons(found)

    assert with_("10.9.0.0/24") == (
        {"10.1.0.0/24", "fd00:1::/64"},
        {"10.9.0.0/24": "unhealthy: 10.9.0.0/24"},
    )
    assert with_("interface:br0")[0] == {"10.9.0.0/24"}
    assert with_("fd00:1::/64") == (
        {"10.1.0.0/24", "10.9.0.0/24"},
        {"fd00:1::/64": "unhealthy: fd00:1::/64"},
    )
    assert with_("10.99.0.0/24")[1] == {}


def test_an_inner_prefix_takes_the_place_of_an_outer_one_that_is_unhealthy() -> None:
    bad: dict[Announced, str] = {net("10.1.0.0/16"): "unhealthy: exit 1"}
    found = chosen(surroundings(BR0), "interface:br0", "10.1.0.0/16", unhealthy=bad)
    assert set(prefixes(found)) == {"10.1.0.0/24", "fd00:1::/64"}


def test_candidates_are_all_that_could_be_announced() -> None:
    host = surroundings(interface("docker0", "172.17.0.1/16"))
    wanted = [announced("interface:docker0"), announced("10.9.0.0/24")]
    assert set(map(str, candidates(wanted, host))) == {"172.17.0.0/16", "10.9.0.0/24"}


@pytest.mark.parametrize("text", ["interface:", "interface:a/b", "interface:a b", "interface:a:1",
                                  "interface:\x1b[0m", "interface:" + "x" * 32])  # fmt: skip
def test_what_can_be_no_interface_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="can be no interface's name; write one like br0") as told:
        announced(text)
    assert str(told.value).isprintable()


def test_wanted_things_are_distinct_and_named_prefixes_do_not_overlap() -> None:
    twice = [announced(text) for text in ("interface:br0", "10.1.0.0/24") * 2]
    assert distinct_announced(twice) == tuple(twice[:2])
    with pytest.raises(UsageError, match="lies inside"):
        distinct_announced([announced("10.1.0.0/24"), announced("10.0.0.0/8")])
