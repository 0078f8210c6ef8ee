"""Programs are run by their names, with a clean environment and for a limited time."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import illumosfakes
from meshd.kernel.illumos import runner
from meshd.kernel.illumos.backend import Illumos
from meshd.kernel.illumos.options import Options
from meshd.kernel.illumos.runner import Tools


def program(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    path.chmod(0o755)


def started() -> None:
    """Nobody waits for it here."""


def test_a_command_answers_with_all_that_it_says(tmp_path: Path) -> None:
    program(tmp_path, "route", '/bin/cat; echo "$#:$1:$2"; echo wrong >&2; exit 17')
    done = Tools(str(tmp_path), ["route"]).run(("route", "a b", "$(id)"), "stdin ")
    assert (done.code, done.out, done.err) == (17, "stdin 2:a b:$(id)\n", "wrong\n")
    assert done.complaint == "route: wrong"


def test_nothing_of_our_environment_is_handed_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD_64", "x")
    program(tmp_path, "route", "export -p")
    out = Tools(str(tmp_path), ["route"]).run(("route",)).out
    assert "LD_PRELOAD_64" not in out
    assert f"PATH='{tmp_path}'" in out


def test_a_command_that_hangs_is_ended_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LIMIT", 0.05)
    program(tmp_path, "route", "exec /bin/sleep 60")
    with pytest.raises(TimeoutError, match="route did not end within"):
        Tools(str(tmp_path), ["route"]).run(("route",))


def test_tools_that_are_missing_are_named(tmp_path: Path) -> None:
    program(tmp_path, "route", "")
    tools = Tools(str(tmp_path), ["route", "ippool"])
    assert tools.missing() == ["ippool"]
    with pytest.raises(FileNotFoundError, match="ippool"):
        tools.run(("ippool", "-l"))


async def test_what_a_program_goes_on_to_say_is_followed_until_cancelled(tmp_path: Path) -> None:
    program(tmp_path, "route", "echo one; printf 'two\\nthr'; echo ee; exec /bin/sleep 60")
    heard: list[str] = []
    with trio.move_on_after(10) as scope:
        async with trio.open_nursery() as nursery:

            def line(text: str) -> None:
                heard.append(text)
                if text == "three":
                    nursery.cancel_scope.cancel()

            follow = Tools(str(tmp_path), ["route"]).follow
            nursery.start_soon(follow, ["route"], line, started)
    assert not scope.cancelled_caught
    assert heard == ["one", "two", "three"]


async def test_a_follower_returns_when_its_program_ends(tmp_path: Path) -> None:
    program(tmp_path, "route", "echo gone")
    heard: list[str] = []
    with trio.fail_after(10):
        await Tools(str(tmp_path), ["route"]).follow(("route",), heard.append, started)
    assert heard == ["gone"]


async def test_the_programs_that_stand_in_are_listened_to(tmp_path: Path) -> None:
    """The backend with real processes: own changes are not news, those of others are."""
    tools, state = tmp_path / "bin", tmp_path / "zone"
    illumosfakes.install(tools, state)
    backend = Illumos("off", Options(tools=str(tools)), tmp_path)
    backend.check()
    with trio.fail_after(30):
        async with backend.changes(lambda *_: True) as changes:
            # Whoever listens now is told once that what came before may have been missed.
            assert (await changes.receive()).what == "listening to the routing socket"
            words = ["route", "-n", "add", "10.9.0.0/24", "127.0.0.1"]
            await trio.run_process([str(tools / words[0]), *words[1:]], capture_stdout=True)
            change = await changes.receive()
    assert change.what == "route 10.9.0.0/24 written"
    assert change.by.startswith("process ")
