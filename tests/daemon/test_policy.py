"""Import policy: what becomes of an announced prefix, and which words explain it."""

from __future__ import annotations

import ipaddress
from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from origins import GATEWAY, HOST, INSIDE, LOCAL, UPLINK, judge, net, origin, row, surroundings

from meshd.kernel.state import ForeignRoute, Host, KernelState
from meshd.policy.fib import SHORTEST
from meshd.policy.filters import Filter, Filters
from meshd.policy.ground import BOGONS
from meshd.policy.origin import Origin
from meshd.policy.prefixes import outermost
from protocol.address import Prefix


def test_a_granted_prefix_of_a_live_node_is_installed_with_guard_and_exclusion() -> None:
    decision = judge(origin(0, "10.2.0.0/24", "fd00:2::/64"))
    assert {str(p): hops.words(p.version) for p, hops in decision.desired.routes.items()} == {
        "10.2.0.0/24": "via 192.0.2.2 dev net0 src 10.1.0.1",
        "fd00:2::/64": "via 2001:db8::2 dev net0 src fd00:1::1",
    }
    assert (
        decision.desired.guards
        == decision.desired.mesh
        == {
            net("10.2.0.0/24"),
            net("fd00:2::/64"),
        }
    )
    assert decision.desired.local == set(LOCAL)
    assert row(decision, "10.2.0.0/24").state == "installed"


@pytest.mark.parametrize(
    ("prefix", "rule", "reason"),
    [
        ("0.0.0.0/0", "too-short", "shorter than /8"),
        ("::/0", "too-short", "shorter than /16"),
        ("0.0.0.0/1", "too-short", "shorter than /8"),
        ("128.0.0.0/1", "too-short", "shorter than /8"),
        ("::/1", "too-short", "shorter than /16"),
        ("8000::/1", "too-short", "shorter than /16"),
        ("10.0.0.0/7", "too-short", "shorter than /8"),
        ("fc00::/15", "too-short", "shorter than /16"),
        ("10.1.0.0/24", "local", "overlaps 10.1.0.0/24, announced here"),
        ("10.1.0.128/25", "local", "overlaps 10.1.0.0/24, announced here"),
        ("10.0.0.0/8", "local", "overlaps 10.1.0.0/24, announced here"),
        ("192.0.2.0/24", "local", "overlaps 192.0.2.0/24, on net0"),
        ("192.0.2.128/25", "local", "overlaps 192.0.2.0/24, on net0"),
        ("192.0.2.1/32", "local", "overlaps 192.0.2.0/24, on net0"),
        ("192.0.2.254/32", "local", "overlaps 192.0.2.0/24, on net0"),
        ("192.0.2.0/23", "local", "overlaps 192.0.2.0/24, on net0"),
        ("fd00:1::/64", "local", "overlaps fd00:1::/64, announced here"),
        ("2001:db8::/32", "local", "overlaps 2001:db8::/64, on net0"),
    ],
)
def test_what_would_take_our_own_traffic_never_reaches_the_kernel_even_granted(
    prefix: str, rule: str, reason: str
) -> None:
    # 10.0.0.0/7 has host bits as written: the network that contains it is meant.
    prefix = str(Prefix.parse(prefix, strict=False))
    # Announced past the decoder, which refuses a whole announcement for a prefix of length 0.
    decision = judge(origin(0, allow=(prefix,), prefixes=(net(prefix),)))
    refused = row(decision, prefix)
    assert (refused.state, refused.rule) == ("refused", rule)
    assert reason in refused.reason
    assert decision.desired == KernelState(local=frozenset(LOCAL))


@pytest.mark.parametrize(("bogon", "what"), BOGONS)
def test_no_bogon_nor_what_lies_in_it_or_over_it_is_taken_even_granted(
    bogon: Prefix, what: str
) -> None:
    inside = max(bogon.prefixlen + 4, SHORTEST[bogon.version])
    near = [bogon, net(f"{bogon.network_address}/{inside}"), bogon.supernet()]
    for prefix in near:
        if prefix.prefixlen < SHORTEST[prefix.version]:
            continue  # refused for that
        decision = judge(origin(0, str(prefix), allow=(str(prefix),)), host=Host())
        refused = row(decision, str(prefix))
        assert (refused.state, refused.rule) == ("refused", "bogon")
        assert refused.reason == f"not to be routed: {bogon} is {what}"
        assert not decision.desired.guards


def test_a_prefix_over_our_gateway_or_a_members_address_is_refused() -> None:
    beyond = attrs.evolve(
        HOST, foreign=(attrs.evolve(GATEWAY, next_hop=ipaddress.ip_address("198.51.100.1")),)
    )
    decision = judge(origin(0, "198.51.100.0/24"), host=beyond)
    refused = row(decision, "198.51.100.0/24")
    assert (refused.rule, refused.reason) == ("gateway", "covers 198.51.100.1, our gateway")
    far = origin(1, endpoints=("203.0.113.7",))
    decision = judge(origin(0, "203.0.113.0/24"), far)
    refused = row(decision, "203.0.113.0/24")
    assert (refused.rule, refused.reason) == ("endpoint", "covers 203.0.113.7, where n1 is reached")


@pytest.mark.parametrize("prefix", ["203.0.113.0/24", "203.0.113.53/32", "2001:db8:1::/48"])
def test_a_prefix_over_a_resolver_of_ours_is_refused(prefix: str) -> None:
    servers = tuple(map(ipaddress.ip_address, ("203.0.113.53", "2001:db8:1::53")))
    decision = judge(origin(0, prefix), host=attrs.evolve(HOST, resolvers=servers))
    refused = row(decision, prefix)
    assert refused.rule == "resolver"
    assert refused.reason.endswith("53, our resolver")
    beside = judge(origin(0, "203.0.112.0/24"), host=attrs.evolve(HOST, resolvers=servers))
    assert row(beside, "203.0.112.0/24").state == "installed"


def test_nothing_of_a_revoked_key_is_taken_though_its_grant_is_still_there() -> None:
    both = origin(0, "10.2.0.0/24"), origin(1, "10.3.0.0/24")
    decision = judge(*both, revoked={both[0].key})
    assert row(decision, "10.2.0.0/24").rule == "revoked"
    assert set(decision.desired.routes) == {net("10.3.0.0/24")}


def test_who_is_revoked_itself_imports_nothing_and_every_row_says_so() -> None:
    decision = judge(
        origin(0, "10.2.0.0/24", "127.0.0.0/8"), origin(1, "10.3.0.0/24"), expelled=True
    )
    assert {each.rule for each in decision.routes} == {"self-revoked"}
    assert len(decision.routes) == 3
    assert decision.desired == KernelState(local=frozenset(LOCAL))


def test_the_first_refusal_wins() -> None:
    host = attrs.evolve(HOST, resolvers=(ipaddress.ip_address("10.2.0.53"),))
    closed = Filters(Filter(deny=(net("10.0.0.0/8"),)))

    def rule(**options: Any) -> str:
        found = judge(
            origin(0, "10.2.0.0/24", **options), host=host, filters=closed, now=20_000 * 86_400
        )
        return row(found, "10.2.0.0/24").rule

    today = {"sequence": 20_000 * 86_400_000}
    assert rule(until=1, allow=("10.3.0.0/24",), **today) == "grant-ended"
    assert rule(allow=("10.3.0.0/24",), **today) == "outside-grant"
    assert rule(**today) == "resolver"
    host = HOST
    assert rule(**today) == "denied"


def test_a_prefix_outside_the_grant_is_refused_with_what_the_grant_allows() -> None:
    decision = judge(origin(0, "172.16.0.0/24", allow=("10.0.0.0/8",)))
    assert row(decision, "172.16.0.0/24").reason == "outside its grant, which allows 10.0.0.0/8"


DAY = 86_400
TODAY = 20_000 * DAY
"""Unix seconds."""


def test_a_grant_that_has_ended_is_honoured_for_a_day_more() -> None:
    ended = origin(0, "10.2.0.0/24", until=TODAY, sequence=TODAY * 1000)
    assert judge(ended, now=TODAY + 86_000).desired.routes
    late = judge(ended, now=TODAY + 87_000)
    assert row(late, "10.2.0.0/24").reason == "its grant has ended"
    assert late.clock_off is None


def aged(*days: float, **state: object) -> list[Origin]:
    """Nodes that announced so many days ago; the first one's grant ended last week."""
    return [
        origin(
            number,
            f"10.{number + 2}.0.0/24",
            until=0 if number else TODAY - 7 * DAY,
            sequence=int((TODAY - each * DAY) * 1000),
            **state,  # type: ignore[arg-type]
        )
        for number, each in enumerate(days)
    ]


@pytest.mark.parametrize("days", [0.0, 0.1, 7.9, -7.9])
def test_a_clock_within_eight_days_of_most_members_ends_grants(days: float) -> None:
    decision = judge(*aged(30, days, days, days, -9000), now=TODAY)
    assert row(decision, "10.2.0.0/24").reason == "its grant has ended"
    assert decision.clock_off is None


@pytest.mark.parametrize("days", [8.1, -8.1, 20_000, -40_000])
def test_a_clock_further_than_that_from_most_members_ends_no_grant_and_is_told(days: float) -> None:
    decision = judge(*aged(0, days, days, days, 0), now=TODAY)
    assert row(decision, "10.2.0.0/24").state == "installed"
    assert decision.clock_off == pytest.approx(days * DAY)


def test_of_an_even_number_of_members_the_median_lies_between_the_two_in_the_middle() -> None:
    assert judge(*aged(0, 0, 15, 15), now=TODAY).clock_off is None
    assert judge(*aged(0, 1, 16, 16), now=TODAY).clock_off == pytest.approx(8.5 * DAY)


def test_who_was_not_seen_says_what_day_it_is_only_while_nobody_was() -> None:
    unseen = aged(100, 100, 100, seen=False)
    assert judge(*unseen, now=TODAY).clock_off == pytest.approx(100 * DAY)
    met = origin(3, sequence=TODAY * 1000)
    assert judge(*unseen, met, now=TODAY).clock_off is None
    left = [each._replace(seen=True, state="left") for each in unseen]
    assert judge(*left, met, now=TODAY).clock_off is None


def test_a_clock_is_not_judged_where_there_are_no_members() -> None:
    assert judge(now=TODAY).clock_off is None


def test_a_node_outside_its_granted_underlay_is_refused() -> None:
    stray = origin(0, "10.2.0.0/24", endpoints=("192.0.2.2",), at=("198.51.100.0/24",))
    refused = row(judge(stray), "10.2.0.0/24")
    assert refused.rule == "underlay"
    assert "192.0.2.2 is outside its grant, which says 198.51.100.0/24" in refused.reason


def test_who_sits_outside_its_grant_keeps_nobody_elses_prefix_out() -> None:
    intruder = origin(1, endpoints=("10.2.0.9",), at=("192.0.2.0/24",))
    assert row(judge(origin(0, "10.2.0.0/24"), intruder), "10.2.0.0/24").state == "installed"
    entitled = origin(1, endpoints=("10.2.0.9",))
    assert row(judge(origin(0, "10.2.0.0/24"), entitled), "10.2.0.0/24").rule == "endpoint"


def test_of_two_grants_the_more_specific_one_owns_the_prefix() -> None:
    wide = origin(0, "10.2.0.0/24", allow=("10.0.0.0/8",))
    narrow = origin(1, "10.2.0.0/24", allow=("10.2.0.0/16",))
    decision = judge(wide, narrow)
    assert row(decision, "10.2.0.0/24", 1).state == "installed"
    assert row(decision, "10.2.0.0/24", 0).state == "refused"
    refused = row(decision, "10.2.0.0/24", 0)
    assert (refused.rule, refused.winner) == ("conflict", (narrow.key, net("10.2.0.0/24")))
    assert refused.reason == (
        "10.2.0.0/24 belongs to n1, whose grant is more specific (10.2.0.0/16 against 10.0.0.0/8)"
    )


def test_a_renewed_grant_keeps_its_place() -> None:
    older = origin(0, "10.2.0.0/24", allow=("10.0.0.0/8",), serial=9, since=1)
    newer = origin(1, "10.2.0.0/24", allow=("10.0.0.0/8",), serial=5)
    assert row(judge(newer, older), "10.2.0.0/24", 0).state == "installed"


@pytest.mark.parametrize("theirs", ["10.2.0.0/24", "10.2.0.0/25", "10.2.0.0/16"])
def test_of_two_equal_grants_the_older_serial_owns_the_prefix(theirs: str) -> None:
    older = origin(0, "10.2.0.0/24", allow=("10.0.0.0/8",), serial=5)
    newer = origin(1, theirs, allow=("10.0.0.0/8",), serial=6)
    for order in ([older, newer], [newer, older]):
        decision = judge(*order)
        assert row(decision, "10.2.0.0/24", 0).state == "installed"
        refused = row(decision, theirs, 1)
        assert (refused.rule, refused.winner) == ("conflict", (older.key, net("10.2.0.0/24")))
        assert refused.reason.endswith("to n0, whose grant is older (first serial 5 against 6)")


def test_of_two_grants_of_one_age_the_lower_key_owns_the_prefix() -> None:
    both = [origin(n, "10.2.0.0/24", allow=("10.0.0.0/8",), serial=5) for n in (1, 0)]
    refused = row(judge(*both), "10.2.0.0/24", 1)
    assert (
        refused.reason == "10.2.0.0/24 belongs to n0, whose grant is as old, and whose key is lower"
    )


def test_two_nodes_whose_grants_name_the_very_prefix_are_both_its_origins() -> None:
    both = [origin(n, "10.2.0.0/24", allow=("10.2.0.0/24",), preference=100 + n) for n in (0, 1)]
    decision = judge(*both)
    assert row(decision, "10.2.0.0/24", 1).state == "installed"
    assert row(decision, "10.2.0.0/24", 0).state == "standby"
    assert "n1 carries it" in row(decision, "10.2.0.0/24", 0).reason


def test_a_failed_origin_gives_way_to_a_live_one_at_once() -> None:
    dead = origin(0, "10.2.0.0/24", allow=("10.2.0.0/24",), preference=200, state="failed")
    alive = origin(1, "10.2.0.0/24", allow=("10.2.0.0/24",))
    decision = judge(dead, alive)
    assert str(decision.desired.routes[net("10.2.0.0/24")].hops[0].address) == "192.0.2.3"


def test_a_failed_sole_origin_leaves_guard_and_exclusion_for_a_day() -> None:
    decision = judge(origin(0, "10.2.0.0/24", state="failed", why="silent"))
    assert not decision.desired.routes
    assert decision.desired.guards == decision.desired.mesh == {net("10.2.0.0/24")}
    assert row(decision, "10.2.0.0/24").state == "unreachable"
    later = judge(origin(0, "10.2.0.0/24", state="failed", failed_for=86_401.0))
    assert not later.desired.guards
    assert later.routes == ()


def test_a_node_whose_host_answers_keeps_its_route_while_it_is_held() -> None:
    decision = judge(origin(0, "10.2.0.0/24", state="failed", held="held for its restart"))
    assert net("10.2.0.0/24") in decision.desired.routes
    assert "held for its restart" in row(decision, "10.2.0.0/24").reason


def test_a_node_that_left_has_no_rows() -> None:
    assert judge(origin(0, "10.2.0.0/24", state="left")).routes == ()


def test_a_node_not_seen_gets_a_guard_and_no_route() -> None:
    decision = judge(origin(0, "10.2.0.0/24", seen=False))
    assert not decision.desired.routes
    assert decision.desired.guards == {net("10.2.0.0/24")}
    assert row(decision, "10.2.0.0/24").state == "standby"


def test_a_member_that_only_others_reach_is_used_for_want_of_another() -> None:
    far = origin(0, "10.2.0.0/24", allow=("10.2.0.0/24",), preference=200, reachable=False)
    assert "others reach it" in row(judge(far), "10.2.0.0/24").reason
    near = origin(1, "10.2.0.0/24", allow=("10.2.0.0/24",))
    assert row(judge(far, near), "10.2.0.0/24", 1).state == "installed"


@pytest.mark.parametrize(
    ("endpoints", "reason"),
    [
        (
            ("203.0.113.5",),
            "its next hop 203.0.113.5 is not on-link:"
            " it resolves through the default gateway 192.0.2.254",
        ),
        (("192.0.2.1",), "its next hop 192.0.2.1 is our own address"),
        ((), "its node announces no IPv4 address to be the next hop"),
    ],
)
def test_a_next_hop_that_is_not_on_link_is_refused(endpoints: tuple[str, ...], reason: str) -> None:
    decision = judge(origin(0, "10.2.0.0/24", endpoints=endpoints))
    assert row(decision, "10.2.0.0/24").reason == reason
    assert not decision.desired.routes


def test_a_next_hop_behind_an_interface_that_is_down_is_refused() -> None:
    down = surroundings(attrs.evolve(UPLINK, up=False), INSIDE)
    decision = judge(origin(0, "10.2.0.0/24"), host=down)
    assert row(decision, "10.2.0.0/24").reason == "there is no route to its next hop 192.0.2.2"
    assert decision.desired.guards == {net("10.2.0.0/24")}


def test_a_foreign_route_for_the_same_prefix_is_reported() -> None:
    foreign = ForeignRoute(net("10.2.0.0/24"), ipaddress.ip_address("192.0.2.99"), "net0", 3, 5)
    decision = judge(
        origin(0, "10.2.0.0/24"), host=attrs.evolve(HOST, foreign=(*HOST.foreign, foreign))
    )
    assert row(decision, "10.2.0.0/24").state == "shadowed"
    assert "metric 5" in row(decision, "10.2.0.0/24").reason


def test_the_order_of_arrival_decides_nothing() -> None:
    origins = [
        origin(0, "10.2.0.0/24", "10.3.0.0/16", allow=("10.0.0.0/8",)),
        origin(1, "10.2.0.0/16", allow=("10.0.0.0/8",)),
        origin(2, "10.3.4.0/24", "10.2.0.0/24", allow=("10.3.0.0/16", "10.2.0.0/24")),
        origin(3, "10.3.0.0/16", allow=("10.3.0.0/16",)),
    ]
    expected = judge(*origins)
    for seed in range(20):
        shuffled = list(origins)
        Random(seed).shuffle(shuffled)
        assert judge(*shuffled) == expected


prefixes = st.builds(
    lambda bits, length: Prefix(4, bits >> (32 - length) << (32 - length), length),
    st.integers(0x0A000000, 0x0AFFFFFF),
    st.integers(8, 32),
)


@given(st.lists(prefixes, max_size=30))
def test_outermost_covers_the_same_addresses_without_an_overlap(found: list[Prefix]) -> None:
    kept = outermost(found)
    assert kept <= set(found)
    assert all(any(k.covers(p) for k in kept) for p in found)
    assert not any(a != b and a.overlaps(b) for a in kept for b in kept)


@given(st.lists(st.tuples(st.integers(0, 4), prefixes), max_size=20))
def test_no_two_nodes_carry_overlapping_prefixes_unless_both_grants_name_them(
    claims: list[tuple[int, Prefix]],
) -> None:
    by_node: dict[int, list[str]] = {}
    for number, prefix in claims:
        if str(prefix) not in by_node.setdefault(number, []):
            by_node[number].append(str(prefix))
    decision = judge(*(origin(n, *ps, allow=("10.0.0.0/8",)) for n, ps in by_node.items()))
    accepted = [r for r in decision.routes if r.state == "installed"]
    for one in accepted:
        for other in accepted:
            assert one.node == other.node or not one.prefix.overlaps(other.prefix)
