"""Cables and splits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from benchmark.comparison.job import Job, Sample
from benchmark.comparison.stage import NotHeld, Number, Stage

SPLIT_S: Final = 30.0

BOTH: Final = 1.0
"""Seconds between the last withdrawal and the cable: long enough for what is under way."""


def cutting(job: Job) -> Iterator[Sample]:
    """The cable of one router after the other is pulled, and put back when all others have
    withdrawn what is behind it."""
    cuts, backs = (list(job.todo.get(name, ())) for name in ("link-cut", "link-back"))
    with job.stage() as stage:
        stage.stand(stage.daemons)
        stage.lossy(job.loss)
        for at in range(max(len(cuts), len(backs))):
            number = job.nodes - at % job.nodes
            cut = job.attempt("link-cut", at, lambda n=number: _cut(stage, n), stage)  # type: ignore[misc]
            if at < len(cuts):
                yield job.sample("link-cut", cuts[at], cut.values, stage, cut.note)
            time.sleep(BOTH)
            back = _back(job, stage, number, backs[at] if at < len(backs) else 0)
            if at < len(backs):
                yield back
            if job.loss:
                stage.settle()
            else:
                stage.whole()
                stage.settle()


def _cut(stage: Stage, number: Number) -> dict[str, float]:
    rest = stage.running - {number}
    expected = stage.holdings.expect(dict.fromkeys(rest, stage.own[number]), gone=True)
    began = time.monotonic()
    stage.lab.cut(number)
    return {"": stage.in_time(expected.wait(stage.patience), "withdrawn") - began}


def _back(job: Job, stage: Stage, number: Number, run: int) -> Sample:
    rest = stage.running - {number}
    wanted = dict.fromkeys(rest, stage.own[number]) | stage.others([number])
    expected = stage.holdings.expect(wanted)
    began = time.monotonic()
    stage.lab.heal(number)
    outcome = expected.wait(stage.patience)
    if not outcome.done:
        raise NotHeld(f"after a cut routes stay away at {len(outcome.missing)} nodes")
    if not expected.affected:
        return job.sample("link-back", run, {"": None}, stage, "nothing was withdrawn")
    return job.sample("link-back", run, {"": outcome.last - began}, stage)


def splitting(job: Job) -> Iterator[Sample]:
    """A quarter of the nodes, other ones each time, cannot be heard by the rest for a while."""
    with job.stage() as stage:
        stage.stand(stage.daemons)
        stage.lossy(job.loss)
        for at, run in enumerate(job.todo["split"]):
            yield _split(job, stage, at, run)
            stage.settle()


def smaller(nodes: int, at: int) -> set[Number]:
    """The smaller side of the `at`th split: one node to three."""
    size = max(1, nodes // 4)
    return {1 + (at * size + each) % nodes for each in range(size)}


def _split(job: Job, stage: Stage, at: int, run: int) -> Sample:
    few = smaller(job.nodes, at)
    many = stage.running - few
    theirs = set().union(*(stage.own[number] for number in few))
    _part(stage, few)
    time.sleep(SPLIT_S)
    expected = stage.holdings.expect(dict.fromkeys(many, theirs))
    began = time.monotonic()
    stage.lab.switch.run(["nft", "delete", "table", "bridge", "split"])
    outcome = expected.wait(stage.patience)
    if not outcome.done:
        raise NotHeld(f"after a split routes stay away at {len(outcome.missing)} nodes")
    stage.whole()
    values: dict[str, float | None] = {"kernels affected": expected.affected}
    if not expected.affected:
        note = f"nothing was withdrawn in {SPLIT_S:g} s"
        return job.sample("split", run, {"": None, **values}, stage, note)
    return job.sample("split", run, {"": outcome.last - began, **values}, stage)


def _part(stage: Stage, few: set[Number]) -> None:
    bridge = stage.lab.segment.bridge
    ports = ", ".join(f'"{bridge}{number}"' for number in sorted(few))
    stage.lab.switch.run(
        ["nft", "-f", "-"],
        stdin=f"""\
table bridge split {{
    chain forward {{
        type filter hook forward priority 0; policy accept;
        iifname {{ {ports} }} oifname != {{ {ports} }} drop
        iifname != {{ {ports} }} oifname {{ {ports} }} drop
    }}
}}
""",
    )
