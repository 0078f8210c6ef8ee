"""One round of the reconciler, as what is to be done and as what was."""

from __future__ import annotations

import attrs

from meshd.kernel.plan import Failure, FlowStep, Plan, RemoveGuard, Step
from meshd.kernel.port import Change
from meshd.kernel.state import KernelState, Reading


@attrs.frozen
class Planned:
    """What is to be done, in three parts."""

    reading: Reading
    desired: KernelState
    plan: Plan
    now: Plan
    flows: tuple[FlowStep, ...]
    """Connections to be forgotten."""
    guards: Plan
    """Guards that go behind them."""

    @classmethod
    def of(cls, reading: Reading, desired: KernelState, plan: Plan) -> Planned:
        """A backend that is ``slow`` keeps the order of the plan by itself."""
        if reading.slow:
            return cls(reading, desired, plan, plan, (), Plan())
        now: list[Step] = []
        flows: list[FlowStep] = []
        guards: list[Step] = []
        for step in plan:
            if isinstance(step, RemoveGuard):
                guards.append(step)
            elif isinstance(step, FlowStep):
                flows.append(step)
            else:
                now.append(step)
        first, last = Plan(tuple(now)), Plan(tuple(guards))
        return cls(reading, desired, plan, first, tuple(flows), last)


@attrs.define(eq=False)
class Finished:
    """One round, to be told of."""

    planned: Planned
    done: tuple[Step, ...]
    failures: list[Failure]
    before: KernelState | None
    """What was wanted until then."""
    began: float
    took: float = 0.0
    heard: list[Change] = attrs.field(factory=list)
