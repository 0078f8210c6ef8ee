"""The checks: each a pure function from facts to findings, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from meshd.doctor.checks import filtering, kernel, membership, translation, underlay
from meshd.doctor.facts import Facts
from meshd.doctor.finding import Finding, worst_first

CHECKS: Final[tuple[Callable[[Facts], Iterable[Finding]], ...]] = (
    membership.daemon,
    membership.grant,
    membership.clock,
    kernel.forwarding,
    kernel.announced,
    kernel.reverse_path,
    kernel.shadows,
    kernel.table,
    kernel.managers,
    filtering.forward,
    filtering.port,
    filtering.bridged,
    translation.masquerade,
    underlay.silence,
    underlay.advertised,
    underlay.mtu,
)


def examine(facts: Facts) -> list[Finding]:
    """What all checks find, worst first."""
    return worst_first(finding for check in CHECKS for finding in check(facts))
