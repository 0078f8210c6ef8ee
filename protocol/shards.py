"""Shards: the prefixes of a node that do not fit its announcement, cut into small pieces.

A shard is ``family u8 | prefixes`` (4 or 6; packed as in an announcement) and is known
by its hash.  An announcement names up to 24 of them; what they hold, in that order, is
the node's set of prefixes, and it takes effect all at once or not at all.  A shard is not
signed: the announcement that names its hash is.

Where to cut is the origin's own affair, and ``cut`` is a pure function of the set, so that
a restarted node names the same shards and one changed prefix changes one or two of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from protocol.address import Prefix, pack_prefix, unpack_prefixes
from protocol.errors import Rejected
from protocol.objects import HASH_SIZE, MAX_SHARDS, Announcement

MAX_SHARD: Final = 900
"""Bytes of one shard, so that any fits one SHARDS."""

MAX_PREFIXES: Final = 1000
"""Prefixes of one node. The longest 1,000 there are (/128) fill 21 of the 24 shards."""

FINEST: Final = 64
"""Bytes, both least size of a shard and mean distance to the next boundary beyond it.

With 32, 64 and 128, announcement and changed shards together took the fewest bytes with
64 after one change in 150 to 300 prefixes; for 1,000 all end at the same, coarser cut."""


@attrs.frozen
class Shard:
    """One piece of a set of prefixes, all of one family."""

    raw: bytes = attrs.field(repr=False)
    hash: bytes = attrs.field(repr=lambda value: value.hex())
    prefixes: tuple[Prefix, ...] = attrs.field(repr=False)

    @classmethod
    def decode(cls, raw: bytes) -> Shard:
        """The shard in ``raw``, or ``Rejected``."""
        if len(raw) > MAX_SHARD:
            raise Rejected(f"shard longer than {MAX_SHARD} bytes")
        if len(raw) < 2:
            raise Rejected("shard without prefixes")
        if raw[0] not in (4, 6):
            raise Rejected("shard of unknown family")
        if raw[1] == 0:
            raise Rejected("default route announced")  # length 0 sorts first
        prefixes = unpack_prefixes(raw[1:], 4 if raw[0] == 4 else 6)
        return cls(raw, shard_hash(raw), prefixes)


def shard_hash(raw: bytes) -> bytes:
    """The 16 bytes by which an announcement names a shard. Of its content alone: which node
    and which mesh say so is in the signature over the announcement."""
    return hashlib.sha256(b"meshd/1 shard\0" + raw).digest()[:HASH_SIZE]


def cut(prefixes: Iterable[Prefix]) -> tuple[Shard, ...]:
    """The shards of ``prefixes``, at most 24. ``ValueError`` for more than 1,000.

    Content-defined chunking (LBFS, Muthitacharoen et al., SOSP 2001): a shard ends behind a
    prefix whose hash says so, wherever that prefix stands, so that a change moves only the
    boundaries beside it.  As there, a shard has a least and a greatest size.  Where that
    gives more than 24, fewer hashes say so.
    """
    # By length and address, as an announcement has them: the encoding sorts so.
    ordered = sorted({(each.version, pack_prefix(each)) for each in prefixes})
    if len(ordered) > MAX_PREFIXES:
        raise ValueError(
            f"{len(ordered)} prefixes are more than one node can announce;"
            f" the first {MAX_PREFIXES} would fit"
        )
    drawn = [(family, each, _draw(each)) for family, each in ordered]
    distance = FINEST
    while len(pieces := list(_pieces(drawn, distance))) > MAX_SHARDS:
        distance += distance // 4
    return tuple(Shard.decode(piece) for piece in pieces)


def _pieces(drawn: Iterable[tuple[int, bytes, int]], distance: int) -> Iterator[bytes]:
    """The prefixes in shards of about ``distance`` bytes to MAX_SHARD, the last of each
    family perhaps shorter."""
    piece = b""
    for family, each, draw in drawn:
        if piece and (piece[0] != family or len(piece) + len(each) > MAX_SHARD):
            yield piece
            piece = b""
        piece = (piece or bytes([family])) + each
        if len(piece) > distance and draw * distance < len(each) << 32:
            yield piece
            piece = b""
    if piece:
        yield piece


def _draw(packed: bytes) -> int:
    """A number below 2^32 that is the prefix's own."""
    return int.from_bytes(hashlib.sha256(packed).digest()[:4], "big")


def _place(prefix: Prefix) -> tuple[int, int, int]:
    """Where a prefix stands in a set: by family, then as packed, by length and address."""
    return prefix.version, prefix.prefixlen, prefix.first


def join(pieces: Iterable[Shard]) -> tuple[Prefix, ...]:
    """All prefixes of ``pieces``, IPv4 before IPv6 and ascending as in an announcement.

    ``Rejected`` where they do not stand in that order, each once, or are too many.
    """
    found: list[Prefix] = []
    for piece in pieces:
        if found and _place(piece.prefixes[0]) <= _place(found[-1]):
            raise Rejected("shards not strictly ascending")
        found += piece.prefixes
        if len(found) > MAX_PREFIXES:
            raise Rejected(f"more than {MAX_PREFIXES} prefixes of one node")
    return tuple(found)


class Shelf:
    """The shards that announcements name, by hash; each is held once, whoever names it.

    A function of the announcements and of what has come: what the newest announcement of
    no node names is not taken, and goes.  So its bound is the store's: 24 for each member.
    """

    def __init__(self) -> None:
        self._held: dict[bytes, bytes] = {}
        self._named: dict[bytes, tuple[bytes, ...]] = {}
        """Node to the hashes that its newest announcement names."""
        self._naming: dict[bytes, dict[bytes, None]] = {}
        """Hash to the nodes that name it."""

    def __iter__(self) -> Iterator[bytes]:
        """All that are held, as they came: for a snapshot."""
        return iter(self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def name(self, node: bytes, hashes: tuple[bytes, ...]) -> None:
        """``node``'s newest announcement names these, and what it named before no more."""
        before = self._named.pop(node, ())
        if hashes:
            self._named[node] = hashes
        for each in hashes:
            self._naming.setdefault(each, {})[node] = None
        kept = dict.fromkeys(hashes)
        for each in before:
            if each not in kept:
                naming = self._naming[each]
                del naming[node]
                if not naming:
                    del self._naming[each]
                    self._held.pop(each, None)

    def put(self, raw: bytes) -> tuple[bytes, ...]:
        """Hold ``raw`` if it is named and not here; the nodes that name it, then, else none.

        Any content is taken whose hash is right: what is wrong in it is found by
        ``prefixes_of``, and asking others for the same content would mend nothing.
        """
        named = shard_hash(raw)
        naming = self._naming.get(named)
        if naming is None or named in self._held:
            return ()
        self._held[named] = raw
        return tuple(naming)

    def get(self, named: bytes) -> bytes | None:
        """The shard of that hash."""
        return self._held.get(named)

    def lacking(self, announcement: Announcement) -> tuple[bytes, ...]:
        """The hashes it names of shards that are not here, in order."""
        return tuple(each for each in announcement.shards if each not in self._held)

    def prefixes_of(self, announcement: Announcement) -> tuple[Prefix, ...] | None:
        """Its whole set, ascending; None while a shard is lacking.

        ``Rejected``: all are here, and they are no set of prefixes.
        """
        if not announcement.shards:
            return announcement.prefixes
        if self.lacking(announcement):
            return None
        return join(Shard.decode(self._held[each]) for each in announcement.shards)
