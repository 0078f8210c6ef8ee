"""Sealed datagrams between two boot keys.

Each announcement carries its node's X25519 boot key, so two nodes that hold each
other's announcements share keys without a handshake: one ChaCha20-Poly1305 key per
direction (RFC 8439) out of HKDF-SHA256 (RFC 5869), a counter as nonce, and a sliding
window against replays (RFC 4303 section 3.4.3, 1,024 wide).  A session belongs to one
pair of boot keys.  Its counter starts at the microseconds of the caller's monotonic
clock, which nobody outruns at 22 us a datagram, so that no counter is used twice under
one key even where a session had to be made again for the same pair.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import Rejected
from protocol.frames import SEALED_HEAD, pack_sealed_head
from protocol.identity import BootKey

WINDOW: Final = 1024
"""Datagrams may overtake one another by this many (DESIGN 4)."""


@lru_cache(maxsize=16384)
def key_id(mesh_id: bytes, node: bytes, boot_key: bytes) -> bytes:
    """8 bytes that name a boot key of one node in one mesh: nobody can take another's."""
    material = b"meshd/1 boot\0" + mesh_id + node + boot_key
    return hashlib.sha256(material).digest()[:8]


@attrs.frozen
class Ends:
    """``node`` with its ``boot_key``, and ``peer`` with the public half of its own."""

    mesh_id: bytes
    node: bytes
    boot_key: BootKey
    peer: bytes
    peer_boot_key: bytes

    @property
    def key_id(self) -> bytes:
        """That of ``node``'s boot key."""
        return key_id(self.mesh_id, self.node, self.boot_key.public)

    @property
    def peer_key_id(self) -> bytes:
        """That of ``peer``'s boot key."""
        return key_id(self.mesh_id, self.peer, self.peer_boot_key)

    def keys(self) -> tuple[bytes, bytes]:
        """With which ``node`` seals, and opens: 32 bytes each."""
        theirs = X25519PublicKey.from_public_bytes(self.peer_boot_key)
        shared = self.boot_key.private.exchange(theirs)
        here, there = self.node + self.boot_key.public, self.peer + self.peer_boot_key
        info = b"meshd/1 seal\0" + min(here, there) + max(here, there)
        keys = HKDF(SHA256(), 64, salt=self.mesh_id, info=info).derive(shared)
        low, high = keys[:32], keys[32:]
        return (low, high) if here < there else (high, low)


class Session:
    """One node's end of the channel between two boot keys."""

    def __init__(self, ends: Ends, now: float) -> None:
        """The channel of ``ends.node`` to ``ends.peer``, as from ``now`` (monotonic seconds)."""
        self._seal, self._open = map(ChaCha20Poly1305, ends.keys())
        self.key_id, self.peer_key_id = ends.key_id, ends.peer_key_id
        self.sent = int(now * 1e6)
        """Counter of the last datagram sealed."""
        self._highest = 0
        self._window = 0

    def seal(self, body: bytes) -> bytes:
        """A whole SEALED datagram around ``body``."""
        self.sent += 1
        head = pack_sealed_head(self.key_id, self.peer_key_id, self.sent)
        return head + self._seal.encrypt(_nonce(self.sent), body, head)

    def open(self, datagram: bytes, counter: int) -> bytes:
        """The body of a SEALED datagram, once; ``Rejected`` when forged, replayed or too old."""
        behind = self._highest - counter
        if counter == 0 or behind >= WINDOW or (behind >= 0 and self._window >> behind & 1):
            raise Rejected("replayed, or older than the window")
        head, sealed = datagram[:SEALED_HEAD], datagram[SEALED_HEAD:]
        try:
            body = self._open.decrypt(_nonce(counter), sealed, head)
        except InvalidTag:
            raise Rejected("not sealed by that key") from None
        if behind < 0:
            self._window = (self._window << min(-behind, WINDOW) | 1) & ((1 << WINDOW) - 1)
            self._highest = counter
        else:
            self._window |= 1 << behind
        return body


def _nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "big")
