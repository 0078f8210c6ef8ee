"""The store: a map from slot to the newest signed object heard for it.

It is a pure function of what was heard.  The merge of each slot is commutative,
idempotent and associative, so every node that has heard the same objects has the same
store and the same root.  Nothing in it depends on a clock, a policy or an opinion, and
nothing is forgotten but by revocation, and by a succession that has taken effect: then
what earlier authorities said of nodes counts no more.  Signatures are verified by the
caller, before.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Generic, TypeVar, cast

from protocol.merkle import SLOT_SIZE, Tree
from protocol.objects import Announcement, Grant, Record, Revocation, Successor, members_hash
from protocol.tuning import MAX_MEMBERS, MAX_WAITING


@lru_cache(maxsize=4 * MAX_MEMBERS)
def slot_id(kind: int, subject: bytes) -> bytes:
    """The 12-byte name of a slot, also its place in the tree: a node's three slots stand
    side by side, its grant before its announcement."""
    return hashlib.sha256(b"meshd/1 slot\0" + subject).digest()[: SLOT_SIZE - 1] + bytes([kind])


def slot_of(record: Record) -> bytes:
    """The slot that ``record`` belongs into."""
    return slot_id(record.KIND, record.subject)


class Outcome(enum.Enum):
    """What became of an object that was merged."""

    NEW = enum.auto()
    """It is now the newest in its slot."""
    SAME = enum.auto()
    OLDER = enum.auto()
    """The slot holds a newer one."""
    WAITING = enum.auto()
    """An announcement without its grant: kept outside the store until that comes."""
    REVOKED = enum.auto()
    LAPSED = enum.auto()
    """It is the word of an authority that was succeeded."""
    FULL = enum.auto()
    """There is no room for its node; an announcement does not wait then."""


def newer(one: Record, other: Record) -> bool:
    """True when ``one`` replaces ``other`` in their slot: version, then larger hash."""
    return (one.version, one.hash) > (other.version, other.hash)


AnyRecord = TypeVar("AnyRecord", Grant, Revocation, Announcement)


class Section(Mapping[bytes, AnyRecord], Generic[AnyRecord]):
    """The objects of one kind in a store, by the node they are about, in slot order."""

    def __init__(self, store: Store, kind: type[AnyRecord]) -> None:
        self._store, self._kind = store, kind.KIND

    def get(self, node: bytes) -> AnyRecord | None:  # type: ignore[override]
        """``node``'s object, None when there is none. Asked for each datagram, several times."""
        return cast("AnyRecord | None", self._store.tree.get(slot_id(self._kind, node)))

    def __getitem__(self, node: bytes) -> AnyRecord:
        found = self.get(node)
        if found is None:
            raise KeyError(node)
        return found

    def __contains__(self, node: object) -> bool:
        return self.get(cast(bytes, node)) is not None

    def __iter__(self) -> Iterator[bytes]:
        return (each.node for each in self.all())

    def all(self) -> Iterator[AnyRecord]:
        """The objects themselves: ``values()`` without a lookup for each."""
        return (cast(AnyRecord, each) for each in self._store.tree if self._kind == each.KIND)

    def __len__(self) -> int:
        return self._store.tree.count(self._kind)

    def last(self) -> AnyRecord:
        """The one in the last slot; ``IndexError`` when there is none."""
        return cast(AnyRecord, self._store.tree.nth(self._kind, len(self) - 1))

    def nth(self, number: int) -> AnyRecord:
        """The one with that many of its kind before it; ``IndexError`` beyond the last."""
        return cast(AnyRecord, self._store.tree.nth(self._kind, number))

    def rank(self, node: bytes) -> int:
        """How many of its kind stand before ``node``'s."""
        return self._store.tree.rank(slot_id(self._kind, node))


class Store:
    """Grants, revocations and announcements, one newest of each a node.

    The order of announcements by slot is the *member list* that a root determines.
    """

    def __init__(self, tree: Tree[Record] | None = None) -> None:
        """Empty, or with what ``tree`` holds: trees are values, so that is free."""
        self.tree: Tree[Record] = tree or Tree()
        """The slots; not to be changed from outside."""
        self.grants = Section(self, Grant)
        self.revocations = Section(self, Revocation)
        self.announcements = Section(self, Announcement)
        self.generation = 0
        """The authority in effect: what earlier ones said is neither held nor taken."""
        self.evicted: list[bytes] = []
        """Nodes that had to leave for others; for the owner to take."""
        self.lapsed: list[bytes] = []
        """Nodes that a succession did not name; for the owner to take."""
        self._waiting: dict[bytes, Announcement] = {}
        self._successor: Successor | None = None
        """The newest; in effect if ``generation`` is its own."""
        self._named: dict[bytes, None] = {}
        """Nodes that were members before it and of whom its authority has spoken."""

    @property
    def root(self) -> bytes:
        """The name of this very content: equal roots, equal stores."""
        return self.tree.root

    def __iter__(self) -> Iterator[Record]:
        """All objects, each grant before the announcement that needs it."""
        return iter(self.tree)

    def in_slot(self, slot: bytes) -> Record | None:
        """The object in the slot of that id."""
        return self.tree.get(slot)

    @property
    def pending(self) -> Successor | None:
        """The succession that waits for objects of its authority."""
        found = self._successor
        return found if found is not None and found.generation > self.generation else None

    def successor(self, generation: int) -> Successor | None:
        """The one that made the authority of that generation."""
        return cast("Successor | None", self.tree.get(slot_id(Successor.KIND, bytes([generation]))))

    def merge(self, record: Record) -> Outcome:
        """Put a verified object into its slot if it is the newest there.

        At the bound the nodes whose slots come first stay, on every node alike.
        """
        slot = slot_of(record)
        held = self.tree.get(slot)
        if held is not None:
            if held.hash == record.hash:
                return Outcome.SAME
            if not newer(record, held):
                return Outcome.OLDER
            if isinstance(record, Successor) and record.generation <= self.generation:
                return Outcome.OLDER  # what took effect stands, whoever finds the used key later
        if isinstance(record, Announcement):
            if record.node not in self.grants:
                fits = self._fits(self.grants, slot_id(Grant.KIND, record.node))
                return self._keep_waiting(record) if fits else Outcome.FULL
        elif isinstance(record, Grant | Revocation):
            if record.generation < self.generation:
                return Outcome.LAPSED
            if isinstance(record, Grant):
                revocation = self.revocations.get(record.node)
                if revocation is not None and revocation.generation >= record.generation:
                    return Outcome.REVOKED
            else:
                grant = self.grants.get(record.node)
                if grant is not None and grant.generation > record.generation:
                    return Outcome.OLDER
            section = self.grants if isinstance(record, Grant) else self.revocations
            if held is None and len(section) >= MAX_MEMBERS:
                if not self._fits(section, slot):
                    return Outcome.FULL
                last = section.last().node
                self._empty(record.KIND, last)
                if isinstance(record, Grant):
                    self.evicted.append(last)
            if isinstance(record, Revocation):
                self._empty(Grant.KIND, record.node)
                self._waiting.pop(record.node, None)
            else:
                self._empty(Revocation.KIND, record.node)  # by an earlier authority
        self.tree = self.tree.put(slot, record)
        if not isinstance(record, Announcement):
            self._succeed(record)
        return Outcome.NEW

    def _succeed(self, new: Grant | Revocation | Successor) -> None:
        """Let the newest authority take effect once it has spoken of every node it named."""
        if isinstance(new, Successor) and (
            self._successor is None or new.generation >= self._successor.generation
        ):
            self._successor, self._named = new, {}
            for grant in self.grants.all():
                self._note(grant)
            for revocation in self.revocations.all():
                self._note(revocation)
        elif not isinstance(new, Successor):
            self._note(new)
        pending = self.pending
        if pending is None or len(self._named) != pending.count:
            return
        if members_hash(self._named) == pending.members:
            self.generation = pending.generation
            for grant in list(self.grants.all()):
                if grant.generation < self.generation:
                    self._empty(Grant.KIND, grant.node)
                    self.lapsed.append(grant.node)
            for revocation in list(self.revocations.all()):
                if revocation.generation < self.generation:
                    self._empty(Revocation.KIND, revocation.node)

    def _note(self, word: Grant | Revocation) -> None:
        made = self._successor
        if made and word.generation == made.generation and 0 < word.since <= made.serial:
            self._named[word.node] = None

    def take_waiting(self, node: bytes) -> Announcement | None:
        """The announcement that waited for ``node``'s grant, to be merged now."""
        return self._waiting.pop(node, None)

    def _fits(self, section: Section[Grant] | Section[Revocation], slot: bytes) -> bool:
        """False when the section is full of those whose slots come before ``slot``."""
        if len(section) < MAX_MEMBERS:
            return True
        last = section.last()
        return slot < slot_id(last.KIND, last.node)

    def _keep_waiting(self, record: Announcement) -> Outcome:
        if record.node in self.revocations:
            return Outcome.REVOKED
        held = self._waiting.pop(record.node, None)
        if held is not None and not newer(record, held):
            record = held
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[record.node] = record
        return Outcome.WAITING

    def _empty(self, kind: int, node: bytes) -> None:
        """Empty the slot; an announcement goes with its grant."""
        self.tree = self.tree.without(slot_id(kind, node))
        if kind == Grant.KIND:
            self.tree = self.tree.without(slot_id(Announcement.KIND, node))
