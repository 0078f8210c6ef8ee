"""``scripts/fuzz`` itself: what it says, keeps and makes again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fuzzing import TARGETS, Target, command
from fuzzing.command import main
from fuzzing.keep import load
from fuzzing.target import Feed


class Oops(Exception):
    """What no target may raise."""


def fed(seen: list[bytes], breaks: int | None, *, alone: bool = False) -> Target:
    """A target that breaks at the ``breaks``-th input of a state, or at it wherever it stands."""

    @contextmanager
    def opened() -> Iterator[Feed]:
        fresh: list[bytes] = []

        def feed(data: bytes) -> None:
            fresh.append(data)
            seen.append(data)
            if breaks is not None and (len(fresh) == breaks or (alone and data == b"bad")):
                raise Oops("because")

        yield feed

    return Target("toy", "a toy", opened, lambda: [*[b"good"] * 20, b"bad"], life=50)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    seen: list[bytes] = []
    monkeypatch.setitem(TARGETS, "toy", fed(seen, None))
    return seen


def test_the_same_seed_makes_the_same_inputs_and_another_seed_others(toy: list[bytes]) -> None:
    made = []
    for seed in ("1", "1", "2"):
        toy.clear()
        assert main(["toy", "--count", "300", "--seed", seed]) == 0
        made.append(list(toy))
    assert made[0] == made[1] != made[2]
    assert len(made[0]) == 300


def test_how_many_and_how_fast_stands_in_a_table(
    toy: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["toy", "--count", "300"]) == 0
    told = capsys.readouterr()
    assert "nothing broke" in told.out
    assert told.out.splitlines()[-1].split() == ["all", "300"]
    assert told.err == ""


def test_what_breaks_is_kept_with_all_before_it_and_the_command_that_makes_it_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[bytes] = []
    monkeypatch.setitem(TARGETS, "toy", fed(seen, 30))
    assert main(["toy", "--count", "300", "--keep", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "BROKEN" in told.out
    (kept,) = tmp_path.iterdir()
    assert f"again: scripts/fuzz --replay {kept}" in told.err
    assert "Oops: because, after 29 inputs" in told.err
    assert load(kept) == ("toy", tuple(seen[:30]))
    assert main(["--replay", str(kept)]) == 1
    assert "still broken" in capsys.readouterr().err
    monkeypatch.setitem(TARGETS, "toy", fed(seen, None))
    assert main(["--replay", str(kept)]) == 0
    assert "30 inputs, nothing broke" in capsys.readouterr().out


def test_an_input_that_breaks_a_new_state_is_kept_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[bytes] = []
    monkeypatch.setitem(TARGETS, "toy", fed(seen, 1000, alone=True))
    assert main(["toy", "--count", "300", "--keep", str(tmp_path)]) == 1
    (kept,) = tmp_path.iterdir()
    assert load(kept) == ("toy", (b"bad",))
    assert seen.index(b"bad") > 0


def test_the_help_names_every_target_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for target in TARGETS.values():
        assert f"{target.name} " in text
        assert target.summary in text
    assert "exit codes: 0" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "no target is called nonsense; there are: frames"),
        (["--seconds", "0"], "above 0"),
        (["--count", "-1"], "above 0"),
        (["--replay", "/nonexistent"], "/nonexistent"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_line_with_exit_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_file_that_is_something_else_is_not_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"something")
    with pytest.raises(SystemExit) as ended:
        main(["--replay", str(other)])
    assert ended.value.code == 2
    assert str(other) in capsys.readouterr().err


def test_without_atheris_guided_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    with pytest.raises(SystemExit) as ended:
        main(["token", "--guided"])
    assert ended.value.code == 2
    assert "pip install atheris" in capsys.readouterr().err


def test_a_run_that_takes_long_says_how_far_it_is(
    toy: list[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_OFTEN", 0.0)
    assert main(["toy", "--count", "600"]) == 0
    assert "fuzz: toy: 256 inputs" in capsys.readouterr().err
