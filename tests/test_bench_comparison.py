"""``scripts/bench`` beside the peers: what it does in which order, keeps and says.

Nothing is measured here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from benchmark.command import main
from benchmark.comparison import measure
from benchmark.comparison.job import Job, Sample
from benchmark.comparison.measure import Left, Measurement
from benchmark.comparison.neighbours import room
from benchmark.comparison.picture import NotInstalled
from benchmark.comparison.samples import Samples, read
from benchmark.comparison.scenarios import FLOOR, GROUPS, SCENARIOS, Case, cases, runs_of
from benchmark.comparison.stage import NotHeld
from benchmark.comparison.table import as_json, markdown
from benchmark.holdings import Change, Holdings, key

DOCS = Path(__file__).parents[1] / "docs"

ANNOUNCE = Case("announce", 16, 0.0, 1, "bird")
ABOUT = {"systems": {"bird": {"version": "BIRD 2", "settings": "defaults"}}}


def sample(system: str = "bird", run: int = 0, value: float | None = 0.01, **other: str) -> Sample:
    case = Case(other.get("scenario", "announce"), 16, 0.0, 1, system)
    return Sample(case, run, {"": value}, other.get("note", ""))


def test_systems_are_measured_side_by_side_and_only_what_makes_sense_of_each() -> None:
    found = cases(["idle", "announce", "join"], ["bird", FLOOR], [3, 16], [0.0, 10.0], [1, 100])
    order = [(case.loss, case.nodes) for case in found]
    assert order == sorted(order)
    here = [case for case in found if (case.loss, case.nodes) == (0.0, 3)]
    assert [(case.scenario, case.system, case.prefixes) for case in here] == [
        ("join", "bird", 1),
        ("idle", "bird", 1),
        ("announce", "bird", 1),
        ("announce", FLOOR, 1),
        ("idle", "bird", 100),
    ]
    assert not [case for case in found if case.loss and case.system == FLOOR]


def test_every_scenario_has_a_group_that_somebody_measures() -> None:
    assert set(measure.BY_GROUP) == set(GROUPS) == {each.group for each in SCENARIOS.values()}
    assert (runs_of("idle", 5), runs_of("announce", 5)) == (1, 5)


def test_a_table_has_a_row_for_each_measure_and_a_column_for_each_system() -> None:
    samples = Samples(
        [
            *(sample("meshd", run, value) for run, value in enumerate((0.5, 0.25, 1.5))),
            sample("bird", 0, None, note="did not hold 16"),
            sample("bird", 0, 232.4, scenario="link-cut"),
            sample("bird", 1, None, scenario="link-cut", note="not within 300 s"),
            Sample(Case("idle", 16, 10.0, 100, "bird"), 0, {"sent per node": 1234.0}, "", 9.97),
        ],
        {**ABOUT, "machine": {"processors": 2, "kernel": "6.1"}},
    )
    text = markdown(samples, ["meshd", "bird"])
    lines = text.splitlines()
    assert lines[0] == "| scenario | N | meshd | bird |"
    assert "| announce (s) | 16 | 0.5 (0.25-1.5) | did not hold 16 |" in lines
    assert "| link-cut (s) | 16 | - | 232; 1 of 2: not within 300 s |" in lines
    row = "| idle: sent per node, 100 prefixes a node, 10 % loss (B/s) | 16 | - | 1,234 |"
    assert row in lines
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "- bird: BIRD 2; defaults" in lines
    assert "counted 9.97 to 9.97 %" in text
    assert "2 processors, Linux 6.1" in text


def test_the_documentation_shows_what_was_measured_all_of_it_and_nothing_else() -> None:
    printed = markdown(read([DOCS / "benchmarks.jsonl"])).splitlines()
    head, *rows = [line for line in printed if line.startswith("| ")]
    document = (DOCS / "benchmarks.md").read_text(encoding="utf-8").splitlines()
    tables = [line for line in document if line.count("|") == head.count("|")]
    shown = [line for line in tables if line.startswith("| ") and line != head]
    assert sorted(shown) == sorted(rows)


def test_json_has_the_systems_under_their_names_and_can_be_read_back(tmp_path: Path) -> None:
    samples = Samples([sample("meshd", 0, 0.5), sample("bird", 0, 0.25), sample("bird", 1, 0.5)])
    text = as_json(samples, ["bird", "meshd"])
    (row,) = json.loads(text)["results"]
    assert {name: row[name] for name in ("scenario", "measure", "unit", "nodes", "loss")} == {
        "scenario": "announce", "measure": "", "unit": "s", "nodes": 16, "loss": 0.0,
    }  # fmt: skip
    assert list(row["systems"]) == ["bird", "meshd"]
    assert row["systems"]["bird"] == {
        "median": 0.375, "min": 0.25, "max": 0.5, "values": [0.25, 0.5], "notes": [],
    }  # fmt: skip
    file = tmp_path / "bench.json"
    file.write_text(text)
    assert as_json(read([file]), ["bird", "meshd"]) == text


def measured(job: Job) -> Iterator[Sample]:
    """What each group is here: a hundredth of a second for everything."""
    for scenario, runs in job.todo.items():
        for run in runs:
            yield job.sample(scenario, run, {"": 0.01})


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing is started, installed or refused."""
    monkeypatch.setattr(measure, "BY_GROUP", dict.fromkeys(GROUPS, measured))
    monkeypatch.setattr(measure, "measure_floor", measured)
    monkeypatch.setattr(measure, "about", lambda names: {"systems": {}})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return monkeypatch


def whole(samples: Samples, systems: Sequence[str], said: list[str], home: Path) -> None:
    chosen = cases(["announce", "leave"], systems, [64], [0.0], [1])
    Measurement(chosen, 2, samples, home, 1, 1, said.append).run()


def test_a_system_that_does_not_come_up_costs_no_other_its_figures(
    faked: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(job: Job) -> Iterator[Sample]:
        yield job.sample("announce", 0, {"": 0.01})
        raise NotHeld("12 routes are missing at 3 nodes")

    def by_system(job: Job) -> Iterator[Sample]:
        return fails(job) if job.system.name == "bird-bfd" else measured(job)

    faked.setitem(measure.BY_GROUP, "standing", by_system)
    samples, said = Samples(), list[str]()
    whole(samples, ["bird-bfd", "bird"], said, tmp_path)
    text = markdown(samples, ["bird-bfd", "bird"])
    assert "| announce (s) | 64 | 0.01; 1 of 2: did not hold 64 | 0.01 (0.01-0.01) |" in text
    assert "| leave (s) | 64 | 0.01 (0.01-0.01) | 0.01 (0.01-0.01) |" in text
    assert any("given up: 12 routes are missing" in line for line in said)
    assert "about 0 s left" in said[-1]


WORDS = ["--scenario", "announce,leave", "--systems", "bird,meshd", "--runs", "3", "--json"]


def test_what_was_interrupted_says_what_it_has_and_goes_on_from_there(
    faked: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    did: list[tuple[str, str, int]] = []

    def interrupted(job: Job) -> Iterator[Sample]:
        for each in measured(job):
            if len(did) == 4:
                raise KeyboardInterrupt
            did.append((each.case.system, each.case.scenario, each.run))
            yield each

    for group in GROUPS:
        faked.setitem(measure.BY_GROUP, group, interrupted)
    file = tmp_path / "bench.jsonl"
    assert main([*WORDS, "--into", str(file)]) == 130
    told = capsys.readouterr()
    assert "interrupted" in told.err
    assert sum(len(each["values"]) for row in json.loads(told.out)["results"]
               for each in row["systems"].values()) == 4  # fmt: skip
    assert len(read([file]).found) == 4

    first = set(did)
    did.clear()
    did += [("", "", 0)] * 5
    assert main([*WORDS, "--into", str(file)]) == 0
    again = set(did) - {("", "", 0)}
    assert not first & again
    assert len(first | again) == 2 * 2 * 3
    found = json.loads(capsys.readouterr().out)["results"]
    assert all(len(each["values"]) == 3 for row in found for each in row["systems"].values())
    assert list(found[0]["systems"]) == ["bird", "meshd"]

    assert main(["--report", str(file)]) == 0
    assert "| announce (s) | 16 | 0.01 (0.01-0.01) | 0.01 (0.01-0.01) |" in capsys.readouterr().out


def test_a_file_cut_short_is_read_up_to_there_and_one_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.jsonl"
    samples = Samples.kept(file)
    samples.describe(ABOUT)
    samples.add(sample(run=0))
    samples.add(sample(run=1))
    text = file.read_text()
    file.write_text(text[:-20])
    assert [each.run for each in read([file]).found] == [0]
    assert read([file]).about["systems"] == ABOUT["systems"]

    file.write_text(text + '{"sample": {"run": 3}}\n')
    with pytest.raises(SystemExit) as ended:
        main(["--report", str(file)])
    assert ended.value.code == 2
    assert f"{file}:4: no sample of this benchmark" in capsys.readouterr().err


def test_what_is_left_is_first_guessed_and_then_known() -> None:
    left = Left({ANNOUNCE: 3})
    guess = left.seconds()
    assert guess == 3 * SCENARIOS["announce"].seconds
    left.done(ANNOUNCE, 10.0)
    assert left.seconds() == 20.0
    left.done(ANNOUNCE, 20.0)
    assert left.seconds() == 15.0


def test_a_picture_without_its_library_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise NotInstalled("--picture needs matplotlib")

    monkeypatch.setattr("benchmark.command.library", missing)
    with pytest.raises(SystemExit) as ended:
        main(["--scenario", "announce", "--picture", "x.svg"])
    assert ended.value.code == 2
    assert "needs matplotlib" in capsys.readouterr().err


def test_room_for_neighbours_is_made_where_it_is_lacking_and_given_back(tmp_path: Path) -> None:
    said: list[str] = []
    for number, value in ((1, "128"), (2, "512"), (3, "1000000")):
        (tmp_path / f"gc_thresh{number}").write_text(value)

    def thresholds() -> list[int]:
        return [int((tmp_path / f"gc_thresh{number}").read_text()) for number in (1, 2, 3)]

    with room(64, said.append, (tmp_path,)):
        assert thresholds() == [8320, 16_640, 1_000_000]
    assert thresholds() == [128, 512, 1_000_000]
    with room(3, said.append, (tmp_path,)):
        assert thresholds() == [2048, 4096, 1_000_000]
    assert said == []
    with room(64, said.append, (tmp_path / "elsewhere",)):
        assert "neighbours may not fit" in said[0]


A, B = (key(IPv4Network(text)) for text in ("10.1.0.0/24", "10.2.0.0/24"))


class Told:
    """A watch that says what a test has put into it."""

    def __init__(self) -> None:
        self.changes: dict[int, list[Change]] = {1: [], 2: []}

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def waiting(self, number: int) -> int:
        return len(self.changes[number])

    def take(self, number: int) -> list[Change]:
        taken, self.changes[number] = self.changes[number], []
        return taken


def test_the_last_node_to_hold_all_of_it_is_what_counts() -> None:
    told = Told()
    holdings = Holdings(told, [1, 2])
    told.changes[2].append((0.5, A, True))
    expected = holdings.expect({1: {A, B}, 2: {A}})
    assert expected.affected == 1
    told.changes[1] += [(1.0, A, True), (2.0, B, True), (3.0, A, False), (4.0, A, True)]
    outcome = expected.wait(5)
    assert outcome.done
    assert (outcome.last, outcome.at) == (4.0, {1: 4.0, 2: 0.0})

    gone = holdings.expect({1: {B}, 2: {B}}, gone=True)
    assert gone.affected == 1
    told.changes[1].append((6.0, B, False))
    assert gone.wait(5).last == 6.0
    assert [(number, net) for _, number, net in holdings.losses] == [(1, A), (1, B)]


def test_what_does_not_come_is_counted_when_time_is_up() -> None:
    told = Told()
    holdings = Holdings(told, [1, 2])
    expected = holdings.expect({1: {A, B}, 2: {A, B}})
    told.changes[2].append((time.monotonic(), A, True))
    outcome = expected.wait(0)
    assert (outcome.done, outcome.missing) == (False, {1: 2, 2: 1})
