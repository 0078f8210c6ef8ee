"""What an operator runs into ends in a message that names the remedy, or in the right thing."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path

import pytest
from zonebox import Zone, ZoneRunner
from zonehost import NOTHING, OWN, PUBLIC, REJECT, SOURCE, B, C, Host, state

from meshd.errors import StateError, UsageError
from meshd.kernel.illumos import nat
from meshd.kernel.illumos.backend import Illumos
from meshd.kernel.illumos.journal import NAME
from meshd.kernel.illumos.options import Options
from meshd.kernel.plan import AddGuard, Plan


def test_without_its_rules_the_pool_excludes_nothing_and_that_is_said(tmp_path: Path) -> None:
    host = Host(tmp_path, "ippool", prepared=False)
    reasons = host.apply(state(B))
    assert any("ipnat has no line" in reason for reason in reasons.values())
    assert "192.0.2.2" not in host.leads(B)  # no route without its exclusion
    host.load_maps()
    assert any("ipf has no rule" in reason for reason in host.apply(state(B)).values())
    host.load_rules()
    host.reach(state(B))


def test_rules_that_go_are_missed(tmp_path: Path) -> None:
    host = Host(tmp_path, "ippool")
    host.reach(state(B))
    host.zone.do("ipf -Fa")
    (problem,) = host.backend.read().problems
    assert "ipf has no rule" in problem
    assert set(host.apply(state(B)).values()) == {problem}
    assert host.leads(B) == {"192.0.2.2"}  # what is there stays
    host.load_rules()
    host.reach(state(B))


def test_rules_that_were_loaded_before_the_pool_are_noticed(tmp_path: Path) -> None:
    host = Host(tmp_path, "ippool", prepared=False)
    host.load_rules()
    host.load_maps()
    reasons = host.apply(state(B))
    assert any("loaded before pool 13" in reason for reason in reasons.values())
    host.load_rules(command="ipf -I -Fa -f - -s")  # the command that was named
    host.reach(state(B))
    assert host.sources() == [OWN, PUBLIC, PUBLIC]


def test_a_foreign_line_ahead_of_ours_is_named_with_what_mends_it(tmp_path: Path) -> None:
    host = Host(tmp_path, "ipnat")
    base = ["map pnic0 10.1.0.0/24 -> 0/32 portmap tcp/udp auto", "map pnic0 10.1.0.0/24 -> 0/32"]
    host.zone.do("ipnat -f -", "\n".join(base))
    reasons = host.apply(state(B))
    assert any(f'"{base[0]}"' in reason for reason in reasons.values())
    for line in base:  # as it says
        host.zone.do("ipnat -rf -", line)
        host.zone.do("ipnat -f -", line)
    host.reach(state(B))
    assert host.sources() == [OWN, PUBLIC, PUBLIC]
    # When we go, theirs are what translates, as before we came.
    host.backend.purge()
    assert host.sources() == [PUBLIC, PUBLIC, PUBLIC]
    assert nat.listed(host.zone.do("ipnat -l")) == [nat.parse(line) for line in base]


def test_a_list_that_was_cleared_is_written_again(tmp_path: Path) -> None:
    host = Host(tmp_path, "ipnat")
    host.reach(state(B))
    host.zone.do("ipnat -C")
    assert host.sources() == [OWN, "10.1.0.5", OWN]  # nothing is translated any more
    host.reach(state(B))
    assert host.sources() == [OWN, PUBLIC, PUBLIC]


def test_base_lines_that_go_are_missed_even_without_a_mesh(tmp_path: Path) -> None:
    host = Host(tmp_path, "ipnat")
    host.reach(NOTHING)
    (first, _) = nat.base("pnic0", SOURCE, 1)
    host.zone.do("ipnat -rf -", str(first))
    assert host.backend.read().problems != ()
    host.reach(NOTHING)
    assert host.sources() == [PUBLIC, PUBLIC, PUBLIC]


def test_an_interface_that_is_none_is_named_with_those_there_are(tmp_path: Path) -> None:
    host = Host(tmp_path, "ipnat")
    host.start(interface="pnci0")
    host.backend.check()  # it may come
    reasons = set(host.apply(state(B)).values())
    assert (
        "there is no pnci0 to translate at ([illumos], interface); there is int0, pnic0" in reasons
    )
    assert (host.leads(B), host.zone.machine.nat) == (REJECT, [])
    host.start(interface="pnic0")
    host.reach(state(B))


def test_without_a_default_route_the_interface_has_to_be_said(host: Host) -> None:
    host.zone.do("route -n delete default 192.0.2.1")
    if host.form == "ippool":
        host.reach(state(B))  # its rules say where
        return
    host.backend.check()  # it may come
    assert any("set [illumos], interface" in each for each in host.apply(state(B)).values())
    assert host.leads(B) == REJECT
    host.start(interface="pnic0")
    host.reach(state(B))


def test_a_default_route_that_goes_changes_nothing(host: Host) -> None:
    host.reach(state(B))
    host.zone.do("route -n delete default 192.0.2.1")
    host.start()
    host.reach(state(B, C))
    assert host.sources() == [OWN, OWN, PUBLIC]


BLOCKED = "table role = ipf type = tree number = 13 { 203.0.113.0/24; };"


def test_a_pool_that_somebody_filled_for_another_use_is_left_alone_and_named(
    tmp_path: Path,
) -> None:
    host = Host(tmp_path, "ippool", prepared=False)
    host.zone.do("ippool -f -", BLOCKED)
    host.zone.do("ipf -f -", "block in quick on pnic0 from pool/13 to any\n")
    host.prepare()
    with pytest.raises(UsageError, match="give another number"):
        host.backend.check()
    reasons = set(host.apply(state(B)).values())
    assert any('"block in quick on pnic0 from pool/13 to any"' in each for each in reasons)
    assert (host.zone.machine.pool("13") or {})["nodes"] == ["203.0.113.0/24"]
    assert host.leads(B) == REJECT
    host.zone.do("ippool -A -m 14 -t tree")
    host.zone.do("ipf -Fo")
    host.load_rules(14)
    host.start(pool=14)
    host.reach(state(B))


def test_our_pool_may_be_used_for_more(tmp_path: Path) -> None:
    host = Host(tmp_path, "ippool")
    host.zone.do("ipf -f -", "pass in quick on pnic0 from pool/13 to 10.1.0.0/24\n")
    host.backend.check()
    host.reach(state(B))
    host.reach(state(C))


def test_rules_that_tag_leave_nothing_to_the_list_and_are_named(tmp_path: Path) -> None:
    """Those of the other form, when ipf.conf was left as it was."""
    host = Host(tmp_path, "ipnat")
    host.zone.do("ippool -A -m 13 -t tree")
    host.load_rules()
    reasons = set(host.apply(state(B)).values())
    assert any("take it out of ipf.conf" in each for each in reasons)
    assert host.sources() == [OWN, OWN, OWN]
    host.zone.do("ipf -I -Fa -f - -s", "pass out all\n")  # the command that was named
    host.reach(state(B))
    assert host.sources() == [OWN, PUBLIC, PUBLIC]


def unreadable(host: Host) -> None:
    host.file().unlink(missing_ok=True)
    host.file().mkdir()


def test_a_file_that_cannot_be_read_is_named_before_anything_is_done(host: Host) -> None:
    unreadable(host)
    before = deepcopy(host.zone.machine.held)
    with pytest.raises(UsageError, match=f"cannot read {host.file()}"):
        host.backend.check()
    assert any("cannot read" in each for each in host.apply(state(B)).values())
    assert host.leads(B) == REJECT
    assert (host.zone.machine.pools, host.zone.machine.nat) == (before["pools"], before["nat"])
    host.file().rmdir()
    host.reach(state(B))


def test_a_file_that_cannot_be_read_any_more_leaves_the_mesh_as_it_is(host: Host) -> None:
    host.reach(state(B))
    unreadable(host)
    (problem,) = host.backend.read().problems
    assert "cannot read" in problem
    assert set(host.apply(state(B)).values()) == {problem}
    assert (host.leads(B), host.sources()) == ({"192.0.2.2"}, [OWN, PUBLIC, PUBLIC])


def test_a_place_that_cannot_be_written_is_named_at_the_start(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: path != str(host.files))
    with pytest.raises(UsageError, match=f"{host.files} cannot be written"):
        host.backend.check()
    host.start(files="")
    host.backend.check()


# -- tools that fail -------------------------------------------------------------------------------


def test_a_filter_that_is_not_enabled_is_an_error_with_its_remedy(host: Host) -> None:
    host.reach(state(B))
    host.zone.do("ipf -D")
    with pytest.raises(OSError, match="svcadm enable ipfilter"):
        host.backend.read()
    with pytest.raises(UsageError, match="svcadm enable ipfilter"):
        host.backend.check()


def test_a_missing_privilege_is_named(host: Host) -> None:
    host.zone.machine.held["privileged"] = False
    with pytest.raises(UsageError, match="sys_ip_config"):
        host.backend.check()
    plan = Plan((AddGuard(B),))
    (failure,) = host.backend.apply(plan)
    assert "sys_ip_config" in failure.reason


def test_who_may_only_watch_reads_the_routes_and_says_what_he_cannot_read(host: Host) -> None:
    host.reach(state(B))
    host.zone.machine.held["privileged"] = False
    host.start()
    reading = host.backend.read()
    assert reading.state.routes == state(B).routes
    assert "sys_ip_config" in reading.unread


def test_a_check_that_finds_all_in_order_changes_nothing(host: Host) -> None:
    before = deepcopy(host.zone.machine.held)
    host.backend.check()
    assert host.zone.machine.held == before
    assert not (host.state / NAME).exists()


@pytest.mark.parametrize("form", ["exempt", "masquerade", "set"])
def test_forms_of_other_systems_are_refused(form: str) -> None:
    with pytest.raises(UsageError, match="choose ippool, ipnat or off"):
        Illumos(form, Options(), None, ZoneRunner(Zone()))


def test_a_damaged_journal_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"routes": [["10.2', encoding="utf-8")
    with pytest.raises(StateError, match="is damaged"):
        Illumos("off", Options(), tmp_path, ZoneRunner(Zone()))


def test_a_journal_that_cannot_be_written_means_that_nothing_is_done(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StateError("no space")

    monkeypatch.setattr("meshd.kernel.illumos.journal.replace_file", full)
    before = deepcopy(host.zone.machine.held)
    assert set(host.apply(state(B)).values()) >= {"no space"}
    assert host.zone.machine.held == before
