"""The forms of NAT exclusion, one after the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from zonebox import Zone
from zonehost import FORMS, NOTHING, OWN, PUBLIC, SOURCE, B, C, Host, state, via

import illumosfakes
from meshd.kernel.illumos import pool
from meshd.kernel.illumos.backend import Illumos
from meshd.kernel.illumos.journal import NAME
from meshd.kernel.illumos.options import Options
from meshd.kernel.plan import diff
from meshd.kernel.state import KernelState


@pytest.mark.parametrize("after", [*FORMS, "off"])
def test_another_form_takes_the_place_of_the_one_before(host: Host, after: str) -> None:
    host.reach(state(B, C))
    before = host.form
    if after == before:
        return
    if after == "ippool":
        host.start("ippool")
        # The operator's lines come first; ours of the other form translate until then.
        assert host.apply(state(B, C)) != {}
        assert host.sources() == [OWN, OWN, PUBLIC]
        host.prepare()
    if after == "ipnat":
        host.zone.do("ipf -Fa")
        tagged = "\n".join(pool.map_lines("pnic0", SOURCE, "inet"))
        host.zone.do("ipnat -rf -", tagged)
    host.start(after)
    if after == "off":
        host.apply(KernelState(state(B, C).routes, state(B, C).guards))
        assert host.leads(B) == {"192.0.2.2"}
    else:
        host.reach(state(B, C))
        assert host.sources() == [OWN, OWN, PUBLIC]
    left = json.loads((host.state / NAME).read_text())
    assert left["form"] == ("" if after == "off" else after)
    assert left["entries"] == [] or after == "ippool"
    assert left["lines"] == [] or after == "ipnat"
    old = "ippool.conf" if before == "ippool" else "ipnat.conf"
    assert not (host.files / old).exists()


def test_with_nat_off_routes_are_all_that_is_kept(tmp_path: Path) -> None:
    host = Host(tmp_path, "off")
    desired = KernelState({B: via("192.0.2.2")}, frozenset({B}))
    host.reach(desired)
    assert {argv[0] for argv in host.runner.ran} == {"route", "netstat", "ifconfig"}


def test_the_tools_of_the_form_before_are_at_hand_until_it_has_gone(tmp_path: Path) -> None:
    tools, zone = tmp_path / "bin", tmp_path / "zone"
    illumosfakes.install(tools, zone)
    zone.write_text(json.dumps(Zone().machine.held), encoding="utf-8")
    options = Options(interface="pnic0", tools=str(tools), files="")
    before = Illumos("ipnat", options, tmp_path)
    assert before.apply(diff(NOTHING, before.read())) == []
    after = Illumos("off", options, tmp_path)
    assert after.apply(diff(KernelState(), after.read())) == []
    assert json.loads(zone.read_text())["nat"] == []
    for name in ("ippool", "ipnat", "ipfstat"):
        (tools / name).unlink()
    Illumos("off", options, tmp_path).check()
