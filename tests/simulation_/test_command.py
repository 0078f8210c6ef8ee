"""``scripts/simulate``: what it prints, to whom, and with which exit code."""

from __future__ import annotations

import json
import sys

import pytest

from simulation import command
from simulation.case import Case, Measure, Outcome
from simulation.command import main
from simulation.report import Summary
from simulation.scenarios import SCENARIOS

ARGUMENTS = ["--scenario", "crash", "update", "--nodes", "5", "6", "--seeds", "2"]


def test_json_is_the_same_bytes_each_time_whatever_the_jobs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def printed(jobs: str) -> str:
        assert main([*ARGUMENTS, "--json", "--jobs", jobs]) == 0
        return capsys.readouterr().out

    first = printed("1")
    assert printed("2") == first
    runs = json.loads(first)["runs"]
    assert [(run["scenario"], run["nodes"]) for run in runs] == [
        ("crash", 5), ("crash", 6), ("update", 5), ("update", 6)
    ]  # fmt: skip
    everywhere = runs[0]["measures"]["everywhere"]
    assert len(everywhere["values"]) == 2
    assert everywhere["worst"] == max(everywhere["values"])
    assert runs[0]["curve"]["1"] is not None


def test_the_table_names_each_measure_with_its_unit_and_progress_goes_elsewhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--scenario", "update", "--nodes", "6", "--seeds", "2", "--jobs", "1"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "update, 6 nodes, 0 % loss, 2 seeds"
    assert lines[1].split() == ["median", "p90", "p99", "worst"]
    assert [line.split("  ")[1] for line in lines[2:]] == list(SCENARIOS["update"].measures)
    assert err.splitlines()[-1] == "simulate: 2 of 2: update, 6 nodes, seed 2"


def test_a_seed_that_is_named_is_the_only_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--scenario", "update", "--nodes", "4", "--seed", "17", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["seeds"] == [17]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scenario", "updat"], "no scenario is called updat; there are: join, update, cold"),
        (["--scenario", "update", "--loss", "25"], "--loss 25 is not a share"),
        (["--scenario", "deaths", "--nodes", "100", "4"], "deaths needs at least 5 nodes"),
        (["--scenario", "update", "--seeds", "0"], "count from 1"),
        (["--scenario", "idle", "--seconds", "0"], "--seconds must be more than 0"),
        ([], "--scenario"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_line_with_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_picture_without_its_library_is_refused_before_anything_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit) as ended:
        main(["--scenario", "update", "--nodes", "4", "--plot", "never.svg"])
    assert ended.value.code == 2
    assert "the extra `pictures`" in capsys.readouterr().err


def test_a_broken_invariant_exits_1_with_the_seed_and_the_command_that_makes_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(case: Case, tell: object) -> Outcome:
        if case.seed == 2:
            return Outcome(case, failure="n1 at 1000.5: a datagram of 1201 bytes")
        return Outcome(case, dict.fromkeys(SCENARIOS["crash"].measures, 1.0))

    monkeypatch.setattr(command, "perform", broken)
    arguments = ["--scenario", "crash", "--nodes", "9", "--loss", "0.1", "--seeds", "3"]
    assert main([*arguments, "--jobs", "1", "--json"]) == 1
    out, err = capsys.readouterr()
    again = "scripts/simulate --scenario crash --nodes 9 --loss 0.1 --seed 2"
    assert err.splitlines()[-2:] == [
        "simulate: seed 2: n1 at 1000.5: a datagram of 1201 bytes",
        f"simulate: again: {again}",
    ]
    (run,) = json.loads(out)["runs"]
    assert run["seeds"] == [1, 3]
    assert [(each["seed"], each["again"]) for each in run["failures"]] == [(2, again)]
    assert main([*arguments, "--jobs", "1"]) == 1
    assert "1 run broke an invariant" in capsys.readouterr().out


def test_an_error_in_one_run_lets_the_others_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(case: Case, tell: object) -> Outcome:
        raise KeyError(f"seed {case.seed}")

    monkeypatch.setattr(command, "perform", fails)
    assert main(["--scenario", "crash", "--nodes", "9", "--seeds", "2", "--jobs", "1"]) == 1
    err = capsys.readouterr().err
    assert "simulate: seed 1: KeyError: 'seed 1'" in err
    assert "Traceback" in err
    assert "simulate: again: scripts/simulate --scenario crash --nodes 9 --seed 2" in err


def test_a_run_that_takes_long_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_OFTEN", 0.0)
    assert main(["--scenario", "idle", "--nodes", "4", "--seed", "1", "--seconds", "2"]) == 0
    captured = capsys.readouterr()
    assert "simulate: idle, 4 nodes, seed 1: 2 virtual seconds" in captured.err
    assert "virtual seconds" not in captured.out


def test_what_never_came_about_is_worse_than_all_that_did() -> None:
    measure = Measure("s", "until then")
    assert Summary.of(measure, [1.0, None, 2.0]).median == 2.0
    assert Summary.of(measure, [1.0, None, 2.0]).worst is None
    assert Summary.of(measure, [None, None, 2.0]).median is None
