"""Carrying a plan out: what may go on when a step fails, for every kernel alike.

A failure concerns its prefix and nothing else.  What leans on a failed step is not done,
because half of a prefix is worse than none of it: a route without its guard leaks when it
goes, an exclusion without its guard leaks at once, and a guard that goes before the rest
of its prefix leaks what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final, Protocol, get_args

from meshd.kernel.plan import (
    AddElement,
    AddGuard,
    AddRoute,
    BuildTable,
    DropFlows,
    Failure,
    FlowStep,
    Plan,
    RemoveElement,
    RemoveFilter,
    RemoveGuard,
    RemoveRoute,
    RemoveStray,
    RemoveTable,
    ReplaceRoute,
    RouteStep,
    Step,
    TableStep,
)
from meshd.kernel.state import NextHops
from meshd.kernel.tunnel import (
    DEVICE,
    AddDevice,
    AddForward,
    AddNeighbour,
    ChangeDevice,
    RemoveDevice,
    TunnelStep,
)
from protocol.address import Address, Prefix


class Writer(Protocol):
    """How a kernel does many steps of one kind; each answers with what was refused, in words."""

    def write_routes(self, steps: Sequence[RouteStep]) -> Mapping[RouteStep, str]: ...

    def write_table(self, steps: Sequence[TableStep]) -> Mapping[TableStep, str]:
        """All of them in one transaction."""

    def write_tunnel(self, steps: Sequence[TunnelStep]) -> Mapping[TunnelStep, str]: ...

    def drop_flows(self, step: FlowStep) -> str | None: ...


def carry_out(plan: Plan, kernel: Writer) -> list[Failure]:
    """Do ``plan`` in its order, neighbouring steps of one kind together."""
    failures: list[Failure] = []
    failed = _Failed()

    def fail(step: Step, reason: str) -> None:
        failures.append(Failure(step, reason))
        failed.note(step, reason)

    for kind, group in groupby(plan, _kind):
        ready: list[Step] = []
        for step in group:
            reason = failed.blocks(step) if failures else None
            if reason is None:
                ready.append(step)
            else:
                fail(step, f"not done, because {reason}")
        for step, reason in _write(kind, ready, kernel).items():
            fail(step, reason)
    return failures


_TABLE_STEPS: Final[tuple[type, ...]] = get_args(TableStep)
_ROUTE_STEPS: Final[tuple[type, ...]] = get_args(RouteStep)
_TUNNEL_STEPS: Final[tuple[type, ...]] = get_args(TunnelStep)


def _kind(step: Step) -> type:
    kind = type(step)
    return BuildTable if kind in _TABLE_STEPS else kind


def _write(kind: type, steps: Sequence[Any], kernel: Writer) -> Mapping[Any, str]:
    if not steps:
        return {}
    if kind in _ROUTE_STEPS:
        return kernel.write_routes(steps)
    if kind in _TABLE_STEPS:
        return kernel.write_table(steps)
    if kind in _TUNNEL_STEPS:
        return kernel.write_tunnel(steps)
    refused = {step: kernel.drop_flows(step) for step in steps}
    return {step: reason for step, reason in refused.items() if reason is not None}


class _Failed:
    """What has failed so far, as far as later steps ask for it."""

    def __init__(self) -> None:
        self._guards: set[Prefix] = set()
        self._routes: set[Prefix] = set()
        self._elements: list[Prefix] = []
        self._table = False
        self._flows = False
        self._device = ""
        """Why the tunnel's device is not as it should be."""
        self._hops: set[Address] = set()

    def note(self, step: Step, reason: str) -> None:
        match step:
            case AddGuard():
                self._guards.add(step.prefix)
            case RemoveRoute() | RemoveStray():
                self._routes.add(step.prefix)
            case AddElement() | RemoveElement():
                self._elements.append(step.prefix)
            case BuildTable() | RemoveTable():
                self._table = True
            case DropFlows():
                self._flows = True
            case AddDevice() | ChangeDevice() | RemoveDevice():
                self._device = reason
            case AddNeighbour(address=address):
                self._hops.add(address)
            case _:
                pass  # nothing leans on it

    def blocks(self, step: Step) -> str | None:
        """Why ``step`` may not be done, or None."""
        match step:
            case AddElement() | AddRoute() if step.prefix in self._guards:
                return "its guard failed"
            case AddRoute() if self._exclusion(step.prefix):
                return "its exclusion failed"
            case RemoveElement() | RemoveGuard() if step.prefix in self._routes:
                return "its route is still there"
            case RemoveTable() if self._routes:
                return "a route is still there"
            case RemoveGuard() if self._exclusion(step.prefix):
                return "its exclusion may still be there"
            case RemoveGuard() if self._flows:
                return "connections could not be deleted"
            case AddDevice() if self._table:
                return "its filter could not be written"
            case RemoveTable() | RemoveFilter() if self._device:
                return "the tunnel is still there"
            case AddDevice() | AddNeighbour() | AddForward() if self._device:
                return self._device
            case AddRoute(next_hops=hops) | ReplaceRoute(next_hops=hops):
                return self._lacks(hops)
            case _:
                return None

    def _lacks(self, hops: NextHops) -> str | None:
        """What a route through the tunnel needs and is not there."""
        for hop in hops.hops:
            if hop.device == DEVICE and self._device:
                return self._device
            if hop.device == DEVICE and hop.address in self._hops:
                return f"the neighbour entry of {hop.address} failed"
        return None

    def _exclusion(self, prefix: Prefix) -> bool:
        return self._table or any(prefix.overlaps(element) for element in self._elements)
