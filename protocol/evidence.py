"""The accusations that stand: what members say of one another's silence.

Not part of the store: it is about now, and it goes when its target speaks again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import attrs

from protocol.objects import Accusation
from protocol.tuning import MAX_ACCUSERS


@attrs.define(eq=False)
class Evidence:
    """Accusations, each at exactly the sequence its target announced last."""

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
