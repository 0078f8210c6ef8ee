"""One node of the mesh as policy sees it: who it is, what it may, how it is. A value."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from protocol.address import Prefix
from protocol.members import Member, State
from protocol.objects import Announcement, Grant


def seniority(grant: Grant) -> int:
    """Of two equally specific grants the one for which this is lower has the prefix: the
    authority assigns it, and a renewal keeps it."""
    return grant.since


SENIORITY: Final = "first serial"
"""What ``seniority`` goes by, as messages call it."""


class Origin(NamedTuple):
    """One node and its prefixes, as the automaton knows them."""

    key: bytes
    name: str
    grant: Grant
    announcement: Announcement
    prefixes: tuple[Prefix, ...]
    """Its last whole set."""
    state: Literal["alive", "suspect", "failed", "left"]
    seen: bool
    reachable: bool = True
    failed_for: float = 0.0
    """Seconds since it failed."""
    held: str = ""
    """Failed, and why its routes stay all the same where nobody else offers them."""
    why: str = ""

    @classmethod
    def of(cls, member: Member, grant: Grant, now: float, held: str = "") -> Origin:
        """``member`` as the automaton shows it at ``now``, in the automaton's seconds."""
        failed = member.state is State.FAILED
        return cls(
            member.key,
            member.name,
            grant,
            member.announcement,
            member.prefixes,
            member.state.value,
            member.seen,
            member.reachable,
            now - member.since if failed else 0.0,
            held if failed else "",
            member.reason,
        )

    @property
    def usable(self) -> bool:
        """A route may lead through it."""
        return self.seen and (self.state in ("alive", "suspect") or bool(self.held))
