"""The command line from argv to exit code, against a real control socket."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from meshd import cli, client, control
from meshd.authority import bundle, delivery
from meshd.errors import Refused, UsageError
from meshd.log import EventLog

Json = dict[str, Any]

STATUS: Json = {
    "mesh": "c0ffee00",
    "node": {"id": "1a2b", "name": "a", "sequence": 7, "endpoints": ["192.0.2.1:6179"]},
    "root": "9c1f2ab0",
    "converged": True,
    "agreed": True,
    "peers": {"alive": 2, "suspect": 0, "failed": 1, "left": 0},
    "prefixes": {"local": ["10.1.0.0/24"], "remote": 2},
    "kernel": {"backend": "linux", "in_sync": True, "error": None},
    "pid": 42,
    "uptime_s": 200.5,
}
PEERS = [
    {
        "id": "5e6f70" * 10,
        "name": "b",
        "state": "alive",
        "endpoint": "192.0.2.2:6179",
        "prefixes": ["10.2.0.0/24", "fd00:2::/64"],
        "sequence": 8,
        "rtt_ms": 0.4,
        "since_s": 61,
        "agrees": True,
    }
]
GRANTS = [
    {
        "id": "1a2b3c4d" * 8,
        "name": "b",
        "state": "member",
        "allow": ["10.2.0.0/16"],
        "at": [],
        "limit": None,
        "until": 1_800_000_000,
        "ends_in_days": 12,
        "token_until": None,
        "generation": 0,
        "serial": 7,
        "since": 7,
    }
]
ROUTES: list[Json] = [
    {
        "prefix": "10.2.0.0/24",
        "node": "b",
        "next_hop": "192.0.2.2",
        "state": "installed",
        "reason": "",
    },
    {
        "prefix": "10.3.0.0/24",
        "node": "c",
        "next_hop": None,
        "state": "refused",
        "reason": "evil\x1b[31m",
    },
]


EXPLANATION: Json = {
    "about": "prefix",
    "prefix": "10.2.0.0/24",
    "local": [],
    "routes": [
        {
            **ROUTES[0],
            "id": "5e6f70" * 10,
            "relation": "exact",
            "rule": "",
            "member": {"state": "alive", "since_s": 61, "reason": ""},
            "grant": {"name": "b", "serial": 7, "allow": ["10.2.0.0/16"]},
            "conflicts": [],
        }
    ],
    "kernel": [],
}


@attrs.define(eq=False)
class Daemon:
    """A control socket with a daemon's answers, in a thread of its own."""

    dir: Path
    asked: list[tuple[str, Json]] = attrs.field(factory=list)
    answers: dict[str, object] = attrs.field(
        factory=lambda: {
            "status": STATUS,
            "peers": PEERS,
            "routes": ROUTES,
            "announce": {"local": ["10.1.0.0/24", "10.7.0.0/24"]},
            "withdraw": {"local": []},
            "reload": {"changed": ["announce"]},
            "leave": {},
            "explain": EXPLANATION,
            "plan": {"steps": ["ip route add 10.2.0.0/24"], "in_sync": False},
            "grants": GRANTS,
            "deliver": {"outcomes": ["new"]},
        }
    )
    """What each method returns, or the exception it raises."""
    log: EventLog = attrs.field(factory=EventLog)
    token: trio.lowlevel.TrioToken | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    @contextmanager
    def running(self) -> Iterator[None]:
        ready = threading.Event()
        thread = threading.Thread(target=trio.run, args=(self._serve, ready))
        thread.start()
        assert ready.wait(10)
        try:
            yield
        finally:
            self.soon(self.scope.cancel)
            thread.join()

    def soon(self, action: Callable[[], object]) -> None:
        assert self.token is not None
        with suppress(trio.RunFinishedError):  # A test may have ended it already.
            self.token.run_sync_soon(action)

    async def _serve(self, ready: threading.Event) -> None:
        self.token = trio.lowlevel.current_trio_token()
        with self.scope:
            async with trio.open_nursery() as nursery:
                methods = {name: self._method(name) for name in self.answers}
                path = self.dir / "control.sock"
                await nursery.start(control.serve, path, methods, self.log.subscribe)
                ready.set()

    def _method(self, name: str) -> control.Method:
        async def method(params: Json) -> object:
            self.asked.append((name, params))
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return method


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


@attrs.define
class Shell:
    """``main`` in this process, with what it printed."""

    dir: Path
    capture: pytest.CaptureFixture[str]

    def __call__(self, *argv: str) -> tuple[int, str, str]:
        code = cli.main(["--dir", str(self.dir), *argv])
        out, err = self.capture.readouterr()
        return code, out, err


@pytest.fixture
def meshd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


# -- usage -------------------------------------------------------------------------------------

COMMANDS = [command.name for command in cli.COMMANDS]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_has_a_purpose_an_example_and_exit_codes(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    out, _ = capsys.readouterr()
    assert f"example:\n  meshd {name}" in out
    assert "\nexit codes: " in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["status", "--bogus"], "unrecognized arguments: --bogus; see: meshd --help"),
        (["bogus"], "invalid choice: 'bogus'"),
        (["init"], "the following arguments are required: --name; see: meshd init --help"),
        (["explain"], "the following arguments are required: NODE|PREFIX"),
        (["announce"], "the following arguments are required: P"),
        (["wait"], "the following arguments are required: --timeout"),
        (["wait", "--timeout", "soon"], "--timeout: 'soon' is no number of seconds; write 30"),
        (["wait", "--timeout", "nan"], "--timeout: 'nan' is no number of seconds; write 30"),
        (["wait", "--timeout", "1", "--peers", "-1"], "--peers: '-1' is no whole number from 0"),
        (["wait", "--timeout", "1", "--peers", "x"], "--peers: 'x' is no whole number from 0"),
        (["wait", "--timeout", "1", "--prefix", "10.1.0.1/24"], "the network is 10.1.0.0/24"),
        (["init", "--name", "a", "--announce", "10.1.0.1/24"], "--announce: 10.1.0.1/24 has host"),
        (["init", "--name", "a", "--limit", "0"], "--limit: '0' is no whole number from 1"),
        (["init", "--name", "a", "--until", "soon"], "--until: soon is no date"),
        (["init", "--name", "a", "--advertise", "b"], "--advertise: b is no address"),
        (["invite", "b", "--valid", "1"], "--valid: 1 is no duration"),
        (["invite", "b", "--seed", "b:0"], "--seed: b:0 has no valid port"),
        (["invite", "B"], "meshd.toml does not exist; make a node with `meshd init`"),
        (["grant", "b", "--name", "b"], "b is no key of 64 hex digits; copy what `meshd key` pr"),
        (["grant", "b"], "the following arguments are required: --name"),
        (["renew"], "the following arguments are required: NODE"),
        (["renew", "b", "--until", "soon"], "--until: soon is no date"),
        (["renew", "b", "--limit", "x"], "--limit: 'x' is no whole number from 1"),
        (["revoke", "b"], "meshd.toml does not exist; make a node with `meshd init`"),
        (["grants", "--authority", "x/y"], "meshd.toml does not exist"),
        (["succeed"], "the following arguments are required: --next"),
        (["succeed", "--next", "x"], "meshd.toml does not exist"),
        (["deliver", "/nowhere/x"], "cannot read /nowhere/x: No such file or directory; name the"),
        (["deliver", "/etc/hostname"], "/etc/hostname: line 1 is none of a bundle's"),
        (["join", "meshd1-AAAA"], "the token is incomplete or altered; copy it again, whole"),
        (["run", "--log-format", "xml"], "invalid choice: 'xml'"),
        (["status", "\x1b[31m\n"], "unrecognized arguments"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(meshd: Shell, argv: list[str], said: str) -> None:
    code, out, err = meshd(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("meshd: ")
    assert said in err
    assert err.count("\n") == 1
    assert err.rstrip("\n").isprintable()
    assert not list(meshd.dir.iterdir())


def test_without_a_command_the_help_is_shown_and_the_code_is_2(meshd: Shell) -> None:
    code, out, err = meshd()
    assert (code, out) == (2, "")
    assert "start here:" in err


def test_dir_may_stand_before_or_after_the_command_or_in_the_environment(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with daemon.running():
        place = ["--dir", str(daemon.dir)]
        assert cli.main([*place, "status"]) == 0
        assert cli.main(["status", *place]) == 0
        assert cli.main(["--dir", "/nowhere", "status", *place]) == 0
        monkeypatch.setenv("MESHD_DIR", str(daemon.dir))
        assert cli.main(["status"]) == 0
    assert capsys.readouterr().err == ""


# -- founding ------------------------------------------------------------------------------------


def test_init_invite_join_make_two_nodes(
    meshd: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    a, b = ("--dir", str(tmp_path / "a")), ("--dir", str(tmp_path / "b"))
    code, out, _ = meshd("init", "--name", "a", "--advertise", "192.0.2.1", *a)
    assert code == 0
    assert "Move authority-next.key to another place" in out
    assert f"meshd --dir {tmp_path / 'a'} run" in out
    code, token, words = meshd("invite", "b", *a)
    assert code == 0
    assert token.startswith("meshd1-")
    assert token.count("\n") == 1
    assert "this token is a secret" in words
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(token.encode())))
    code, out, _ = meshd("join", "-", "--announce", "10.2.0.0/24", *b)
    assert code == 0
    assert "this node is b " in out
    code, _, err = meshd("join", token, *b)
    assert code == 2
    assert "a node lives here already" in err


def test_an_invitation_names_the_endpoints_of_the_running_daemon(
    meshd: Shell, daemon: Daemon
) -> None:
    from meshd.invitation import decode  # noqa: PLC0415

    assert meshd("init", "--name", "a")[0] == 0
    with daemon.running():
        code, token, _ = meshd("invite", "b")
    assert code == 0
    assert list(map(str, decode(token, 0).seeds)) == ["192.0.2.1:6179"]


def test_a_directory_that_cannot_be_made_is_one_line(meshd: Shell) -> None:
    (meshd.dir / "file").touch()
    code, _, err = meshd("init", "--name", "a", "--dir", str(meshd.dir / "file" / "x"))
    assert code == 2
    assert "Not a directory" in err


# -- asking the daemon ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["status", "peers", "routes", "plan", "grants"])
def test_json_is_exactly_what_the_daemon_said(meshd: Shell, daemon: Daemon, name: str) -> None:
    with daemon.running():
        code, out, err = meshd(name, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == daemon.answers[name]
    assert out.isascii()


def test_status_for_people(meshd: Shell, daemon: Daemon) -> None:
    with daemon.running():
        _, out, _ = meshd("status")
    assert out == (
        "node       a 1a2b\n"
        "mesh       c0ffee00\n"
        "sequence   7\n"
        "endpoints  192.0.2.1:6179\n"
        "converged  yes\n"
        "root       9c1f2ab0\n"
        "peers      2 alive, 0 suspect, 1 failed, 0 left\n"
        "announced  10.1.0.0/24\n"
        "learned    2 prefixes\n"
        "kernel     linux, in sync\n"
        "up         3m20s, pid 42\n"
    )


def test_status_for_people_tells_of_a_clock_that_cannot_be_right(
    meshd: Shell, daemon: Daemon
) -> None:
    daemon.answers["status"] = {**STATUS, "clock_off_s": -864_000.0}
    with daemon.running():
        _, out, _ = meshd("status")
    assert "clock      10 days behind the members: set it\n" in out


def test_peers_and_routes_for_people_line_up_and_are_escaped(meshd: Shell, daemon: Daemon) -> None:
    with daemon.running():
        _, peers, _ = meshd("peers")
        _, routes, _ = meshd("routes")
        daemon.answers["peers"] = []
        assert meshd("peers")[1] == "no peers yet\n"
    assert peers.splitlines() == [
        "NAME  ID        STATE  SINCE  RTT    ENDPOINT        PREFIXES                 REASON",
        "b     5e6f705e  alive  1m01s  0.4ms  192.0.2.2:6179  10.2.0.0/24 fd00:2::/64",
    ]
    assert routes.splitlines() == [
        "PREFIX       NODE  NEXT HOP   STATE      REASON",
        "10.2.0.0/24  b     192.0.2.2  installed",
        "10.3.0.0/24  c     -          refused    evil\\x1b[31m",
    ]


def test_explain_passes_on_what_is_asked_and_lays_out_the_answer(
    meshd: Shell, daemon: Daemon
) -> None:
    with daemon.running():
        told = meshd("explain", "10.2.0.0/24")
        as_json = meshd("explain", "b", "--json")
        daemon.answers["explain"] = Refused("no node here is called x")
        unknown = meshd("explain", "x")
    assert daemon.asked[0] == ("explain", {"of": "10.2.0.0/24"})
    assert daemon.asked[1] == ("explain", {"of": "b"})
    assert told == (
        0,
        "10.2.0.0/24, by b 5e6f705e: installed via 192.0.2.2\n"
        "  member  alive for 1m01s\n"
        "  grant   b, serial 7, may announce inside 10.2.0.0/16, without end\n",
        "",
    )
    assert json.loads(as_json[1]) == EXPLANATION
    assert unknown == (1, "", "meshd: no node here is called x\n")


def test_changes_are_passed_on_and_their_outcome_is_told(meshd: Shell, daemon: Daemon) -> None:
    with daemon.running():
        announced = meshd("announce", "10.7.0.0/24", "fd00:7::/64")
        withdrawn = meshd("withdraw", "10.7.0.0/24")
        reloaded = meshd("reload")
        left = meshd("leave")
        planned = meshd("plan")
        daemon.answers["plan"] = {"steps": [], "in_sync": True}
        idle = meshd("plan")
    assert announced[:2] == (0, "this node announces: 10.1.0.0/24 10.7.0.0/24\n")
    assert withdrawn[:2] == (0, "this node announces: -\n")
    assert reloaded[:2] == (0, "changed: announce\n")
    assert left[0] == 0
    assert planned[:2] == (0, "ip route add 10.2.0.0/24\n")
    assert idle[:2] == (0, "nothing to do: the kernel is as it should be\n")
    assert daemon.asked[:2] == [
        ("announce", {"prefixes": ["10.7.0.0/24", "fd00:7::/64"]}),
        ("withdraw", {"prefixes": ["10.7.0.0/24"]}),
    ]


def test_the_daemons_two_families_of_error_become_exit_codes(meshd: Shell, daemon: Daemon) -> None:
    with daemon.running():
        daemon.answers["announce"] = UsageError("10.7.0.1/24 has host bits set")
        assert meshd("announce", "x") == (2, "", "meshd: 10.7.0.1/24 has host bits set\n")
        daemon.answers["announce"] = Refused("evil \x1b[31m\nword")
        assert meshd("announce", "x") == (1, "", "meshd: evil \\x1b[31m\\nword\n")


def test_without_a_daemon_the_answer_is_no(meshd: Shell) -> None:
    code, out, err = meshd("status")
    said = f"no daemon answers on {meshd.dir / 'control.sock'}; start it: meshd --dir {meshd.dir}"
    assert (code, out, err) == (1, "", f"meshd: {said} run\n")


def test_what_is_no_meshd_is_told(meshd: Shell) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(meshd.dir / "control.sock"))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 smtp ready\n")

        thread = threading.Thread(target=answer)
        thread.start()
        code, _, err = meshd("status")
        thread.join()
    assert (code, err) == (1, f"meshd: what answers on {meshd.dir}/control.sock is no meshd\n")


# -- what the authority signs ------------------------------------------------------------------


def deliverable(daemon: Daemon, number: int) -> str:
    path = daemon.dir / "bundle"
    path.write_text(bundle.dump(bytes([at % 251]) * 440 for at in range(number)))
    return str(path)


def test_a_bundle_goes_to_the_daemon_in_frames_that_it_takes(meshd: Shell, daemon: Daemon) -> None:
    file = deliverable(daemon, 150)
    with daemon.running():
        code, out, err = meshd("deliver", file)
    batches = [params["objects"] for name, params in daemon.asked if name == "deliver"]
    assert (code, err) == (0, "")
    assert [len(batch) for batch in batches] == [64, 64, 22]
    assert max(len(json.dumps(batch)) for batch in batches) < control.MAX_FRAME - 1000
    found = [base64.b64decode(text) for batch in batches for text in batch]
    assert found == [bytes([at % 251]) * 440 for at in range(150)]
    assert out == "told the mesh: 3 new\nall 1 others have it\n"


def test_a_bundle_is_read_from_standard_input(
    meshd: Shell, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = io.TextIOWrapper(io.BytesIO(bundle.dump([b"one"]).encode()))
    monkeypatch.setattr(sys, "stdin", given)
    with daemon.running():
        assert meshd("deliver", "-")[0] == 0
    assert ("deliver", {"objects": [base64.b64encode(b"one").decode()]}) in daemon.asked


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (
            "unknown-authority",
            "2 not signed by an authority that it knows (was its succession delivered?), of 3",
        ),
        ("lapsed", "2 of an authority that was succeeded, of 3"),
        ("full", "2 for which the mesh has no room, of 3"),
    ],
)
def test_what_the_daemon_does_not_take_is_an_error(
    meshd: Shell, daemon: Daemon, outcome: str, said: str
) -> None:
    daemon.answers["deliver"] = {"outcomes": ["same", outcome, outcome]}
    with daemon.running():
        answer = meshd("deliver", deliverable(daemon, 3))
    assert answer == (1, "", f"meshd: not taken by the daemon: {said}\n")


@pytest.mark.parametrize("outcome", ["new", "same", "older", "revoked"])
def test_what_the_mesh_knows_better_is_no_error(meshd: Shell, daemon: Daemon, outcome: str) -> None:
    daemon.answers["deliver"] = {"outcomes": [outcome]}
    with daemon.running():
        code, out, _ = meshd("deliver", deliverable(daemon, 1))
    assert (code, out.splitlines()[0]) == (0, f"told the mesh: 1 {outcome}")


def test_who_has_not_got_it_yet_is_named(
    meshd: Shell, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "UPTAKE", 0.0)
    names = [f"n{number}" for number in range(10)]
    lost = [{**PEERS[0], "name": name, "state": "failed", "agrees": False} for name in names]
    daemon.answers["peers"] = [*PEERS, *lost]
    with daemon.running():
        everybody = meshd("deliver", deliverable(daemon, 1))[1]
        daemon.answers["peers"] = [{**PEERS[0], "agrees": False}]
        agreed = meshd("deliver", deliverable(daemon, 1))[1]
        daemon.answers["status"] = {**STATUS, "agreed": False}
        open_ = meshd("deliver", deliverable(daemon, 1))[1]
        daemon.answers["peers"] = []
        alone = meshd("deliver", deliverable(daemon, 1))[1]
    assert everybody.splitlines()[1] == (
        "not seen to have it yet: n0 (failed), n1 (failed), n2 (failed), n3 (failed), n4 (failed),"
        " n5 (failed), n6 (failed), n7 (failed) and 2 more; they are told when they answer"
    )
    assert agreed.splitlines()[1] == "all 1 others have it"
    assert "not seen to have it yet: b (alive); they" in open_
    assert alone.splitlines()[1] == "nobody else is in the mesh yet"


def test_what_is_signed_where_no_daemon_answers_is_carried_to_one(
    meshd: Shell, daemon: Daemon
) -> None:
    assert meshd("init", "--name", "a", "--advertise", "192.0.2.1")[0] == 0
    assert meshd("invite", "b")[0] == 0
    code, carried, err = meshd("revoke", "b")
    assert code == 0
    assert "the name b is free again" in err
    assert "nobody was told: no daemon answers on" in err
    assert "to a running daemon: meshd deliver FILE" in err
    (daemon.dir / "carried").write_text(carried)
    with daemon.running():
        assert meshd("deliver", str(daemon.dir / "carried"))[0] == 0
        assert meshd("revoke", "b")[0] == 0  # told directly now, and it is the same word
    told = [params["objects"] for name, params in daemon.asked if name == "deliver"]
    assert told[0] == told[1]
    rows = json.loads(meshd("grants", "--json")[1])
    assert {row["name"]: row["state"] for row in rows} == {"a": "member", "b": "revoked"}


def test_a_grant_can_be_told_to_the_mesh_as_well(meshd: Shell, daemon: Daemon) -> None:
    assert meshd("init", "--name", "a", "--advertise", "192.0.2.1")[0] == 0
    key = meshd("key", "--dir", str(meshd.dir / "b"))[1].strip()
    grant = ["grant", key, "--name", "b", "--valid", "30m"]
    with daemon.running():
        assert meshd(*grant)[0] == 0
        assert "deliver" not in [name for name, _ in daemon.asked]
        code, token, err = meshd(*grant, "--tell")
        assert (code, token.startswith("meshd1-")) == (0, True)
        assert "the mesh was told: it is a member again" in err
        assert [name for name, _ in daemon.asked].count("deliver") == 1
        daemon.answers["deliver"] = {"outcomes": ["lapsed"]}
        code, token, err = meshd(*grant, "--tell")
        assert (code, token.startswith("meshd1-")) == (1, True)
        assert "not taken by the daemon: 1 of an authority that was succeeded" in err
    code, _, err = meshd(*grant, "--tell")
    assert code == 1
    assert "no daemon answers on" in err


def test_a_daemon_that_fails_while_it_is_told_loses_nothing(meshd: Shell, daemon: Daemon) -> None:
    assert meshd("init", "--name", "a")[0] == 0
    daemon.answers["deliver"] = Refused("not now")
    with daemon.running():
        code, carried, err = meshd("renew", "a", "--until", "never", "--limit", "none")
    assert code == 1
    assert len(bundle.load(carried, "x")) == 1
    assert "nobody was told: not now" in err
    assert err.endswith("meshd: the daemon did not take it\n")


def test_the_grants_of_an_authority_elsewhere_are_shown_by_its_ledger(
    meshd: Shell, tmp_path: Path
) -> None:
    assert meshd("init", "--name", "a", "--advertise", "192.0.2.1")[0] == 0
    safe = tmp_path / "safe"
    safe.mkdir()
    for name in ("authority.key", "grants"):
        (tmp_path / "state" / name).rename(safe / name)
    key = str(safe / "authority.key")
    assert meshd("invite", "b", "--authority", key, "--valid", "30m")[0] == 0
    code, out, _ = meshd("grants", "--authority", key)
    assert (code, [line.split()[:1] for line in out.splitlines()[1:]]) == (0, [["a"], ["b"]])
    assert "invited until" in out
    assert meshd("invite", "b")[2].count("or name it with --authority\n") == 1
    assert meshd("grants")[0] == 1  # there is neither a ledger nor a daemon


def test_a_succession_shows_whom_it_takes_over_and_asks(
    meshd: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from meshd.state import StateDirectory  # noqa: PLC0415

    assert meshd("init", "--name", "a")[0] == 0
    state = StateDirectory(tmp_path / "state")
    state.write_snapshot(state.read_grant())
    succeed = ["succeed", "--next", str(state.path / "authority-next.key")]

    code, out, err = meshd(*succeed)
    assert (code, out) == (2, "")
    assert err.splitlines()[1].split() == [
        "NAME",
        "ID",
        "TAKEN",
        "OVER",
        "ALLOW",
        "UNTIL",
        "REMARK",
    ]
    assert err.endswith("the authority of these 1 members; add --yes to do it\n")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("no\n"))
    code, out, err = meshd(*succeed)
    assert (code, out) == (1, "")
    assert err.endswith("? [y/N] meshd: nothing was made\n")
    assert not (state.path / "succession-1").exists()

    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    code, out, err = meshd(*succeed)
    assert code == 0
    assert len(bundle.load(out, "x")) == 2
    assert f"authority-next.key is now {state.path / 'authority-next-0.key'}" in err
    assert f"move {state.path / 'authority-next.key'} to another place, offline" in err
    assert f"destroy {state.path / 'authority-next-0.key'} and its copies" in err
    assert f"meshd deliver {state.path / 'succession-1'}" in err


def test_key_prints_the_key_and_nothing_else_where_programs_read(meshd: Shell) -> None:
    code, out, err = meshd("key")
    assert code == 0
    assert re.fullmatch("[0-9a-f]{64}\n", out)
    assert f"meshd grant {out.strip()} --name NAME" in err
    assert meshd("key")[1] == out


# -- watch and wait -----------------------------------------------------------------------------


def test_watch_prints_events_and_ends_with_the_daemon(daemon: Daemon) -> None:
    command = [sys.executable, "-m", "meshd.cli", "watch", "--json", "--dir", str(daemon.dir)]
    with (
        daemon.running(),
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as watcher,
    ):
        wait_until(lambda: bool(daemon.log._watchers))
        daemon.soon(lambda: daemon.log.emit("peer-alive", name="b\x1b"))
        assert watcher.stdout is not None
        event = json.loads(watcher.stdout.readline())
        assert (event["event"], event["name"]) == ("peer-alive", "b\x1b")
        daemon.soon(daemon.scope.cancel)
        _, err = watcher.communicate()
    assert watcher.returncode == 1
    assert err == "meshd: the daemon ended, or closed the connection; see its log\n"


def test_an_interrupted_watch_is_quiet(daemon: Daemon) -> None:
    command = [sys.executable, "-m", "meshd.cli", "watch", "--dir", str(daemon.dir)]
    with (
        daemon.running(),
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as watcher,
    ):
        wait_until(lambda: bool(daemon.log._watchers))
        watcher.send_signal(signal.SIGINT)
        assert watcher.communicate(timeout=30) == ("", "")
    assert watcher.returncode == 130


def wait_until(true: Callable[[], bool]) -> None:
    """Real processes: nothing tells us but looking, ten seconds at most."""
    waiting = threading.Event()
    for _ in range(1000):
        if true():
            return
        waiting.wait(0.01)
    raise AssertionError("not within 10 s")


def test_wait_returns_at_once_when_all_holds(meshd: Shell, daemon: Daemon) -> None:
    asked = ["--peers", "2", "--converged", "--prefix", "10.2.0.0/24", "--prefix", "10.1.0.0/24"]
    with daemon.running():
        assert meshd("wait", *asked, "--timeout", "0") == (0, "", "")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--peers", "3"], "2 of 3 peers alive"),
        (["--converged"], "not converged"),
        (["--prefix", "10.3.0.0/24"], "10.3.0.0/24 not installed"),
        (["--prefix", "10.9.0.0/24", "--peers", "9"], "2 of 9 peers alive, 10.9.0.0/24 not inst"),
    ],
)
def test_wait_says_what_did_not_come_in_time(
    meshd: Shell, daemon: Daemon, asked: list[str], said: str
) -> None:
    daemon.answers["status"] = STATUS | {"converged": False}
    with daemon.running():
        code, _, err = meshd("wait", *asked, "--timeout", "0.05")
    assert code == 1
    assert err.startswith(f"meshd: not within 0.05 s: {said}")


def test_wait_looks_again_at_the_next_event(
    meshd: Shell, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CHECK_EVERY", 60.0)  # So that only the event can hasten it.
    daemon.answers["status"] = STATUS | {"converged": False}

    def converge() -> None:
        wait_until(lambda: len(daemon.asked) == 1)
        daemon.answers["status"] = STATUS
        daemon.soon(lambda: daemon.log.emit("converged"))

    changer = threading.Thread(target=converge)
    with daemon.running():
        changer.start()
        start = time.monotonic()
        assert meshd("wait", "--converged", "--timeout", "30")[0] == 0
        assert time.monotonic() - start < 20
        changer.join()


def test_wait_waits_for_a_daemon_that_is_not_there_yet(meshd: Shell, daemon: Daemon) -> None:
    code, _, err = meshd("wait", "--timeout", "0.05")
    assert code == 1
    assert "not within 0.05 s: no daemon answers on" in err
    ended: list[int] = []
    waiter = threading.Thread(
        target=lambda: ended.append(cli.main(["--dir", str(daemon.dir), "wait", "--timeout", "10"]))
    )
    waiter.start()
    with daemon.running():
        waiter.join()
    assert ended == [0]


# -- the process --------------------------------------------------------------------------------


def test_commands_that_only_talk_to_the_socket_load_nothing_heavy(daemon: Daemon) -> None:
    program = (
        "import sys; from meshd.cli import main; code = main(sys.argv[1:]);"
        " heavy = {'trio', 'attr', 'attrs', 'cryptography', 'msgpack', 'asyncio', 'protocol'};"
        " print(sorted(heavy & set(sys.modules)), code, file=sys.stderr)"
    )
    with daemon.running():
        more = {
            **{name: ["10.7.0.0/24"] for name in ("explain", "announce", "withdraw")},
            "deliver": [str(daemon.dir / "bundle")],
        }  # fmt: skip
        (daemon.dir / "bundle").write_text(bundle.dump([b"one"]))
        for name in ("status", "peers", "routes", "grants", *more, "leave", "reload"):
            command = [sys.executable, "-c", program, "--dir", str(daemon.dir), name]
            command += more.get(name, [])
            ended = subprocess.run(command, text=True, capture_output=True, check=False)
            assert ended.stderr == "[] 0\n", name
        command = [sys.executable, "-c", program, "--dir", str(daemon.dir)]
        ended = subprocess.run(
            [*command, "wait", "--timeout", "5"], text=True, capture_output=True, check=False
        )
        assert ended.stderr == "[] 0\n"


def test_a_reader_that_closes_the_pipe_is_no_error(daemon: Daemon) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with daemon.running():
        command = [sys.executable, "-m", "meshd.cli", "routes", "--dir", str(daemon.dir)]
        with os.fdopen(writing, "wb") as closed:
            ended = subprocess.run(
                command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False
            )
    assert (ended.returncode, ended.stderr) == (141, "")


def test_output_that_cannot_be_written_is_one_line_and_no_success(daemon: Daemon) -> None:
    with daemon.running(), open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "meshd.cli", "routes", "--dir", str(daemon.dir)]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "meshd: standard output: No space left on device\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_another_user_is_told_that_he_may_not(meshd: Shell, daemon: Daemon) -> None:
    with daemon.running():
        os.seteuid(1234)
        try:
            code, _, err = meshd("status")
        finally:
            os.seteuid(0)
    assert code == 2
    assert "permission denied; run as root or as a member of its group" in err
