"""What the authority signs, from argv to exit code, against a real control socket."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from pathlib import Path

import pytest
from shells import PEERS, STATUS, Daemon, Shell

from meshd import control
from meshd.authority import bundle, delivery
from meshd.errors import Refused


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
