"""Connections that carry a decision of before: forgotten a moment later, and what waits for it."""

from __future__ import annotations

import ipaddress

import trio
import trio.testing
from rounds import NOTHING, Counted, bench, calm, net, until, wanted

from meshd.kernel.memory import Memory
from meshd.kernel.plan import flow

OPEN = flow(ipaddress.ip_address("10.1.0.7"), ipaddress.ip_address("10.2.0.7"))
ELSEWHERE = flow(ipaddress.ip_address("10.1.0.7"), ipaddress.ip_address("8.8.8.8"))
"""Connections: one into the mesh, one that keeps the table from being empty."""


async def test_connections_are_looked_through_once_for_a_burst_and_keep_no_route_waiting() -> None:
    kernel = Counted()
    async with bench(kernel=kernel) as made:
        await calm(made)
        kernel.may_look.clear()
        kernel.flows = [ELSEWHERE, OPEN._replace(reply_destination=7)]
        for number in range(2, 10):
            made.desired = wanted(*(f"10.{each}.0.0/24" for each in range(2, number + 1)))
            made.reconciler.act()
        assert await trio.to_thread.run_sync(kernel.looking.wait, 5)
        made.desired = wanted(*(f"10.{each}.0.0/24" for each in range(2, 11)))
        made.reconciler.act()
        await trio.sleep(0.1)
        assert len(Memory.read(kernel).state.routes) == 9
        assert kernel.looks == 1
        assert not made.reconciler.status.in_sync
        kernel.may_look.set()
        await until(made, lambda: made.reconciler.status.in_sync)
        assert kernel.looks == 2
        assert kernel.flows == [ELSEWHERE]


async def test_while_a_mesh_starts_connections_are_looked_through_every_two_seconds(
    virtual: trio.testing.MockClock,
) -> None:
    kernel = Counted()
    async with bench(kernel=kernel) as made:
        await calm(made)
        kernel.flows = [ELSEWHERE]
        looks = []
        for number in range(2, 37):  # for seven seconds
            made.desired = wanted(*(f"10.{each}.0.0/24" for each in range(2, number + 1)))
            made.reconciler.act()
            await trio.sleep(0.2)
            looks.append(kernel.looks)
        assert looks[8] == 0
        assert looks[-1] == 3
        await until(made, lambda: made.reconciler.status.in_sync)
        assert kernel.looks == 4


async def test_a_guard_stays_until_the_connections_of_what_goes_are_forgotten() -> None:
    kernel = Counted()
    async with bench(kernel=kernel) as made:
        made.want(wanted("10.2.0.0/24", "10.3.0.0/24"))
        await calm(made)
        kernel.flows, kernel.stuck = [ELSEWHERE, OPEN], "the table is busy"
        made.desired = wanted("10.3.0.0/24")
        made.reconciler.act()
        assert net("10.2.0.0/24") not in Memory.read(kernel).state.routes
        await until(made, lambda: bool(made.events("kernel-error")))
        assert net("10.2.0.0/24") in Memory.read(kernel).state.guards
        assert "the table is busy" in str(made.reconciler.status.error)
        kernel.stuck = ""
        await until(made, lambda: made.reconciler.status.in_sync)
        assert Memory.read(kernel).state == wanted("10.3.0.0/24")
        assert kernel.flows == [ELSEWHERE]
        assert len(made.events("kernel-error")) == 1
        assert made.events("kernel-changed")[-1]["removed"] == ["10.2.0.0/24"]
        assert made.events("kernel-repaired") == []


async def test_a_prefix_that_comes_back_meanwhile_keeps_its_guard_until_another_look() -> None:
    kernel = Counted()
    async with bench(kernel=kernel) as made:
        made.want(wanted("10.2.0.0/24"))
        await calm(made)
        kernel.flows = [ELSEWHERE]
        kernel.may_look.clear()
        made.desired = NOTHING
        made.reconciler.act()
        assert await trio.to_thread.run_sync(kernel.looking.wait, 5)
        # It comes, is used, and goes again: what was looked through was before that.
        made.desired = wanted("10.2.0.0/24")
        made.reconciler.act()
        kernel.flows = [ELSEWHERE, OPEN]
        made.desired = NOTHING
        made.reconciler.act()
        await trio.sleep(0.05)
        kernel.may_look.set()

        def leaks() -> bool:
            return OPEN in kernel.flows and not Memory.read(kernel).state.guards

        await until(made, lambda: leaks() or made.reconciler.status.in_sync)
        assert not leaks()
        assert kernel.flows == [ELSEWHERE]
        assert Memory.read(kernel).state == NOTHING
