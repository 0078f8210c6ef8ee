"""``scripts/fuzz``: hostile input for as long as it is told, and what it broke."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final

import attrs

from fuzzing.keep import FAILURES, keep, load, told
from fuzzing.mutate import mutate
from fuzzing.target import Session, Target, replay
from fuzzing.targets import TARGETS

_OFTEN: Final = 5.0
"""Seconds between two lines about a run under way."""

_DESCRIPTION: Final = """\
Puts hostile input into what reads it, and stops where something raises that may not, or a rule
breaks that holds whatever comes: one answer at most, no datagram over 1,200 octets, no more to an
address that has proven nothing than came from it, nothing still due after a tick, no table that
grows with what comes. Inputs are genuine ones with a few changes; with --guided those that reach
new code are kept and changed further (atheris, libFuzzer).

examples:
  scripts/fuzz                          every target for ten seconds
  scripts/fuzz frames sealed --seconds 600
  scripts/fuzz --count 100000 --seed 7  so many inputs for each, others than with seed 1
  scripts/fuzz token --guided --seconds 300
  scripts/fuzz --replay .fuzz/failures/token-0123456789ab

targets:
"""

_EPILOG: Final = """\
The same seed and count make the same inputs (not with --guided). What breaks a target is kept, with
everything its state was fed before, unless the last input does it alone.
exit codes: 0 nothing broke, 1 something did, 2 the command line makes no sense or --guided cannot.
"""


@attrs.frozen
class Outcome:
    """What became of one target."""

    target: Target
    inputs: int
    seconds: float
    failure: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 nothing broke, 1 something did, 2 the command line makes no sense."""
    parser = _parser()
    options = parser.parse_args(argv)
    unknown = [name for name in options.target if name not in TARGETS]
    if unknown:
        parser.error(f"no target is called {unknown[0]}; there are: {', '.join(TARGETS)}")
    if options.replay is not None:
        return _replay(parser, options.replay)
    if (options.count or 0) < 0 or options.seconds <= 0:
        parser.error("--count and --seconds must be above 0")
    targets = [TARGETS[name] for name in options.target or TARGETS]
    if options.guided:
        return _guided(parser, targets, options)
    outcomes = []
    for target in targets:
        outcomes.append(run(target, options))
        if outcomes[-1].failure:
            _say(outcomes[-1].failure)
    print(_table(outcomes))
    return 1 if any(each.failure for each in outcomes) else 0


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, TARGETS))
    listed = "\n".join(f"  {name.ljust(width)}  {each.summary}" for name, each in TARGETS.items())
    parser = argparse.ArgumentParser(
        prog="fuzz",
        description=_DESCRIPTION + listed,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("target", nargs="*", metavar="TARGET", help="some of the above (default: all)")
    add("--count", type=int, metavar="N", help="so many inputs for each, however long it takes")
    add("--seconds", type=float, default=10.0, metavar="T", help="for each (default: 10)")
    add("--seed", type=int, default=1, metavar="S", help="other inputs (default: 1)")
    add("--guided", action="store_true", help="guided by coverage: needs atheris")
    add("--keep", type=Path, default=FAILURES, metavar="DIR", help=f"default: {FAILURES}")
    add("--replay", type=Path, metavar="FILE", help="feed once more what was kept, and no more")
    return parser


def run(target: Target, options: argparse.Namespace) -> Outcome:
    """Feed one target until its time or number is up, or it breaks."""
    rng, seeds, session = Random(f"{options.seed} {target.name}"), target.seeds(), Session(target)
    began = said = time.monotonic()
    done = 0
    try:
        while done < options.count if options.count else time.monotonic() - began < options.seconds:
            session.feed(mutate(rng, seeds))
            done += 1
            if done % 256 == 0 and time.monotonic() - said > _OFTEN:
                said = time.monotonic()
                _say(f"{target.name}: {done:,} inputs, {done / (said - began):,.0f} a second")
        session.close()
    except Exception as error:
        traceback.print_exc()
        path = keep(options.keep, session)
        failure = told(target, done, path, error)
        return Outcome(target, done, time.monotonic() - began, failure)
    return Outcome(target, done, time.monotonic() - began)


def _table(outcomes: Sequence[Outcome]) -> str:
    rows = [
        f"{each.target.name.ljust(10)} {each.inputs:>12,} {each.inputs / each.seconds:>10,.0f}/s"
        f"  {'BROKEN' if each.failure else 'nothing broke'}"
        for each in outcomes
    ]
    total = sum(each.inputs for each in outcomes)
    return "\n".join([*rows, f"{'all'.ljust(10)} {total:>12,}"])


def _replay(parser: argparse.ArgumentParser, path: Path) -> int:
    try:
        name, journal = load(path)
        target = TARGETS[name]
    except (ValueError, KeyError) as error:
        parser.error(f"{error}")
    try:
        replay(target, journal)
    except Exception:
        traceback.print_exc()
        _say(f"{name}: still broken by {path}, {len(journal)} inputs")
        return 1
    print(f"{name}: {len(journal)} inputs, nothing broke")
    return 0


def _guided(
    parser: argparse.ArgumentParser, targets: Sequence[Target], options: argparse.Namespace
) -> int:
    """Each target in a process of its own, for libFuzzer ends the one that it runs in."""
    try:
        import atheris  # noqa: F401, PLC0415
    except ImportError:
        parser.error(
            "--guided needs atheris, which is not installed here: .venv/bin/pip install atheris;"
            " it exists for Linux and some versions of Python. Without --guided nothing is needed"
        )
    worst = 0
    for target in targets:
        seconds = str(max(1, round(options.seconds)))
        count = str(options.count or 0)
        command = [sys.executable, "-m", "fuzzing.guided", target.name, seconds, count,
                   str(options.seed), str(options.keep)]  # fmt: skip
        found = subprocess.run(command, check=False).returncode
        worst = max(worst, 1 if found else 0)
    return worst


def _say(what: str) -> None:
    print(f"fuzz: {what}", file=sys.stderr, flush=True)
