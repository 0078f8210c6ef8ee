"""The store: a map from slot to the newest signed object heard for it.

It is a pure function of what was heard.  The merge of each slot is commutative,
idempotent and associative, so every node that has heard the same objects has the same
store and the same root.  Nothing in it depends on a clock, a policy or an opinion, and
nothing is forgotten but by revocation.  Signatures are verified by the caller, before.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Generic, TypeVar, cast

from protocol.merkle import SLOT_SIZE, Tree
from protocol.objects import Announcement, Grant, Record, Revocation
from protocol.tuning import MAX_MEMBERS, MAX_WAITING


@lru_cache(maxsize=4 * MAX_MEMBERS)
def slot_id(kind: int, node: bytes) -> bytes:
    """The 12-byte name of a slot, also its place in the tree: a node's three slots stand
    side by side, its grant before its announcement."""
    return hashlib.sha256(b"meshd/1 slot\0" + node).digest()[: SLOT_SIZE - 1] + bytes([kind])


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
        self.evicted: list[bytes] = []
        """Nodes that had to leave for others; for the owner to take."""
        self._waiting: dict[bytes, Announcement] = {}

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

    def merge(self, record: Record) -> Outcome:
        """Put a verified object into its slot if it is the newest there.

        At the bound the nodes whose slots come first stay, on every node alike.
        """
        slot = slot_id(record.KIND, record.node)
        held = self.tree.get(slot)
        if held is not None:
            if held.hash == record.hash:
                return Outcome.SAME
            if not newer(record, held):
                return Outcome.OLDER
        if isinstance(record, Announcement):
            if record.node not in self.grants:
                fits = self._fits(self.grants, slot_id(Grant.KIND, record.node))
                return self._keep_waiting(record) if fits else Outcome.FULL
        else:
            if isinstance(record, Grant) and record.node in self.revocations:
                return Outcome.REVOKED
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
        self.tree = self.tree.put(slot, record)
        return Outcome.NEW

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
