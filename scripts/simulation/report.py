"""What came out of many runs: a table for people, JSON for programs.

Nothing of the run itself is in either: no duration, date or path.  The same arguments make the
same text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from simulation.case import Case, Measure, Outcome
from simulation.measure import median, quantile
from simulation.scenarios import SCENARIOS

SHARES: Final = (0.5, 0.9, 0.99, 0.999, 1.0)
"""Of the nodes, for the points of a curve."""

_DIGITS: Final = 6
"""Decimals in JSON: microseconds."""


@attrs.frozen
class Summary:
    """One measure over all seeds; None where the run did not come to it in time."""

    measure: Measure
    values: tuple[float | None, ...]
    median: float | None
    p90: float | None
    p99: float | None
    worst: float | None

    @classmethod
    def of(cls, measure: Measure, values: Sequence[float | None]) -> Summary:
        """``values`` by seed. What never came about is worse than all that did."""
        ranked = [math.inf if value is None else float(value) for value in values]
        return cls(
            measure,
            tuple(values),
            _finite(median(ranked)),
            _finite(quantile(ranked, 0.9)),
            _finite(quantile(ranked, 0.99)),
            _finite(max(ranked)),
        )


@attrs.frozen
class Group:
    """The runs that differ in nothing but their seed."""

    case: Case
    """The first of them."""
    outcomes: tuple[Outcome, ...]
    """Those that broke no invariant."""
    failures: tuple[Outcome, ...]

    @property
    def summaries(self) -> dict[str, Summary]:
        """By measure; none where every run failed."""
        measures = SCENARIOS[self.case.scenario].measures if self.outcomes else {}
        return {
            name: Summary.of(measure, [each.values[name] for each in self.outcomes])
            for name, measure in measures.items()
        }

    def curve(self) -> dict[float, float | None]:
        """Seconds until that share of the nodes had it, the median over seeds."""
        curves = [each for each in self.outcomes if each.curve]
        if not curves:
            return {}
        return {
            share: _finite(median([reached(each, share) for each in curves])) for share in SHARES
        }


def reached(outcome: Outcome, share: float) -> float:
    """Seconds until ``share`` of all that its curve counts had it; inf if they never did."""
    place = max(1, math.ceil(share * outcome.of))
    return outcome.curve[place - 1] if place <= len(outcome.curve) else math.inf


def group(outcomes: Iterable[Outcome]) -> list[Group]:
    """Outcomes in the order of their cases, seeds together."""
    found: dict[Case, list[Outcome]] = {}
    for each in outcomes:
        found.setdefault(attrs.evolve(each.case, seed=0), []).append(each)
    return [
        Group(
            members[0].case,
            tuple(each for each in members if not each.failure),
            tuple(each for each in members if each.failure),
        )
        for members in found.values()
    ]


def table(groups: Iterable[Group]) -> str:
    """Median, p90, p99 and worst over the seeds, with units."""
    return "\n\n".join(_section(each) for each in groups)


def _section(group: Group) -> str:
    lines = [f"{_title(group.case)}, {_plural(len(group.outcomes), 'seed')}"]
    rows: list[tuple[str, ...]] = [("", "median", "p90", "p99", "worst", "", "")]
    for name, each in group.summaries.items():
        numbers = [_number(each.median), _number(each.p90), _number(each.p99), _number(each.worst)]
        rows.append((name, *numbers, each.measure.unit, each.measure.meaning))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *columns, unit, meaning in rows:
        right = "  ".join(
            text.rjust(width) for text, width in zip(columns, widths[1:5], strict=True)
        )
        line = f"  {name.ljust(widths[0])}  {right}  {unit.ljust(widths[5])}  {meaning}"
        lines.append(line.rstrip())
    if group.failures:
        lines.append(f"  {_plural(len(group.failures), 'run')} broke an invariant")
    return "\n".join(lines)


def _title(case: Case) -> str:
    words = [case.scenario, _plural(case.nodes, "node"), f"{100 * case.loss:g} % loss"]
    if case.network != "lan":
        words.append(case.network.upper())
    return ", ".join([*words, f"{case.seconds:g} s"] if case.explicit else words)


def _plural(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _number(value: float | None) -> str:
    """Four digits, or a word for what did not come about in time."""
    if value is None:
        return "never"
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.4g}"


def as_json(groups: Iterable[Group]) -> str:
    """One object, with every seed's value and a newline at the end."""
    return json.dumps({"runs": [_object(each) for each in groups]}, indent=1) + "\n"


def _object(group: Group) -> dict[str, Any]:
    case = group.case
    return {
        "scenario": case.scenario,
        "nodes": case.nodes,
        "loss": case.loss,
        "network": case.network,
        "seconds": case.seconds,
        "seeds": [each.case.seed for each in group.outcomes],
        "measures": {
            name: {
                "unit": each.measure.unit,
                "meaning": each.measure.meaning,
                "median": _rounded(each.median),
                "p90": _rounded(each.p90),
                "p99": _rounded(each.p99),
                "worst": _rounded(each.worst),
                "values": [_rounded(value) for value in each.values],
            }
            for name, each in group.summaries.items()
        },
        "curve": {f"{share:g}": _rounded(value) for share, value in group.curve().items()},
        "failures": [
            {"seed": each.case.seed, "what": each.failure, "again": each.case.replay}
            for each in group.failures
        ],
    }


def _rounded(value: float | None) -> float | None:
    return value if value is None else round(value, _DIGITS)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
