"""The same rows as bars: a panel for each measure, a group of bars for each size.

matplotlib is asked for here and nowhere else, and only when a picture is wanted.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmark.comparison.samples import Samples
from benchmark.comparison.table import Row, rows, systems_of

COLUMNS: Final = 3
PANEL: Final = (4.6, 2.9)
"""Inches."""

ORDERS: Final = 20
"""Largest to smallest value, from which on an axis is logarithmic."""


class NotInstalled(Exception):
    """matplotlib is not there; the message says how to have it."""


def library() -> Any:
    """matplotlib's figures, or ``NotInstalled``."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise NotInstalled(
            "--picture needs matplotlib, the extra `pictures`:"
            " .venv/bin/pip install -r scripts/pictures.lock"
        ) from None
    return Figure


def draw(samples: Samples, path: Path, wanted: Sequence[str] = ()) -> None:
    """Write a picture to ``path``; its suffix says of which kind (png, svg, pdf).

    ValueError if there is nothing to draw, or the suffix is of no kind.
    """
    panels: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows(samples.found):
        if any(cell.values for cell in row.cells.values()):
            panels.setdefault((row.scenario, row.measure.name, row.loss), []).append(row)
    if not panels:
        raise ValueError("no figures to draw")
    lines = -(-len(panels) // COLUMNS)
    columns = min(COLUMNS, len(panels))
    figure = library()(figsize=(PANEL[0] * columns, PANEL[1] * lines + 0.6), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    systems = systems_of(samples, wanted)
    for axes, members in zip(grid.flat, panels.values(), strict=False):
        _panel(axes, members, systems)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    handles = [_bar(at) for at in range(len(systems))]
    figure.legend(handles, systems, loc="outside lower center", ncols=len(systems))
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(axes: Any, members: Sequence[Row], systems: Sequence[str]) -> None:
    width = 0.8 / len(systems)
    found: list[float] = []
    for at, name in enumerate(systems):
        for place, row in enumerate(members):
            cell = row.cells.get(name)
            if cell is None or not cell.values:
                continue
            middle = statistics.median(cell.values)
            spread = [[middle - min(cell.values)], [max(cell.values) - middle]]
            x = place - 0.4 + width * (at + 0.5)
            axes.bar(x, middle, width, color=f"C{at}", yerr=spread,
                     error_kw={"linewidth": 0.8})  # fmt: skip
            found += [value for value in (middle, *cell.values) if value > 0]
    if found and max(found) > ORDERS * min(found):
        axes.set_yscale("log")
        axes.set_ylim(bottom=min(found) / 2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_xticks(range(len(members)), [_label(row) for row in members])
    axes.set_xlim(-0.5, len(members) - 0.5)
    first = members[0]
    loss = f", {first.loss:g} % loss" if first.loss else ""
    name = f"{first.scenario}: {first.measure.name}" if first.measure.name else first.scenario
    axes.set_title(name + loss, fontsize="medium")
    axes.set_ylabel(first.measure.unit or "count")
    axes.grid(axis="y", alpha=0.3)


def _label(row: Row) -> str:
    return f"N = {row.nodes}" + (f"\n{row.prefixes:,} each" if row.prefixes > 1 else "")


def _bar(at: int) -> Any:
    """A bar of a system's colour, for the legend."""
    from matplotlib.patches import Patch  # noqa: PLC0415

    return Patch(color=f"C{at}")
