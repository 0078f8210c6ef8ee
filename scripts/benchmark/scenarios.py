"""All scenarios. A module of one has these four names."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

import attrs

from benchmark import failover, flood, install, reconcile, repair, restart, trust
from benchmark.report import Report


@attrs.frozen
class Scenario:
    """What ``scripts/bench`` knows of a module."""

    help: str
    """One line."""
    arguments: Callable[[argparse.ArgumentParser], None]
    """Adds what only this scenario is told; ``--runs`` and ``--json`` are there."""
    run: Callable[[argparse.Namespace, Callable[[str], None]], Report]
    """Measures ``options.runs`` times; the second tells how far it is."""


SCENARIOS: Final[dict[str, Scenario]] = {
    module.NAME: Scenario(module.HELP, module.arguments, module.run)
    for module in (failover, flood, install, reconcile, repair, restart, trust)
}
