"""What the owner is told of members: changes of state and of prefixes, each once."""

from __future__ import annotations

from protocol.address import Prefix
from protocol.contacts import Contacts
from protocol.events import PeerChanged, PrefixesChanged, ReachabilityChanged
from protocol.members import Common, Member, choose_endpoint


class Herald:
    """Compares what is with what was told last."""

    def __init__(self, common: Common, contacts: Contacts) -> None:
        self._common, self._contacts = common, contacts

    def tell(self, member: Member, now: float) -> None:
        """``member``'s state, as shown to people, may have changed."""
        events = self._common.events
        if member.seen and member.reachable != member.shown_reachable:
            member.shown_reachable = member.reachable
            events.append(ReachabilityChanged(member.key, member.name, member.reachable))
        shown = member.shown_state
        if shown == member.shown or (member.shown is None and not member.seen):
            return
        previous, member.shown = member.shown, shown
        accusers = tuple(each.accuser for each in self._common.evidence.against(member.key))
        events.append(
            PeerChanged(
                node=member.key,
                name=member.name,
                state=shown,
                previous=previous,
                reason=member.reason,
                endpoint=choose_endpoint(member.announcement, self._contacts.families),
                accusers=accusers,
                refused=member.refused,
                seconds=now - member.shown_since,
            )
        )
        member.shown_since = now

    def tell_prefixes(
        self, node: bytes, before: tuple[Prefix, ...], after: tuple[Prefix, ...]
    ) -> None:
        """The set ``after`` has replaced ``before``."""
        if after == before:
            return  # an announcement made anew; to compare is cheaper than to hash
        old, new = dict.fromkeys(before), dict.fromkeys(after)
        added = tuple(prefix for prefix in new if prefix not in old)
        removed = tuple(prefix for prefix in old if prefix not in new)
        if added or removed:
            name = self._common.store.grants[node].name
            self._common.events.append(PrefixesChanged(node, name, added, removed))
