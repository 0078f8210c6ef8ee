"""Leaving: our departure is told until those we told have shown that they know."""

from __future__ import annotations

from collections.abc import Callable

from protocol.contacts import Contacts
from protocol.members import Common, Member
from protocol.messages import Push
from protocol.objects import Announcement
from protocol.tuning import FANOUT_ALL

REPEAT = 0.1
"""Seconds between two tellings. Most have shown by then that they heard the first (SPEC.md 7)."""


class Departure:
    """Tells live members, at most FANOUT_ALL; gossip tells the others."""

    def __init__(
        self, common: Common, contacts: Contacts, knock: Callable[[Member, float], None]
    ) -> None:
        """``knock(member, now)`` sends one probe, whose ack carries the member's root."""
        self._common, self._contacts, self._knock = common, contacts, knock
        self._own: Announcement | None = None
        self._unaware: dict[bytes, None] = {}

    @property
    def known(self) -> bool:
        """All whom we told have shown that they know, or are gone themselves."""
        return not self._unaware

    def begin(self, own: Announcement, now: float) -> None:
        """``own`` says that we leave; it has just been told once."""
        self._own = own
        members, rng = self._common.members, self._common.rng
        self._unaware = dict.fromkeys(members.live.draw(rng, FANOUT_ALL))
        self._common.timers.after(REPEAT, now, self._repeat)

    def told_root(self, peer: bytes, root: bytes) -> None:
        """``peer`` showed its root: with ours it knows."""
        if self._unaware and root == self._common.store.root:
            self._unaware.pop(peer, None)

    def _repeat(self, now: float) -> None:
        members, own = self._common.members, self._own
        self._unaware = {key: None for key in self._unaware if key in members.live}
        if own is None or own is not self._contacts.own or not self._unaware:
            return  # known, or not true any more: we announced ourselves again
        for key in self._unaware:
            self._contacts.send(key, Push((own,)), now)
            self._knock(members[key], now)
        self._common.timers.after(REPEAT, now, self._repeat)
