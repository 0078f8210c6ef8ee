"""Two hosts with one key: who goes on, who yields, and when it tries again.

A copied disk makes two nodes of one key, each going above the other's announcements.  One
that is superseded twice by the same boot key faces a living host and not an earlier life
of its own: the larger boot key goes on, the other *yields*.  It keeps what it has, says
nothing more of itself and seals nothing, for its key id is unknown to the others.  It asks
the other host for a sign of life, and a member for the newest announcement; HELLOs about
itself that are older are what the other host sees of it.  After ``clone_silence`` without
a sign it goes on, and if the other is still there, yields again at the first word.

Nothing is decided by a clock of another host, and nobody exits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from protocol.address import Endpoint
from protocol.events import Cloned, Reinstated
from protocol.members import Common
from protocol.objects import Announcement
from protocol.store import newer

_QUESTIONS: Final = 6
"""Times that a sign of life is asked for in ``clone_silence``: at 25 % loss each way all of
them are lost once in 140 such times."""


class Clones:
    """What one node knows of another host with its key."""

    def __init__(
        self,
        common: Common,
        *,
        yields: Callable[[bool, float], None],
        inquire: Callable[[Iterable[Endpoint]], None],
        resume: Callable[[float], object],
    ) -> None:
        self.yielded = False
        """The other host goes on and we say nothing of ourselves."""
        self._common = common
        self._yields, self._inquire, self._resume = yields, inquire, resume
        self._clone: Announcement | None = None
        """The newest that the other host is known to have said."""
        self._counted: bytes | None = None
        """Hash of our last announcement that was superseded: each counts once."""
        self._before: tuple[bytes, float] | None = None
        """By which boot key we were superseded last, and when."""
        self._since = self._heard = 0.0

    def superseded(
        self,
        newest: Announcement,
        ours: Announcement | None,
        answered_by: Endpoint | None,
        now: float,
    ) -> bool:
        """``newest`` has superseded ``ours`` (None: we said nothing yet). Do we go above it?

        ``answered_by``: where it came from, when it is the answer to a question of ours.
        """
        if self.yielded:
            self._sign(newest, answered_by, now)
            return False
        if ours is None or ours.hash == self._counted:
            return True
        before, self._before = self._before, (newest.boot_key, now)
        self._counted = ours.hash
        if self._known(newest) or self._again(newest, before, now):
            self._decide(newest, ours, now)
        return not self.yielded

    def older(self, told: Announcement, now: float) -> None:
        """A HELLO that asks carried ``told`` of our key, older than ours: a clone has yielded?"""
        if not self.yielded and not self._known(told) and self._again(told, self._before, now):
            self._clone = told
            self._common.events.append(Cloned(False, told.endpoints))

    def _known(self, told: Announcement) -> bool:
        return self._clone is not None and self._clone.boot_key == told.boot_key

    def _again(self, told: Announcement, before: tuple[bytes, float] | None, now: float) -> bool:
        """Twice by one boot key within twice the time after which who yielded tries again."""
        if before is None:
            return False
        boot_key, at = before
        return boot_key == told.boot_key and now - at <= 2 * self._common.tuning.clone_silence

    def _decide(self, newest: Announcement, ours: Announcement, now: float) -> None:
        self._clone = newest
        self.yielded = newest.boot_key > ours.boot_key
        self._common.events.append(Cloned(self.yielded, newest.endpoints))
        if self.yielded:
            self._since = self._heard = now
            self._yields(True, now)
            self._wait(now)

    def _sign(self, newest: Announcement, answered_by: Endpoint | None, now: float) -> None:
        """The other host lives: it says more than we know, or answers where it says it is."""
        clone = self._clone
        if clone is None or newer(newest, clone):
            self._clone, self._heard = newest, now
        elif newest.hash == clone.hash and answered_by in clone.endpoints:
            self._heard = now

    def _wait(self, now: float) -> None:
        pause = self._common.tuning.clone_silence / _QUESTIONS
        self._common.timers.after(pause, now, self._watch)

    def _watch(self, now: float) -> None:
        if now - self._heard < self._common.tuning.clone_silence:
            self._inquire(self._clone.endpoints if self._clone else ())
            self._wait(now)
            return
        self.yielded = False
        self._yields(False, now)
        self._common.events.append(Reinstated(now - self._since))
        self._resume(now)
