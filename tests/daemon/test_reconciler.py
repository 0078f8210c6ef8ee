"""The reconciler over a kernel in memory: at once, together, again, and never too much."""

from __future__ import annotations

import io
import ipaddress
import math
from contextlib import suppress

import attrs
import pytest
import trio
import trio.testing
from rounds import UPLINK, Kernel, bench, net, quiet, wanted

import meshd.dataplane.reconciler
from meshd.dataplane.reconciler import Reconciler
from meshd.errors import Refused
from meshd.kernel.memory import Memory
from meshd.kernel.state import ForeignRoute, Interface, KernelState, NextHops, Reading
from meshd.log import EventLog
from meshd.policy.decide import Decision


async def test_a_change_reaches_the_kernel_and_a_second_look_does_nothing() -> None:
    async with bench() as made:
        made.want(wanted("10.2.0.0/24"))
        await quiet(made)
        assert made.kernel.read().state == wanted("10.2.0.0/24")
        number = len([plan for plan in made.kernel.plans if plan])
        made.reconciler.wake()
        await quiet(made)
        assert len([plan for plan in made.kernel.plans if plan]) == number
        assert made.events("kernel-changed")[-1]["added"] == ["10.2.0.0/24"]


async def test_a_burst_of_wakes_is_taken_together() -> None:
    async with bench() as made:
        await quiet(made)
        before = made.settled
        for number in range(2, 102):
            made.want(wanted(*(f"10.{each}.0.0/24" for each in range(2, number + 1))))
        await quiet(made)
        assert len(made.kernel.read().state.routes) == 100
        assert made.settled - before == 2, "one for the burst, one that quiet asked for"


async def test_nothing_is_deleted_before_the_table_is_in_sync() -> None:
    kernel = Kernel()
    async with bench(kernel=kernel) as made:
        made.want(wanted("10.2.0.0/24", "10.3.0.0/24"))
        await quiet(made)
    async with bench(kernel=kernel, synced=False) as made:
        made.want(wanted("10.3.0.0/24"))
        await quiet(made)
        assert set(kernel.read().state.routes) == {net("10.2.0.0/24"), net("10.3.0.0/24")}
        assert net("10.2.0.0/24") in kernel.read().state.mesh
        made.reconciler.in_sync_with_mesh()
        await quiet(made)
        assert kernel.read().state == wanted("10.3.0.0/24")


async def test_what_is_adopted_is_excluded_though_the_ruleset_was_flushed_meanwhile() -> None:
    kernel = Kernel()
    async with bench(kernel=kernel) as made:
        made.want(wanted("10.2.0.0/24"))
        await quiet(made)
    kernel.flush_ruleset()
    async with bench(kernel=kernel, synced=False) as made:
        await quiet(made)
        assert kernel.read().state == wanted("10.2.0.0/24")


async def test_stopping_leaves_the_kernel_as_it_is() -> None:
    async with bench() as made:
        made.want(wanted("10.2.0.0/24"))
        await quiet(made)
    assert made.kernel.read().state == wanted("10.2.0.0/24")


async def test_after_a_purge_nothing_is_written_any_more() -> None:
    async with bench() as made:
        made.want(wanted("10.2.0.0/24"))
        await quiet(made)
        await made.reconciler.purge()
        assert await made.reconciler.round() == math.inf
        assert made.kernel.read().state == KernelState()


async def test_what_somebody_deletes_is_repaired_and_told() -> None:
    async with bench() as made:
        made.want(wanted("10.2.0.0/24"))
        await quiet(made)
        made.kernel.delete_route(net("10.2.0.0/24"))
        await quiet(made)
        assert made.kernel.read().state == wanted("10.2.0.0/24")
        assert made.events("kernel-repaired")[-1]["added"] == ["10.2.0.0/24"]


async def test_a_repair_that_nobody_is_known_for_names_who_does_such_things() -> None:
    class Hinting(Kernel):
        def hints(self) -> list[str]:
            return ["networkd removes routes"]

        def _tell(self, what: str, about: object = "ours") -> None:
            """Some kernels take routes away without a word."""

        def undisturbed(self) -> bool:
            return False

    kernel = Hinting()
    async with bench(kernel=kernel) as made:
        made.want(wanted("10.2.0.0/24"))
        await quiet(made)
        kernel.delete_route(net("10.2.0.0/24"))
        await quiet(made)
        (event,) = made.events("kernel-repaired")
        assert event["by"] is None
        assert event["hints"] == ["networkd removes routes"]
        assert made.reconciler.status.repairs.by == {"nobody known": 1}


async def test_a_kernel_that_does_not_answer_is_told_once_and_asked_more_and_more_slowly() -> None:
    kernel, output = Kernel(), io.StringIO()
    reconciler = Reconciler(
        kernel,
        lambda reading: Decision(wanted("10.2.0.0/24"), ()),
        log=EventLog(output, "json"),
        settled=lambda: None,
    )
    kernel.broken = OSError(5, "Input/output error")
    waits = [await reconciler.round() for _ in range(12)]
    assert waits[:3] == [0.1, 0.2, 0.4]
    assert waits[-1] == 30
    assert output.getvalue().count("kernel-error") == 1
    assert reconciler.status.error == "the kernel does not answer: Input/output error"
    assert not reconciler.status.in_sync
    kernel.broken = None
    assert await reconciler.round() == pytest.approx(60, abs=1)
    assert kernel.read().state == wanted("10.2.0.0/24")
    assert reconciler.status.in_sync
    assert reconciler.status.error is None


async def test_a_prefix_that_fails_is_named_and_the_others_go_on() -> None:
    async with bench() as made:
        bad = NextHops.via(ipaddress.ip_address("203.0.113.1"), "net0")
        state = wanted("10.2.0.0/24")
        both = attrs.evolve(
            state,
            routes={**state.routes, net("10.3.0.0/24"): bad},
            guards=state.guards | {net("10.3.0.0/24")},
            mesh=state.mesh | {net("10.3.0.0/24")},
        )
        made.want(both)
        await quiet(made)
        assert net("10.2.0.0/24") in made.kernel.read().state.routes
        assert net("10.3.0.0/24") in made.reconciler.status.failed
        assert not made.reconciler.status.in_sync
        assert made.events("kernel-error")


async def test_it_looks_again_when_the_decision_says_that_time_will_change_it() -> None:
    kernel, output = Kernel(), io.StringIO()
    soon = Decision(wanted("10.2.0.0/24"), (), look_again=7.0)
    reconciler = Reconciler(
        kernel, lambda reading: soon, log=EventLog(output, "json"), settled=lambda: None
    )
    assert await reconciler.round() == 7.0


async def test_a_kernel_that_does_not_answer_a_question_is_no_and_not_the_end() -> None:
    async with bench() as made:
        made.kernel.broken = OSError(5, "Input/output error")
        with pytest.raises(Refused, match="the kernel does not answer: Input/output error"):
            await made.reconciler.look()


async def test_looking_at_the_plan_changes_nothing() -> None:
    async with bench() as made:
        await quiet(made)
        made.desired = wanted("10.2.0.0/24")
        found = await made.reconciler.look()
        assert any("10.2.0.0/24 via 192.0.2.2 dev net0" in step for step in found["steps"])
        assert made.kernel.read().state.routes == {}


class Slow(Kernel):
    """Each round begins with a reading, which takes ``cost`` seconds of the clock that the
    reconciler measures by."""

    def __init__(self) -> None:
        super().__init__()
        self.cost, self.at, self.readings = 0.1, 0.0, 0

    def undisturbed(self) -> bool:
        return False

    def monotonic(self) -> float:
        return self.at

    def read(self) -> Reading:
        self.at += self.cost
        self.readings += 1
        return super().read()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    kernel = Slow()
    monkeypatch.setattr(meshd.dataplane.reconciler, "time", kernel)
    return kernel


async def test_who_deletes_without_end_is_repaired_without_end_and_at_a_bounded_pace(
    slow: Slow, virtual: trio.testing.MockClock
) -> None:
    async with bench(kernel=slow) as made:
        made.want(wanted("10.2.0.0/24"))
        await trio.sleep(10)
        began, readings = trio.current_time(), slow.readings
        for _ in range(1000):
            with suppress(KeyError):
                slow.delete_route(net("10.2.0.0/24"))
            await trio.sleep(0.01)
        took = trio.current_time() - began
        # Four times what one costs, and not more than a whole one and a half second.
        assert took / 0.55 < slow.readings - readings < took / 0.4 + 3
        await trio.sleep(0.6)
        assert slow.read().state == wanted("10.2.0.0/24")
        repairs = made.reconciler.status.repairs
        assert repairs.by == {"somebody": repairs.total}
        told = made.events("kernel-repaired")
        assert len(told) < repairs.total
        # Each that is told says how many were not.
        assert sum(1 + event.get("untold", 0) for event in told) <= repairs.total


async def test_a_first_notice_and_a_change_of_the_mesh_do_not_wait(
    slow: Slow, virtual: trio.testing.MockClock
) -> None:
    async with bench(kernel=slow) as made:
        made.want(wanted("10.2.0.0/24"))
        await trio.sleep(10)
        slow.delete_route(net("10.2.0.0/24"))
        await trio.sleep(0.01)
        assert net("10.2.0.0/24") in Memory.read(slow).state.routes
        # Now it rests: the next notice waits, but not what the mesh wants.
        slow.delete_route(net("10.2.0.0/24"))
        await trio.sleep(0.2)
        assert net("10.2.0.0/24") not in Memory.read(slow).state.routes
        made.want(wanted("10.2.0.0/24", "10.3.0.0/24"))
        await trio.sleep(0.01)
        assert Memory.read(slow).state == wanted("10.2.0.0/24", "10.3.0.0/24")


async def test_changes_of_the_mesh_that_come_one_by_one_take_half_of_the_time_at_most(
    slow: Slow, virtual: trio.testing.MockClock
) -> None:
    async with bench(kernel=slow) as made:
        await trio.sleep(10)
        before = slow.readings
        for number in range(100):
            made.want(wanted(f"10.2.{number}.0/24"))
            await trio.sleep(0.01)
        # A second of changes, with 0.1 s of rest after each reading, which itself takes no time.
        assert 9 <= slow.readings - before <= 11
        await trio.sleep(0.2)
        assert Memory.read(slow).state == wanted("10.2.99.0/24")


async def test_routes_of_others_that_bear_on_nothing_of_the_mesh_are_no_reason_to_look(
    slow: Slow, virtual: trio.testing.MockClock
) -> None:
    async with bench(kernel=slow) as made:
        made.want(wanted("10.2.0.0/24"))
        await trio.sleep(10)
        readings, gateway = slow.readings, ipaddress.ip_address("192.0.2.9")

        async def looks(*prefixes: str) -> int:
            nonlocal readings
            before = slow.readings
            for prefix in prefixes:
                slow.add_foreign(ForeignRoute(net(prefix), gateway, "net0", 4, 9))
            await trio.sleep(1)
            return slow.readings - before

        assert await looks(*(f"8.8.{each}.0/24" for each in range(250))) == 0
        for near in ("10.2.0.0/24", "10.2.0.7/32", "10.0.0.0/8", "0.0.0.0/0", "10.1.0.0/24"):
            assert await looks(near) == 1, near


async def test_a_prefix_that_fails_for_good_makes_no_repair_of_another_a_change(
    virtual: trio.testing.MockClock,
) -> None:
    async with bench() as made:
        bad = NextHops.via(ipaddress.ip_address("203.0.113.1"), "net0")
        state = wanted("10.2.0.0/24", "10.3.0.0/24")
        made.want(attrs.evolve(state, routes={**state.routes, net("10.3.0.0/24"): bad}))
        await trio.sleep(100)
        assert made.events("kernel-repaired") == []
        made.kernel.delete_route(net("10.2.0.0/24"))
        await trio.sleep(1)
        (event,) = made.events("kernel-repaired")
        assert event["found"] == ["route 10.2.0.0/24 was gone"]
        assert event["by"] == ["somebody"]
        assert event["added"] == ["10.2.0.0/24"]
        assert len(made.events("kernel-error")) == 1
        # What is tried again and works at last is no repair.
        made.kernel.set_interface(
            attrs.evolve(UPLINK, addresses=(*UPLINK.addresses,
                                            ipaddress.ip_interface("203.0.113.9/24")))
        )  # fmt: skip
        await trio.sleep(60)
        assert made.reconciler.status.in_sync
        assert len(made.events("kernel-repaired")) == 1


async def test_a_retry_waits_longer_each_time_and_keeps_no_repair_waiting(
    virtual: trio.testing.MockClock,
) -> None:
    async with bench() as made:
        bad = NextHops.via(ipaddress.ip_address("203.0.113.1"), "net0")
        state = wanted("10.2.0.0/24", "10.3.0.0/24")
        made.want(attrs.evolve(state, routes={**state.routes, net("10.3.0.0/24"): bad}))
        # Looks for another reason do not make it wait longer.
        for _ in range(20):
            made.reconciler.wake()
            await trio.sleep(0.01)
        rounds = len(made.kernel.plans)
        await trio.sleep(0.35)
        assert len(made.kernel.plans) - rounds >= 2
        await trio.sleep(120)
        rounds = len(made.kernel.plans)
        await trio.sleep(60)
        assert len(made.kernel.plans) - rounds <= 3, "every 30 s by now"
        made.kernel.delete_route(net("10.2.0.0/24"))
        await trio.sleep(0.1)
        assert net("10.2.0.0/24") in made.kernel.read().state.routes


@pytest.mark.parametrize("nat", ["exempt", "set", "off"])
async def test_without_nat_the_sets_stay_empty(nat: str) -> None:
    kernel = Kernel(nat=nat)
    async with bench(kernel=kernel) as made:
        made.want(wanted("10.2.0.0/24"))
        await quiet(made)
        assert bool(kernel.read().state.mesh) is (nat != "off")
        assert kernel.read().state.routes


async def test_where_meshd_is_the_nat_the_uplinks_follow_the_default_routes() -> None:
    kernel = Kernel(nat="masquerade")
    net1 = Interface("net1", 3, True, (ipaddress.ip_interface("203.0.113.1/24"),))
    defaults = {
        name: ForeignRoute(net("0.0.0.0/0"), ipaddress.ip_address(gateway), name, 3, 0)
        for name, gateway in (("net0", "192.0.2.9"), ("net1", "203.0.113.9"))
    }
    async with bench(kernel=kernel) as made:

        async def uplinks() -> frozenset[str]:
            await quiet(made)
            return kernel.read().state.uplinks

        kernel.set_interface(net1)
        kernel.add_foreign(defaults["net0"])
        assert await uplinks() == {"net0"}
        # While it flaps it stays: what begins in between would be untranslated for ever.
        kernel.set_interface(attrs.evolve(UPLINK, up=False))
        kernel.remove_foreign(defaults["net0"])
        assert await uplinks() == {"net0"}
        kernel.add_foreign(defaults["net1"])
        assert await uplinks() == {"net0", "net1"}
        kernel.set_interface(UPLINK)
        assert await uplinks() == {"net1"}
        kernel.flush_ruleset()
        assert await uplinks() == {"net1"}
