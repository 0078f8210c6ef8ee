"""``scripts/soak``: faults for half an hour, and whether every rule held."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from netlab import CommandError
from netlab.lab import MAX_ZONES
from soaking.deeds import BREAKS
from soaking.rounds import LEAST_ZONES, Outcome, Settings, soak

_DESCRIPTION: Final = """\
Real daemons in network namespaces, and faults at random: daemons stopped, killed and restarted,
cables out, interfaces down, subnets announced and withdrawn, routes, guards and set elements
deleted, rulesets flushed and reloaded, routes of others that come and go. Traffic between all
private zones goes on all the while. After every few faults all has to settle, and then:

  - every kernel holds exactly what the mesh says, by `ip -j` and `nft -j`;
  - every daemon says so of itself: in sync, converged, as many peers as there are;
  - no packet of a private subnet has been seen at the default gateway;
  - none between announced subnets has arrived translated.

The first rule that is broken ends it. Needs root.

examples:
  scripts/soak                            half an hour, 16 zones
  scripts/soak --seconds 60 --zones 6     a minute
  scripts/soak --seed 7                   the same faults in the same order
  scripts/soak --break guard              takes guards away behind meshd's back: must end with 1
"""

_EPILOG: Final = """\
exit codes: 0 every rule held, 1 one was broken (what differed is on standard error, the logs and
kernels are kept), 2 the command line makes no sense, 130 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 every rule held, 1 one was broken, 2 usage, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(argv)
    if not LEAST_ZONES <= options.zones <= MAX_ZONES:
        parser.error(f"--zones must be {LEAST_ZONES} to {MAX_ZONES}")
    if options.seconds <= 0 or options.rate <= 0:
        parser.error("--seconds and --rate must be more than 0")
    if os.geteuid() != 0:
        parser.error("makes network namespaces: run as root")
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    settings = Settings(
        options.zones, options.seconds, seed, options.rate, breaks=options.breaks or ""
    )
    for number in (signal.SIGTERM, signal.SIGHUP):  # as after Ctrl-C: nothing is left behind
        signal.signal(number, _interrupted)
    _say(f"--seed {seed}")
    directory = Path(options.logs or tempfile.mkdtemp(prefix="meshd-soak-"))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        outcome = soak(settings, directory, _say)
    except KeyboardInterrupt:
        return 130
    except (CommandError, OSError) as error:
        _say(f"{error}; logs are in {directory}")
        return 1
    if options.json:
        print(json.dumps(outcome.as_json(), indent=2))
    for line in outcome.broken:
        _say(line)
    _say(_summary(outcome))
    if outcome.broken:
        _say(f"logs, kernels and the history of faults are in {directory}; again: --seed {seed}")
    elif not options.logs:
        shutil.rmtree(directory)
    return 1 if outcome.broken else 0


def _summary(outcome: Outcome) -> str:
    told = outcome.as_json()
    verdict = "BROKEN" if outcome.broken else "every rule held"
    return (
        f"{verdict}: {sum(outcome.faults.values())} faults in {outcome.rounds} rounds and "
        f"{outcome.seconds:.0f} s, settled within {told['settled_s']['max']:.1f} s; "
        f"{outcome.sent:,} datagrams sent, {outcome.leaked} leaked, {outcome.translated} translated"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="soak",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--zones", type=int, default=16, metavar="N", help=f"{LEAST_ZONES} at least (default: 16)")
    add("--seconds", type=float, default=1800, metavar="S", help="of faults (default: 1800)")
    add("--seed", type=int, metavar="N", help="of the faults and their order (default: by chance)")
    add("--rate", type=float, default=300, metavar="N", help="datagrams a second (default: 300)")
    add("--break", dest="breaks", choices=BREAKS, help="show that it would notice: exit 1")
    add("--logs", metavar="DIR", help="keep the logs there (default: kept only when a rule broke)")
    add("--json", action="store_true", help="one JSON object on standard output, nothing else")
    return parser


def _interrupted(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _say(what: str) -> None:
    print(f"soak: {what}", file=sys.stderr, flush=True)
