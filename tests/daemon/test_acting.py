"""The reconciler when the mesh wants something: done in the turn that heard of it, told later."""

from __future__ import annotations

import ipaddress

import attrs
import pytest
import trio
import trio.testing
from rounds import Counted, bench, calm, net, until, wanted

from meshd.kernel.memory import Memory
from meshd.kernel.state import ForeignRoute, NextHops


async def test_what_the_mesh_wants_is_there_without_a_reading_a_thread_or_a_turn(
    virtual: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Counted()
    async with bench(kernel=kernel) as made:
        made.want(wanted("10.2.0.0/24"))
        await calm(made)
        readings, settled = kernel.readings, made.settled
        with monkeypatch.context() as patch:
            patch.setattr(trio.to_thread, "run_sync", None)
            for number in (3, 4):
                state = wanted("10.2.0.0/24", f"10.{number}.0.0/24")
                made.desired = state
                made.reconciler.act()
                assert Memory.read(kernel).state.routes == state.routes
                assert kernel.readings == readings
                await trio.sleep(0.05)
        assert made.settled - settled == 2, "one round a change"
        assert made.events("kernel-changed")[-1]["added"] == ["10.4.0.0/24"]
        assert made.reconciler.settled


async def test_what_is_done_at_once_is_told_also_after_a_kernel_that_did_not_answer(
    virtual: trio.testing.MockClock,
) -> None:
    async with bench() as made:
        await calm(made)
        made.kernel.broken = OSError(5, "Input/output error")
        made.kernel.add_foreign(ForeignRoute(net("10.1.0.0/25"), None, "net0", 4, 0))
        await trio.sleep(5)
        assert made.events("kernel-error")
        made.kernel.broken = None
        await calm(made)
        made.desired = wanted("10.2.0.0/24")
        made.reconciler.act()
        await until(made, lambda: made.reconciler.settled)
        assert made.events("kernel-changed")[-1]["added"] == ["10.2.0.0/24"]


async def test_a_notice_that_nobody_took_yet_leads_to_a_reading_before_anything_is_written() -> (
    None
):
    kernel = Counted()
    async with bench(kernel=kernel) as made:
        made.want(wanted("10.2.0.0/24"))
        await calm(made)
        readings, plans = kernel.readings, len(kernel.plans)
        kernel.delete_route(net("10.2.0.0/24"))
        made.desired = wanted("10.2.0.0/24", "10.3.0.0/24")
        made.reconciler.act()
        assert (kernel.readings, len(kernel.plans)) == (readings, plans)
        await calm(made)
        assert kernel.readings > readings
        assert Memory.read(kernel).state == wanted("10.2.0.0/24", "10.3.0.0/24")


async def test_a_route_of_others_that_bore_on_nothing_counts_when_the_next_change_is_decided(
    virtual: trio.testing.MockClock,
) -> None:
    kernel = Counted()
    async with bench(kernel=kernel) as made:
        made.want(wanted("10.2.0.0/24"))
        await calm(made)
        readings = kernel.readings
        kernel.add_foreign(ForeignRoute(net("10.3.0.0/16"), None, "net0", 4, 9))
        await trio.sleep(0.05)
        assert kernel.readings == readings, "it is no reason to look"
        made.desired = wanted("10.2.0.0/24", "10.3.0.0/24")
        made.reconciler.act()
        await calm(made)
        assert kernel.readings > readings


async def test_what_failed_is_read_before_it_is_tried_again() -> None:
    kernel = Counted()
    async with bench(kernel=kernel) as made:
        await calm(made)
        bad = NextHops.via(ipaddress.ip_address("203.0.113.1"), "net0")
        state = wanted("10.2.0.0/24")
        made.desired = attrs.evolve(state, routes={net("10.2.0.0/24"): bad})
        made.reconciler.act()
        readings = kernel.readings
        made.want(state)
        await calm(made)
        assert kernel.readings > readings
        assert Memory.read(kernel).state == state


async def test_a_minute_after_the_last_reading_there_is_one_however_much_the_mesh_wants(
    virtual: trio.testing.MockClock,
) -> None:
    kernel = Counted()
    async with bench(kernel=kernel) as made:
        await trio.sleep(1)
        readings = kernel.readings
        for number in range(150):
            made.desired = wanted(f"10.2.{number}.0/24")
            made.reconciler.act()
            await trio.sleep(1)
        assert kernel.readings - readings == 2
