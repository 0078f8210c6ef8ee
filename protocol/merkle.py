"""The 16-way hash tree over the store: equal roots mean equal stores.

A subtree is named by its path, the leading hex digits of the slot ids below it.  Its
hash depends on the set of ``(slot id, object hash)`` below it and on nothing else:

- at most 16 slots: ``H(0 | slot | hash | slot | hash ...)``, ascending;
- more: ``H(1 | hash of child 0 | ... | hash of child 15)``, zeros for an empty child;

with H = SHA-256 cut to 128 bits.  A change makes one path stale and the next reading
of the root hashes that path again.  There is no sum or XOR in it: those can be forged.
"""

from __future__ import annotations

import hashlib
from typing import Final

import attrs

BUCKET: Final = 16
EMPTY: Final = bytes(16)
"""The hash of a subtree with nothing in it, and of an empty store."""

SLOT_SIZE: Final = 12


@attrs.define(eq=False)
class _Subtree:
    count: int = 0
    hash: bytes | None = EMPTY
    """None while it is stale."""
    slots: dict[bytes, bytes] | None = attrs.field(factory=dict)
    """Slot id to object hash, while there are at most BUCKET of them."""
    children: list[_Subtree] = attrs.field(factory=list)


@attrs.frozen
class Bucket:
    """What a walk sees of a small subtree: its slots, each with its object's hash."""

    slots: dict[bytes, bytes]


@attrs.frozen
class Branch:
    """What a walk sees of a large subtree: the hashes of its 16 children."""

    children: tuple[bytes, ...]


class Tree:
    """Slot ids (12 bytes) with the hash (16 bytes) of the object in each."""

    def __init__(self) -> None:
        self._top = _Subtree()

    def __len__(self) -> int:
        return self._top.count

    @property
    def root(self) -> bytes:
        """16 bytes that name the whole set."""
        return _hash(self._top)

    def set(self, slot: bytes, value: bytes) -> None:
        """Put ``value`` into ``slot``."""
        old = self.get(slot)
        if old != value:
            self._change(self._top, slot, 0, value, grow=old is None)

    def discard(self, slot: bytes) -> None:
        """Empty ``slot``; nothing happens if it is empty."""
        if self.get(slot) is not None:
            self._change(self._top, slot, 0, None, grow=False)

    def get(self, slot: bytes) -> bytes | None:
        """The hash in ``slot``, None if it is empty."""
        tree, depth = self._top, 0
        while tree.slots is None:
            tree, depth = tree.children[_digit(slot, depth)], depth + 1
        return tree.slots.get(slot)

    def look(self, path: bytes) -> tuple[bytes, Bucket | Branch]:
        """The hash and the content of the subtree at ``path`` (one digit 0..15 a byte)."""
        tree = self._top
        for depth, digit in enumerate(path):
            if tree.slots is not None:
                below = {s: h for s, h in tree.slots.items() if _starts_with(s, path)}
                part = _Subtree(len(below), None, below)
                return _hash(part), Bucket(dict(sorted(below.items())))
            assert depth < 2 * SLOT_SIZE
            tree = tree.children[digit]
        if tree.slots is not None:
            return _hash(tree), Bucket(dict(sorted(tree.slots.items())))
        return _hash(tree), Branch(tuple(_hash(child) for child in tree.children))

    def _change(
        self, tree: _Subtree, slot: bytes, depth: int, value: bytes | None, *, grow: bool
    ) -> None:
        tree.hash = None
        tree.count += 1 if grow else -1 if value is None else 0
        if tree.slots is None:
            child = tree.children[_digit(slot, depth)]
            self._change(child, slot, depth + 1, value, grow=grow)
            if tree.count <= BUCKET:
                tree.slots = dict(_all_slots(tree))
                tree.children = []
            return
        if value is None:
            del tree.slots[slot]
        else:
            tree.slots[slot] = value
        if tree.count > BUCKET:
            slots, tree.slots = tree.slots, None
            tree.children = [_Subtree() for _ in range(16)]
            for each, content in slots.items():
                child = tree.children[_digit(each, depth)]
                self._change(child, each, depth + 1, content, grow=True)


def _digit(slot: bytes, depth: int) -> int:
    octet = slot[depth >> 1]
    return octet & 0x0F if depth & 1 else octet >> 4


def _starts_with(slot: bytes, path: bytes) -> bool:
    return all(_digit(slot, depth) == digit for depth, digit in enumerate(path))


def _all_slots(tree: _Subtree) -> list[tuple[bytes, bytes]]:
    if tree.slots is not None:
        return list(tree.slots.items())
    return [pair for child in tree.children for pair in _all_slots(child)]


def _hash(tree: _Subtree) -> bytes:
    if tree.hash is None:
        if not tree.count:
            tree.hash = EMPTY
        elif tree.slots is not None:
            listed = b"".join(slot + tree.slots[slot] for slot in sorted(tree.slots))
            tree.hash = hashlib.sha256(b"\0" + listed).digest()[:16]
        else:
            below = b"".join(_hash(child) for child in tree.children)
            tree.hash = hashlib.sha256(b"\1" + below).digest()[:16]
    return tree.hash
