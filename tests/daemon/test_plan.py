"""The plan is pure: its order, its texts, what leans on what, and which connections it takes."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.kernel.executor import carry_out
from meshd.kernel.memory import Memory
from meshd.kernel.plan import (
    AddElement,
    AddGuard,
    AddRoute,
    BuildTable,
    DropFlows,
    DropTranslated,
    FlowStep,
    Plan,
    RemoveElement,
    RemoveGuard,
    RemoveRoute,
    RemoveStray,
    RemoveTable,
    ReplaceRoute,
    RouteStep,
    Step,
    TableStep,
    diff,
    flow,
)
from meshd.kernel.shape import SHAPES
from meshd.kernel.state import Interface, KernelState, NextHops, Reading, Stray
from meshd.kernel.tunnel import TunnelStep
from protocol.address import Prefix


def nets(*texts: str) -> frozenset[Prefix]:
    return frozenset(Prefix.parse(text) for text in texts)


def hop(address: str, source: str | None = None) -> NextHops:
    return NextHops.via(ip_address(address), "net0", ip_address(source) if source else None)


ONE, TWO = Prefix.parse("10.1.0.0/24"), Prefix.parse("10.2.0.0/24")
B, C = hop("192.0.2.2", "192.0.2.1"), hop("192.0.2.3")
LONE = KernelState(local=frozenset({ONE}))
JOINED = KernelState({TWO: B}, frozenset({TWO}), frozenset({ONE}), frozenset({TWO}))


def kinds(plan: Plan) -> list[type]:
    return [type(step) for step in plan]


def takes(plan: Plan, source: str, destination: str, reply: str | None = None) -> bool:
    entry = flow(ip_address(source), ip_address(destination), ip_address(reply) if reply else None)
    return any(s.takes()(entry) for s in plan if isinstance(s, DropTranslated | DropFlows))


def test_states_that_agree_need_no_plan() -> None:
    assert not diff(JOINED, JOINED)
    assert str(diff(JOINED, JOINED)) == ""


def test_adding_goes_guard_element_route_connections() -> None:
    assert kinds(diff(JOINED, LONE)) == [AddGuard, AddElement, AddRoute, DropTranslated]


def test_removing_goes_route_element_connections_guard() -> None:
    assert kinds(diff(LONE, JOINED)) == [RemoveRoute, RemoveElement, DropFlows, RemoveGuard]


def test_a_failed_sole_origin_leaves_its_guard() -> None:
    failed = KernelState(guards=frozenset({TWO}), local=LONE.local)
    assert kinds(diff(failed, JOINED)) == [RemoveRoute, RemoveElement, DropFlows]


def test_adding_and_removing_share_one_table_transaction() -> None:
    other = Prefix.parse("10.3.0.0/24")
    moved = KernelState({other: B}, frozenset({other}), LONE.local, frozenset({other}))
    assert kinds(diff(moved, JOINED)) == [
        AddGuard,
        RemoveRoute,
        RemoveElement,
        AddElement,
        AddRoute,
        DropTranslated,
        DropFlows,
        RemoveGuard,
    ]


def test_another_next_hop_is_one_change_of_the_route() -> None:
    moved = KernelState({TWO: C}, JOINED.guards, JOINED.local, JOINED.mesh)
    assert list(diff(moved, JOINED)) == [ReplaceRoute(TWO, C, 142)]


def test_a_route_gets_its_guard_without_asking() -> None:
    careless = KernelState({TWO: B}, frozenset(), JOINED.local, JOINED.mesh)
    assert AddGuard(TWO) in diff(careless, LONE).steps


def test_the_metric_is_that_of_the_reading() -> None:
    plan = diff(JOINED, Reading(LONE, table=True, metric=77))
    assert AddRoute(TWO, B, 77) in plan.steps


def test_a_stray_goes_after_the_route_that_takes_its_place() -> None:
    stray = Stray(TWO, 77)
    plan = diff(JOINED, Reading(LONE, table=True, strays=(stray,)))
    assert kinds(plan).index(RemoveStray) > kinds(plan).index(AddRoute)


def test_a_stray_that_nothing_replaces_goes_with_the_routes_that_go() -> None:
    guarded = KernelState(guards=frozenset({TWO}), local=LONE.local)
    plan = diff(LONE, Reading(guarded, table=True, strays=(Stray(TWO, 77),)))
    assert kinds(plan) == [RemoveStray, DropFlows, RemoveGuard]


def test_a_missing_table_is_built_with_everything_in_it() -> None:
    plan = diff(JOINED, Reading(KernelState({TWO: B}, JOINED.guards)))
    assert list(plan) == [
        BuildTable(SHAPES["exempt"], JOINED.local, JOINED.mesh),
        DropTranslated(JOINED.local, JOINED.mesh),
    ]


def test_a_damaged_table_is_built_anew_even_if_its_sets_are_right() -> None:
    plan = diff(JOINED, Reading(JOINED, problems=("chain exempt is missing",), table=True))
    assert kinds(plan) == [BuildTable, DropTranslated]
    assert str(plan).splitlines()[0] == ("nft delete table inet meshd  # chain exempt is missing")


def test_wanting_nothing_removes_the_table_too() -> None:
    assert kinds(diff(KernelState(), JOINED)) == [RemoveRoute, RemoveTable, DropFlows, RemoveGuard]
    assert not diff(KernelState(), Reading(KernelState()))


def test_wanting_nothing_removes_a_damaged_table() -> None:
    plan = diff(
        KernelState(), Reading(KernelState(), problems=("set mesh4 is missing",), table=True)
    )
    assert kinds(plan) == [RemoveTable]


def test_a_cover_replaces_what_it_covers_and_cuts_no_connection() -> None:
    wide = KernelState(JOINED.routes, JOINED.guards, JOINED.local, nets("10.2.0.0/16"))
    plan = diff(wide, JOINED)
    elements = [step for step in plan if isinstance(step, AddElement | RemoveElement)]
    assert elements == [
        RemoveElement("mesh", TWO),
        AddElement("mesh", Prefix.parse("10.2.0.0/16")),
    ]
    assert not takes(plan, "10.1.0.5", "10.2.0.5")


def test_only_translated_connections_into_an_added_prefix_are_forgotten() -> None:
    plan = diff(JOINED, LONE)
    assert takes(plan, "10.1.0.5", "10.2.0.5", reply="192.0.2.1")
    assert not takes(plan, "10.1.0.5", "10.2.0.5")
    assert not takes(plan, "10.9.0.5", "10.2.0.5", reply="192.0.2.1")
    assert not takes(plan, "10.1.0.5", "198.51.100.1", reply="192.0.2.1")
    assert not takes(plan, "10.2.0.5", "10.1.0.5", reply="192.0.2.1")


def test_announcing_forgets_the_new_subnets_translated_connections() -> None:
    more = KernelState(
        JOINED.routes, JOINED.guards, nets("10.1.0.0/24", "10.9.0.0/24"), JOINED.mesh
    )
    plan = diff(more, JOINED)
    assert takes(plan, "10.9.0.5", "10.2.0.5", reply="192.0.2.1")
    assert not takes(plan, "10.1.0.5", "10.2.0.5", reply="192.0.2.1")


def test_connections_of_a_removed_prefix_go_in_both_directions() -> None:
    plan = diff(LONE, JOINED)
    assert takes(plan, "10.1.0.5", "10.2.0.5")
    assert takes(plan, "10.2.0.5", "10.1.0.5")
    assert not takes(plan, "10.1.0.5", "10.3.0.5")
    assert not takes(plan, "10.2.0.5", "10.3.0.5")


def test_withdrawing_forgets_the_subnets_connections_with_the_mesh() -> None:
    both = KernelState(
        JOINED.routes, JOINED.guards, nets("10.1.0.0/24", "10.9.0.0/24"), JOINED.mesh
    )
    plan = diff(JOINED, both)
    assert takes(plan, "10.9.0.5", "10.2.0.5")
    assert takes(plan, "10.2.0.5", "10.9.0.5")
    assert not takes(plan, "10.1.0.5", "10.2.0.5")


def test_a_route_added_late_still_forgets_what_was_translated() -> None:
    cut_short = KernelState(guards=JOINED.guards, local=JOINED.local, mesh=JOINED.mesh)
    assert kinds(diff(JOINED, cut_short)) == [AddRoute, DropTranslated]


def test_a_recheck_looks_at_connections_although_nothing_changes() -> None:
    assert list(diff(JOINED, JOINED, recheck=True)) == [DropTranslated(JOINED.local, JOINED.mesh)]


def test_no_connection_step_crosses_families() -> None:
    six = KernelState(local=nets("10.1.0.0/24"), mesh=nets("fd02::/64"))
    assert not [s for s in diff(six, LONE) if isinstance(s, DropTranslated)]
    assert not [s for s in diff(LONE, six) if isinstance(s, DropFlows)]


def test_a_plan_reads_as_the_commands_a_person_would_type() -> None:
    assert str(diff(JOINED, LONE)).splitlines() == [
        "ip route add unreachable 10.2.0.0/24 proto 142 metric 4294967294",
        "nft add element inet meshd mesh4 { 10.2.0.0/24 }",
        "ip route add 10.2.0.0/24 via 192.0.2.2 dev net0 proto 142 metric 142 src 192.0.2.1",
        "conntrack: delete translated flows 10.1.0.0/24 -> 10.2.0.0/24",
    ]
    assert str(RemoveGuard(Prefix.parse("fd02::/64"))) == (
        "ip -6 route del unreachable fd02::/64 proto 142 metric 4294967294"
    )


class Refusing:
    """Does nothing, refuses what it is told to, and remembers what it was asked."""

    def __init__(self, *refuse: type) -> None:
        self.refuse = refuse
        self.done: list[Step] = []

    def write_routes(self, steps: Iterable[RouteStep]) -> dict[RouteStep, str]:
        return {step: "no" for step in steps if self._refuses(step)}

    def write_table(self, steps: Iterable[TableStep]) -> dict[TableStep, str]:
        return {step: "no" for step in steps if self._refuses(step)}

    def write_tunnel(self, steps: Iterable[TunnelStep]) -> dict[TunnelStep, str]:
        return {step: "no" for step in steps if self._refuses(step)}

    def drop_flows(self, step: FlowStep) -> str | None:
        return "no" if self._refuses(step) else None

    def _refuses(self, step: Step) -> bool:
        self.done.append(step)
        return isinstance(step, self.refuse)


def asked(plan: Plan, *refuse: type) -> set[type]:
    kernel = Refusing(*refuse)
    failures = carry_out(plan, kernel)
    failed = {failure.step for failure in failures}
    assert {step for step in plan if step not in kernel.done} <= failed
    return {type(step) for step in kernel.done}


def test_without_its_guard_a_prefix_gets_neither_exclusion_nor_route() -> None:
    assert asked(diff(JOINED, LONE), AddGuard) == {AddGuard, DropTranslated}


def test_without_its_exclusion_a_prefix_gets_no_route() -> None:
    assert asked(diff(JOINED, LONE), AddElement) == {AddGuard, AddElement, DropTranslated}
    assert AddRoute not in asked(diff(JOINED, KernelState()), BuildTable)


def test_exclusion_and_guard_stay_while_the_route_does() -> None:
    assert asked(diff(LONE, JOINED), RemoveRoute) == {RemoveRoute, DropFlows}
    assert asked(diff(KernelState(), JOINED), RemoveRoute) == {RemoveRoute, DropFlows}


def test_the_guard_stays_while_exclusion_or_connections_do() -> None:
    assert RemoveGuard not in asked(diff(LONE, JOINED), RemoveElement)
    assert RemoveGuard not in asked(diff(LONE, JOINED), DropFlows)


def test_one_prefix_that_fails_does_not_keep_another() -> None:
    class OneBad(Refusing):
        def _refuses(self, step: Step) -> bool:
            super()._refuses(step)
            return step == AddGuard(TWO)

    three = Prefix.parse("10.3.0.0/24")
    both = KernelState({TWO: B, three: B}, frozenset(), LONE.local, frozenset({TWO, three}))
    kernel = OneBad()
    failures = carry_out(diff(both, LONE), kernel)
    assert {failure.prefix for failure in failures} == {TWO}
    assert AddRoute(three, B, 142) in kernel.done


POOL = [Prefix(4, 0x0A000000 + (i << 10), 24) for i in range(8)]
POOL += [Prefix.parse("10.0.0.0/16"), Prefix.parse("fd01::/64"), Prefix.parse("fd02::/64")]
NET0 = Interface("net0", 2, True, (ip_interface("192.0.2.1/24"), ip_interface("2001:db8::1/64")))


@st.composite
def states(draw: st.DrawFn) -> KernelState:
    mesh: set[Prefix] = set()
    for prefix in draw(st.lists(st.sampled_from(POOL), unique=True)):
        if not any(p.version == prefix.version and p.overlaps(prefix) for p in mesh):
            mesh.add(prefix)
    routes = {}
    for prefix in sorted(mesh, key=str):
        if draw(st.booleans()):
            host = draw(st.integers(2, 4))
            gateway = f"192.0.2.{host}" if prefix.version == 4 else f"2001:db8::{host}"
            routes[prefix] = hop(gateway)
    guards = frozenset(routes) | frozenset(draw(st.lists(st.sampled_from(POOL))))
    local = frozenset(draw(st.lists(st.sampled_from(POOL[:4]))))
    return KernelState(routes, guards, local, frozenset(mesh))


@given(st.lists(states(), min_size=1, max_size=4))
def test_any_state_is_reached_from_any_other_and_then_nothing_is_left_to_do(
    history: list[KernelState],
) -> None:
    kernel = Memory([NET0])
    for desired in history:
        assert kernel.apply(diff(desired, kernel.read())) == []
        assert kernel.read().state == desired
        assert not diff(desired, kernel.read())
    kernel.purge()
    assert kernel.read().state == KernelState()
    assert not kernel.read().table


# What it costs, in comparisons.

MANY = [Prefix(4, 0x0A020000 + (number << 8), 24) for number in range(500)]


def again(state: KernelState, without: int = 0) -> KernelState:
    """The same as a reading has it, prefix by prefix anew, without the last few of them."""
    kept = [Prefix(*each) for each in MANY[: len(MANY) - without]]
    return KernelState(dict.fromkeys(kept, hop("192.0.2.2", "192.0.2.1")), frozenset(kept),
                       state.local, frozenset(kept))  # fmt: skip


@pytest.mark.parametrize("new", [0, 1, 3])
def test_what_changes_is_sorted_and_the_rest_only_looked_up(
    new: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    desired = KernelState(dict.fromkeys(MANY, B), frozenset(MANY), LONE.local, frozenset(MANY))
    actual = Reading(state=again(desired, without=new), table=True)
    counts = {"__eq__": 0, "__lt__": 0, "hops": 0}

    def count(owner: type, method: str, what: str) -> None:
        original = getattr(owner, method)

        def counting(one: object, other: object) -> object:
            counts[what] += 1
            return original(one, other)

        monkeypatch.setattr(owner, method, counting)

    count(Prefix, "__eq__", "__eq__")
    count(Prefix, "__lt__", "__lt__")
    count(NextHops, "__eq__", "hops")
    plan = diff(desired, actual)
    monkeypatch.undo()
    assert len(plan) == (3 * new + 1 if new else 0)
    assert counts["__lt__"] <= 12 * new
    assert counts["__eq__"] <= 12 * len(MANY)
    assert counts["hops"] == 1  # of two next hops that meet, however many prefixes they carry
