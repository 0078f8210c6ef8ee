"""The command line from argv to exit code, against a real control socket."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from shells import EXPLANATION, STATUS, Daemon, Shell

from meshd import cli, client, usage
from meshd.authority import bundle
from meshd.errors import Refused, UsageError

# -- usage -------------------------------------------------------------------------------------

COMMANDS = [command.name for command in usage.COMMANDS]


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


ANNOUNCE = [
    {"announce": "10.1.0.0/24", "prefixes": ["10.1.0.0/24"], "left_out": [], "health": None},
    {
        "announce": "10.9.0.0/24",
        "prefixes": [],
        "left_out": [{"prefix": "10.9.0.0/24", "reason": "unhealthy: exit 1"}],
        "health": {"healthy": False, "since_s": 3.0, "reason": "exit 1", "asked": 4},
    },
    {
        "announce": "interface:br0",
        "prefixes": ["10.7.0.0/24", "fd00:7::/64"],
        "left_out": [{"prefix": "198.51.100.0/24", "reason": "outside the grant"}],
        "health": None,
    },
    {
        "announce": "interface:br1",
        "prefixes": [],
        "left_out": [{"prefix": None, "reason": "evil\x1b[31m"}],
        "health": None,
    },
]


def test_status_for_people_tells_what_interfaces_bring_and_what_is_left_out(
    meshd: Shell, daemon: Daemon
) -> None:
    daemon.answers["status"] = {**STATUS, "announce": ANNOUNCE}
    with daemon.running():
        _, out, _ = meshd("status")
    assert (
        "announced  10.1.0.0/24\n"
        "           interface:br0: 10.7.0.0/24 fd00:7::/64\n"
        "           interface:br1: -\n"
        "left out   10.9.0.0/24: unhealthy: exit 1\n"
        "left out   198.51.100.0/24 of interface:br0: outside the grant\n"
        "left out   interface:br1: evil\\x1b[31m\n"
    ) in out


def test_announcing_tells_what_of_it_is_left_out(meshd: Shell, daemon: Daemon) -> None:
    daemon.answers["announce"] = {"local": ["10.1.0.0/24", "10.7.0.0/24"], "asked": ANNOUNCE[2:]}
    with daemon.running():
        code, out, err = meshd("announce", "interface:br0", "interface:br1")
    assert (code, out) == (0, "this node announces: 10.1.0.0/24 10.7.0.0/24\n")
    assert err == (
        "left out: 198.51.100.0/24 of interface:br0: outside the grant\n"
        "left out: interface:br1: evil\\x1b[31m\n"
    )


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
        "PREFIX       NODE  NEXT HOP   DEVICE  STATE      REASON",
        "10.2.0.0/24  b     192.0.2.2  net0    installed",
        "10.3.0.0/24  c     -          -       refused    evil\\x1b[31m",
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
    assert planned[:2] == (0, "ip route add 10.2.0.0/24\n    # b announces it\n")
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
