"""The four frames: HELLO, STALE and NOTICE in the clear, SEALED for everything else.

Every datagram begins with ``version u8 | type u8`` and has at most 1,200 bytes.  This
module knows layout only: what a frame means is the automaton's business.
"""

from __future__ import annotations

import struct
from typing import Final

import attrs

from protocol import objects
from protocol.errors import Rejected
from protocol.objects import (
    MAX_ANNOUNCEMENT,
    MAX_GENERATION,
    MAX_GRANT,
    Announcement,
    Grant,
    Revocation,
    Successor,
)

VERSION: Final = 1
MAX_DATAGRAM: Final = 1200
"""Bytes of UDP payload, both ways: below IPv6's 1,280 with room for a tunnel's headers."""

HELLO: Final = 1
SEALED: Final = 2
STALE: Final = 3
NOTICE: Final = 4

ASKS: Final = 1
"""HELLO flag: an answer is asked for; the datagram is padded to MAX_DATAGRAM."""

_HELLO_HEAD: Final = struct.Struct("!BB16sBBHH")
_SEALED_HEAD: Final = struct.Struct("!BB8s8sQ")
_STALE: Final = struct.Struct("!BBxx8sQ")
_NOTICE_HEAD: Final = struct.Struct("!BB16s")
SEALED_HEAD: Final = _SEALED_HEAD.size
SEALED_OVERHEAD: Final = SEALED_HEAD + 16
"""42 bytes: the header and Poly1305's tag."""
MAX_BODY: Final = MAX_DATAGRAM - SEALED_OVERHEAD

assert _HELLO_HEAD.size + MAX_GRANT + MAX_ANNOUNCEMENT <= MAX_DATAGRAM


@attrs.frozen
class Hello:
    """A node's own grant and announcement, which prove themselves."""

    mesh_id: bytes
    asks: bool
    grant: Grant
    announcement: Announcement
    generation: int = 0
    """That of the newest authority its sender knows."""

    def encode(self) -> bytes:
        grant, announcement = self.grant.raw, self.announcement.raw
        flags = ASKS if self.asks else 0
        sizes = len(grant), len(announcement)
        head = _HELLO_HEAD.pack(VERSION, HELLO, self.mesh_id, flags, self.generation, *sizes)
        datagram = head + grant + announcement
        return datagram.ljust(MAX_DATAGRAM, b"\0") if self.asks else datagram


@attrs.frozen
class Sealed:
    """The clear header of a sealed datagram."""

    sender: bytes
    recipient: bytes
    counter: int


@attrs.frozen
class Stale:
    """ "I cannot open that": the recipient key id and the counter of what drew it."""

    recipient: bytes
    counter: int

    def encode(self) -> bytes:
        return _STALE.pack(VERSION, STALE, self.recipient, self.counter)


@attrs.frozen
class Notice:
    """An authority's word that proves itself, for one who must know it before all else."""

    mesh_id: bytes
    word: Revocation | Successor

    def encode(self) -> bytes:
        return _NOTICE_HEAD.pack(VERSION, NOTICE, self.mesh_id) + self.word.raw


def pack_sealed_head(sender: bytes, recipient: bytes, counter: int) -> bytes:
    """The 26 clear bytes of a sealed datagram, which are its additional data too."""
    return _SEALED_HEAD.pack(VERSION, SEALED, sender, recipient, counter)


def frame_type(datagram: bytes) -> int:
    """The type of a datagram whose outermost form is right, else ``Rejected``."""
    if len(datagram) > MAX_DATAGRAM:
        raise Rejected("datagram over 1,200 bytes")
    if len(datagram) < _STALE.size:
        raise Rejected("datagram cut short")
    if datagram[0] != VERSION:
        raise Rejected("another protocol version")
    return datagram[1]


_FLAGS_AT: Final = 18
"""Where a HELLO's flags stand."""


def asks(datagram: bytes) -> bool:
    """Whether what ``frame_type`` calls a HELLO asks, before anything else in it is looked at."""
    return bool(datagram[_FLAGS_AT] & ASKS)


def decode_sealed(datagram: bytes) -> Sealed:
    """The clear header of a SEALED; whether it opens is the session's business."""
    if len(datagram) < SEALED_OVERHEAD + 1:
        raise Rejected("datagram cut short")
    _, _, sender, recipient, counter = _SEALED_HEAD.unpack_from(datagram)
    return Sealed(sender, recipient, counter)


def decode_stale(datagram: bytes) -> Stale:
    """A STALE, or ``Rejected``."""
    if len(datagram) != _STALE.size or datagram[2:4] != b"\0\0":
        raise Rejected("malformed STALE")
    _, _, recipient, counter = _STALE.unpack(datagram)
    return Stale(recipient, counter)


def decode_hello(datagram: bytes, mesh_id: bytes) -> Hello:
    """A HELLO of our mesh; the two signatures are not checked here."""
    if len(datagram) < _HELLO_HEAD.size:
        raise Rejected("datagram cut short")
    _, _, its_mesh, flags, generation, grant_size, announcement_size = _HELLO_HEAD.unpack_from(
        datagram
    )
    if its_mesh != mesh_id:
        raise Rejected("another mesh")
    if flags & ~ASKS:
        raise Rejected("unknown HELLO flags")
    if generation > MAX_GENERATION:
        raise Rejected(f"generation above {MAX_GENERATION}")
    if flags & ASKS and len(datagram) != MAX_DATAGRAM:
        raise Rejected("a HELLO that asks is not padded")
    middle = _HELLO_HEAD.size + grant_size
    end = middle + announcement_size
    if end > len(datagram) or datagram[end:].strip(b"\0"):
        raise Rejected("malformed HELLO")
    if not flags & ASKS and end != len(datagram):
        raise Rejected("malformed HELLO")
    grant = Grant.decode(datagram[_HELLO_HEAD.size : middle])
    announcement = Announcement.decode(datagram[middle:end])
    if grant.node != announcement.node:
        raise Rejected("grant and announcement of different nodes")
    return Hello(its_mesh, bool(flags & ASKS), grant, announcement, generation)


def decode_notice(datagram: bytes, mesh_id: bytes) -> Notice:
    """A NOTICE of our mesh; the signature is not checked here."""
    _, _, its_mesh = _NOTICE_HEAD.unpack_from(datagram)
    if its_mesh != mesh_id:
        raise Rejected("another mesh")
    word = objects.decode(datagram[_NOTICE_HEAD.size :])
    if not isinstance(word, Revocation | Successor):
        raise Rejected("notice of another kind")
    return Notice(its_mesh, word)
