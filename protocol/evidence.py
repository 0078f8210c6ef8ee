"""The accusations that stand: what members say of one another's silence.

Not part of the store: it is about now, and it goes when its target speaks again.  Its
digest is cut from the root of a tree, as the store's root is, so that one accusation more
costs one path of it and not all that are held.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import chain, islice, takewhile
from random import Random

import attrs

from protocol.merkle import SLOT_SIZE, Tree
from protocol.messages import MAX_PULL, OFFER_HASH
from protocol.objects import Accusation
from protocol.tuning import MAX_ACCUSERS


def _place(accusation: Accusation) -> bytes:
    """Its slot in the tree: accusations are kept by hash, and all are of one kind."""
    return accusation.hash[: SLOT_SIZE - 1] + b"\1"


@attrs.define(eq=False)
class Evidence:
    """Accusations, each at exactly the sequence its target announced last."""

    _held: dict[bytes, dict[bytes, Accusation]] = attrs.field(factory=dict)
    """Target to accuser to accusation."""
    _tree: Tree[Accusation] = attrs.field(factory=Tree)

    @property
    def digest(self) -> bytes:
        """8 bytes over all that is held; zeros for nothing."""
        return self._tree.root[:8]

    @property
    def targets(self) -> Collection[bytes]:
        """The members that stand accused."""
        return self._held.keys()

    def __iter__(self) -> Iterator[Accusation]:
        """All, in the order of their hashes."""
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)

    def against(self, target: bytes) -> Collection[Accusation]:
        """The accusations that stand against ``target``."""
        return self._held.get(target, {}).values()

    def add(self, accusation: Accusation) -> bool:
        """Hold it; False if it is held already or eight smaller ones are.

        Of two by one accuser the smaller hash is kept, so that all nodes keep the same.
        """
        accusers = self._held.setdefault(accusation.target, {})
        held = accusers.get(accusation.accuser)
        if held is not None:
            if held.hash <= accusation.hash:
                return False
            self._drop(accusers, held)
        elif len(accusers) >= MAX_ACCUSERS:
            worst = max(accusers.values(), key=lambda each: each.hash)
            if worst.hash <= accusation.hash:
                return False
            self._drop(accusers, worst)
        accusers[accusation.accuser] = accusation
        self._tree = self._tree.put(_place(accusation), accusation)
        return True

    def _drop(self, accusers: dict[bytes, Accusation], accusation: Accusation) -> None:
        del accusers[accusation.accuser]
        self._tree = self._tree.without(_place(accusation))

    def clear(self, target: bytes) -> None:
        """The target announced itself anew, left or is revoked: nothing stands against it."""
        for accusation in self._held.pop(target, {}).values():
            self._tree = self._tree.without(_place(accusation))

    # The exchange of what differs: as much of it as one datagram names.

    def named(self, rng: Random) -> tuple[bytes, ...]:
        """Starts of hashes, ascending: of all that are held, or, where they are too many
        for one request, of as many as fit behind a place at random, all round."""
        if len(self) < MAX_PULL:
            return tuple(each.hash[:OFFER_HASH] for each in self)
        behind = self._tree.from_slot(b"", rng.randbytes(SLOT_SIZE))
        return tuple(each.hash[:OFFER_HASH] for each in islice(chain(behind, self), MAX_PULL))

    def others(self, named: Sequence[bytes]) -> Iterator[Accusation]:
        """What one who named these lacks: all others, or, where it could not name all it
        holds, those others between its first and its last."""
        known = dict.fromkeys(named)
        for each in self if len(named) < MAX_PULL else self._between(named[0], named[-1]):
            if each.hash[:OFFER_HASH] not in known:
                yield each

    def _between(self, first: bytes, last: bytes) -> Iterator[Accusation]:
        behind = self._tree.from_slot(b"", first.ljust(SLOT_SIZE, b"\0"))
        if last < first:
            yield from behind
            behind = iter(self)
        yield from takewhile(lambda each: each.hash[:OFFER_HASH] <= last, behind)
