"""Each step of a plan with its reason, on paper and as a person reads it."""

from __future__ import annotations

from ipaddress import ip_address

import attrs

from meshd import text
from meshd.dataplane.reasons import explained
from meshd.kernel.plan import diff
from meshd.kernel.shape import SHAPES
from meshd.kernel.state import KernelState, NextHops, Reading, Stray
from meshd.policy.decide import Decision
from meshd.policy.route import Route, RouteState
from protocol.address import Prefix

ONE, TWO, THREE = (Prefix.parse(f"10.{n}.0.0/24") for n in (1, 2, 3))
HOP = NextHops.via(ip_address("192.0.2.2"), "net0")


def row(prefix: Prefix, name: str, state: RouteState, rule: str = "", reason: str = "") -> Route:
    return Route(prefix, name.encode(), name, None, state, reason, rule)  # type: ignore[arg-type]


def reasons(desired: KernelState, reading: Reading, *rows: Route) -> dict[str, str]:
    found = explained(diff(desired, reading), reading, Decision(desired, rows), desired)
    return {each["step"].splitlines()[0]: each["why"] for each in found}


JOINED = KernelState({TWO: HOP}, frozenset({TWO}), frozenset({ONE}), frozenset({TWO}))
LONE = KernelState(local=frozenset({ONE}))


def test_what_comes_names_who_announces_it_and_what_the_kernel_lacks() -> None:
    found = reasons(JOINED, Reading(LONE, table=True), row(TWO, "b", "installed"))
    assert found == {
        "ip route add unreachable 10.2.0.0/24 proto 142 metric 4294967294": (
            "b announces it; the kernel has no guard under it"
        ),
        "nft add element inet meshd mesh4 { 10.2.0.0/24 }": "b announces it; it is not in the set",
        "ip route add 10.2.0.0/24 via 192.0.2.2 dev net0 proto 142 metric 142": (
            "b announces it; the kernel has no route of ours to it"
        ),
        "conntrack: delete translated flows 10.1.0.0/24 -> 10.2.0.0/24": (
            "connections from before the exclusion stay translated until they are forgotten"
        ),
    }


def test_what_goes_names_the_refusal_that_took_it_or_that_nobody_announces_it() -> None:
    refused = row(TWO, "b", "refused", "denied", "overlaps 10.2.0.0/16 in import.deny")
    route = "ip route del 10.2.0.0/24 via 192.0.2.2 dev net0 proto 142 metric 142"
    found = reasons(LONE, Reading(JOINED, table=True), refused)
    told = "b announces it: refused (denied), overlaps 10.2.0.0/16 in import.deny"
    assert found[route] == told
    assert found["nft delete element inet meshd mesh4 { 10.2.0.0/24 }"] == told
    assert reasons(LONE, Reading(JOINED, table=True))[route] == "nobody announces it"


def test_what_moves_tells_where_the_kernels_leads_and_what_is_covered_by_what() -> None:
    moved = attrs.evolve(JOINED, routes={TWO: NextHops.via(ip_address("192.0.2.3"), "net0")})
    (why,) = reasons(moved, Reading(JOINED, table=True), row(TWO, "b", "installed")).values()
    assert why == "b announces it; the kernel's leads via 192.0.2.2 dev net0"
    wide = attrs.evolve(JOINED, mesh=frozenset({Prefix.parse("10.2.0.0/16")}))
    found = reasons(wide, Reading(JOINED, table=True), row(TWO, "b", "installed"))
    removal = "nft delete element inet meshd mesh4 { 10.2.0.0/24 }"
    assert found[removal] == "10.2.0.0/16 covers it"


def test_the_table_and_strays_tell_what_was_found() -> None:
    damaged = Reading(JOINED, problems=("chain exempt is missing",), table=True)
    assert next(iter(reasons(JOINED, damaged).values())) == "chain exempt is missing"
    gone = Reading(attrs.evolve(JOINED, local=frozenset(), mesh=frozenset()))
    assert next(iter(reasons(JOINED, gone).values())) == "the kernel has no table inet meshd"
    off = Reading(JOINED, table=True, shape=SHAPES["off"])
    found = reasons(KernelState({TWO: HOP}, JOINED.guards), off)
    assert found["nft delete table inet meshd"] == 'nat = "off", and the table is there'
    stray = Reading(JOINED, table=True, strays=(Stray(THREE, 77),))
    (why,) = reasons(JOINED, stray).values()
    assert why == "of our protocol, and neither a guard nor at our metric 142; nobody announces it"


def test_a_person_reads_each_step_with_its_reason_and_nothing_unescaped() -> None:
    step = {"step": "ip route add 10.2.0.0/24", "why": "b\x1b[2J announces it"}
    shown = text.plan({"steps": ["x"], "changes": [step], "notes": ["not in sync"]})
    assert shown == "# not in sync\nip route add 10.2.0.0/24\n    # b\\x1b[2J announces it"
    assert text.plan({"steps": []}) == "nothing to do: the kernel is as it should be"
