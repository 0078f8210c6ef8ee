"""What was found, as one row for each measure and size and one column for each system."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

import attrs

from benchmark.comparison.job import Sample
from benchmark.comparison.samples import Samples
from benchmark.comparison.scenarios import SCENARIOS, Measure


@attrs.frozen
class Row:
    """One measure under one set of circumstances."""

    scenario: str
    measure: Measure
    nodes: int
    loss: float
    prefixes: int
    cells: dict[str, Cell]
    """By system."""

    @property
    def title(self) -> str:
        """As it stands in a table."""
        words = self.scenario
        if self.measure.name:
            words += f": {self.measure.name}"
        if self.prefixes > 1:
            words += f", {self.prefixes:,} prefixes a node"
        if self.loss:
            words += f", {self.loss:g} % loss"
        return f"{words} ({self.measure.unit})" if self.measure.unit else words


@attrs.frozen
class Cell:
    """What one system showed there."""

    values: tuple[float, ...]
    """Of the runs that have one."""
    notes: tuple[str, ...]
    """Of those that have none."""

    @property
    def text(self) -> str:
        """Median and spread, or why not."""
        if not self.values:
            return self.notes[0] if self.notes else ""
        text = short(statistics.median(self.values))
        if len(self.values) > 1:
            text += f" ({short(min(self.values))}-{short(max(self.values))})"
        if self.notes:
            runs = len(self.values) + len(self.notes)
            text += f"; {len(self.notes)} of {runs}: {self.notes[0]}"
        return text

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        spread = {}
        if self.values:
            spread = {
                "median": statistics.median(self.values),
                "min": min(self.values),
                "max": max(self.values),
            }
        return {**spread, "values": list(self.values), "notes": list(self.notes)}


def short(value: float) -> str:
    """Two or three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 99.5 or value == int(value) else f"{value:.2g}"


def rows(samples: Sequence[Sample]) -> list[Row]:
    """By scenario as they are listed, then loss, prefixes and nodes; empty ones are left out."""
    kinds = {(s.case.scenario, s.case.loss, s.case.prefixes, s.case.nodes) for s in samples}
    order = {name: at for at, name in enumerate(SCENARIOS)}
    found = []
    for scenario, loss, prefixes, nodes in sorted(kinds, key=lambda kind: (order[kind[0]], kind)):
        here = [
            s
            for s in samples
            if (s.case.scenario, s.case.loss, s.case.prefixes, s.case.nodes)
            == (scenario, loss, prefixes, nodes)
        ]
        for at, measure in enumerate(SCENARIOS[scenario].measures):
            cells: dict[str, Cell] = {}
            for system in dict.fromkeys(s.case.system for s in here):
                cell = _cell([s for s in here if s.case.system == system], measure, first=at == 0)
                if cell.values or cell.notes:
                    cells[system] = cell
            if cells:
                found.append(Row(scenario, measure, nodes, loss, prefixes, cells))
    return found


def _cell(samples: Sequence[Sample], measure: Measure, *, first: bool) -> Cell:
    """first: what says why there is nothing stands with the scenario's first measure alone."""
    values, notes = [], []
    for sample in samples:
        value = sample.values.get(measure.name)
        if value is not None:
            values.append(value)
        elif sample.note and (first or measure.name in sample.values):
            notes.append(sample.note)
    return Cell(tuple(values), tuple(notes))


def systems_of(samples: Samples, wanted: Sequence[str] = ()) -> list[str]:
    """The columns: those asked for, in their order, and then what else was found."""
    found = (s.case.system for s in samples.found)
    return list(dict.fromkeys([*wanted, *found]))


def markdown(samples: Samples, wanted: Sequence[str] = ()) -> str:
    """The table, and below it what each system is and what loss was counted."""
    systems = systems_of(samples, wanted)
    lines = [f"| scenario | N | {' | '.join(systems)} |", "|---|---|" + "---|" * len(systems)]
    for row in rows(samples.found):
        cells = [row.cells[name].text if name in row.cells else "-" for name in systems]
        lines.append(f"| {row.title} | {row.nodes} | {' | '.join(cells)} |")
    lines.append("")
    for name in dict.fromkeys(s.case.scenario for s in samples.found):
        if SCENARIOS[name].remark:
            lines.append(f"- {name}: {SCENARIOS[name].remark}")
    for name in systems:
        told = samples.about.get("systems", {}).get(name)
        if told:
            lines.append(f"- {name}: {told['version']}; {told['settings']}")
    seen = [s for s in samples.found if s.loss_seen is not None]
    for asked in sorted({s.case.loss for s in seen}):
        counted = [s.loss_seen for s in seen if s.case.loss == asked and s.loss_seen is not None]
        lines.append(
            f"- {asked:g} % loss: the kernels counted {min(counted):.2f} to {max(counted):.2f} %"
            " of the frames that came in by the routers' uplinks as lost"
        )
    machine = samples.about.get("machine")
    if machine:
        lines.append(f"- {machine['processors']} processors, Linux {machine['kernel']}")
    return "\n".join(lines) + "\n"


def as_json(samples: Samples, wanted: Sequence[str] = ()) -> str:
    """One object: `results` with a row for each measure, `systems` in it by their names; and all
    samples, so that it can be read back."""
    results = [
        {
            "scenario": row.scenario,
            "measure": row.measure.name,
            "unit": row.measure.unit,
            "nodes": row.nodes,
            "loss": row.loss,
            "prefixes": row.prefixes,
            "systems": {
                name: row.cells[name].as_object()
                for name in systems_of(samples, wanted)
                if name in row.cells
            },
        }
        for row in rows(samples.found)
    ]
    whole = {
        "about": samples.about,
        "results": results,
        "samples": [each.as_object() for each in samples.found],
    }
    return json.dumps(whole, indent=2) + "\n"
