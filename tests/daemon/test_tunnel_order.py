"""The order of a tunnel: behind its filter, on its guards, before its routes; and back."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

import attrs
import pytest

from meshd.kernel.executor import carry_out
from meshd.kernel.plan import (
    AddElement,
    AddGuard,
    AddRoute,
    BuildTable,
    FlowStep,
    Plan,
    RemoveElement,
    RemoveGuard,
    RemoveRoute,
    RemoveTable,
    RouteStep,
    Step,
    TableStep,
    diff,
)
from meshd.kernel.shape import shape_of
from meshd.kernel.state import KernelState, NextHop, NextHops, Reading
from meshd.kernel.tunnel import (
    DEVICE,
    AddDevice,
    AddForward,
    AddNeighbour,
    ChangeDevice,
    Device,
    Forward,
    RemoveDevice,
    RemoveForward,
    RemoveNeighbour,
    Tunnel,
    TunnelStep,
)
from protocol.address import Prefix

FAR = ip_address("198.51.100.2")
TWO = Prefix.parse("10.2.0.0/24")
MINE, THEIRS = bytes([2, 0, 0, 0, 0, 1]), bytes([2, 0, 0, 0, 0, 2])
ALONE = KernelState(
    local=frozenset({Prefix.parse("10.1.0.0/24")}),
    tunnel=Tunnel(Device(77, 6180, ip_address("192.0.2.1"), MINE, 1450)),
)
assert ALONE.tunnel is not None
JOINED = attrs.evolve(
    ALONE,
    routes={TWO: NextHops((NextHop(FAR, DEVICE, onlink=True),))},
    guards=frozenset({TWO}),
    mesh=frozenset({TWO}),
    tunnel=Tunnel(ALONE.tunnel.device, {FAR: THEIRS}, frozenset({Forward(THEIRS, FAR, 6180)})),
    admitted=frozenset({Prefix.parse("198.51.100.2/32")}),
)


def plan(desired: KernelState, actual: KernelState) -> Plan:
    table = actual != KernelState()
    shape = shape_of("exempt", 6180)
    return diff(desired, Reading(actual, table=table, filtered=table, shape=shape))


def in_order(found: Plan, *kinds: type) -> None:
    """The steps of ``kinds`` are all there, and none before one of a kind that is named earlier."""
    ranked = [kinds.index(type(step)) for step in found if type(step) in kinds]
    assert ranked == sorted(ranked)
    assert set(ranked) == set(range(len(kinds)))


def test_all_of_it_comes_guard_first_and_route_last() -> None:
    found = plan(JOINED, KernelState())
    in_order(found, AddGuard, BuildTable, AddDevice, AddNeighbour, AddForward, AddRoute)


def test_a_member_comes_and_goes_within_a_tunnel() -> None:
    in_order(plan(JOINED, ALONE), AddGuard, AddElement, AddNeighbour, AddForward, AddRoute)
    gone = plan(ALONE, JOINED)
    in_order(gone, RemoveRoute, RemoveElement, RemoveNeighbour, RemoveForward, RemoveGuard)


def test_the_tunnel_goes_behind_its_routes_and_before_its_filter() -> None:
    in_order(plan(KernelState(), JOINED), RemoveRoute, RemoveDevice, RemoveTable, RemoveGuard)


class Refusing:
    """Refuses what it is told to, and remembers what it was asked."""

    def __init__(self, refuse: type) -> None:
        self.refuse = refuse
        self.asked: list[Step] = []

    def _all(self, steps: Iterable[Step]) -> dict[Step, str]:
        listed = list(steps)
        self.asked += listed
        return {step: "no" for step in listed if isinstance(step, self.refuse)}

    def write_routes(self, steps: Iterable[RouteStep]) -> dict[RouteStep, str]:
        return self._all(steps)  # type: ignore[return-value]

    def write_table(self, steps: Iterable[TableStep]) -> dict[TableStep, str]:
        return self._all(steps)  # type: ignore[return-value]

    def write_tunnel(self, steps: Iterable[TunnelStep]) -> dict[TunnelStep, str]:
        return self._all(steps)  # type: ignore[return-value]

    def drop_flows(self, step: FlowStep) -> str | None:
        return self._all([step]).get(step)


@pytest.mark.parametrize(
    ("refused", "desired", "actual", "kept_from"),
    [
        # Without its filter the device would take anything from anybody.
        (BuildTable, JOINED, KernelState(), (AddDevice, AddNeighbour, AddForward, AddRoute)),
        (AddDevice, JOINED, KernelState(), (AddNeighbour, AddForward, AddRoute)),
        (AddNeighbour, JOINED, ALONE, (AddRoute,)),
        (RemoveDevice, KernelState(), JOINED, (RemoveTable,)),
    ],
)
def test_what_leans_on_a_step_that_failed_is_not_done(
    refused: type, desired: KernelState, actual: KernelState, kept_from: tuple[type, ...]
) -> None:
    kernel = Refusing(refused)
    wanted = plan(desired, actual)
    failures = carry_out(wanted, kernel)
    asked = {type(step) for step in kernel.asked}
    assert {type(step) for step in wanted} >= set(kept_from)
    assert not asked & set(kept_from)
    assert {type(failure.step) for failure in failures} >= {refused, *kept_from}


def test_a_device_that_could_not_be_changed_keeps_new_entries_out() -> None:
    assert ALONE.tunnel is not None
    smaller = attrs.evolve(ALONE.tunnel.device, mtu=1300)
    kernel = Refusing(ChangeDevice)
    carry_out(plan(JOINED, attrs.evolve(ALONE, tunnel=Tunnel(smaller))), kernel)
    assert not any(isinstance(step, AddRoute | AddNeighbour | AddForward) for step in kernel.asked)
