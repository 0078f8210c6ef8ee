"""Never forget how to reconnect: seeds for life, and members that failed.

Each period one of them is contacted with p = (failed + seeds that are no live member's
endpoint) / (live + 1), as Serf reconnects (serf ``config.go``, ``ReconnectInterval``): seldom
in a whole mesh, always in one that was cut in two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from protocol.address import Endpoint
from protocol.contacts import Contacts
from protocol.members import Common, Member, choose_endpoint
from protocol.objects import Announcement


class Seeds:
    """Where one node finds others again."""

    def __init__(
        self, common: Common, contacts: Contacts, knock: Callable[[Member, float], None]
    ) -> None:
        """``knock(member, now)`` sends one probe to a member that failed."""
        self._common, self._contacts, self._knock = common, contacts, knock
        self._owners: dict[Endpoint, bytes | None] | None = None
        """Seed to the member that announces that endpoint, if we know one. None until
        ``join``: before it there is nothing to agree on."""
        self._pleaded = -math.inf

    @property
    def met(self) -> bool:
        """False while we were told of others and have met nobody yet."""
        return self._owners is not None and (not self._owners or bool(self._common.members.live))

    def join(self, seeds: Iterable[Endpoint], own: tuple[Endpoint, ...], now: float) -> None:
        """Contact ``seeds``, and some members that we know from before and have not seen."""
        common = self._common
        self._owners = {seed: None for seed in seeds if seed not in own}
        for announcement in common.store.announcements.all() if self._owners else ():
            self.announced(announcement)
        doors = dict.fromkeys(self._owners)
        for key in common.members.unseen.draw(common.rng, common.tuning.start_members):
            where = choose_endpoint(common.store.announcements[key], self._contacts.families)
            if where is not None:
                doors[where] = None
        self._contacts.greet_only(doors, now)

    def announced(self, announcement: Announcement) -> None:
        """A member is at these endpoints: one of them may be a seed."""
        for where in announcement.endpoints:
            if self._owners and where in self._owners:
                self._owners[where] = announcement.node

    def plead(self, own: tuple[Endpoint, ...], now: float) -> None:
        """We are no member any more: ask now and then whether another authority has come."""
        tuning, rng = self._common.tuning, self._common.rng
        if now - self._pleaded >= tuning.plea_period:
            self._pleaded = now
            doors = [seed for seed in self._owners or () if seed not in own]
            self._contacts.inquire(rng.sample(doors, min(1, len(doors))))

    def reconnect(self, own: tuple[Endpoint, ...], now: float) -> None:
        """The period's chance to contact one that is lost."""
        members, rng = self._common.members, self._common.rng
        lost = [
            seed for seed, owner in (self._owners or {}).items()
            if owner not in members.live and seed not in own
        ]  # fmt: skip
        count = len(members.failed) + len(lost)
        if not count or rng.random() >= count / (len(members.live) + 1):
            return
        which = rng.randrange(count)
        if which < len(lost):
            self._contacts.greet(lost[which], now)
        else:
            for key in members.failed.draw(rng, 1):
                self._knock(members[key], now)
