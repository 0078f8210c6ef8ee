"""Sequences for this node's announcements: each handed out once in the node's life.

A sequence is max(unix ms, last persisted + 1, last sent + 1), so it rises through restarts
and clock jumps.  What is persisted is a ceiling ahead of use: nothing above it is ever
handed out, and a start goes on from it.  It is kept an hour ahead of the clock, so that no
announcement waits for a disk.  When the ceiling is reached and cannot be written there is no
sequence: the announcement waits, for one sent but forgotten might be sent again with other
content.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import attrs

from meshd.errors import StateError, UsageError
from meshd.state import StateDirectory
from protocol.objects import MAX_SEQUENCE

FILE: Final = "sequence"

RESERVE: Final = 1000
"""Sequences reserved by one write at least. As a sequence is a millisecond while the clock runs
true, a daemon that restarts every second for a year does not drift away from the clock."""

AHEAD: Final = 3_600_000
"""... and up to so many ms ahead of the clock: by so much a restart may go above it, once, until
the clock has come up; what is judged by the members' sequences is off by eight days before it
counts."""

RENEW_S: Final = AHEAD / 2000
"""Seconds after which the ceiling should be ``renew``ed: half of what is reserved."""


@attrs.define(eq=False)
class Sequence:
    """The rising sequence of one node, kept in its state directory."""

    _state: StateDirectory
    _clock: Callable[[], float]
    """Unix seconds (``time.time``)."""
    _last: int
    _ceiling: int

    @classmethod
    def load(cls, state: StateDirectory, clock: Callable[[], float]) -> Sequence:
        """Go on from the ceiling in the file, from the clock if there is none."""
        content = state.read(FILE)
        if content is None:
            return cls(state, clock, 0, 0)
        if not re.fullmatch(rb"[0-9]{1,19}\n", content) or int(content) > MAX_SEQUENCE:
            # To guess would be wrong in the worse direction, and the mesh knows better.
            raise UsageError(
                f"{state.path / FILE} holds no sequence; remove it:"
                " the mesh tells this node the last one it used"
            )
        return cls(state, clock, int(content), int(content))

    def next(self, above: int = 0) -> int:
        """A sequence higher than all before it and than ``above`` (what the mesh has of us).

        ``StateError`` when it cannot be reserved: then none is used, and the next call tries
        again. ``UsageError`` at 2^63, which a peer would refuse.
        """
        value = max(int(self._clock() * 1000), self._last + 1, above + 1)
        if value > MAX_SEQUENCE:
            raise UsageError(
                f"{self._state.path / FILE}: no sequence is left below 2^63;"
                " this node needs a new identity (`meshd purge --state`, then `meshd join`)"
            )
        if value > self._ceiling:
            self._reserve(max(value + RESERVE, int(self._clock() * 1000) + AHEAD))
        self._last = value
        return value

    def renew(self) -> None:
        """Reserve anew what time has used up; ``StateError`` when that cannot be written: what is
        reserved stays so."""
        ceiling = int(self._clock() * 1000) + AHEAD
        if ceiling > self._ceiling:
            self._reserve(ceiling)

    def _reserve(self, ceiling: int) -> None:
        ceiling = min(ceiling, MAX_SEQUENCE)
        try:
            self._state.write(FILE, f"{ceiling}\n".encode())
        except StateError as error:
            raise StateError(f"no sequence can be reserved: {error}") from None
        self._ceiling = ceiling
