"""What a check says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import attrs

Level = Literal["ok", "warning", "error", "unchecked"]
"""error: mesh traffic is lost or translated.  warning: it may be, or will be when something
changes.  unchecked: it could not be looked at, for the reason given."""

LEVELS: Final = ("error", "warning", "unchecked", "ok")
"""Worst first: the order of display."""


@attrs.frozen
class Finding:
    """One answer of one check. A row of ``meshd doctor --json``."""

    check: str
    level: Level
    finding: str
    """One sentence: what is so."""
    why: str = ""
    """Why it matters to the mesh."""
    fix: str = ""
    """Lines for a root shell, which mend it at once; what is to be done so that it lasts stands in
    comments."""
    where: str = ""
    """What it is about: an interface, a chain, a prefix."""

    def as_json(self) -> dict[str, Any]:
        return attrs.asdict(self)


def unchecked(check: str, reason: str) -> Finding:
    """A check that could not be made."""
    return Finding(check, "unchecked", reason)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """By level; findings of one level stay in their order."""
    return sorted(findings, key=lambda each: LEVELS.index(each.level))
