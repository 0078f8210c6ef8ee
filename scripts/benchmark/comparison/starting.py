"""Daemons come and go: all at once, one more, one that leaves, one that is killed."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Final

from benchmark.comparison.job import Job, Sample
from benchmark.comparison.stage import Late, NotHeld, Number, Stage
from netlab import PacedFlow

WARM_S: Final = 1.0
"""Of the flow, before its far end's daemon is killed."""

RATE: Final = 100
"""Of its datagrams, a second."""
LEAST: Final = 10
"""Of them, or their share says nothing."""


def cold(job: Job) -> Iterator[Sample]:
    """Each time a new fleet, spawned in one go; each node announces its subnet from the start."""
    for run in job.todo["cold-start"]:
        with job.stage() as stage:
            if job.loss:
                stage.set_loss(job.loss)
            numbers = list(stage.daemons)
            stage.running = set(numbers)
            expected = stage.holdings.expect(stage.others(numbers))
            spawned, ready = stage.start(numbers, at_once=True)
            outcome = expected.wait(stage.patience)
            if not outcome.done:
                raise NotHeld(f"routes are missing at {len(outcome.missing)} nodes")
            last = outcome.last
            values = {"from spawn": last - spawned, "from ready": max(0.0, last - ready)}
            yield job.sample("cold-start", run, values, stage)


def coming(job: Job) -> Iterator[Sample]:
    """One router more, which is new each time, and which leaves again or is killed."""
    joins, leaves, kills = (list(job.todo.get(name, ())) for name in ("join", "leave", "kill"))
    times = max(len(joins), len(leaves) + len(kills))
    with job.stage(nodes=job.nodes - 1, spares=times) as stage:
        stage.stand(range(1, job.nodes))
        stage.lossy(job.loss)
        for number in range(job.nodes, job.nodes + times):
            values = _joined(stage, number)
            if joins:
                yield job.sample("join", joins.pop(0), values, stage)
            if not leaves and not kills:
                stage.daemons[number].leave()
                stage.ended(number)
                continue
            stage.settle()
            if leaves:
                yield job.sample("leave", leaves.pop(0), _left(stage, number), stage)
            else:
                yield job.attempt("kill", kills.pop(0), lambda n=number: _killed(stage, n), stage)  # type: ignore[misc]
            _gone(stage, number)


def _joined(stage: Stage, number: Number) -> dict[str, float]:
    base = set(stage.running)
    wanted = {each: set(stage.own[number]) for each in base} | stage.others([number])
    expected = stage.holdings.expect(wanted)
    spawned, ready = stage.start([number])
    outcome = expected.wait(stage.patience)
    if not outcome.done:
        raise NotHeld(f"a newcomer's routes are missing at {len(outcome.missing)} nodes")
    return {"from spawn": outcome.last - spawned, "from ready": max(0.0, outcome.last - ready)}


def _left(stage: Stage, number: Number) -> dict[str, float]:
    rest = stage.running - {number}
    expected = stage.holdings.expect(dict.fromkeys(rest, stage.own[number]), gone=True)
    told = stage.daemons[number].leave()
    stage.ended(number)
    outcome = expected.wait(stage.patience)
    return {"": stage.in_time(outcome, "withdrawn") - told}


def _killed(stage: Stage, number: Number) -> dict[str, float | None]:
    """And how many of a flow's datagrams to behind that router came meanwhile."""
    rest = stage.running - {number}
    expected = stage.holdings.expect(dict.fromkeys(rest, stage.own[number]), gone=True)
    daemon = stage.daemons[number]
    if not stage.system.protocol:
        began = time.monotonic()
        daemon.stop(signal.SIGKILL)
        stage.ended(number)
        return {"": stage.in_time(expected.wait(stage.patience), "withdrawn") - began}
    near, far = stage.lab.zone(min(rest)), daemon.zone
    with PacedFlow(near.private, far.private, far.private4, RATE) as flow:
        time.sleep(WARM_S)
        first, began = flow.sent, time.monotonic()
        daemon.stop(signal.SIGKILL)
        stage.ended(number)
        outcome = expected.wait(stage.patience)
        took = stage.in_time(outcome, "withdrawn") - began
        last = min(flow.sent, first + int((outcome.at[near.number] - began) * RATE))
        time.sleep(0.1)
    came = {each.number for each in flow.arrivals if first <= each.number < last}
    enough = last - first >= LEAST
    share = 100 * len(came) / (last - first) if enough else None
    return {"": took, "packets still delivered": share}


def _gone(stage: Stage, number: Number) -> None:
    """The next one comes when nobody holds what this one announced."""
    wanted = dict.fromkeys(stage.running, stage.own[number])
    if not stage.holdings.expect(wanted, gone=True).wait(stage.patience).done:
        raise Late("what has gone is not withdrawn")
