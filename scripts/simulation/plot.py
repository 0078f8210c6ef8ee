"""A picture of what came out: how it spread, and what it cost a node against the mesh's size.

matplotlib is asked for here and nowhere else, and only when a picture is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from simulation.measure import median
from simulation.report import Group, reached
from simulation.scenarios import SCENARIOS

SERF: Final = {100: 2.0, 1000: 2.2, 5000: 2.4}
"""Seconds until 99.99 % of so many nodes have an event, without loss: Serf's convergence
simulator (its documentation, internals/simulator), gossip interval 0.2 s, fan-out 3."""

_POINTS: Final = 200
_SIZE: Final = (12.0, 4.8)
"""Inches."""


class NotInstalled(Exception):
    """matplotlib is not there; the message says how to have it."""


def library() -> Any:
    """matplotlib's figures, or ``NotInstalled``."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise NotInstalled(
            "--plot needs matplotlib, the extra `pictures`:"
            " .venv/bin/pip install -r scripts/pictures.lock"
        ) from None
    return Figure


def draw(groups: Sequence[Group], path: Path) -> None:
    """Write a picture to ``path``; its suffix says of which kind (png, svg, pdf)."""
    figure = library()(figsize=_SIZE, layout="constrained")
    spread, cost = figure.subplots(1, 2)
    _draw_spread(spread, [each for each in groups if each.curve()])
    _draw_cost(cost, groups)
    figure.savefig(path, metadata=_metadata(path))


def _metadata(path: Path) -> dict[str, None]:
    """No date in it: the same runs make the same file."""
    return {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(path.suffix[1:], {})


def _draw_spread(axes: Any, groups: Sequence[Group]) -> None:
    for each in groups:
        shares = [place / _POINTS for place in range(1, _POINTS + 1)]
        times = [median([reached(run, share) for run in each.outcomes]) for share in shares]
        percent = [100 * share for share in shares]
        (line,) = axes.plot(times, percent, drawstyle="steps-post", label=_label(each))
        serf = SERF.get(each.case.nodes)
        if each.case.scenario == "update" and not each.case.loss and serf is not None:
            label = f"Serf, {each.case.nodes:,} nodes"
            axes.plot([serf], [99.99], "x", color=line.get_color(), label=label)
    axes.set(xlabel="seconds (virtual)", ylabel="% of nodes, median over seeds", ylim=(0, 102))
    _logarithmic(axes)
    if groups:
        axes.legend(fontsize="small")


def _draw_cost(axes: Any, groups: Sequence[Group]) -> None:
    lines: dict[tuple[str, float], list[Group]] = {}
    for each in groups:
        if SCENARIOS[each.case.scenario].cost and each.outcomes:
            lines.setdefault((each.case.scenario, each.case.loss), []).append(each)
    units: dict[str, None] = {}
    for (name, loss), members in lines.items():
        cost = SCENARIOS[name].cost
        units[f"{SCENARIOS[name].measures[cost].unit} a node ({name})"] = None
        nodes = [each.case.nodes for each in members]
        found = [each.summaries[cost] for each in members]
        medians = [each.median for each in found]
        (line,) = axes.plot(nodes, medians, "o-", label=f"{name}, {100 * loss:g} % loss")
        worst = [each.worst for each in found]
        axes.plot(nodes, worst, "_", color=line.get_color())
    axes.set(xlabel="nodes", ylabel=", ".join(units) + "; dash: worst seed", ylim=(0, None))
    _logarithmic(axes)
    if lines:
        axes.legend(fontsize="small")


def _logarithmic(axes: Any) -> None:
    """Along x, with plain numbers at the steps of ten; and of two and five between them, where
    there are few of ten."""
    axes.set_xscale("log", subs=(2, 5))
    left, right = axes.get_xlim()
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}" if right < 300 * left else "")
    axes.grid(alpha=0.3)


def _label(group: Group) -> str:
    return f"{group.case.scenario}, {group.case.nodes:,} nodes, {100 * group.case.loss:g} % loss"
