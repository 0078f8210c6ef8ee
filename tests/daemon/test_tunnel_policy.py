"""Who is reached through the tunnel, and what it consists of for that."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from origins import GATEWAY, IDENTITIES, INSIDE, UPLINK, judge, net, origin, row, surroundings

from meshd.kernel.state import ForeignRoute, Host, Interface
from meshd.kernel.tunnel import DEVICE, Forward, Tunnel, adopted, after, steps
from meshd.policy import tunnel as tunnel_policy
from meshd.policy.decide import Decision
from meshd.policy.origin import Origin
from meshd.policy.tunnel import Terms
from protocol.address import endpoint
from protocol.tunnel import hardware_address, link_local

MINE = bytes([2, 0, 0, 0, 0, 1])
TERMS = Terms(6180, False, 77, MINE, (endpoint("192.0.2.1", 6179), endpoint("2001:db8::1", 6179)))
GATEWAY6 = ForeignRoute(net("::/0"), ip_address("2001:db8::fffe"), "net0", 3, 1024)
HERE = surroundings(UPLINK, INSIDE, foreign=(GATEWAY, GATEWAY6))


def far(number: int, *prefixes: str, port: int = 6180, **more: Any) -> Origin:
    """A node behind our default gateway, with a tunnel."""
    more.setdefault("endpoints", (f"198.51.100.{number}", f"2001:db8:9::{number}"))
    found = origin(number, *prefixes, **more)
    return found._replace(announcement=attrs.evolve(found.announcement, tunnel=port))


def decided(
    *origins: Origin, terms: Terms | None = TERMS, host: Host = HERE, **more: Any
) -> Decision:
    return judge(*origins, host=host, tunnel=terms, **more)


def routes(decision: Decision) -> dict[str, str]:
    found = decision.desired.routes
    return {str(prefix): hops.words(prefix.version) for prefix, hops in found.items()}


def of(number: int) -> bytes:
    return hardware_address(IDENTITIES[number].public)


def test_a_member_behind_the_gateway_is_reached_through_the_tunnel() -> None:
    decision = decided(far(3, "10.3.0.0/24", "fd00:3::/64"))
    hop = link_local(of(3))
    assert routes(decision) == {
        "10.3.0.0/24": "via 198.51.100.3 dev meshd0 onlink src 10.1.0.1",
        "fd00:3::/64": f"via {hop} dev meshd0 src fd00:1::1",
    }
    tunnel = decision.desired.tunnel
    assert tunnel is not None
    assert tunnel.neighbours == {ip_address("198.51.100.3"): of(3), hop: of(3)}
    assert tunnel.forwarding == {Forward(of(3), ip_address("198.51.100.3"), 6180)}
    assert str(tunnel).splitlines()[0] == (
        "tunnel meshd0 id 77 local 192.0.2.1 port 6180 address 02:00:00:00:00:01 mtu 1450"
    )
    assert decision.desired.admitted == {net("198.51.100.3/32")}
    found = row(decision, "10.3.0.0/24", 3)
    assert (found.state, found.device) == ("installed", DEVICE)


def test_a_member_on_our_link_is_reached_directly_and_admitted_all_the_same() -> None:
    decision = decided(far(2, "10.2.0.0/24", endpoints=("192.0.2.4",)))
    assert routes(decision) == {"10.2.0.0/24": "via 192.0.2.4 dev net0 src 10.1.0.1"}
    assert decision.desired.tunnel is not None
    assert not decision.desired.tunnel.neighbours
    # It may think otherwise of us, and send through its tunnel.
    assert decision.desired.admitted == {net("192.0.2.4/32")}


def test_always_means_members_on_our_link_too() -> None:
    terms = attrs.evolve(TERMS, always=True)
    decision = decided(far(2, "10.2.0.0/24", endpoints=("192.0.2.4",)), terms=terms)
    assert routes(decision) == {"10.2.0.0/24": "via 192.0.2.4 dev meshd0 onlink src 10.1.0.1"}
    without = decided(origin(2, "10.2.0.0/24"), terms=terms)
    assert row(without, "10.2.0.0/24", 2).reason == (
        'its node has no tunnel: set tunnel = "vxlan" there'
    )


def test_another_port_of_a_member_stands_in_its_entry() -> None:
    tunnel = decided(far(3, "10.3.0.0/24", port=7000)).desired.tunnel
    assert tunnel is not None
    assert {each.port for each in tunnel.forwarding} == {7000}
    assert tunnel.device.port == 6180


NOT_ON_LINK = "its next hop 198.51.100.3 is not on-link: it resolves through"


@pytest.mark.parametrize(
    ("member", "terms", "said"),
    [
        (
            far(3, "10.3.0.0/24", port=0),
            TERMS,
            'its node has no tunnel: set tunnel = "vxlan" there',
        ),
        (
            far(3, "10.3.0.0/24"),
            None,
            'its node has a tunnel: set tunnel = "vxlan" here too',
        ),
        (
            far(3, "10.3.0.0/24", endpoints=("2001:db8:9::3",)),
            TERMS,
            "its tunnel ends at IPv6, ours at IPv4: both must announce an IPv4 address, or neither",
        ),
        (
            far(3, "10.3.0.0/24"),
            attrs.evolve(TERMS, endpoints=(endpoint("2001:db8::1", 6179),)),
            "its tunnel ends at IPv4, ours at IPv6: both must announce an IPv4 address, or neither",
        ),
        (
            far(3, "10.3.0.0/24"),
            attrs.evolve(TERMS, endpoints=()),
            "this host announces no address to have a tunnel at: advertise one",
        ),
        (
            far(3, "10.3.0.0/24"),
            attrs.evolve(TERMS, endpoints=(endpoint("203.0.113.1", 6179),)),
            "203.0.113.1, which this host announces, is not on it: a tunnel must end here",
        ),
    ],
)
def test_a_member_that_the_tunnel_does_not_reach_is_refused_with_both_reasons(
    member: Origin, terms: Terms | None, said: str
) -> None:
    decision = decided(member, terms=terms)
    found = row(decision, "10.3.0.0/24", 3)
    assert (found.state, found.rule) == ("refused", "next-hop")
    first, _, second = found.reason.partition("; ")
    assert first.startswith("its next hop ")
    assert second == said
    # Its prefix is guarded all the same.
    assert decision.desired.guards == {net("10.3.0.0/24")}


def test_our_own_address_at_a_member_is_no_end_of_a_tunnel() -> None:
    member = far(3, "10.3.0.0/24", endpoints=("192.0.2.1",))
    assert row(decided(member), "10.3.0.0/24", 3).reason == (
        "its next hop 192.0.2.1 is our own address"
    )


def test_without_a_route_to_its_address_a_member_is_not_reached() -> None:
    decision = decided(far(3, "10.3.0.0/24"), host=surroundings(UPLINK, INSIDE))
    assert row(decision, "10.3.0.0/24", 3).reason == (
        "there is no route to its next hop 198.51.100.3"
    )


def test_a_route_that_leads_into_the_tunnel_itself_is_not_taken() -> None:
    looped = ForeignRoute(net("198.51.100.0/24"), ip_address("198.51.100.9"), DEVICE, 4, 0)
    host = surroundings(UPLINK, INSIDE, Interface(DEVICE, 9, True), foreign=(GATEWAY, looped))
    assert row(decided(far(3, "10.3.0.0/24"), host=host), "10.3.0.0/24", 3).reason.endswith(
        "the route to its address 198.51.100.3 leads into the tunnel itself"
    )


def test_who_announces_anothers_address_gets_none_of_its_frames() -> None:
    there = ("198.51.100.3",)
    old = far(5, "10.5.0.0/24", serial=1, endpoints=there)
    young = far(3, "10.3.0.0/24", serial=2, endpoints=there)
    decision = decided(young, old)
    assert routes(decision) == {
        "10.5.0.0/24": "via 198.51.100.3 dev meshd0 onlink src 10.1.0.1",
        "10.3.0.0/24": f"via inet6 {link_local(of(3))} dev meshd0 src 10.1.0.1",
    }
    tunnel = decision.desired.tunnel
    assert tunnel is not None
    assert tunnel.neighbours == {ip_address("198.51.100.3"): of(5), link_local(of(3)): of(3)}
    # A host that was made anew sits where its former self did, which is silent.
    gone = old._replace(state="failed", failed_for=60.0)
    assert routes(decided(young, gone)) == {
        "10.3.0.0/24": "via 198.51.100.3 dev meshd0 onlink src 10.1.0.1"
    }


def test_of_two_with_one_hardware_address_who_was_granted_first_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tunnel_policy, "_derived", lambda node: (of(5), link_local(of(5))))
    old, young = far(5, "10.5.0.0/24", serial=1), far(3, "10.3.0.0/24", serial=2)
    decision = decided(young, old)
    assert row(decision, "10.5.0.0/24", 5).state == "installed"
    assert row(decision, "10.3.0.0/24", 3).reason.endswith(
        "n5 has the same hardware address, and the lower first serial"
    )
    ours = attrs.evolve(TERMS, hardware=of(5))
    assert row(decided(old, terms=ours), "10.5.0.0/24", 5).reason.endswith(
        "this host has the same hardware address, and the lower first serial"
    )


def test_a_member_that_failed_has_no_entry_and_stays_admitted() -> None:
    decision = decided(far(3, "10.3.0.0/24")._replace(state="failed", failed_for=60.0))
    assert decision.desired.tunnel is not None
    assert not decision.desired.tunnel.forwarding
    assert decision.desired.admitted == {net("198.51.100.3/32")}


def test_a_member_that_may_not_be_routed_to_is_not_admitted() -> None:
    member = far(3, "10.3.0.0/24", at=("203.0.113.0/24",))
    decision = decided(member)
    assert decision.desired.admitted == frozenset()
    assert row(decision, "10.3.0.0/24", 3).rule == "underlay"
    assert decided(far(3, "10.3.0.0/24"), expelled=True).desired.admitted == frozenset()


def test_an_ipv6_underlay_takes_70_octets_and_link_local_next_hops() -> None:
    terms = attrs.evolve(TERMS, endpoints=(endpoint("2001:db8::1", 6179),))
    decision = decided(far(3, "10.3.0.0/24", endpoints=("2001:db8:9::3",)), terms=terms)
    assert routes(decision) == {
        "10.3.0.0/24": f"via inet6 {link_local(of(3))} dev meshd0 src 10.1.0.1"
    }
    tunnel = decision.desired.tunnel
    assert tunnel is not None
    assert (tunnel.device.mtu, str(tunnel.device.local)) == (1430, "2001:db8::1")
    assert decision.desired.admitted == {net("2001:db8:9::3/128")}


def test_the_smallest_device_on_the_way_to_a_member_counts() -> None:
    slow = Interface("ppp0", 7, True, mtu=1400)
    there = ForeignRoute(net("198.51.100.4/32"), None, "ppp0", 4, 0)
    host = surroundings(UPLINK, INSIDE, slow, foreign=(GATEWAY, there))

    def mtu(members: Iterable[Origin]) -> int:
        tunnel = decided(*members, host=host).desired.tunnel
        assert tunnel is not None
        return tunnel.device.mtu

    # A link that no member is behind does not count.
    assert mtu([far(3, "10.3.0.0/24")]) == 1450
    assert mtu([far(3, "10.3.0.0/24"), far(4, "10.4.0.0/24")]) == 1350
    assert mtu([]) == 1450
    # A restarted daemon has seen nobody yet.
    assert mtu([far(3, "10.3.0.0/24"), far(4, "10.4.0.0/24", seen=False)]) == 1350


def test_without_a_tunnel_nothing_of_one_is_wanted() -> None:
    decision = decided(far(3, "10.3.0.0/24"), terms=None)
    assert decision.desired.tunnel is None
    assert decision.desired.admitted == frozenset()


# What a restarted daemon keeps, and what steps come to.


def tunnels() -> st.SearchStrategy[Tunnel | None]:
    device = st.sampled_from(
        [TUNNEL.device, attrs.evolve(TUNNEL.device, mtu=1400),
         attrs.evolve(TUNNEL.device, hardware=of(1)), attrs.evolve(TUNNEL.device, up=False),
         attrs.evolve(TUNNEL.device, port=7000), attrs.evolve(TUNNEL.device, flaws=("it learns",))]
    )  # fmt: skip
    addresses = [ip_address(f"198.51.100.{number}") for number in range(1, 4)]
    hardware = st.sampled_from([of(number) for number in range(3)])
    neighbours = st.dictionaries(st.sampled_from(addresses), hardware)
    forwarding = st.dictionaries(hardware, st.sampled_from(addresses)).map(
        lambda found: frozenset(Forward(h, a, 6180) for h, a in found.items())
    )
    return st.none() | st.builds(Tunnel, device, neighbours, forwarding)


FIRST = decided(far(3, "10.3.0.0/24")).desired.tunnel
assert FIRST is not None
TUNNEL: Tunnel = FIRST


@given(tunnels().filter(lambda found: found is None or not found.device.flaws), tunnels())
def test_the_steps_lead_from_any_tunnel_to_any_other(
    desired: Tunnel | None, actual: Tunnel | None
) -> None:
    found = steps(desired, actual)
    assert after(actual, [*found.removal, *found.making, *found.sweeping]) == desired
    assert steps(desired, desired) == ((), (), ())


def test_what_a_predecessor_left_stays_until_the_mesh_is_known() -> None:
    bare = Tunnel(TUNNEL.device)
    assert adopted(bare, TUNNEL) == TUNNEL
    assert adopted(None, TUNNEL) == TUNNEL
    assert adopted(TUNNEL, None) == TUNNEL
    # But not what a device of the other family cannot have.
    six = attrs.evolve(TUNNEL.device, local=ip_address("2001:db8::1"))
    kept = adopted(Tunnel(six), TUNNEL)
    assert kept is not None
    assert kept.forwarding == frozenset()
