"""What a kernel holds, from what was read and what was written since: instead of another reading.

True as long as nobody else changes anything, which a backend can tell (``Backend.undisturbed``),
and as every write is exact: one that met something else than was known is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Generic, TypeVar

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


T = TypeVar("T")


def after(reading: Reading, done: Iterable[Step]) -> Reading | None:
    """What a kernel that was as ``reading`` shows after all of ``done``; None: look.

    What is rare, or makes or takes what policy judges by (devices), is looked at.
    """
    state = reading.state
    routes: Mapping[Prefix, NextHops] = state.routes
    sets = {name: _Set(getattr(state, name)) for name in _SETS.values()}
    guards, uplinks = _Set(state.guards), _Set(state.uplinks)
    entries: list[EntryStep] = []
    moved: dict[Prefix, NextHops | None] = {}
    for step in done:
        match step:
            case AddGuard():
                guards.new.add(step.prefix)
            case RemoveGuard():
                guards.gone.add(step.prefix)
            case AddRoute() | ReplaceRoute():
                moved[step.prefix] = step.next_hops
            case RemoveRoute():
                moved[step.prefix] = None
            case AddElement():
                sets[_SETS[step.name]].new.add(step.prefix)
            case RemoveElement():
                sets[_SETS[step.name]].gone.add(step.prefix)
            case AddUplink():
                uplinks.new.add(step.device)
            case RemoveUplink():
                uplinks.gone.add(step.device)
            case DropTranslated() | DropFlows():
                pass
            case BuildTable() if not (step.keep or reading.others or reading.problems):
                sets = {name: _Set(getattr(step, name)) for name in _SETS.values()}
                uplinks = _Set(step.uplinks)
                filtered = any(chain.name == FILTER for chain in step.shape.chains)
                reading = attrs.evolve(reading, table=True, filtered=filtered)
            case RemoveTable() if not (reading.others or reading.problems):
                sets = {name: _Set(frozenset()) for name in _SETS.values()}
                uplinks = _Set(frozenset())
                reading = attrs.evolve(reading, table=False, filtered=False)
            case _ if isinstance(step, EntryStep) and state.tunnel is not None:
                entries.append(step)
            case _:
                return None
    if moved:
        both = {**routes, **moved}
        routes = {prefix: hops for prefix, hops in both.items() if hops is not None}
    held = {name: each.after() for name, each in sets.items()}
    behind = tunnel.after(state.tunnel, entries)
    state = KernelState(routes, guards.after(), uplinks=uplinks.after(), tunnel=behind, **held)
    return attrs.evolve(reading, state=state)


@attrs.define(eq=False)
class _Set(Generic[T]):
    """One set: what it was, what goes, and then what comes, as a plan orders it."""

    was: frozenset[T]
    gone: set[T] = attrs.field(factory=set)
    new: set[T] = attrs.field(factory=set)

    def after(self) -> frozenset[T]:
        """Itself where nothing changes: it may hold thousands."""
        kept = self.was - self.gone if self.gone else self.was
        return kept | self.new if self.new else kept
