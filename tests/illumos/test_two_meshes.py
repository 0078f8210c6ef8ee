"""Two daemons of two meshes in one zone."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import attrs
import pytest
from zonehost import OWN, PUBLIC, REJECT, SIX, B, C, Host, state, via

from meshd.errors import UsageError
from meshd.kernel.state import KernelState, NextHops
from protocol.address import Prefix


def second(host: Host, form: str, files: str | None = None) -> Host:
    """Another daemon on the same zone, with the same files."""
    other = Host.__new__(Host)
    other.form, other.directory = form, host.directory
    other.files, other.state, other.zone = host.files, host.directory / "second", host.zone
    other.state.mkdir()
    other.start(files=str(host.files) if files is None else files)
    return other


def test_of_two_daemons_one_keeps_the_file_and_the_other_is_told(host: Host) -> None:
    host.reach(state(B))
    before = deepcopy(host.zone.machine.held)
    other = second(host, host.form)
    with pytest.raises(UsageError, match=f'meshd of {host.state}: .*set nat = "off"'):
        other.backend.check()
    assert any("only one can" in each for each in other.apply(state(C)).values())
    assert other.leads(C) == REJECT
    assert (host.zone.machine.pools, host.zone.machine.nat) == (before["pools"], before["nat"])
    other.backend.purge()
    host.holds(state(B))


def test_the_routes_of_a_second_daemon_are_its_own(host: Host) -> None:
    host.reach(state(B))
    other = second(host, "off")
    other.backend.check()
    routes: dict[Prefix, NextHops] = {C: via("192.0.2.3")}
    assert other.apply(KernelState(routes, frozenset({C}))) == {}
    assert host.backend.read().state == state(B)
    other.backend.purge()
    host.holds(state(B))
    host.backend.purge()
    assert [each["dest"] for each in host.zone.machine.routes] == ["0.0.0.0/0"]


def test_without_files_two_daemons_share_a_pool_or_a_list(host: Host) -> None:
    host.start(files="")
    host.reach(state(B))
    other = second(host, host.form, files="")
    assert other.apply(state(C)) == {}
    other.agrees(state(C))
    host.agrees(state(B))
    assert host.sources() == [OWN, OWN, PUBLIC]
    host.backend.purge()
    other.apply(state(C))  # the base lines were ours, too
    assert host.sources() == [PUBLIC, OWN, PUBLIC]


def test_lists_of_two_daemons_for_two_subnets_do_not_meet(tmp_path: Path) -> None:
    host = Host(tmp_path, "ipnat")
    host.start(files="")
    host.reach(state(B))
    other = second(host, "ipnat", files="")
    theirs = attrs.evolve(state(C), local=frozenset({Prefix.parse("10.9.0.0/24")}))
    assert other.apply(theirs) == {}
    host.start(files="")
    assert host.apply(state(B, SIX)) == {}
    host.agrees(state(B, SIX))
    other.agrees(theirs)
    host.backend.purge()
    other.agrees(theirs)
