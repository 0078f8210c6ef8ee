"""Who speaks for the mesh, and what follows from their words for its members.

Rules kept here:

- A grant or a revocation is judged once the authority of its generation is known; who
  sends one before is asked for what makes that authority.
- Another authority takes effect when it has spoken of all that it takes over, for all of
  them at once (the store decides when); whom it did not name is a member no more.
- Who is a member no more itself falls silent, and asks now and then, and after each word of
  a succession, whether another authority thinks otherwise of it.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.contacts import Contacts
from protocol.events import Revoked, Succession
from protocol.members import Common, Member
from protocol.objects import MAX_GENERATION, Announcement, Grant, Record, Revocation, Successor
from protocol.originate import Originator
from protocol.store import slot_id


def judging_order(record: Record) -> int:
    """A key by which to sort, so that each can be judged: who makes an authority comes before
    what it says."""
    return record.generation if isinstance(record, Successor) else MAX_GENERATION + 1


class Authorities:
    """Successions, admissions and expulsions at one node."""

    def __init__(
        self,
        common: Common,
        contacts: Contacts,
        originator: Originator,
        *,
        forget: Callable[[bytes, float], Member | None],
        silenced: Callable[[float], None],
    ) -> None:
        """``forget`` drops all that is held of a node, and returns what was known of it;
        ``silenced`` is told when we are a member no more."""
        self._common, self._contacts, self._originator = common, contacts, originator
        self._forget, self._silenced = forget, silenced
        self._generation = common.store.generation

    def lacking(self, record: Record) -> list[bytes]:
        """The slots of the Successors without which ``record`` cannot be judged."""
        if isinstance(record, Announcement):
            return []
        known = self._common.mesh.generation
        needed = record.generation - 1 if isinstance(record, Successor) else record.generation
        return [
            slot_id(Successor.KIND, bytes([generation]))
            for generation in range(known + 1, needed + 1)
        ]

    def spoke(self, word: Grant | Revocation | Successor, now: float) -> None:
        """``word``, which was verified, is new in the store."""
        common = self._common
        store, me = common.store, common.me.public
        if isinstance(word, Successor):
            common.mesh = common.mesh.succeeded_by(word.made)
            if me not in store.grants:
                self._contacts.hush(False)  # it may think otherwise of us: listen
        elif isinstance(word, Revocation):
            self._expel(word.node, now)
        elif word.node == me:
            self._contacts.grant = word
            if me not in store.announcements:
                self._contacts.hush(self._originator.clones.yielded)
                self._originator.admitted(now)
        elif word.node in common.members:
            common.members[word.node].name = word.name
        if store.generation != self._generation:
            self._take_effect(now)
        elif store.pending is word:
            common.events.append(Succession(word.generation, store.pending.count, in_effect=False))

    def _take_effect(self, now: float) -> None:
        store = self._common.store
        self._generation = store.generation
        made = store.successor(store.generation)
        assert made is not None
        self._common.events.append(Succession(made.generation, made.count, in_effect=True))
        while store.lapsed:
            self._expel(store.lapsed.pop(), now, lapsed=True)

    def _expel(self, node: bytes, now: float, *, lapsed: bool = False) -> None:
        member = self._forget(node, now)
        name = member.name if member is not None else ""
        if node == self._common.me.public:
            name = self._contacts.grant.name if self._contacts.grant is not None else ""
            self._contacts.hush(True)
            self._silenced(now)
        self._common.events.append(Revoked(node, name, lapsed))
