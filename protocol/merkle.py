"""The 16-way hash tree over the store: equal roots mean equal stores.

A subtree is named by its path, the leading hex digits of the slot ids below it.  Its
hash depends on the set of ``(slot id, object hash)`` below it and on nothing else:

- at most 16 slots: ``H(0 | slot | hash | slot | hash ...)``, ascending;
- more: ``H(1 | hash of child 0 | ... | hash of child 15)``, zeros for an empty child;

with H = SHA-256 cut to 128 bits.  There is no sum or XOR in it: those can be forged.

Trees are values: a change makes a new tree that shares with the old one all but the one
path above the changed slot (Driscoll et al., "Making data structures persistent", 1989),
and hashes that path when the root is next asked for.  So a tree costs nothing to keep or
to copy, and the thousand nodes of a simulation share what they agree on.

The last octet of a slot id is its *kind* (1 to 4).  Each subtree counts the slots of
each kind, which makes the slots of one kind a list with an order: ``rank`` and ``nth``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final, Generic, Protocol, TypeVar

BUCKET: Final = 16
EMPTY: Final = bytes(16)
"""The hash of a subtree with nothing in it, and of an empty store."""

SLOT_SIZE: Final = 12
KINDS: Final = 4


class Hashed(Protocol):
    """What stands in a slot."""

    @property
    def hash(self) -> bytes:
        """16 bytes that name it."""


Item = TypeVar("Item", bound=Hashed)
Counts = tuple[int, ...]
_NONE: Final[Counts] = (0,) * KINDS


class Bucket(Generic[Item]):
    """A subtree of at most 16 slots: each with its item, ascending."""

    __slots__ = ("_hash", "counts", "slots")

    def __init__(self, slots: dict[bytes, Item], counts: Counts) -> None:
        self.slots, self.counts = slots, counts
        self._hash: bytes | None = None

    @property
    def hash(self) -> bytes:
        """What a branch above it holds of it."""
        if self._hash is None:
            listed = b"".join([slot + item.hash for slot, item in self.slots.items()])
            self._hash = hashlib.sha256(b"\0" + listed).digest()[:16] if listed else EMPTY
        return self._hash


class Branch(Generic[Item]):
    """A subtree of more than 16 slots: its 16 children."""

    __slots__ = ("_hash", "children", "counts")

    def __init__(self, children: tuple[Bucket[Item] | Branch[Item], ...], counts: Counts) -> None:
        self.children, self.counts = children, counts
        self._hash: bytes | None = None

    @property
    def hash(self) -> bytes:
        """What a branch above it holds of it."""
        if self._hash is None:
            below = b"".join([child.hash for child in self.children])
            self._hash = hashlib.sha256(b"\1" + below).digest()[:16]
        return self._hash


_NOTHING: Final[Bucket[Any]] = Bucket({}, _NONE)


class Tree(Generic[Item]):
    """Slot ids (12 bytes) with the item in each. A value: changes make another tree."""

    __slots__ = ("top",)

    def __init__(self, top: Bucket[Item] | Branch[Item] = _NOTHING) -> None:
        self.top = top

    def __len__(self) -> int:
        return sum(self.top.counts)

    def __iter__(self) -> Iterator[Item]:
        """All items, in the order of their slots."""
        return _items(self.top)

    @property
    def root(self) -> bytes:
        """16 bytes that name the whole set."""
        return self.top.hash

    def get(self, slot: bytes) -> Item | None:
        """The item in ``slot``, None if it is empty."""
        below = self.top
        if isinstance(below, Branch):
            for octet in slot:  # two digits each; unrolled, for everything asks here
                below = below.children[octet >> 4]
                if isinstance(below, Bucket):
                    break
                below = below.children[octet & 15]
                if isinstance(below, Bucket):
                    break
        return below.slots.get(slot) if isinstance(below, Bucket) else None

    def put(self, slot: bytes, item: Item) -> Tree[Item]:
        """The tree with ``item`` in ``slot``."""
        old = self.get(slot)
        if old is not None and old.hash == item.hash:
            return self
        return Tree(_put(self.top, slot, item, 0, _one(slot) if old is None else None))

    def without(self, slot: bytes) -> Tree[Item]:
        """The tree with ``slot`` empty."""
        return self if self.get(slot) is None else Tree(_without(self.top, slot, 0))

    def look(self, path: bytes) -> Bucket[Item] | Branch[Item]:
        """The subtree at ``path`` (one digit 0..15 a byte)."""
        below = self.top
        for depth, digit in enumerate(path):
            if isinstance(below, Bucket):
                return _bucket({s: i for s, i in below.slots.items() if _starts_with(s, path)})
            assert depth < 2 * SLOT_SIZE
            below = below.children[digit]
        return below

    def from_slot(self, path: bytes, slot: bytes) -> Iterator[Item]:
        """The items below ``path`` in slots not before ``slot``, ascending."""
        return _items(self.look(path), slot, len(path))

    # The slots of one kind as a list.

    def count(self, kind: int) -> int:
        """How many slots of that kind are filled."""
        return self.top.counts[kind - 1]

    def rank(self, slot: bytes) -> int:
        """How many filled slots of ``slot``'s kind stand before it."""
        kind, below, depth, before = slot[-1], self.top, 0, 0
        while isinstance(below, Branch):
            digit = _digit(slot, depth)
            before += sum([child.counts[kind - 1] for child in below.children[:digit]])
            below, depth = below.children[digit], depth + 1
        return before + sum([each < slot and each[-1] == kind for each in below.slots])

    def nth(self, kind: int, number: int) -> Item:
        """The item with that ``rank`` among those of its kind; ``IndexError`` beyond."""
        if not 0 <= number < self.count(kind):
            raise IndexError(number)
        below = self.top
        while isinstance(below, Branch):
            for child in below.children:
                if number < child.counts[kind - 1]:
                    below = child
                    break
                number -= child.counts[kind - 1]
        return [item for slot, item in below.slots.items() if slot[-1] == kind][number]


def _digit(slot: bytes, depth: int) -> int:
    octet = slot[depth >> 1]
    return octet & 0x0F if depth & 1 else octet >> 4


def _starts_with(slot: bytes, path: bytes) -> bool:
    return all(_digit(slot, depth) == digit for depth, digit in enumerate(path))


def _one(slot: bytes) -> Counts:
    return tuple([int(kind == slot[-1]) for kind in range(1, KINDS + 1)])


def _bucket(slots: dict[bytes, Item]) -> Bucket[Item]:
    kinds = [slot[-1] for slot in slots]
    return Bucket(slots, tuple([kinds.count(kind) for kind in range(1, KINDS + 1)]))


def _put(
    below: Bucket[Item] | Branch[Item],
    slot: bytes,
    item: Item,
    depth: int,
    grown: Counts | None,
) -> Bucket[Item] | Branch[Item]:
    counts = below.counts
    if grown is not None:
        counts = tuple([old + more for old, more in zip(counts, grown, strict=True)])
    if isinstance(below, Branch):
        digit = _digit(slot, depth)
        children = list(below.children)
        children[digit] = _put(children[digit], slot, item, depth + 1, grown)
        return Branch(tuple(children), counts)
    slots = {**below.slots, slot: item}
    if grown is None:
        return Bucket(slots, counts)
    ordered = dict(sorted(slots.items()))
    return Bucket(ordered, counts) if len(slots) <= BUCKET else _split(ordered, depth, counts)


def _split(slots: dict[bytes, Item], depth: int, counts: Counts) -> Branch[Item]:
    parts: list[dict[bytes, Item]] = [{} for _ in range(16)]
    for slot, item in slots.items():
        parts[_digit(slot, depth)][slot] = item
    children: list[Bucket[Item] | Branch[Item]] = []
    for part in parts:
        bucket = _bucket(part) if part else _NOTHING
        crowded = len(part) > BUCKET
        children.append(_split(part, depth + 1, bucket.counts) if crowded else bucket)
    return Branch(tuple(children), counts)


def _without(
    below: Bucket[Item] | Branch[Item], slot: bytes, depth: int
) -> Bucket[Item] | Branch[Item]:
    if isinstance(below, Bucket):
        return _bucket({each: item for each, item in below.slots.items() if each != slot})
    digit = _digit(slot, depth)
    children = list(below.children)
    children[digit] = _without(children[digit], slot, depth + 1)
    counts = tuple([old - gone for old, gone in zip(below.counts, _one(slot), strict=True)])
    branch = Branch(tuple(children), counts)
    return branch if sum(counts) > BUCKET else _bucket(dict(_pairs(branch)))


def _pairs(below: Bucket[Item] | Branch[Item]) -> Iterator[tuple[bytes, Item]]:
    if isinstance(below, Bucket):
        yield from below.slots.items()
    else:
        for child in below.children:
            yield from _pairs(child)


def _items(
    below: Bucket[Item] | Branch[Item], start: bytes = b"", depth: int = 0
) -> Iterator[Item]:
    """The items in slots not before ``start``; subtrees wholly before it are not entered."""
    if isinstance(below, Bucket):
        for slot, item in below.slots.items():
            if slot >= start:
                yield item
        return
    first = _digit(start, depth) if start else 0
    for digit in range(first, 16):
        child = below.children[digit]
        if sum(child.counts):
            yield from _items(child, start if digit == first else b"", depth + 1)
