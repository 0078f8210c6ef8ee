"""A health check as a value, and what its answers add up to. Pure."""

from __future__ import annotations

from typing import Final

import attrs

from protocol.address import Endpoint

HEALTHY: Final = ""
"""The answer of a check that has nothing to complain of; any other text is the complaint."""


@attrs.frozen
class Check:
    """What the config's table ``[health."..."]`` says: one of the first three, and when."""

    command: tuple[str, ...] = ()
    """A program and its arguments: exit 0 is healthy."""
    tcp: Endpoint | None = None
    """It must accept a connection."""
    interface: str | None = None
    """It must be up, with a carrier."""
    interval: float = 5.0
    """Seconds from one asking to the next (keepalived has 60, HAProxy 2)."""
    timeout: float = 2.0
    """Seconds after which silence is an answer."""
    rise: int = 2
    """Good answers in a row that make it healthy again (HAProxy's)."""
    fall: int = 3
    """Bad answers in a row that make it unhealthy (HAProxy's)."""


@attrs.define(eq=False)
class Standing:
    """What the answers so far add up to.

    It begins as HAProxy's does: healthy, and one bad answer away from being so no more.  A
    daemon that starts again does not take away what works, and does not offer for long what
    does not.
    """

    check: Check
    healthy: bool = True
    reason: str = HEALTHY
    """The last complaint."""
    since: float = 0.0
    """When it became what it is, in the caller's seconds."""
    asked: int = 0
    row: int = attrs.field(init=False)
    """Answers in a row that speak against what it is now."""

    def __attrs_post_init__(self) -> None:
        self.row = self.check.fall - 1

    def note(self, answer: str, now: float) -> bool:
        """Count an answer; whether it has changed what this is."""
        self.asked += 1
        good = answer == HEALTHY
        if not good:
            self.reason = answer
        if good == self.healthy:
            self.row = 0
            return False
        self.row += 1
        if self.row < (self.check.rise if good else self.check.fall):
            return False
        self.healthy, self.since, self.row = good, now, 0
        return True
