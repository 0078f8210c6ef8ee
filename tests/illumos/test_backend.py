"""The illumos backend on the fakes: what the contract of all backends does not ask.

Death between any two commands, what is somebody else's, the files for the next boot, and where a
packet's source ends up.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Final

import pytest
from zonebox import Killed, Zone, ZoneRunner

from meshd.errors import StateError, UsageError
from meshd.kernel.illumos import blocks, nat, pool
from meshd.kernel.illumos.backend import Illumos
from meshd.kernel.illumos.journal import NAME
from meshd.kernel.illumos.options import Options
from meshd.kernel.illumos.runner import Done
from meshd.kernel.plan import AddGuard, AddRoute, Plan, RemoveGuard, diff
from meshd.kernel.state import KernelState, NextHops
from protocol.address import Prefix

SOURCE: Final = Prefix.parse("10.1.0.0/24")
B, C, SIX = Prefix.parse("10.2.0.0/24"), Prefix.parse("10.3.0.0/24"), Prefix.parse("fd02::/64")
FORMS: Final = ("ippool", "ipnat")


def via(gateway: str, source: str | None = "10.1.0.1") -> NextHops:
    where = ip_address(gateway)
    own = ip_address(source) if source and where.version == 4 else None
    return NextHops.via(where, "pnic0", own)


def state(*prefixes: Prefix, gateway: str = "192.0.2.2") -> KernelState:
    """All of these joined."""
    routes = {each: via(gateway if each.version == 4 else "2001:db8::2") for each in prefixes}
    nets = frozenset(prefixes)
    return KernelState(routes, nets, frozenset({SOURCE, Prefix.parse("fd01::/64")}), nets)


NOTHING: Final = KernelState(local=state().local)
"""What a node holds that knows nobody."""


class Host:
    """A zone with a daemon that can die: its disk, its tools, and a backend on them."""

    def __init__(self, directory: Path, form: str, *, prepared: bool = True) -> None:
        self.form, self.directory = form, directory
        self.files, self.state = directory / "ipf", directory / "state"
        self.files.mkdir(parents=True)
        self.state.mkdir()
        self.zone = Zone()
        self.zone.do("route -n add default 192.0.2.1")
        if form == "ippool" and prepared:
            self.prepare()
        self.start()

    def prepare(self) -> None:
        """What docs/illumos.md asks of the operator."""
        self.zone.run("ippool -A -m 13 -t tree")
        self.zone.do("ipf -f -", "\n".join(pool.filter_lines("pnic0", SOURCE, 13, "inet")))
        self.zone.do("ipnat -f -", "\n".join(pool.map_lines("pnic0", SOURCE, "inet")))

    def start(self, form: str | None = None, **options: object) -> None:
        self.form = form or self.form
        self.runner = ZoneRunner(self.zone)
        self.backend = Illumos(
            self.form,
            Options(files=str(self.files), **options),  # type: ignore[arg-type]
            self.state,
            self.runner,
        )

    def apply(self, desired: KernelState) -> dict[str, str]:
        """One round of the reconciler; why what failed."""
        failures = self.backend.apply(diff(desired, self.backend.read()))
        return {str(failure.step).splitlines()[0]: failure.reason for failure in failures}

    def reach(self, desired: KernelState) -> None:
        assert self.apply(desired) == {}
        self.holds(desired)

    def holds(self, desired: KernelState) -> None:
        reading = self.backend.read()
        assert reading.state == desired
        assert (reading.problems, reading.strays) == ((), ())
        assert not diff(desired, reading)
        for prefix in (B, C, SIX):
            wanted = {"::1" if prefix.version == 6 else "127.0.0.1"}
            if prefix in desired.routes:
                wanted = {str(hop.address) for hop in desired.routes[prefix].hops}
            assert self.leads(prefix) == (wanted if prefix in desired.guards else set())

    def sources(self) -> list[str]:
        """Of packets to B, to C and abroad, by TCP and ICMP alike."""
        found = []
        for destination in ("10.2.0.7", "10.3.0.7", "8.8.8.8"):
            tcp, icmp = (self.zone.source(destination, proto=each) for each in ("tcp", "icmp"))
            assert tcp == icmp
            found.append(tcp)
        return found

    def leads(self, prefix: Prefix) -> set[str]:
        """Gateways of the routes of that very prefix."""
        here = [each for each in self.zone.machine.routes if each["dest"] == str(prefix)]
        return {each["gateway"] for each in here}

    def file(self) -> Path:
        return self.files / ("ippool.conf" if self.form == "ippool" else "ipnat.conf")


OWN, PUBLIC = "10.1.0.5", "192.0.2.9"
REJECT = {"127.0.0.1"}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What dies here is a process and never the machine."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(params=FORMS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    return Host(tmp_path, request.param)


# -- joining and leaving --------------------------------------------------------------------------


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


def test_never_p_never_flush_never_svcadm(host: Host) -> None:
    for desired in (NOTHING, state(B, C, SIX), state(C), NOTHING):
        host.reach(desired)
    host.backend.purge()
    words = {word for argv in host.runner.ran for word in argv}
    assert not words & {"-p", "-F", "-Fa", "-C", "svcadm"}
    assert len(host.runner.ran) > 50


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


# -- death between any two commands ---------------------------------------------------------------

JOURNEYS: Final[dict[str, tuple[KernelState, KernelState]]] = {
    "join": (NOTHING, state(B, C, SIX)),
    "leave": (state(B, C, SIX), NOTHING),
    "move": (state(B, C), state(B, C, gateway="192.0.2.3")),
    "exchange": (state(B), state(C, SIX)),
    "first": (KernelState(), state(B)),
    "purge": (state(B, C), KernelState()),
}


Death = tuple[dict[str, object], dict[str, bytes]]
"""The zone and the disk as they are when it comes."""


def deaths_in(host: Host, act: Callable[[], object]) -> list[Death]:
    """What death before any command of ``act`` leaves, and after its last; each once."""
    found: list[Death] = []
    run = host.runner.run

    def watched(argv: Sequence[str], stdin: str = "") -> Done:
        note()
        return run(argv, stdin)

    def note() -> None:
        death = (deepcopy(host.zone.machine.held), snapshot(host.directory))
        if not found or found[-1] != death:
            found.append(death)

    host.runner.run = watched  # type: ignore[method-assign]
    act()
    note()
    return found


def snapshot(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def restore(directory: Path, disk: dict[str, bytes]) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            path.unlink()
    for name, content in disk.items():
        (directory / name).write_bytes(content)


FOREIGN_FILE: Final = "# the operator's\nrdr pnic0 192.0.2.9/32 port 80 -> 10.1.0.5 port 80 tcp\n"


def with_foreigners(host: Host) -> list[object]:
    """What is somebody else's, in everything that we write to; and how it looks."""
    host.zone.do("route -n add 10.77.0.0/16 192.0.2.7")
    host.zone.do("route -n add 10.78.0.0/16 127.0.0.1 -reject")
    if host.form == "ippool":
        host.zone.do("ippool -a -m 13 -i 10.99.0.0/24")
    else:
        host.zone.do("ipnat -f -", "map pnic0 from 10.1.0.0/24 to 10.99.0.0/24 -> 0/0\n")
    host.file().write_text(FOREIGN_FILE, encoding="latin-1")
    return foreigners(host)


def foreigners(host: Host) -> list[object]:
    machine = host.zone.machine
    ours = {"10.2.0.0/24", "10.3.0.0/24", "fd02::/64"}
    nodes = [each for each in (machine.pool("13") or {"nodes": []})["nodes"] if each not in ours]
    lines = [
        rule for rule in machine.nat
        if not rule["not"] and (rule["to"] is None or rule["to"] not in ours)
    ]  # fmt: skip
    routes = [route for route in machine.routes if route["dest"] not in ours]
    ahead, _, after = blocks.split(host.file().read_text(encoding="latin-1"))
    return [routes, nodes, lines, ahead + after]


@pytest.mark.parametrize("journey", JOURNEYS)
def test_death_after_any_command_is_mended_and_owns_nothing_foreign(
    host: Host, journey: str
) -> None:
    before, after = JOURNEYS[journey]
    theirs = with_foreigners(host)
    host.apply(before)
    deaths = deaths_in(host, lambda: host.apply(after))
    assert len(deaths) > 5
    for death in deaths:
        for wanted in (after, before):
            rise(host, death)
            if host.apply(wanted):  # a step may lean on one that had to be done again
                assert host.apply(wanted) == {}
            host.holds(wanted)
            assert foreigners(host) == theirs
            if wanted.local:
                expected = [OWN if each in wanted.mesh else PUBLIC for each in (B, C)]
                assert host.sources() == [*expected, PUBLIC]


def rise(host: Host, death: Death) -> None:
    """A new process finds what ``death`` has left."""
    host.zone.machine.held = deepcopy(death[0])
    restore(host.directory, death[1])
    host.start()


def test_a_command_that_raises_leaves_what_death_leaves(host: Host) -> None:
    host.reach(NOTHING)
    start: Death = (deepcopy(host.zone.machine.held), snapshot(host.directory))
    deaths = deaths_in(host, lambda: host.apply(state(B)))
    found: list[Death] = []
    for fuel in range(1000):
        rise(host, start)
        host.runner.fuel = fuel
        with suppress(Killed):
            host.apply(state(B))
        death = (deepcopy(host.zone.machine.held), snapshot(host.directory))
        if not found or found[-1] != death:
            found.append(death)
        if death == deaths[-1]:
            break
    assert found == deaths


def test_nothing_leaks_at_any_moment_of_a_life_with_deaths(host: Host) -> None:
    """A packet to a guarded prefix is refused or keeps its source; it never takes the default
    route, whatever command was the last."""
    host.reach(state(B))
    for after in (state(B, gateway="192.0.2.3"), state(B, C), NOTHING):
        gone = False
        for held, _ in deaths_in(host, partial(host.apply, after)):
            host.zone.machine.held = held
            leads = host.leads(B)
            if leads - REJECT:
                assert host.zone.source("10.2.0.7") == OWN
                assert not gone
            gone = gone or not leads
        assert gone == (after == NOTHING)
        host.start()


# -- what is somebody else's ----------------------------------------------------------------------


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


def test_where_the_kernel_does_not_tell_our_mark_the_journal_alone_counts(host: Host) -> None:
    run = host.runner.run

    def mute(runner: ZoneRunner) -> None:
        def without(argv: tuple[str, ...], stdin: str = "") -> object:
            done = runner_run(argv, stdin)
            return type(done)(done.argv, done.code, done.out.replace(",PROTO1", ""), done.err)

        runner_run = runner.run
        runner.run = without  # type: ignore[method-assign, assignment]

    del run
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


# -- what the operator must do, and is told --------------------------------------------------------


def test_without_its_rules_the_pool_excludes_nothing_and_that_is_said(tmp_path: Path) -> None:
    host = Host(tmp_path, "ippool", prepared=False)
    reasons = host.apply(state(B))
    assert any("ipnat has no line" in reason for reason in reasons.values())
    assert "192.0.2.2" not in host.leads(B)  # no route without its exclusion
    host.zone.do("ipnat -f -", "\n".join(pool.map_lines("pnic0", SOURCE, "inet")))
    assert any("ipf has no rule" in reason for reason in host.apply(state(B)).values())
    host.zone.do("ipf -f -", "\n".join(pool.filter_lines("pnic0", SOURCE, 13, "inet")))
    host.reach(state(B))


def test_rules_that_go_are_missed(tmp_path: Path) -> None:
    host = Host(tmp_path, "ippool")
    host.reach(state(B))
    host.zone.do("ipf -Fa")
    (problem,) = host.backend.read().problems
    assert "ipf has no rule" in problem
    assert set(host.apply(state(B)).values()) == {problem}
    assert host.leads(B) == {"192.0.2.2"}  # what is there stays
    host.zone.do("ipf -f -", "\n".join(pool.filter_lines("pnic0", SOURCE, 13, "inet")))
    host.reach(state(B))


def test_rules_that_were_loaded_before_the_pool_are_noticed(tmp_path: Path) -> None:
    host = Host(tmp_path, "ippool", prepared=False)
    host.zone.do("ipf -f -", "\n".join(pool.filter_lines("pnic0", SOURCE, 13, "inet")))
    host.zone.do("ipnat -f -", "\n".join(pool.map_lines("pnic0", SOURCE, "inet")))
    reasons = host.apply(state(B))
    assert any("loaded before pool 13" in reason for reason in reasons.values())
    rules = "\n".join(pool.filter_lines("pnic0", SOURCE, 13, "inet"))
    host.zone.do("ipf -I -Fa -f - -s", rules)  # the command that was named
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


# -- the files for the next boot -------------------------------------------------------------------


def boot(host: Host) -> None:
    """A boot as /lib/svc/method/ipfilter does it: pool, rules, lines, each from its file."""
    machine = host.zone.machine
    machine.held["routes"] = [each for each in machine.routes if each["dest"] == "0.0.0.0/0"]
    machine.held["pools"], machine.held["nat"], machine.held["filters"] = [], [], [[], []]
    if (host.files / "ippool.conf").exists():
        host.zone.do(f"ippool -f {host.files / 'ippool.conf'}")
    if host.form == "ippool":
        host.zone.do("ipf -f -", "\n".join(pool.filter_lines("pnic0", SOURCE, 13, "inet")))
        host.zone.do("ipnat -f -", "\n".join(pool.map_lines("pnic0", SOURCE, "inet")))
    if (host.files / "ipnat.conf").exists():
        host.zone.do(f"ipnat -f {host.files / 'ipnat.conf'}")


def test_after_a_boot_the_exclusion_is_what_it_was(host: Host) -> None:
    host.reach(state(B, C, SIX))
    boot(host)
    assert host.sources() == [OWN, OWN, PUBLIC]
    host.start()
    host.reach(state(B, C, SIX))
    assert host.leads(B) == {"192.0.2.2"}


def test_a_file_that_was_not_there_goes_again_and_one_that_was_empty_stays(
    host: Host, tmp_path: Path
) -> None:
    host.reach(state(B))
    assert host.file().exists()
    host.backend.purge()
    assert not host.file().exists()
    host.file().write_bytes(b"")
    host.start()
    host.reach(state(B))
    host.backend.purge()
    assert host.file().read_bytes() == b""


def test_octets_and_permissions_of_others_survive(host: Host) -> None:
    strange = b"# caf\xe9 \xff\r\n# no newline at the end"
    host.file().write_bytes(strange)
    host.file().chmod(0o640)
    host.reach(state(B))
    assert host.file().read_bytes().endswith(strange)
    assert host.file().stat().st_mode & 0o777 == 0o640
    host.backend.purge()
    assert host.file().read_bytes() == strange


def test_a_file_with_damaged_markers_is_left_alone_and_named(host: Host) -> None:
    wrong = f"{blocks.BEGIN}\nsomething\n"
    host.file().write_text(wrong, encoding="utf-8")
    assert any("not one pair" in reason for reason in host.apply(state(B)).values())
    assert host.file().read_text(encoding="utf-8") == wrong
    host.file().unlink()
    host.reach(state(B))


def test_a_file_that_somebody_changed_between_our_markers_is_written_again(host: Host) -> None:
    host.reach(state(B))
    right = host.file().read_text(encoding="utf-8")
    host.file().write_text(right.replace("10.2.0.0/24", "10.9.0.0/24"), encoding="utf-8")
    assert host.backend.read().problems != ()
    host.reach(state(B))
    assert host.file().read_text(encoding="utf-8") == right


def test_a_pool_that_the_operator_defines_in_the_file_is_not_taken_over(tmp_path: Path) -> None:
    host = Host(tmp_path, "ippool")
    theirs = "table role = ipf type = tree number = 13 { 10.9.0.0/24; };\n"
    host.file().write_text(theirs, encoding="utf-8")
    assert any("another number" in reason for reason in host.apply(state(B)).values())
    assert host.file().read_text(encoding="utf-8") == theirs
    host.zone.do("ippool -A -m 14 -t tree")
    host.zone.do("ipf -Fa")
    host.zone.do("ipf -f -", "\n".join(pool.filter_lines("pnic0", SOURCE, 14, "inet")))
    host.start(pool=14)
    host.reach(state(B))


def test_without_a_place_for_files_none_is_written(tmp_path: Path) -> None:
    for form in FORMS:
        host = Host(tmp_path / form, form)
        host.backend = Illumos(form, Options(files=""), host.state, host.runner)
        host.backend.check()
        host.reach(state(B))
        assert list(host.files.iterdir()) == []


# -- another form ----------------------------------------------------------------------------------


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


# -- words -----------------------------------------------------------------------------------------


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
