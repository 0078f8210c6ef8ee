"""The argument that scenarios with more than one system share, and what a report says of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmark.systems import SYSTEMS, System


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


def _systems(text: str) -> list[System]:
    names = text.split(",")
    for name in names:
        if name not in SYSTEMS:
            there = ", ".join(SYSTEMS)
            raise argparse.ArgumentTypeError(f"no system is called {name}; there are: {there}")
    return [SYSTEMS[name] for name in names]
