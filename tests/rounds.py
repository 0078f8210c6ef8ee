"""A reconciler over a kernel in memory, and what a test wants of the two."""

from __future__ import annotations

import io
import ipaddress
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from meshd.dataplane.reconciler import Reconciler
from meshd.kernel.memory import Memory
from meshd.kernel.plan import Failure, FlowStep, Plan
from meshd.kernel.state import Interface, KernelState, NextHops, Reading
from meshd.log import EventLog
from meshd.policy.decide import Decision
from protocol.address import Prefix


def net(text: str) -> Prefix:
    return Prefix.parse(text)


HOP = NextHops.via(ipaddress.ip_address("192.0.2.2"), "net0")
UPLINK = Interface("net0", 2, True, (ipaddress.ip_interface("192.0.2.1/24"),))
LOCAL = frozenset({net("10.1.0.0/24")})
NOTHING = KernelState(local=LOCAL)


def wanted(*prefixes: str) -> KernelState:
    nets = [net(prefix) for prefix in prefixes]
    return KernelState(
        routes=dict.fromkeys(nets, HOP),
        guards=frozenset(nets),
        local=LOCAL,
        mesh=frozenset(nets),
    )


class Kernel(Memory):
    """Counts what is asked of it, and fails when told to."""

    def __init__(self, nat: str = "exempt") -> None:
        super().__init__([UPLINK], nat=nat)
        self.plans: list[Plan] = []
        self.broken: OSError | None = None

    def read(self) -> Reading:
        if self.broken is not None:
            raise self.broken
        return super().read()

    def apply(self, plan: Plan) -> list[Failure]:
        self.plans.append(plan)
        return super().apply(plan)


@attrs.define
class Bench:
    kernel: Kernel
    reconciler: Reconciler
    output: io.StringIO
    desired: KernelState = NOTHING
    settled: int = 0
    round_done: trio.Event = attrs.field(factory=trio.Event)

    def want(self, state: KernelState) -> None:
        self.desired = state
        self.reconciler.wake()

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.output.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]


@asynccontextmanager
async def bench(*, kernel: Kernel | None = None, synced: bool = True) -> AsyncIterator[Bench]:
    output = io.StringIO()
    kernel = kernel or Kernel()
    made: Bench

    def settled() -> None:
        made.settled += 1
        made.round_done.set()
        made.round_done = trio.Event()

    reconciler = Reconciler(
        kernel,
        lambda reading: Decision(made.desired, ()),
        log=EventLog(output, "json"),
        settled=settled,
    )
    made = Bench(kernel, reconciler, output)
    async with trio.open_nursery() as nursery:
        if synced:
            reconciler.in_sync_with_mesh()
        await nursery.start(reconciler.run)
        yield made
        nursery.cancel_scope.cancel()


async def quiet(made: Bench) -> None:
    """Wait until everything asked for so far has been looked at: one whole round from now."""
    with trio.fail_after(10):
        # The round under way may have begun before the last wish: the next one has not.
        for _ in range(2):
            before = made.settled
            made.reconciler.wake()
            while made.settled == before:
                await made.round_done.wait()


class Counted(Kernel):
    """Counts readings, and lets a look through the connections wait."""

    def __init__(self) -> None:
        super().__init__()
        self.readings, self.looks = 0, 0
        self.may_look = threading.Event()
        self.may_look.set()
        self.looking = threading.Event()
        self.stuck = ""

    def read(self) -> Reading:
        self.readings += 1
        return super().read()

    def forget(self, steps: Sequence[FlowStep]) -> list[Failure]:
        self.looks += 1
        self.looking.set()
        self.may_look.wait(10)
        if self.stuck:
            return [Failure(step, self.stuck) for step in steps]
        return super().forget(steps)


async def calm(made: Bench) -> None:
    """Everything is done, and the pause after it is over."""
    await quiet(made)
    await trio.sleep_until(made.reconciler._paused)
    assert made.reconciler.settled


async def until(made: Bench, condition: Callable[[], bool]) -> None:
    """Wait for what a round, or a look through the connections, brings about."""
    with trio.fail_after(5):
        while not condition():
            await made.round_done.wait()
