"""Limits and filters: a set over a limit is refused whole, and what stays instead."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from random import Random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from origins import judge, net, origin, row

from meshd.policy.decide import NOTHING, Decision
from meshd.policy.filters import Filter, Filters
from meshd.policy.origin import Origin
from meshd.policy.prefixes import Nets
from protocol.address import Prefix


def nets(number: int, second: int = 2) -> list[str]:
    return [f"10.{second}.{each}.0/24" for each in range(number)]


def installed(decision: Decision) -> set[str]:
    return {str(each.prefix) for each in decision.routes if each.state == "installed"}


# -- limits of one node ------------------------------------------------------------------------


def test_a_set_over_the_limit_of_its_grant_is_refused_whole_and_the_last_one_stays() -> None:
    before = judge(origin(0, *nets(2), limit=2))
    assert installed(before) == set(nets(2))
    after = judge(origin(0, *nets(4)[1:], limit=2), previous=before)
    assert installed(after) == set(nets(2))
    assert set(after.desired.routes) == set(before.desired.routes)
    new = row(after, "10.2.3.0/24")
    assert (new.state, new.rule) == ("refused", "over-limit")
    assert new.reason == (
        "its node announces 3 prefixes, and 2 is the limit of its grant: its last set of 2 stays"
    )
    # One in both sets, and one that its node no longer announces: in use, and it is said why.
    for prefix in nets(2):
        kept = row(after, prefix)
        assert (kept.state, kept.rule) == ("installed", "kept-set")
        assert kept.reason.startswith("of its last set: its node announces 3 prefixes")


def test_the_next_set_within_the_limit_is_taken_at_once() -> None:
    first = judge(origin(0, *nets(2), limit=2))
    over = judge(origin(0, *nets(3), limit=2), previous=first)
    again = judge(origin(0, *nets(3), limit=2), previous=over)
    assert installed(again) == set(nets(2)), "however often it is judged"
    fewer = judge(origin(0, "10.2.7.0/24", limit=2), previous=again)
    assert installed(fewer) == {"10.2.7.0/24"}
    assert [each.rule for each in fewer.routes] == [""]


def test_at_the_first_decision_there_is_no_last_set_and_nothing_is_taken() -> None:
    decision = judge(origin(0, *nets(3), limit=2))
    assert installed(decision) == set()
    assert row(decision, "10.2.0.0/24").reason.endswith("the limit of its grant: none is taken")
    assert not decision.desired.guards


def test_a_limit_that_is_lowered_below_the_last_set_takes_that_too() -> None:
    before = judge(origin(0, *nets(3), limit=3))
    after = judge(origin(0, *nets(3), limit=2), previous=before)
    assert installed(after) == set()


def test_a_set_that_is_kept_is_judged_by_every_other_rule_anew() -> None:
    before = judge(origin(0, *nets(2), limit=2))
    narrow = origin(0, *nets(3), limit=2, allow=("10.2.1.0/24",))
    after = judge(narrow, previous=before)
    assert installed(after) == {"10.2.1.0/24"}
    assert row(after, "10.2.0.0/24").rule == "outside-grant"


def test_a_set_that_is_kept_follows_its_node_through_failure_but_not_through_leaving() -> None:
    before = judge(origin(0, *nets(2), limit=2))
    over = judge(origin(0, *nets(3), limit=2), previous=before)
    failed = judge(origin(0, *nets(3), limit=2, state="failed"), previous=over)
    assert not failed.desired.routes
    assert failed.desired.guards == set(map(net, nets(2)))
    back = judge(origin(0, *nets(3), limit=2), previous=failed)
    assert installed(back) == set(nets(2))
    left = judge(origin(0, *nets(3), limit=2, state="left"), previous=back)
    assert left.routes == ()
    assert installed(judge(origin(0, *nets(3), limit=2), previous=left)) == set()


def test_a_revoked_node_has_no_last_set_either() -> None:
    before = judge(origin(0, *nets(2), limit=2))
    gone = judge(previous=before)
    assert gone.in_force == {}
    again = origin(0, *nets(3), limit=2)
    assert installed(judge(again, previous=before, revoked={again.key})) == set()


@pytest.mark.parametrize(
    ("filters", "whose"),
    [
        (Filters(Filter(limit=2)), "2 is the limit of this host (import.limit_per_node)"),
        (
            Filters(nodes={"n0": Filter(limit=2)}),
            "2 is the limit of this host (import.node.n0.limit)",
        ),
        (Filters(Filter(limit=3), nodes={"n0": Filter(limit=2)}), "(import.node.n0.limit)"),
    ],
)
def test_the_config_may_name_a_smaller_limit_and_the_reason_says_whose(
    filters: Filters, whose: str
) -> None:
    before = judge(origin(0, *nets(2)), filters=filters)
    after = judge(origin(0, *nets(4)), origin(1, "10.9.0.0/24"), filters=filters, previous=before)
    assert installed(after) == {*nets(2), "10.9.0.0/24"}
    assert whose in row(after, "10.2.3.0/24").reason


def test_the_smallest_limit_counts() -> None:
    filters = Filters(Filter(limit=5), nodes={"n0": Filter(limit=9)})
    assert installed(judge(origin(0, *nets(6), limit=7), filters=filters)) == set()
    assert installed(judge(origin(0, *nets(5), limit=7), filters=filters)) == set(nets(5))


# -- the limit of all together -------------------------------------------------------------------


def three(*numbers: int, serials: Iterable[int] = (0, 1, 2)) -> list[Origin]:
    return [
        origin(n, *nets(number, 20 + n), serial=serial)
        for n, (number, serial) in enumerate(zip(numbers, serials, strict=True))
    ]


LITTLE = Filters(limit=10)


def test_who_would_lead_over_the_limit_in_all_keeps_its_last_set_and_nobody_else_suffers() -> None:
    before = judge(*three(3, 3, 3), filters=LITTLE)
    assert len(before.desired.guards) == 9
    after = judge(*three(5, 2, 4), filters=LITTLE, previous=before)
    # The second withdrew one; of the two that grew the older grant has the room.
    assert installed(after) == {*nets(5, 20), *nets(2, 21), *nets(3, 22)}
    refused = row(after, "10.22.3.0/24", 2)
    assert (refused.state, refused.rule) == ("refused", "over-limit")
    assert refused.reason == (
        "with it there would be 11 prefixes in all, and 10 is the limit of this host"
        " (import.limit): its last set of 3 stays"
    )
    assert row(after, "10.22.0.0/24", 2).rule == "kept-set"


def test_what_is_withdrawn_goes_though_others_are_over_the_limit() -> None:
    before = judge(*three(4, 4, 2), filters=LITTLE)
    after = judge(*three(9, 9, 1), filters=LITTLE, previous=before)
    assert "10.22.1.0/24" not in {str(each.prefix) for each in after.routes}
    assert installed(after) == {*nets(4, 20), *nets(4, 21), *nets(1, 22)}


def test_with_no_sets_from_before_the_oldest_grants_have_the_room() -> None:
    decision = judge(*three(6, 6, 4, serials=(9, 7, 8)), filters=LITTLE)
    assert installed(decision) == {*nets(6, 21), *nets(4, 22)}
    assert row(decision, "10.20.0.0/24", 0).reason.endswith("(import.limit): none is taken")


def test_a_limit_in_all_that_is_lowered_takes_the_youngest_grants_sets() -> None:
    before = judge(*three(4, 4, 4), filters=Filters())
    after = judge(*three(4, 4, 4), filters=LITTLE, previous=before)
    assert installed(after) == {*nets(4, 20), *nets(4, 21)}


def test_what_is_refused_for_another_reason_takes_nobodys_room() -> None:
    noise = origin(0, *(f"127.0.{each}.0/24" for each in range(10)))
    assert installed(judge(noise, origin(1, *nets(10)), filters=LITTLE)) == set(nets(10))
    denied = attrs.evolve(LITTLE, nodes={"n0": Filter(refuse=True)})
    loud = origin(0, *nets(10, 30))
    assert installed(judge(loud, origin(1, *nets(10)), filters=denied)) == set(nets(10))


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 7)), max_size=6))
def test_no_history_leads_over_a_limit_and_the_order_of_the_origins_decides_nothing(
    steps: list[tuple[int, int, int]],
) -> None:
    filters = Filters(Filter(limit=6), limit=10)
    decision = NOTHING
    for numbers in steps:
        origins = three(*numbers)
        shuffled = Random(sum(numbers)).sample(origins, 3)
        after = judge(*origins, filters=filters, previous=decision)
        assert after == judge(*shuffled, filters=filters, previous=decision)
        assert len(after.desired.guards) <= 10
        for each in origins:
            kept = set(after.in_force[each.key])
            assert len(kept) <= 6
            assert kept in (set(each.prefixes), set(decision.in_force.get(each.key, ())), set())
        decision = after


# -- filters ------------------------------------------------------------------------------------


ONLY_TEN = Filter(allow=(net("10.2.0.0/16"), net("fd00:2::/32")))


@pytest.mark.parametrize(
    ("filters", "prefix", "rule"),
    [
        (Filters(), "10.2.0.0/24", ""),
        (Filters(ONLY_TEN), "10.2.0.0/24", ""),
        (Filters(ONLY_TEN), "10.2.0.0/16", ""),
        (Filters(ONLY_TEN), "10.2.0.0/15", "not-allowed"),
        (Filters(ONLY_TEN), "10.4.0.0/24", "not-allowed"),
        (Filters(Filter(allow=(net("10.2.0.0/16"),))), "fd00:2::/64", "not-allowed"),
        (Filters(Filter(deny=(net("10.2.3.0/24"),))), "10.2.3.0/24", "denied"),
        (Filters(Filter(deny=(net("10.2.3.0/24"),))), "10.2.3.128/25", "denied"),
        (Filters(Filter(deny=(net("10.2.3.0/24"),))), "10.2.0.0/16", "denied"),
        (Filters(Filter(deny=(net("10.2.3.0/24"),))), "10.2.4.0/24", ""),
        (Filters(attrs.evolve(ONLY_TEN, deny=ONLY_TEN.allow)), "10.2.0.0/24", "denied"),
        (Filters(nodes={"n0": Filter(refuse=True)}), "10.2.0.0/24", "denied"),
        (Filters(nodes={"n1": Filter(refuse=True)}), "10.2.0.0/24", ""),
        (Filters(nodes={"n0": ONLY_TEN}), "10.4.0.0/24", "not-allowed"),
        (
            Filters(ONLY_TEN, nodes={"n0": Filter(allow=(net("10.4.0.0/16"),))}),
            "10.4.0.0/24",
            "not-allowed",
        ),
        (Filters(Filter(allow=(net("127.0.0.0/8"),))), "127.0.0.0/8", "bogon"),
    ],
)
def test_the_operators_filters_take_away_and_never_add(
    filters: Filters, prefix: str, rule: str
) -> None:
    decision = judge(origin(0, prefix), filters=filters)
    assert row(decision, prefix).rule == rule
    assert bool(decision.desired.guards) is (rule == "")


def test_a_filter_by_id_and_one_by_name_both_count_and_the_reason_names_the_table() -> None:
    node = origin(0, "10.2.0.0/24")
    for label in ("n0", node.key.hex()):
        filters = Filters(nodes={label: Filter(deny=(net("10.2.0.0/16"),))})
        refused = row(judge(node, filters=filters), "10.2.0.0/24")
        assert refused.reason == (
            f"overlaps 10.2.0.0/16 in import.node.{label}.deny of this host's config"
        )


def test_a_filter_by_name_means_the_name_in_the_grant() -> None:
    renamed = origin(0, "10.2.0.0/24")._replace(name="n7")
    assert judge(renamed, filters=Filters(nodes={"n7": Filter(refuse=True)})).desired.routes
    assert not judge(renamed, filters=Filters(nodes={"n0": Filter(refuse=True)})).desired.routes


def test_of_two_nodes_with_one_name_a_filter_by_name_catches_both() -> None:
    namesake = attrs.evolve(origin(1, "10.3.0.0/24").grant, name="n0")
    twins = origin(0, "10.2.0.0/24"), origin(1, "10.3.0.0/24")._replace(grant=namesake)
    assert not judge(*twins, filters=Filters(nodes={"n0": Filter(refuse=True)})).desired.routes


small = st.builds(
    lambda bits, length: (
        net(f"10.{bits >> 8}.{bits & 255}.0/{length}")
        if length == 24
        else net(f"10.{(bits >> 8) & (0xFF << (16 - length) & 0xFF)}.0.0/{length}")
    ),
    st.integers(0, 0x3FF),
    st.sampled_from([12, 14, 15, 16, 24]),
)
lists = st.lists(small, max_size=4).map(tuple)
tables = st.builds(Filter, allow=lists, deny=lists, refuse=st.booleans())


def inside(prefix: Prefix, wide: Prefix) -> bool:
    """By ``ipaddress``, and not as the policy finds it."""
    one, other = (ipaddress.ip_network(str(each)) for each in (prefix, wide))
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.integers(0, 2), small), max_size=12),
    st.lists(small, min_size=1, max_size=3),
    st.builds(Filters, tables, nodes=st.dictionaries(st.sampled_from(["n0", "n1"]), tables)),
    st.randoms(use_true_random=False),
)
def test_no_plan_holds_what_a_grant_or_the_operator_does_not_allow_in_whatever_order(
    claims: list[tuple[int, Prefix]], allow: list[Prefix], filters: Filters, rng: Random
) -> None:
    origins = []
    for number in range(3):
        mine = {str(prefix) for n, prefix in claims if n == number}
        origins.append(origin(number, *mine, allow=tuple({str(each) for each in allow[number:]})))
    decision = judge(*origins, filters=filters)
    shuffled = rng.sample(origins, 3)
    assert judge(*shuffled, filters=filters) == decision
    mine_of = {each.key: each for each in origins}
    accepted = [each for each in decision.routes if each.state != "refused"]
    assert {each.prefix for each in accepted} == decision.desired.guards
    for each in accepted:
        grant = mine_of[each.node].grant
        assert any(inside(each.prefix, net) for net in grant.allow)
        for table in (filters.all, filters.nodes.get(grant.name, Filter())):
            assert not table.refuse
            assert not any(each.prefix.overlaps(net) for net in table.deny)
            assert not table.allow or any(inside(each.prefix, net) for net in table.allow)


@given(st.lists(small, max_size=12), small)
def test_a_bisection_finds_what_looking_at_each_would(many: list[Prefix], one: Prefix) -> None:
    nets_ = Nets(many)
    assert (nets_.overlapping(one) is not None) is any(each.overlaps(one) for each in many)
    assert (nets_.containing(one) is not None) is any(each.covers(one) for each in many)
