"""What is somebody else's stays as it is, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

from zonebox import ZoneRunner
from zonehost import (
    FOREIGN_FILE,
    NOTHING,
    OWN,
    PUBLIC,
    SIX,
    B,
    C,
    Host,
    foreigners,
    state,
    with_foreigners,
)

from meshd.kernel.illumos.journal import NAME
from meshd.kernel.plan import diff
from meshd.kernel.state import KernelState
from protocol.address import Prefix


def test_what_others_have_is_theirs_after_a_whole_life(host: Host) -> None:
    theirs = with_foreigners(host)
    for desired in (NOTHING, state(B, C, SIX), state(C), NOTHING):
        host.reach(desired)
        assert foreigners(host) == theirs
    host.backend.purge()
    assert foreigners(host) == theirs
    assert host.file().read_text(encoding="latin-1") == FOREIGN_FILE
    assert json.loads((host.state / NAME).read_text())["routes"] == []


def test_an_entry_or_line_of_others_that_we_would_write_counts_and_stays(host: Host) -> None:
    if host.form == "ippool":
        host.zone.do("ippool -a -m 13 -i 10.2.0.0/24")
    else:
        host.zone.do("ipnat -f -", "map pnic0 from 10.1.0.0/24 to 10.2.0.0/24 -> 0/0\n")
    host.reach(state(B, C))
    host.reach(NOTHING)
    assert host.sources() == [OWN, PUBLIC, PUBLIC]
    host.backend.purge()
    if host.form == "ippool":
        found = host.zone.machine.pool("13")
        assert found is not None
        assert found["nodes"] == ["10.2.0.0/24"]
    else:
        assert [rule["to"] for rule in host.zone.machine.nat] == ["10.2.0.0/24"]


def test_a_route_that_another_has_put_in_the_place_of_ours_is_not_deleted(host: Host) -> None:
    host.reach(state(B, C))
    host.zone.do("route -n delete 10.2.0.0/24 192.0.2.2")
    host.zone.do("route -n add 10.2.0.0/24 192.0.2.2")  # the same, without our mark
    host.start()
    host.apply(NOTHING)
    host.apply(NOTHING)
    assert "192.0.2.2" in host.leads(B)
    assert host.leads(C) == set()


def test_a_route_that_another_has_made_since_the_boot_is_not_deleted(host: Host) -> None:
    """The journal still says that it is ours: routes are gone after a boot, it is not."""
    host.reach(state(B, C))
    host.zone.machine.routes[1:] = []
    host.zone.do("route -n add 10.2.0.0/24 192.0.2.2")
    host.start()
    host.reach(state(B, C))
    host.start()
    host.apply(NOTHING)
    host.backend.purge()
    assert host.leads(B) == {"192.0.2.2"}
    assert host.leads(C) == set()


def test_where_the_kernel_does_not_tell_our_mark_the_journal_alone_counts(host: Host) -> None:
    def mute(runner: ZoneRunner) -> None:
        def without(argv: tuple[str, ...], stdin: str = "") -> object:
            done = runner_run(argv, stdin)
            return type(done)(done.argv, done.code, done.out.replace(",PROTO1", ""), done.err)

        runner_run = runner.run
        runner.run = without  # type: ignore[method-assign, assignment]

    mute(host.runner)
    host.reach(state(B))
    host.start()
    mute(host.runner)
    host.reach(NOTHING)
    assert host.leads(B) == set()


def test_a_route_of_others_keeps_ours_out_and_guards_the_prefix(host: Host) -> None:
    host.zone.do("route -n add 10.2.0.0/24 192.0.2.7")
    assert set(host.apply(state(B, C)).values()) == {"a foreign route has this prefix"}
    assert host.leads(B) == {"192.0.2.7"}
    assert host.leads(C) == {"192.0.2.2"}
    host.zone.do("route -n delete 10.2.0.0/24 192.0.2.7")
    host.reach(state(B, C))


def test_routes_to_the_same_address_are_told_apart_by_their_masks(host: Host) -> None:
    host.zone.do("route -n add 10.2.0.0/16 192.0.2.7")
    host.reach(state(B))
    host.reach(NOTHING)
    assert [each["dest"] for each in host.zone.machine.routes] == ["0.0.0.0/0", "10.2.0.0/16"]


def test_a_busy_route_to_one_host_is_seen(host: Host) -> None:
    """Its letters and its count are printed as one word."""
    one = Prefix.parse("10.2.0.7/32")
    host.reach(state(one))
    host.zone.machine.held["sent"] = 1234567
    host.start()
    host.reach(state(one))
    host.reach(NOTHING)
    assert host.leads(one) == set()


def test_a_pool_of_a_name_is_not_ours(tmp_path: Path) -> None:
    host = Host(tmp_path, "ippool")
    host.zone.do("ippool -f -", "table role = ipf type = tree name = mesh { 10.9.0.0/24; };")
    host.reach(state(B))
    assert (host.zone.machine.pool("mesh") or {})["nodes"] == ["10.9.0.0/24"]


def test_purge_destroys_a_pool_that_we_made_and_nobody_names(tmp_path: Path) -> None:
    host = Host(tmp_path, "ippool", prepared=False)
    host.apply(NOTHING)  # the rules are missing, and the pool is made all the same
    assert host.zone.machine.pool("13") is not None
    host.backend.apply(diff(KernelState(), host.backend.read()))
    assert host.zone.machine.pool("13") is None
    host.prepare()
    host.start()
    host.reach(state(B))
    host.backend.purge()
    found = host.zone.machine.pool("13")  # there before us, or named by rules: it stays, empty
    assert found is not None
    assert found["nodes"] == []
