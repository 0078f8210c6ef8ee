"""Keys: who a node is, what a mesh is, and which public keys are refused.

A node *is* its Ed25519 key (RFC 8032); names are labels.  A mesh *is* its authority:
``mesh_id`` commits to the first authority's key and to the hash of the key that alone can
name the next one.  Each generation commits so to the one after it before it is needed
("pre-rotation", as in KERI: Smith, arXiv 1907.02143), and the key that ends a generation
never signs anything else: who steals an authority's key can neither continue nor fork the
chain.  All keys are checked here, on load and on the wire, because the library underneath
loads the small-order points, under which a signature can be forged without any secret.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import attrs
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocol.errors import Rejected

KEY_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64

_P: Final = 2**255 - 19
_L: Final = 2**252 + 27742317777372353535851937790883648493
"""The order of the base point (RFC 8032 section 5.1)."""

_SMALL_ORDER_Y: Final = frozenset(
    {
        0,
        1,
        _P - 1,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
        _P - 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    }
)
"""The y of the eight points of edwards25519 whose order divides 8; either sign of x."""

_SMALL_ORDER_U: Final = frozenset(
    {
        0,
        1,
        _P - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)
"""The u of curve25519's points of small order (RFC 7748 section 6.1 warns of them)."""


def check_public_key(key: bytes) -> bytes:
    """Return ``key`` when it is canonical and of large order; raise ``Rejected`` if not."""
    if len(key) != KEY_SIZE:
        raise Rejected("public key of wrong length")
    y = int.from_bytes(key, "little") & ((1 << 255) - 1)
    if y >= _P:
        raise Rejected("public key not canonical")
    if y in _SMALL_ORDER_Y:
        raise Rejected("public key of small order")
    return key


def check_boot_key(key: bytes) -> bytes:
    """The same for an X25519 public key, whose unused top bit must be zero."""
    if len(key) != KEY_SIZE:
        raise Rejected("boot key of wrong length")
    u = int.from_bytes(key, "little")
    if u >= _P:
        raise Rejected("boot key not canonical")
    if u in _SMALL_ORDER_U:
        raise Rejected("boot key of small order")
    return key


def verify(key: bytes, signature: bytes, message: bytes) -> bool:
    """True if ``signature`` over ``message`` is ``key``'s. About 170 us."""
    if len(signature) != SIGNATURE_SIZE or int.from_bytes(signature[32:], "little") >= _L:
        return False  # RFC 8032 section 5.1.7: S must lie below L, or S + L would do as well.
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@attrs.frozen(repr=False)
class Identity:
    """An Ed25519 key pair: a node's, or an authority's."""

    secret: bytes
    """The 32-byte RFC 8032 seed."""
    public: bytes
    _signer: Ed25519PrivateKey = attrs.field(eq=False)

    @classmethod
    def from_secret(cls, secret: bytes) -> Identity:
        """The key pair of a 32-byte seed; ``ValueError`` for another length."""
        if len(secret) != KEY_SIZE:
            raise ValueError(f"a secret key has {KEY_SIZE} bytes, not {len(secret)}")
        signer = Ed25519PrivateKey.from_private_bytes(secret)
        return cls(secret, signer.public_key().public_bytes_raw(), signer)

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes]) -> Identity:
        """A new identity from ``random_bytes`` (``os.urandom``, or a seeded one in tests)."""
        return cls.from_secret(random_bytes(KEY_SIZE))

    def sign(self, message: bytes) -> bytes:
        """64 bytes, deterministic (RFC 8032 section 5.1.6)."""
        return self._signer.sign(message)

    def __repr__(self) -> str:
        return f"Identity({short_id(self.public)})"


@attrs.frozen(repr=False)
class BootKey:
    """An X25519 key pair (RFC 7748), new at each start and never stored."""

    public: bytes
    private: X25519PrivateKey = attrs.field(eq=False)

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes]) -> BootKey:
        """A new boot key from ``random_bytes``."""
        private = X25519PrivateKey.from_private_bytes(random_bytes(KEY_SIZE))
        return cls(private.public_key().public_bytes_raw(), private)


@attrs.frozen
class Authority:
    """Who signs for a mesh in one generation, and what is known of the end of that."""

    generation: int
    """0 for the one that made the mesh, one more with each succession."""
    key: bytes = attrs.field(converter=check_public_key)
    """Its Ed25519 public key; ``Rejected`` if it is none that can be trusted."""
    next_hash: bytes
    """SHA-256 of the public key that alone can sign the Successor which ends it."""


@attrs.frozen
class Mesh:
    """What every member is given once and trusts, and the authorities that came of it."""

    authority: bytes = attrs.field(converter=check_public_key)
    """The first authority's Ed25519 public key; ``Rejected`` if it cannot be trusted."""
    next_hash: bytes
    """``Authority.next_hash`` of the first."""
    later: tuple[Authority, ...] = ()
    """Those that succeeded, as far as they are known here, by generation."""
    id: bytes = attrs.field(init=False)
    """``mesh_id``, 16 bytes, authenticated in every datagram: two meshes never merge. It
    stays the same through all successions."""

    @id.default
    def _id(self) -> bytes:
        material = b"meshd/1 mesh\0" + self.authority + self.next_hash
        return hashlib.sha256(material).digest()[:16]

    @classmethod
    def founded_by(cls, authority: bytes, next_authority: bytes) -> Mesh:
        """The mesh of these two public keys; ``Rejected`` if one is no good."""
        return cls(authority, key_hash(check_public_key(next_authority)))

    @property
    def newest(self) -> Authority:
        """The last authority that is known here."""
        return self.later[-1] if self.later else Authority(0, self.authority, self.next_hash)

    @property
    def generation(self) -> int:
        """That of the last authority that is known here."""
        return self.later[-1].generation if self.later else 0

    def of_generation(self, generation: int) -> Authority | None:
        """The authority of that generation, None if it is not known here."""
        if generation == 0:
            return Authority(0, self.authority, self.next_hash)
        return next((each for each in self.later if each.generation == generation), None)

    def succeeded_by(self, authority: Authority) -> Mesh:
        """The same mesh, in which ``authority`` is that of its generation; what came after
        another one of that generation hung on it, and is not known any more."""
        held = self.of_generation(authority.generation)
        if held == authority:
            return self
        kept = [
            each
            for each in self.later
            if each.generation < authority.generation
            or (held is None and each.generation > authority.generation)
        ]
        later = sorted([*kept, authority], key=lambda each: each.generation)
        return attrs.evolve(self, later=tuple(later))


def key_hash(key: bytes) -> bytes:
    """What is made known of a public key before the key itself: its SHA-256."""
    return hashlib.sha256(key).digest()


def short_id(key: bytes) -> str:
    """The first 8 hex digits of a key: for people; programs get all 64."""
    return key[:4].hex()
