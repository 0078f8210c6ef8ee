"""``scripts/simulate``: perform scenarios over many seeds, and say what came out."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import attrs

from simulation import plot, report
from simulation.case import NETWORKS, Case, Outcome
from simulation.scenarios import SCENARIOS, perform

_OFTEN = 5.0
"""Seconds between two lines about a run under way."""

_LARGE = 500
"""Nodes from which on a worker process is given up after each run, and its memory with it."""

_DESCRIPTION = """\
Runs the real protocol by the thousand nodes, in virtual time, over a seeded network, and
measures what a scenario is about. Each node is a server: 50 us for a datagram in, 20 us out,
170 us for a signature new to it, behind a receive buffer of 208 KiB that drops. What must be
true of every run is checked in every run: a rule that breaks ends it, and the command that
makes it again is printed.

examples:
  scripts/simulate --scenario update --nodes 100 1000 --seeds 20
                            how fast, and at what cost, one changed announcement is everywhere
  scripts/simulate --scenario idle --nodes 100 --loss 0.1 --seconds 3600
                            an hour at 10 % loss: bytes a second, and who was wrongly withdrawn
  scripts/simulate --scenario cold --nodes 2000 --seeds 3 --jobs 1
                            two thousand nodes that know one seed
  scripts/simulate --scenario churn --nodes 8 --seed 17
                            one exact run, as a failure prints it
  scripts/simulate --scenario update --nodes 100 1000 --json > update.json
  scripts/simulate --scenario update --nodes 16 64 256 1000 --plot update.svg

scenarios:
"""

_EPILOG = """\
exit codes: 0 done, 1 an invariant was broken, 2 the command line makes no sense.
The same arguments make the same output, whatever the machine.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 an invariant was broken, 2 the command line makes no sense."""
    parser = _parser()
    options = parser.parse_args(argv)
    cases = _cases(parser, options)
    if options.plot is not None:
        try:
            plot.library()
        except plot.NotInstalled as missing:
            parser.error(str(missing))
    outcomes = sorted(_performed(cases, options.jobs), key=lambda each: cases.index(each.case))
    groups = report.group(outcomes)
    if options.json:
        sys.stdout.write(report.as_json(groups))
    else:
        print(report.table(groups))
    if options.plot is not None:
        plot.draw(groups, options.plot)
    failures = [each for each in outcomes if each.failure]
    for each in failures:
        print(f"simulate: seed {each.case.seed}: {each.failure}", file=sys.stderr)
        if each.trace:
            print(each.trace, file=sys.stderr)
        print(f"simulate: again: {each.case.replay}", file=sys.stderr)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, SCENARIOS))
    listed = "\n".join(f"  {name.ljust(width)}  {each.summary}" for name, each in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="simulate",
        description=_DESCRIPTION + listed,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--scenario", nargs="+", required=True, metavar="NAME", help="one or several of the above")
    add("--nodes", nargs="+", type=int, default=[100], metavar="N", help="default: 100")
    add(
        "--loss", type=float, default=0.0, metavar="P",
        help="share of all datagrams that is lost, 0 to 1 (default: 0)",
    )  # fmt: skip
    add("--seeds", type=int, default=5, metavar="K", help="seeds 1 to K (default: 5)")
    add("--seed", type=int, metavar="S", help="this one seed")
    add(
        "--seconds", type=float, metavar="T",
        help="virtual seconds that the scenario's own phase lasts (default: the scenario's)",
    )  # fmt: skip
    add(
        "--network", choices=list(NETWORKS), default="lan",
        help="timers and delays: lan, 1 ms one way; wan, round trips of 20 to 300 ms",
    )  # fmt: skip
    add(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="J",
        help="runs at a time, each in a process of its own (default: the cores here)",
    )  # fmt: skip
    add("--json", action="store_true", help="one JSON object on standard output, nothing else")
    add("--plot", type=Path, metavar="FILE", help="a picture too: png, svg or pdf")
    return parser


def _cases(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Case]:
    unknown = [name for name in options.scenario if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario is called {unknown[0]}; there are: {', '.join(SCENARIOS)}")
    if not 0 <= options.loss < 1:
        parser.error(f"--loss {options.loss:g} is not a share: 0.1 loses a tenth")
    if options.seeds < 1 or options.jobs < 1:
        parser.error("--seeds and --jobs count from 1")
    if options.seconds is not None and options.seconds <= 0:
        parser.error("--seconds must be more than 0")
    for name in options.scenario:
        if min(options.nodes) < SCENARIOS[name].least:
            parser.error(f"{name} needs at least {SCENARIOS[name].least} nodes")
    seeds = range(1, options.seeds + 1) if options.seed is None else [options.seed]
    return [
        Case(
            scenario=name,
            nodes=nodes,
            loss=options.loss,
            seed=seed,
            seconds=SCENARIOS[name].seconds if options.seconds is None else options.seconds,
            network=options.network,
            explicit=options.seconds is not None,
        )
        for name in dict.fromkeys(options.scenario)
        for nodes in dict.fromkeys(options.nodes)
        for seed in seeds
    ]


def _performed(cases: list[Case], jobs: int) -> Iterator[Outcome]:
    """The outcomes as they come, with progress on standard error."""
    jobs = min(jobs, len(cases))
    progress = _Progress(len(cases))
    if jobs == 1:
        for case in cases:
            outcome = _attempt(case)
            progress.tell(outcome)
            yield outcome
    else:
        # Largest first: else the last worker would begin the longest run when others are idle.
        ordered = sorted(cases, key=lambda case: -case.nodes)
        with ProcessPoolExecutor(
            jobs,
            mp_context=multiprocessing.get_context("spawn"),
            max_tasks_per_child=1 if ordered[0].nodes >= _LARGE else None,
        ) as pool:
            for future in as_completed([pool.submit(_attempt, case) for case in ordered]):
                outcome = future.result()
                progress.tell(outcome)
                yield outcome
    progress.end()


def _attempt(case: Case) -> Outcome:
    """Perform it; an error of whatever kind is an outcome, that the others may go on."""
    try:
        return perform(case, _Heartbeat(case))
    except Exception as error:
        first = str(error).partition("\n")[0]
        failure = f"{type(error).__name__}: {first}"
        return Outcome(case, failure=failure, trace=traceback.format_exc())


def _show(text: str) -> None:
    """On one line of standard error, written anew; a whole line where that is no terminal."""
    if sys.stderr.isatty():
        print(f"\rsimulate: {text}\033[K", end="", file=sys.stderr, flush=True)
    else:
        print(f"simulate: {text}", file=sys.stderr, flush=True)


def _named(case: Case) -> str:
    return f"{case.scenario}, {case.nodes} nodes, seed {case.seed}"


@attrs.define(eq=False)
class _Heartbeat:
    """Says how far a run is, where that takes long."""

    case: Case
    shown: float = attrs.field(factory=time.monotonic)

    def __call__(self, how_far: str) -> None:
        now = time.monotonic()
        if now - self.shown >= _OFTEN:
            self.shown = now
            _show(f"{_named(self.case)}: {how_far}")


@attrs.define(eq=False)
class _Progress:
    """Says which runs are done."""

    total: int
    done: int = 0

    def tell(self, outcome: Outcome) -> None:
        self.done += 1
        _show(f"{self.done} of {self.total}: {_named(outcome.case)}")

    def end(self) -> None:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
