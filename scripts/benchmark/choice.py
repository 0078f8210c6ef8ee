"""The argument that scenarios with more than one system share, and what a report says of them."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable, Sequence

from benchmark.report import Figure
from benchmark.systems import SYSTEMS, System
from netlab import CommandError


def add_systems(parser: argparse.ArgumentParser, default: Sequence[str]) -> None:
    """`--systems NAME[,NAME]...`, which becomes a list of `System`."""
    parser.add_argument(
        "--systems",
        type=_systems,
        default=[SYSTEMS[name] for name in default],
        metavar="NAME[,NAME]...",
        help=f"of {', '.join(SYSTEMS)} (default: {','.join(default)})",
    )


def described(systems: Sequence[System]) -> dict[str, dict[str, str]]:
    """Version and settings of each, for the report."""
    return {each.name: {"version": each.version(), "settings": each.settings()} for each in systems}


def for_each(
    systems: Sequence[System],
    measure: Callable[[System], list[Figure]],
    say: Callable[[str], None],
) -> tuple[list[Figure], dict[str, str]]:
    """What `measure` finds of each; and of a system that did not get so far, why.

    An hour of figures is not to be lost for one system that does not come back.
    """
    figures: list[Figure] = []
    failed: dict[str, str] = {}
    for system in systems:
        try:
            figures += measure(system)
        except (CommandError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            failed[system.name] = str(error)
            say(f"{system.name} is left out: {error}")
    return figures, failed


def _systems(text: str) -> list[System]:
    names = text.split(",")
    for name in names:
        if name not in SYSTEMS:
            there = ", ".join(SYSTEMS)
            raise argparse.ArgumentTypeError(f"no system is called {name}; there are: {there}")
    return [SYSTEMS[name] for name in names]
