"""``scripts/bench``: measure, and say what came out."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from benchmark.comparison.measure import Measurement
from benchmark.comparison.picture import NotInstalled, draw, library
from benchmark.comparison.samples import Samples, Unreadable, read
from benchmark.comparison.scenarios import DEFAULT_SYSTEMS, FLOOR, cases
from benchmark.comparison.scenarios import SCENARIOS as COMPARED
from benchmark.comparison.table import as_json, markdown
from benchmark.scenarios import SCENARIOS
from benchmark.systems import SYSTEMS
from netlab.lab import labs, remove

_DESCRIPTION: Final = """\
Starts what people would use instead, and meshd, in the same network namespaces in the same run, and
says who needs how long and what it costs. What changes is seen in the kernels' own tables; machines
are noisy, so ratios are what counts. A table in Markdown on standard output, or one JSON object
with --json; how far it is goes to standard error. Needs root; what is missing comes from apt.

examples:
  scripts/bench --systems bird,serf,meshd --nodes 16 --scenario announce --runs 5
  scripts/bench --scenario all --nodes 3,16,64 --into bench.jsonl
      hours; interrupted and told the same again, it goes on where it was
  scripts/bench --scenario idle,split --nodes 16 --loss 10 --json > lossy.json
  scripts/bench --report bench.jsonl lossy.json --picture bench.svg
      table and picture of what was measured before

scenarios of the comparison (--scenario NAME[,NAME]... or all):
"""

_APART: Final = """

scenarios by themselves (one --scenario NAME, with options of its own: --scenario NAME --help):
"""

_SYSTEMS: Final = """

systems (--systems NAME[,NAME]...):
"""

_EPILOG: Final = (
    "exit codes: 0 done, 1 no picture, 2 the command line makes no sense, 130 interrupted"
)

_T = TypeVar("_T")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 no picture, 2 the command line makes no sense, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    apart = _scenario_apart(words)
    with _ending():
        try:
            return _run_apart(apart, words) if apart else _compare(words)
        except KeyboardInterrupt:
            return 130


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """Whatever happens, nothing of ours stays: no namespace, process or file."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, _interrupted) for number in signals}
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        for name in labs():
            if name in _names():
                remove(name)
        for number, handler in before.items():
            signal.signal(number, handler)


def _names() -> tuple[str, ...]:
    """The labs that this process makes."""
    return (f"bench{os.getpid()}", f"flood{os.getpid()}")


def _interrupted(number: int, frame: object) -> NoReturn:
    """The first ends everything in order; a second would end the cleaning up."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


# The comparison


def _compare(words: Sequence[str]) -> int:
    parser = _parser()
    options = parser.parse_args(words)
    try:
        if options.picture:
            library()  # before the hours of measuring
        if options.report:
            return _show(read(options.report), options)
        if not options.scenario:
            parser.error("the following arguments are required: --scenario (or --report)")
        samples = Samples.kept(options.into) if options.into else Samples()
    except (OSError, Unreadable, NotInstalled) as error:
        parser.error(str(error))
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    if os.geteuid() != 0:
        parser.error("the comparison needs root: it makes network namespaces")
    chosen = cases(options.scenario, options.systems, options.nodes, options.loss, options.prefixes)
    try:
        with tempfile.TemporaryDirectory(prefix="meshd-bench-") as home:
            Measurement(
                chosen, options.runs, samples, Path(home), options.patience, options.seconds, _say
            ).run()
    except KeyboardInterrupt:
        if samples.found:
            _say("interrupted: what follows is what there was by then")
            _show(samples, options)
        return 130
    return _show(samples, options)


def _show(samples: Samples, options: argparse.Namespace) -> int:
    wanted = options.systems if not options.report else ()
    sys.stdout.write(as_json(samples, wanted) if options.json else markdown(samples, wanted))
    sys.stdout.flush()
    if options.picture:
        try:
            draw(samples, options.picture, wanted)
        except (OSError, ValueError) as error:
            _say(f"no picture: {error}")
            return 1
        _say(f"{options.picture} is drawn")
    return 0


def _parser() -> argparse.ArgumentParser:
    everywhere = {FLOOR: "ip -batch and nft alone", **{n: s.settings() for n, s in SYSTEMS.items()}}
    parser = argparse.ArgumentParser(
        prog="bench",
        description=_DESCRIPTION + _listed({n: s.help for n, s in COMPARED.items()})
        + _APART + _listed({n: s.help for n, s in SCENARIOS.items()})
        + _SYSTEMS + _listed(everywhere),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add("--scenario", type=_scenarios, metavar="NAME[,NAME]...", help="of the above, or all")
    add(
        "--systems", type=_known([*SYSTEMS, FLOOR], "system"), default=list(DEFAULT_SYSTEMS),
        metavar="NAME[,NAME]...", help=f"default: {','.join(DEFAULT_SYSTEMS)}",
    )  # fmt: skip
    add(
        "--nodes", type=_numbers(int, 2, 240), default=[16], metavar="N[,N]...",
        help="routers of the mesh (default: 16)",
    )  # fmt: skip
    add("--runs", type=int, default=5, metavar="K", help="of each but idle (default: 5)")
    add(
        "--loss", type=_numbers(float, 0, 99), default=[0.0], metavar="PERCENT[,PERCENT]...",
        help="of the frames that come in by each router's uplink (default: 0)",
    )  # fmt: skip
    add(
        "--prefixes", type=_numbers(int, 1, 10_000), default=[1], metavar="P[,P]...",
        help="idle: what each node announces (default: 1)",
    )  # fmt: skip
    add("--seconds", type=float, default=60, metavar="S", help="idle: how long (default: 60)")
    add(
        "--patience", type=float, default=300, metavar="S",
        help="for anything that is waited for (default: 300; BIRD's hold time is 240)",
    )  # fmt: skip
    add("--into", type=Path, metavar="FILE", help="keep each sample there; go on with what it has")
    add("--report", type=Path, nargs="+", metavar="FILE", help="measure nothing; show these")
    add("--json", action="store_true", help="one JSON object on standard output, nothing else")
    add("--picture", type=Path, metavar="FILE", help="bars; its suffix says what: svg, png, pdf")
    return parser


def _scenarios(text: str) -> list[str]:
    if text == "all":
        return list(COMPARED)
    for name in text.split(","):
        if name in SCENARIOS:
            raise argparse.ArgumentTypeError(f"{name} goes by itself: --scenario {name}")
    return _known([*COMPARED, *SCENARIOS], "scenario")(text)


def _known(there: Sequence[str], what: str) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        for name in text.split(","):
            if name not in there:
                raise argparse.ArgumentTypeError(
                    f"no {what} is called {name}; there are: {', '.join(there)}"
                )
        return list(dict.fromkeys(text.split(",")))

    return parse


def _numbers(kind: Callable[[str], _T], least: int, most: int) -> Callable[[str], list[_T]]:
    def parse(text: str) -> list[_T]:
        try:
            found = [kind(word) for word in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text}: numbers, with commas between") from None
        for each in found:
            if not least <= each <= most:  # type: ignore[operator]
                raise argparse.ArgumentTypeError(f"{each} is not from {least} to {most}")
        return list(dict.fromkeys(found))

    return parse


# Scenarios by themselves


def _scenario_apart(words: Sequence[str]) -> str | None:
    """Its name, if it is one of those; they have arguments of their own."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--scenario")
    try:
        known, _ = parser.parse_known_args(list(words))
    except argparse.ArgumentError:
        return None
    return known.scenario if known.scenario in SCENARIOS else None


def _run_apart(name: str, words: Sequence[str]) -> int:
    scenario = SCENARIOS[name]
    parser = argparse.ArgumentParser(
        prog=f"bench --scenario {name}",
        description=scenario.help,
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--scenario", metavar="NAME", help=argparse.SUPPRESS)
    add("--runs", type=int, default=5, metavar="K", help="default: 5")
    add("--json", action="store_true", help="one JSON object on standard output, nothing else")
    scenario.arguments(parser)
    options = parser.parse_args(words)
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    report = scenario.run(options, _say)
    sys.stdout.write(report.as_json() if options.json else report.as_markdown())
    return 0


def _listed(lines: dict[str, str]) -> str:
    width = max(map(len, lines))
    return "\n".join(f"  {name.ljust(width)}  {text}" for name, text in lines.items())


def _say(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)
