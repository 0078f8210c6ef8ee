"""``scripts/bench``: run a scenario some times, and say what came out."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from benchmark.scenarios import SCENARIOS

_DESCRIPTION: Final = """\
Measures what meshd costs, beside a floor or another system in the same run: ratios are what counts,
for machines are noisy. A table in Markdown on standard output, or one JSON object with --json; how
far it is goes to standard error.

examples:
  scripts/bench --scenario trust --runs 5
  scripts/bench --scenario trust --runs 5 --json > trust.json
  scripts/bench --scenario trust --help     what else this one is told

scenarios:
"""

_EPILOG: Final = "exit codes: 0 done, 2 the command line makes no sense, 130 interrupted"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 the command line makes no sense, 130 interrupted."""
    parser = _parser(whole=False)
    known, _ = parser.parse_known_args(argv)
    parser = _parser(whole=True)
    if known.scenario in SCENARIOS:
        SCENARIOS[known.scenario].arguments(parser)
    options = parser.parse_args(argv)
    if options.scenario not in SCENARIOS:
        there = ", ".join(SCENARIOS)
        parser.error(f"no scenario is called {options.scenario}; there are: {there}")
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    signal.signal(signal.SIGTERM, _interrupted)  # as after Ctrl-C: what was made is taken away
    try:
        report = SCENARIOS[options.scenario].run(options, _say)
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(report.as_json() if options.json else report.as_markdown())
    return 0


def _parser(*, whole: bool) -> argparse.ArgumentParser:
    """The scenario is looked for first, since it has arguments of its own."""
    width = max(map(len, SCENARIOS))
    listed = "\n".join(f"  {name.ljust(width)}  {each.help}" for name, each in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="bench",
        description=_DESCRIPTION + listed,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=whole,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--scenario", required=whole, metavar="NAME", help="one of the above")
    add("--runs", type=int, default=5, metavar="K", help="default: 5")
    add("--json", action="store_true", help="one JSON object on standard output, nothing else")
    return parser


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


def _interrupted(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
