"""Why each step of a plan: who announces what, which refusal took it away, what the kernel held.

Pure: reads the decision and the reading from which the plan was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meshd.kernel.plan import (
    AddElement,
    AddGuard,
    AddRoute,
    AddUplink,
    BuildTable,
    DropFlows,
    DropTranslated,
    Plan,
    RemoveElement,
    RemoveFilter,
    RemoveGuard,
    RemoveRoute,
    RemoveStray,
    RemoveTable,
    RemoveUplink,
    ReplaceRoute,
    Step,
)
from meshd.kernel.state import KernelState, Reading
from meshd.kernel.tunnel import (
    AddDevice,
    AddForward,
    AddNeighbour,
    ChangeDevice,
    RemoveDevice,
    RemoveForward,
    RemoveNeighbour,
)
from meshd.policy.decide import Decision
from meshd.policy.route import Route
from protocol.address import Prefix


def explained(
    plan: Plan, reading: Reading, decision: Decision, desired: KernelState
) -> list[dict[str, Any]]:
    """A ``step`` as it prints and a ``why`` in one line, for each of ``plan``."""
    rows: dict[Prefix, list[Route]] = {}
    for row in decision.routes:
        rows.setdefault(row.prefix, []).append(row)
    return [
        {"step": said, "why": _why(step, reading, rows, desired)}
        for step in plan
        if (said := reading.say(step))
    ]


def _why(
    step: Step, reading: Reading, rows: Mapping[Prefix, list[Route]], desired: KernelState
) -> str:
    match step:
        case AddRoute(prefix=prefix):
            return f"{_wanted(rows.get(prefix, ()))}; the kernel has no route of ours to it"
        case ReplaceRoute(prefix=prefix):
            led = reading.state.routes[prefix].words(prefix.version)
            return f"{_wanted(rows.get(prefix, ()))}; the kernel's leads {led}"
        case AddGuard(prefix=prefix):
            return f"{_wanted(rows.get(prefix, ()))}; the kernel has no guard under it"
        case RemoveRoute(prefix=prefix) | RemoveGuard(prefix=prefix):
            return _unwanted(rows.get(prefix, ()))
        case AddElement(name="local") | RemoveElement(name="local"):
            return "announced here" if isinstance(step, AddElement) else "not announced here"
        case AddElement(name="tunnel"):
            return "a member's address, from which the tunnel takes what comes"
        case RemoveElement(name="tunnel"):
            return "no member's address any more"
        case AddElement(prefix=prefix):
            return f"{_wanted(rows.get(prefix, ()))}; it is not in the set"
        case RemoveElement(prefix=prefix):
            cover = next((net for net in desired.mesh if _inside(prefix, net)), None)
            return f"{cover} covers it" if cover else _unwanted(rows.get(prefix, ()))
        case BuildTable(problems=problems):
            return "; ".join(problems) or "the kernel has no table inet meshd"
        case RemoveTable():
            off = 'nat = "off"' if not reading.shape.sets else "nothing is announced, here or there"
            return f"{off}, and the table is there"
        case RemoveFilter() | RemoveDevice(why=""):
            return "no tunnel is wanted"
        case RemoveDevice(why=why):
            return f"{why}: it must be made anew"
        case AddDevice():
            return "there is none of ours, for members that are on no link of ours"
        case ChangeDevice():
            return f"it {' and '.join(step.found())}"
        case AddNeighbour(address=address):
            there = reading.state.tunnel
            known = there is not None and address in there.neighbours
            return (
                f"a route leads there; the kernel has {'another' if known else 'no'} entry for it"
            )
        case AddForward():
            return "a route leads there; the kernel sends its frames elsewhere, or nowhere"
        case RemoveNeighbour() | RemoveForward():
            return "no route leads there through the tunnel"
        case AddUplink():
            return "it carries a default route"
        case RemoveUplink():
            return "it carries no default route"
        case RemoveStray(stray=stray):
            return f"of our protocol, and neither a guard nor at our metric {reading.metric}" + (
                ""
                if stray.prefix in desired.routes
                else f"; {_unwanted(rows.get(stray.prefix, ()))}"
            )
        case DropTranslated():
            return "connections from before the exclusion stay translated until they are forgotten"
        case DropFlows():
            return "connections from before go on without the exclusion until they are forgotten"


def _wanted(rows: Iterable[Route]) -> str:
    """Who announces it, and what became of that; the one in use first."""
    told = [_row(row) for row in sorted(rows, key=lambda row: row.state != "installed")]
    return "; ".join(told) or "held since before this start, until the mesh has agreed"


def _unwanted(rows: Iterable[Route]) -> str:
    return "; ".join(map(_row, rows)) or "nobody announces it"


def _row(row: Route) -> str:
    if row.state == "installed" and not row.reason:
        return f"{row.name} announces it"
    rule = f" ({row.rule})" if row.rule else ""
    return f"{row.name} announces it: {row.state}{rule}{f', {row.reason}' if row.reason else ''}"


def _inside(narrow: Prefix, wide: Prefix) -> bool:
    return narrow != wide and wide.covers(narrow)
