"""Figures of several runs: medians with their spread, and ratios to a floor of the same run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

import attrs


@attrs.frozen
class Figure:
    """One thing that was measured, once in each run."""

    what: str
    unit: str
    values: tuple[float, ...]
    floor: str = ""
    """What of another figure of the report this one is to be held against."""


@attrs.frozen
class Report:
    """What a scenario found."""

    scenario: str
    figures: tuple[Figure, ...]
    settings: dict[str, Any] = attrs.field(factory=dict)
    """What it was told: sizes, systems."""

    def ratios(self, figure: Figure) -> tuple[float, ...]:
        """``figure`` to its floor, run by run: both had the same machine then."""
        floors = {each.what: each.values for each in self.figures}
        if not figure.floor:
            return ()
        pairs = zip(figure.values, floors[figure.floor], strict=True)
        return tuple(value / floor for value, floor in pairs)

    def as_json(self) -> str:
        """One object, the same fields for every scenario."""
        figures = []
        for each in self.figures:
            ratios = self.ratios(each)
            figures.append(
                {
                    "what": each.what,
                    "unit": each.unit,
                    **_spread(each.values),
                    "values": list(each.values),
                    "floor": each.floor or None,
                    "ratio": _spread(ratios) if ratios else None,
                }
            )
        whole = {"scenario": self.scenario, "settings": self.settings, "figures": figures}
        return json.dumps(whole, indent=2) + "\n"

    def as_markdown(self) -> str:
        """A table for people and for documents."""
        lines = [
            "| what | median | min to max | to its floor | min to max | floor |",
            "|---|---|---|---|---|---|",
        ]
        for each in self.figures:
            values, ratios = _spread(each.values), self.ratios(each)
            cells = [
                each.what,
                f"{_short(values['median'])} {each.unit}",
                f"{_short(values['min'])} to {_short(values['max'])}",
            ]
            if ratios:
                spread = _spread(ratios)
                cells += [
                    f"{spread['median']:.2f} x",
                    f"{spread['min']:.2f} to {spread['max']:.2f}",
                    each.floor,
                ]
            else:
                cells += ["", "", ""]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _short(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
