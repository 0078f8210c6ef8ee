"""The store: a map from slot to the newest signed object heard for it.

It is a pure function of what was heard.  The merge of each slot is commutative,
idempotent and associative, so every node that has heard the same objects has the same
store and the same root.  Nothing in it depends on a clock, a policy or an opinion, and
nothing is forgotten but by revocation.  Signatures are verified by the caller, before.
"""

from __future__ import annotations

import enum
import hashlib
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from functools import lru_cache

import attrs

from protocol.merkle import SLOT_SIZE, Tree
from protocol.objects import Accusation, Announcement, Grant, Record, Revocation
from protocol.tuning import MAX_ACCUSERS, MAX_MEMBERS, MAX_WAITING


@lru_cache(maxsize=4 * MAX_MEMBERS)
def slot_id(kind: int, node: bytes) -> bytes:
    """The 12-byte name of a slot, also its place in the tree."""
    return hashlib.sha256(b"meshd/1 slot\0" + bytes([kind]) + node).digest()[:SLOT_SIZE]


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


def newer(one: Record, other: Record) -> bool:
    """True when ``one`` replaces ``other`` in their slot: version, then larger hash."""
    return (one.version, one.hash) > (other.version, other.hash)


class Store:
    """Grants, revocations and announcements, one newest of each a node."""

    def __init__(self) -> None:
        self.grants: dict[bytes, Grant] = {}
        self.revocations: dict[bytes, Revocation] = {}
        self.announcements: dict[bytes, Announcement] = {}
        self._tree = Tree()
        self._slots: dict[bytes, Record] = {}
        self._ranked: list[tuple[bytes, bytes]] = []
        """(SHA-256(key), key) of all granted nodes, ascending: who stays at the bound."""
        self._waiting: dict[bytes, Announcement] = {}
        self._order: tuple[bytes, tuple[bytes, ...]] | None = None

    @property
    def root(self) -> bytes:
        """The name of this very content: equal roots, equal stores."""
        return self._tree.root

    @property
    def tree(self) -> Tree:
        """The hash tree over the slots; not to be changed."""
        return self._tree

    def __iter__(self) -> Iterator[Record]:
        """All objects, grants before the announcements that need them."""
        yield from self.revocations.values()
        yield from self.grants.values()
        yield from self.announcements.values()

    def in_slot(self, slot: bytes) -> Record | None:
        """The object in the slot of that id."""
        return self._slots.get(slot)

    def members(self) -> tuple[bytes, ...]:
        """The keys that have an announcement, sorted: the root determines this list."""
        root = self.root
        if self._order is None or self._order[0] != root:
            self._order = (root, tuple(sorted(self.announcements)))
        return self._order[1]

    def merge(self, record: Record) -> Outcome:
        """Put a verified object into its slot if it is the newest there."""
        held = self._slots.get(slot_id(record.KIND, record.node))
        if held is not None:
            if held.hash == record.hash:
                return Outcome.SAME
            if not newer(record, held):
                return Outcome.OLDER
        if isinstance(record, Revocation):
            return self._revoke(record)
        if record.node in self.revocations:
            return Outcome.REVOKED
        if isinstance(record, Announcement):
            if record.node not in self.grants:
                return self._keep_waiting(record)
            self.announcements[record.node] = record
        else:
            if held is None and not self._make_room(record.node):
                return Outcome.FULL
            self.grants[record.node] = record
        self._fill(record)
        return Outcome.NEW

    def take_waiting(self, node: bytes) -> Announcement | None:
        """The announcement that waited for ``node``'s grant, to be merged now."""
        return self._waiting.pop(node, None)

    def _fill(self, record: Record) -> None:
        slot = slot_id(record.KIND, record.node)
        self._slots[slot] = record
        self._tree.set(slot, record.hash)

    def _empty(self, kind: int, node: bytes) -> None:
        slot = slot_id(kind, node)
        self._slots.pop(slot, None)
        self._tree.discard(slot)

    def _keep_waiting(self, record: Announcement) -> Outcome:
        held = self._waiting.pop(record.node, None)
        if held is not None and not newer(record, held):
            record = held
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[record.node] = record
        return Outcome.WAITING

    def _revoke(self, record: Revocation) -> Outcome:
        if record.node not in self.revocations and len(self.revocations) >= MAX_MEMBERS:
            worst = max(self.revocations, key=_rank)
            if _rank(record.node) >= _rank(worst):
                return Outcome.FULL
            del self.revocations[worst]
            self._empty(Revocation.KIND, worst)
        self._remove(record.node)
        self._waiting.pop(record.node, None)
        self.revocations[record.node] = record
        self._fill(record)
        return Outcome.NEW

    def _make_room(self, node: bytes) -> bool:
        if len(self._ranked) >= MAX_MEMBERS:
            if _rank(node) >= self._ranked[-1][0]:
                return False
            self._remove(self._ranked[-1][1])
        insort(self._ranked, (_rank(node), node))
        return True

    def _remove(self, node: bytes) -> None:
        if self.grants.pop(node, None) is not None:
            del self._ranked[bisect_left(self._ranked, (_rank(node), node))]
            self._empty(Grant.KIND, node)
        if self.announcements.pop(node, None) is not None:
            self._empty(Announcement.KIND, node)


def _rank(node: bytes) -> bytes:
    return hashlib.sha256(node).digest()


@attrs.define(eq=False)
class Evidence:
    """Accusations that stand: each at exactly the sequence its target announced last.

    Not part of the store: it is about now, and it goes when its target speaks again.
    """

    _held: dict[bytes, dict[bytes, Accusation]] = attrs.field(factory=dict)
    """Target to accuser to accusation."""
    _digest: bytes | None = None

    @property
    def digest(self) -> bytes:
        """8 bytes over all that is held; zeros for nothing."""
        if self._digest is None:
            hashes = sorted(each.hash for each in self)
            packed = hashlib.sha256(b"meshd/1 evidence\0" + b"".join(hashes)).digest()[:8]
            self._digest = packed if hashes else bytes(8)
        return self._digest

    def __iter__(self) -> Iterator[Accusation]:
        for accusers in self._held.values():
            yield from accusers.values()

    def against(self, target: bytes) -> Iterable[Accusation]:
        """The accusations that stand against ``target``."""
        return self._held.get(target, {}).values()

    def add(self, accusation: Accusation) -> bool:
        """Hold it; False if it is held already or eight smaller ones are.

        Of two by one accuser the smaller hash is kept, so that all nodes keep the same.
        """
        accusers = self._held.setdefault(accusation.target, {})
        held = accusers.get(accusation.accuser)
        if held is not None and held.hash <= accusation.hash:
            return False
        accusers[accusation.accuser] = accusation
        self._digest = None
        if len(accusers) > MAX_ACCUSERS:
            worst = max(accusers.values(), key=lambda each: each.hash)
            del accusers[worst.accuser]
            return worst is not accusation
        return True

    def clear(self, target: bytes) -> None:
        """The target announced itself anew, left or is revoked: nothing stands against it."""
        if self._held.pop(target, None) is not None:
            self._digest = None
