"""A standing fleet: prefixes more, commands, and nothing at all."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network
from typing import Final

from benchmark.comparison.job import Job, Sample
from benchmark.comparison.resting import idle, processor
from benchmark.comparison.scenarios import MEMBERSHIP
from benchmark.comparison.stage import Number, Stage
from benchmark.holdings import key

MANY: Final = 1000

GONE_S: Final = 2.0
"""Without a change, after which what was withdrawn and is there stays."""

OVER_S: Final = 2.0
"""... and after which daemons are done with what they still do about it, in whose way the next
would come."""


def standing(job: Job) -> Iterator[Sample]:
    """Announcing, idling and commands on one fleet; commands last, for they leave prefixes."""
    too_many = [
        name
        for name, count in (("announce-1000", MANY), ("idle", job.prefixes))
        if name in job.todo and count > job.system.most
    ]
    for name in too_many:
        note = MEMBERSHIP if not job.system.protocol else f"at most {job.system.most} a node"
        yield from (job.sample(name, run, {}, note=note) for run in job.todo[name])
    todo = {name: runs for name, runs in job.todo.items() if runs and name not in too_many}
    if not todo:
        return
    with job.stage() as stage:
        stage.stand(stage.daemons)
        if job.prefixes > 1:
            grow(job, stage)
        stage.lossy(job.loss)
        for run in todo.get("announce", ()):
            who = 1 + run % job.nodes
            yield job.attempt("announce", run, lambda w=who: _announced(job, stage, w, 1), stage)  # type: ignore[misc]
        for run in todo.get("idle", ()):
            stage.settle()
            yield job.sample("idle", run, idle(stage, job.seconds), stage)
        if runs := todo.get("announce-1000", ()):
            yield from _thousands(job, stage, runs)
        for run in todo.get("command", ()):
            yield job.sample("command", run, _command(job, stage, 1 + run % job.nodes))


def _thousands(job: Job, stage: Stage, runs: Sequence[int]) -> Iterator[Sample]:
    """All from one node, which withdraws its own subnet first: it would be one too many."""
    who = 1
    _told_and_gone(stage, who, [stage.lab.zone(who).prefix4])
    for run in runs:
        yield job.attempt("announce-1000", run, lambda: _announced(job, stage, who, MANY), stage)


def _announced(job: Job, stage: Stage, who: Number, count: int) -> dict[str, float]:
    prefixes = job.supply.take(count)
    nets = set(map(key, prefixes))
    rest = stage.running - {who}
    expected = stage.holdings.expect(dict.fromkeys(rest, nets))
    before = processor(stage)
    told = stage.announce(who, prefixes)
    last = stage.in_time(expected.wait(stage.patience), "announced")
    spent = processor(stage) - before
    _told_and_gone(stage, who, prefixes)
    return {"": last - told, "processor per node": 1000 * spent / len(stage.running)}


def _told_and_gone(stage: Stage, who: Number, prefixes: Sequence[IPv4Network]) -> None:
    """Withdrawn, and quiet again.

    babeld 1.12.1 withdraws another prefix than the one that has gone (fixed in 1.12.2: "Reinstall
    the right route in check_xroutes"), so what stays is left to its expiry: it is never used again.
    """
    nets = set(map(key, prefixes))
    expected = stage.holdings.expect(dict.fromkeys(stage.running - {who}, nets), gone=True)
    told = stage.withdraw(who, prefixes)
    while not expected.wait(GONE_S).done:
        if time.monotonic() > max(told, stage.holdings.last_change) + GONE_S:
            break
    stage.holdings.quiet(OVER_S, 10)


def grow(job: Job, stage: Stage) -> None:
    """Each node announces so many as asked for, one node after the other."""
    stage.say(f"{stage.system.name}: {job.prefixes} prefixes at each of {job.nodes} nodes")
    for number in sorted(stage.running):
        prefixes = job.supply.take(job.prefixes - 1)
        nets = set(map(key, prefixes))
        expected = stage.holdings.expect(dict.fromkeys(stage.running - {number}, nets))
        stage.announce(number, prefixes)
        stage.in_time(expected.wait(stage.patience), f"{job.prefixes} prefixes of router {number}")
    stage.settle()


def _command(job: Job, stage: Stage, who: Number) -> dict[str, float]:
    """Milliseconds from the start of a command to its end."""
    (prefix,) = job.supply.take(1)
    daemon = stage.daemons[who]
    argv = daemon.tool(prefix)
    with daemon.zone.router.entered():
        began = time.monotonic()
        subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            check=True,
        )  # fmt: skip
        took = time.monotonic() - began
    return {"": 1000 * took}
