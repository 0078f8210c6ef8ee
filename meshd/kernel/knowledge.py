"""What a kernel holds, from what was read and what was written since: instead of another reading.

True as long as nobody else changes anything, which a backend can tell (``Backend.undisturbed``),
and as every write is exact: one that met something else than was known is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from meshd.kernel import tunnel
from meshd.kernel.plan import (
    AddElement,
    AddGuard,
    AddRoute,
    AddUplink,
    BuildTable,
    DropFlows,
    DropTranslated,
    RemoveElement,
    RemoveGuard,
    RemoveRoute,
    RemoveTable,
    RemoveUplink,
    ReplaceRoute,
    Step,
)
from meshd.kernel.shape import FILTER
from meshd.kernel.state import KernelState, NextHops, Reading
from meshd.kernel.tunnel import EntryStep
from protocol.address import Prefix

_SETS: Final = {"local": "local", "mesh": "mesh", "tunnel": "admitted"}
"""Name of a set to that of its field in ``KernelState``."""


def after(reading: Reading, done: Iterable[Step]) -> Reading | None:
    """What a kernel that was as ``reading`` shows after all of ``done``; None: look.

    What is rare, or makes or takes what policy judges by (devices), is looked at.
    """
    state = reading.state
    routes: dict[Prefix, NextHops] = dict(state.routes)
    guards, uplinks = set(state.guards), set(state.uplinks)
    sets = {name: set(getattr(state, field)) for name, field in _SETS.items()}
    entries: list[EntryStep] = []
    for step in done:
        match step:
            case AddGuard():
                guards.add(step.prefix)
            case RemoveGuard():
                guards.discard(step.prefix)
            case AddRoute() | ReplaceRoute():
                routes[step.prefix] = step.next_hops
            case RemoveRoute():
                routes.pop(step.prefix, None)
            case AddElement():
                sets[step.name].add(step.prefix)
            case RemoveElement():
                sets[step.name].discard(step.prefix)
            case AddUplink():
                uplinks.add(step.device)
            case RemoveUplink():
                uplinks.discard(step.device)
            case DropTranslated() | DropFlows():
                pass
            case BuildTable() if not (step.keep or reading.others or reading.problems):
                sets = {"local": set(step.local), "mesh": set(step.mesh)}
                sets["tunnel"] = set(step.admitted)
                uplinks = set(step.uplinks)
                filtered = any(chain.name == FILTER for chain in step.shape.chains)
                reading = attrs.evolve(reading, table=True, filtered=filtered)
            case RemoveTable() if not (reading.others or reading.problems):
                sets, uplinks = {name: set() for name in _SETS}, set()
                reading = attrs.evolve(reading, table=False, filtered=False)
            case _ if isinstance(step, EntryStep) and state.tunnel is not None:
                entries.append(step)
            case _:
                return None
    held = KernelState(
        routes,
        frozenset(guards),
        frozenset(sets["local"]),
        frozenset(sets["mesh"]),
        frozenset(uplinks),
        tunnel.after(state.tunnel, entries),
        frozenset(sets["tunnel"]),
    )
    return attrs.evolve(reading, state=held)
