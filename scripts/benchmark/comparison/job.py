"""What one group of scenarios is told to do, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmark.comparison.scenarios import Case
from benchmark.comparison.stage import Late, Stage
from benchmark.many import Supply
from benchmark.systems import System


@attrs.frozen
class Sample:
    """What one run of a case found."""

    case: Case
    run: int
    """From 0."""
    values: dict[str, float | None]
    """By the measures' names; None where there is nothing to measure, and `note` says why."""
    note: str = ""
    loss_seen: float | None = None
    """Percentage of frames that the kernels counted as lost."""

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        return attrs.asdict(self)

    @classmethod
    def from_object(cls, given: Mapping[str, Any]) -> Sample:
        """The same back; KeyError or TypeError if it is none."""
        return cls(Case(**given["case"]), given["run"], dict(given["values"]), given["note"],
                   given["loss_seen"])  # fmt: skip


@attrs.define(eq=False)
class Job:
    """The scenarios of one group, of one system, under one set of circumstances."""

    system: System
    nodes: int
    loss: float
    prefixes: int
    todo: Mapping[str, Sequence[int]]
    """By scenario, the runs that are wanted."""
    home: Path
    patience: float
    seconds: float
    """Of idling."""
    say: Callable[[str], None]
    name: str = ""
    """Of the system, as `--systems` has it; if it is not the system's own."""
    supply: Supply = attrs.field(factory=Supply)

    def stage(self, nodes: int | None = None, spares: int = 0) -> Stage:
        """A lab for it."""
        count = self.nodes if nodes is None else nodes
        return Stage(self.system, count, self.home, self.patience, self.say, spares)

    def case(self, scenario: str) -> Case:
        name = self.name or self.system.name
        return Case(scenario, self.nodes, self.loss, self.prefixes, name)

    def sample(
        self,
        scenario: str,
        run: int,
        values: Mapping[str, float | None],
        stage: Stage | None = None,
        note: str = "",
    ) -> Sample:
        """What one run has found."""
        seen = None if stage is None else stage.loss_seen()
        return Sample(self.case(scenario), run, dict(values), note, seen)

    def attempt(
        self,
        scenario: str,
        run: int,
        measure: Callable[[], Mapping[str, float | None]],
        stage: Stage,
    ) -> Sample:
        """The same, of a run that may come to nothing within its time."""
        try:
            return self.sample(scenario, run, measure(), stage)
        except Late as late:
            return self.sample(scenario, run, {"": None}, stage, str(late))
