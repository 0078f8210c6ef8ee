"""Goes through all that is to be measured, keeps what it finds, and says how much is left."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from benchmark.comparison import floor
from benchmark.comparison.changing import standing
from benchmark.comparison.cutting import cutting, splitting
from benchmark.comparison.floor import floor as measure_floor
from benchmark.comparison.job import Job, Sample
from benchmark.comparison.samples import Samples
from benchmark.comparison.scenarios import FLOOR, GROUPS, SCENARIOS, Case, runs_of
from benchmark.comparison.stage import Late, NotHeld
from benchmark.comparison.starting import cold, coming
from benchmark.many import Supply
from benchmark.systems import SYSTEMS, System
from benchmark.systems.common import install
from netlab import CommandError

Measuring = Callable[[Job], Iterator[Sample]]

BY_GROUP: Final[dict[str, Measuring]] = {
    "cold": cold,
    "coming": coming,
    "standing": standing,
    "cutting": cutting,
    "splitting": splitting,
}
assert set(BY_GROUP) == set(GROUPS)


@attrs.define(eq=False)
class Left:
    """How much is left, by what has been seen and, before that, by guesses."""

    todo: dict[Case, int]
    _took: dict[tuple[str, str, int], list[float]] = attrs.field(factory=dict)
    _ratios: list[float] = attrs.field(factory=list)

    def done(self, case: Case, seconds: float, count: int = 1) -> None:
        """One run of it has taken so long, or so many have come to nothing."""
        self.todo[case] = max(0, self.todo[case] - count)
        self._took.setdefault((case.system, case.scenario, case.nodes), []).append(seconds)

    def seconds(self) -> float:
        """Until all is done."""
        return sum(count * self._each(case) for case, count in self.todo.items() if count)

    def _each(self, case: Case) -> float:
        seen = self._took.get((case.system, case.scenario, case.nodes))
        if seen:
            return statistics.fmean(seen)
        return SCENARIOS[case.scenario].seconds * max(0.5, case.nodes / 16)


@attrs.define(eq=False)
class Measurement:
    """All of it."""

    cases: Sequence[Case]
    runs: int
    samples: Samples
    home: Path
    """A directory for as long as it lasts."""
    patience: float
    seconds: float
    say: Callable[[str], None]
    supply: Supply = attrs.field(factory=Supply)

    def run(self) -> None:
        """Each group of cases on fleets of its own; what has been found before is not done
        again."""
        done = {(sample.case, sample.run) for sample in self.samples.found}
        todo = {
            case: [run for run in range(runs_of(case.scenario, self.runs))
                   if (case, run) not in done]
            for case in self.cases
        }  # fmt: skip
        left = Left({case: len(runs) for case, runs in todo.items()})
        if skipped := sum(len(runs) < runs_of(case.scenario, self.runs)
                          for case, runs in todo.items()):  # fmt: skip
            self.say(f"{skipped} cells have been measured before, all or in part")
        names = dict.fromkeys(case.system for case in self.cases)
        self.samples.describe(about(list(names)))
        for group in _groups(todo):
            self._group({case: todo[case] for case in group if todo[case]}, left)

    def _group(self, todo: Mapping[Case, Sequence[int]], left: Left) -> None:
        if not todo:
            return
        first = next(iter(todo))
        job = Job(
            system=_system(first.system),
            nodes=first.nodes,
            loss=first.loss,
            prefixes=first.prefixes,
            todo={case.scenario: runs for case, runs in todo.items()},
            home=self.home,
            patience=self.patience,
            seconds=self.seconds,
            say=self.say,
            name=first.system,
            supply=self.supply,
        )
        what = f"{first.system}, {first.nodes} nodes"
        what += f", {first.loss:g} % loss" if first.loss else ""
        self.say(f"{what}: {', '.join(job.todo)}; about {_minutes(left.seconds())} left in all")
        wanted = {(case, run) for case, runs in todo.items() for run in runs}
        measuring = measure_floor if first.system == FLOOR else BY_GROUP[_group_of(first)]
        began = time.monotonic()
        try:
            for sample in measuring(job):
                self.samples.add(sample)
                wanted.discard((sample.case, sample.run))
                left.done(sample.case, time.monotonic() - began)
                began = time.monotonic()
                self.say(f"{what}: {_told(sample)}; about {_minutes(left.seconds())} left")
        except (NotHeld, Late, CommandError, OSError, RuntimeError, ValueError,
                subprocess.SubprocessError) as error:  # fmt: skip
            held = isinstance(error, NotHeld | Late | TimeoutError)
            self.say(f"{what}: given up: {error}")
            for case, run in sorted(wanted):
                note = f"did not hold {case.nodes}" if held else f"failed: {error}"
                self.samples.add(Sample(case, run, {}, note.replace("\n", " ")[:200]))
                left.done(case, 0.0)


def about(names: Sequence[str]) -> dict[str, Any]:
    """The machine, and the systems of these names."""
    systems = {}
    for name in names:
        if name == FLOOR:
            systems[name] = {"version": floor.version(), "settings": floor.settings()}
            continue
        system = SYSTEMS[name]
        install(system.packages)
        systems[name] = {"version": system.version(), "settings": system.settings()}
    machine = {"processors": os.cpu_count(), "kernel": platform.release()}
    return {"systems": systems, "machine": machine}


def _system(name: str) -> System:
    """The floor has no daemons; its job asks for none."""
    return SYSTEMS["meshd" if name == FLOOR else name]


def _group_of(case: Case) -> str:
    return SCENARIOS[case.scenario].group


def _groups(todo: Mapping[Case, object]) -> list[list[Case]]:
    found: dict[tuple[float, int, int, str, str], list[Case]] = {}
    for case in todo:
        same = (case.loss, case.nodes, case.prefixes, _group_of(case), case.system)
        found.setdefault(same, []).append(case)
    return list(found.values())


def _told(sample: Sample) -> str:
    units = {each.name: each.unit for each in SCENARIOS[sample.case.scenario].measures}
    figures = [
        f"{name} {value:.4g} {units[name]}".strip()
        for name, value in sample.values.items()
        if value is not None
    ]
    told = "; ".join(figures) or sample.note
    return f"{sample.case.scenario} {sample.run + 1}: {told}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
