"""In which order things are done, and where a packet goes between two commands."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from copy import deepcopy
from ipaddress import IPv4Address
from pathlib import Path

import trio
from zonehost import NOTHING, OWN, PUBLIC, REJECT, SIX, B, C, Host, state, via

from meshd.dataplane.reconciler import Reconciler
from meshd.kernel.illumos.runner import Done
from meshd.kernel.plan import AddGuard, AddRoute, Plan, RemoveGuard, diff
from meshd.kernel.state import KernelState, NextHops
from meshd.log import EventLog
from meshd.policy.decide import Decision


def test_the_mesh_keeps_its_sources_and_the_rest_is_translated(host: Host) -> None:
    host.reach(NOTHING)
    assert host.sources() == [PUBLIC, PUBLIC, PUBLIC]
    host.reach(state(B, SIX))
    assert host.sources() == [OWN, PUBLIC, PUBLIC]
    host.reach(state(B, C))
    assert host.sources() == [OWN, OWN, PUBLIC]
    host.reach(state(C))
    assert host.sources() == [PUBLIC, OWN, PUBLIC]
    host.reach(NOTHING)
    assert host.sources() == [PUBLIC, PUBLIC, PUBLIC]


def seen_while(host: Host, desired: KernelState) -> list[tuple[str, set[str], str]]:
    """After each command that changed something: what it was, where B leads, B's source."""
    seen: list[tuple[str, set[str], str]] = []
    run = host.runner.run
    before = deepcopy(host.zone.machine.held)

    def watched(argv: tuple[str, ...], stdin: str = "") -> object:
        nonlocal before
        done = run(argv, stdin)
        if host.zone.machine.held != before:
            before = deepcopy(host.zone.machine.held)
            seen.append((" ".join(argv), host.leads(B), host.zone.source("10.2.0.7")))
        return done

    host.runner.run = watched  # type: ignore[method-assign, assignment]
    assert host.apply(desired) == {}
    host.runner.run = run  # type: ignore[method-assign]
    return seen


def test_joining_is_reject_then_exclusion_then_route(host: Host) -> None:
    host.reach(NOTHING)
    seen = seen_while(host, state(B))
    leads = [where for _, where, _ in seen]
    assert leads[0] == REJECT
    assert leads[-2:] == [{"127.0.0.1", "192.0.2.2"}, {"192.0.2.2"}]
    excluded = next(number for number, (_, _, source) in enumerate(seen) if source == OWN)
    routed = next(number for number, where in enumerate(leads) if "192.0.2.2" in where)
    assert 0 < excluded < routed


def test_leaving_is_reject_then_route_then_exclusion_then_reject(host: Host) -> None:
    host.reach(state(B))
    seen = seen_while(host, NOTHING)
    leads = [where for _, where, _ in seen]
    assert leads[:2] == [{"127.0.0.1", "192.0.2.2"}, REJECT]
    assert leads[-1] == set()
    # As long as anything of the prefix is in the table, its source is kept or nothing leaves.
    assert all(source == OWN for _, where, source in seen if "192.0.2.2" in where)
    assert [source for _, where, source in seen if where == REJECT][-1] == PUBLIC


def test_a_next_hop_moves_without_a_gap(host: Host) -> None:
    host.reach(state(B))
    seen = seen_while(host, state(B, gateway="192.0.2.3"))
    assert [where for _, where, _ in seen] == [{"192.0.2.2", "192.0.2.3"}, {"192.0.2.3"}]


def test_a_source_that_changes_stops_traffic_and_leaks_none(host: Host) -> None:
    host.reach(state(B))
    changed = KernelState({B: via("192.0.2.2", "192.0.2.9")}, frozenset({B}), state().local, {B})  # type: ignore[arg-type]
    seen = seen_while(host, changed)
    assert all(where for _, where, _ in seen)
    host.reach(changed)


def test_an_interface_that_goes_takes_the_route_and_the_guard_follows(host: Host) -> None:
    host.reach(state(B))
    host.zone.do("ifconfig pnic0 down")
    assert host.leads(B) == set()
    down = KernelState({}, frozenset({B}), state().local, frozenset({B}))
    assert diff(down, host.backend.read()).steps[0] == AddGuard(B)
    host.zone.do("ifconfig pnic0 up")
    host.reach(down)
    assert host.leads(B) == REJECT


def test_a_route_that_stays_while_its_interface_is_down_makes_way_for_the_guard(
    host: Host,
) -> None:
    """As the source has it: a route by a gateway is bound to no interface."""
    host.reach(state(B))
    held = deepcopy(host.zone.machine.held["routes"])
    host.zone.do("ifconfig pnic0 down")
    host.zone.machine.held["routes"] = held
    assert host.backend.read().state.routes == state(B).routes
    down = KernelState({}, frozenset({B}), state().local, frozenset({B}))
    seen = seen_while(host, down)
    assert [where for _, where, _ in seen] == [{"127.0.0.1", "192.0.2.2"}, REJECT]
    host.zone.do("ifconfig pnic0 up")
    host.reach(state(B))


def test_never_p_never_flush_never_svcadm(host: Host) -> None:
    for desired in (NOTHING, state(B, C, SIX), state(C), NOTHING):
        host.reach(desired)
    host.backend.purge()
    words = {word for argv in host.runner.ran for word in argv}
    assert not words & {"-p", "-F", "-Fa", "-C", "svcadm"}
    assert len(host.runner.ran) > 50


async def test_no_command_holds_up_the_daemon(host: Host) -> None:
    """One may take up to 20 s, and others are to be heard meanwhile."""
    done, threads, run = trio.Event(), set(), host.runner.run
    wanted = state(B)

    def watched(argv: Sequence[str], stdin: str = "") -> Done:
        threads.add(threading.current_thread())
        return run(argv, stdin)

    def settled() -> None:
        nonlocal done
        done.set()
        done = trio.Event()

    host.runner.run = watched  # type: ignore[method-assign]
    log = EventLog(io.StringIO(), "json")
    reconciler = Reconciler(host.backend, lambda _: Decision(wanted, ()), log=log, settled=settled)
    reconciler.in_sync_with_mesh()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reconciler.run)
            await done.wait()
            wanted = state(B, gateway="192.0.2.3")  # a short plan
            reconciler.wake()
            await done.wait()
            nursery.cancel_scope.cancel()
    assert host.leads(B) == {"192.0.2.3"}
    assert threading.main_thread() not in threads


def test_of_a_pool_entries_come_before_others_go(tmp_path: Path) -> None:
    host = Host(tmp_path, "ippool")
    host.reach(state(B))
    host.runner.ran.clear()
    host.reach(state(C))
    changes = [argv[1] for argv in host.runner.ran if argv[0] == "ippool" and argv[1] != "-l"]
    assert changes == ["-a", "-r"]


def test_a_list_that_does_not_pass_its_rehearsal_is_not_loaded(tmp_path: Path) -> None:
    host = Host(tmp_path, "ipnat")
    host.reach(state(B))
    before = deepcopy(host.zone.machine.nat)
    run = host.runner.run

    def strict(argv: Sequence[str], stdin: str = "") -> Done:
        if tuple(argv[:2]) == ("ipnat", "-n"):
            return Done(tuple(argv), 1, "", 'syntax error error at "map", line 1\n')
        return run(argv, stdin)

    host.runner.run = strict  # type: ignore[method-assign]
    assert any("syntax error" in reason for reason in host.apply(state(B, C)).values())
    assert host.zone.machine.nat == before
    assert host.leads(C) == REJECT


def test_a_plan_is_told_in_the_words_of_this_system(tmp_path: Path) -> None:
    host = Host(tmp_path, "ippool")
    reading = host.backend.read()
    plan = diff(state(B, SIX), reading)
    assert "\n".join(filter(None, map(reading.say, plan))).splitlines() == host.backend.words(plan)
    assert host.backend.words(plan) == [
        "route -n add 10.2.0.0/24 127.0.0.1 -reject -proto1",
        "route -n add -inet6 fd02::/64 ::1 -reject -proto1",
        "ippool -a -m 13 -i 10.2.0.0/24",
        "route -n add 10.2.0.0/24 192.0.2.2 -proto1 -setsrc 10.1.0.1",
        "route -n add -inet6 fd02::/64 2001:db8::2 -proto1",
    ]


def test_a_guard_that_is_not_there_any_more_is_gone(host: Host) -> None:
    assert host.backend.apply(Plan((RemoveGuard(B),))) == []
    hops = NextHops.via(IPv4Address("192.0.2.2"), "pnic0")
    assert host.backend.apply(Plan((AddRoute(B, hops, 0),))) == []
    assert host.leads(B) == {"192.0.2.2"}
