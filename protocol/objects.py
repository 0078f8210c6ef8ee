"""The signed objects: what members tell each other, and why it can be believed.

One envelope for all: ``kind u8 | signature[64] | body``.  The signature covers a
domain string with the kind's name, the mesh_id and the exact body, so an object of one
kind or mesh is never valid as another.  Received bytes are kept and relayed verbatim;
nothing is ever re-encoded to be verified.

Decoding checks form and bounds and costs microseconds; ``Signed.verify`` checks the
signature and costs about 170 us.  They are apart so that a caller can put a limit
between the two.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any, ClassVar, Final

import attrs

from protocol import identity
from protocol.address import (
    MAX_PORT,
    Endpoint,
    Prefix,
    pack_endpoint,
    pack_prefixes,
    unpack_endpoint,
    unpack_prefixes,
)
from protocol.codec import pack, unpack
from protocol.errors import Rejected
from protocol.identity import KEY_SIZE, SIGNATURE_SIZE, Authority, Identity, Mesh, key_hash

HASH_SIZE: Final = 16
MAX_SEQUENCE: Final = 2**63 - 1
MAX_GENERATION: Final = 64
"""Successions of one mesh: one a year for a lifetime, and a bound on what is kept of them."""
MAX_GRANT: Final = 440
MAX_ANNOUNCEMENT: Final = 720
"""Bytes of envelope: a grant and an announcement together fit one HELLO (SPEC.md 4.1)."""
MAX_SHARDS: Final = 24
"""Named by one announcement: with two endpoints it then has 617 bytes of its 720."""

ALIVE: Final = 0
LEFT: Final = 1

_HEAD: Final = 1 + SIGNATURE_SIZE
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?")


def check_name(name: str) -> str:
    """Return ``name`` if it is a node name (a lower-case host name of at most 63
    characters), else raise ``Rejected``: names reach terminals and logs."""
    if not _NAME.fullmatch(name):
        raise Rejected("name is not a lower-case host name of 1 to 63 characters")
    return name


@attrs.frozen
class Signed:
    """What all objects share. Built by ``decode`` or by a subclass's ``sign``."""

    KIND: ClassVar[int]
    DOMAIN: ClassVar[str]
    LIMIT: ClassVar[int]

    raw: bytes = attrs.field(repr=False)
    """The envelope, exactly as signed or received."""
    hash: bytes = attrs.field(init=False, repr=lambda value: value.hex())
    """SHA-256 of ``raw``, cut to 16 bytes."""

    @hash.default
    def _hash(self) -> bytes:
        return hashlib.sha256(self.raw).digest()[:HASH_SIZE]

    def signer(self, mesh: Mesh) -> bytes | None:
        """The public key that must have signed this object in ``mesh``; None: not known."""
        raise NotImplementedError

    @property
    def body(self) -> bytes:
        """What is signed, without domain and mesh."""
        return self.raw[_HEAD:]

    def verify(self, mesh: Mesh) -> bool:
        """True if who must sign it in ``mesh`` is known and did."""
        signer = self.signer(mesh)
        message = _message(self.DOMAIN, mesh, self.body)
        return signer is not None and identity.verify(signer, self.raw[1:_HEAD], message)


@attrs.frozen
class ByAuthority(Signed):
    """What an authority says of a node."""

    node: bytes = attrs.field(repr=identity.short_id)
    generation: int
    """Which authority says it: ``identity.Authority.generation``."""
    since: int
    """The serial of the first grant that any authority gave this node (0 in a revocation of
    one that had none, and so never was a member): a renewal keeps it. Of equal claims to a
    prefix the older one stands, and who was a member before a succession is told by it."""

    @property
    def subject(self) -> bytes:
        """What its slot is named after."""
        return self.node

    def signer(self, mesh: Mesh) -> bytes | None:
        authority = mesh.of_generation(self.generation)
        return authority.key if authority is not None else None


@attrs.frozen
class Grant(ByAuthority):
    """The authority's word that a key is a member, and what it may announce."""

    KIND = 1
    DOMAIN = "grant"
    LIMIT = MAX_GRANT

    name: str
    serial: int
    """Assigned by the authority, rising: within its generation a higher one replaces."""
    allow: tuple[Prefix, ...]
    """The node may announce prefixes that lie inside these."""
    at: tuple[Prefix, ...]
    """Its endpoints must lie inside these; empty: anywhere."""
    limit: int
    """At most this many prefixes; 0: the importer's own limit."""
    until: int
    """Unix seconds after which importers stop honouring it; 0: no end."""

    @property
    def version(self) -> int:
        return self.generation * (MAX_SEQUENCE + 1) + self.serial

    @classmethod
    def sign(
        cls,
        authority: Identity,
        mesh: Mesh,
        *,
        node: bytes,
        name: str,
        serial: int,
        generation: int = 0,
        since: int | None = None,
        allow: Iterable[Prefix],
        at: Iterable[Prefix] = (),
        limit: int = 0,
        until: int = 0,
    ) -> Grant:
        """A grant signed by ``authority``. ``Rejected`` says what in it cannot be granted.

        ``since`` is ``serial`` where it is not given: its node's first.
        """
        allow, at = tuple(allow), tuple(at)
        fields = [
            node, generation, serial if since is None else since, name, serial,
            pack_prefixes(allow, 4), pack_prefixes(allow, 6),
            pack_prefixes(at, 4), pack_prefixes(at, 6),
            limit, until,
        ]  # fmt: skip
        return cls.decode(_seal(cls, authority, mesh, fields))

    @classmethod
    def decode(cls, raw: bytes) -> Grant:
        node, generation, since, name, serial, allow4, allow6, at4, at6, limit, until = _open(
            cls, raw, (bytes, int, int, str, int, bytes, bytes, bytes, bytes, int, int)
        )
        if since > serial:
            raise Rejected("grant older than its node's first")
        return cls(
            raw,
            identity.check_public_key(node),
            _check_generation(generation),
            since,
            check_name(name),
            _check_sequence(serial),
            unpack_prefixes(allow4, 4) + unpack_prefixes(allow6, 6),
            unpack_prefixes(at4, 4) + unpack_prefixes(at6, 6),
            limit,
            until,
        )


@attrs.frozen
class Revocation(ByAuthority):
    """The authority's word that a key is a member no more, for as long as it is the authority."""

    KIND = 2
    DOMAIN = "revocation"
    LIMIT = 128

    @property
    def version(self) -> int:
        return self.generation

    @classmethod
    def sign(
        cls, authority: Identity, mesh: Mesh, *, node: bytes, generation: int = 0, since: int = 0
    ) -> Revocation:
        return cls.decode(_seal(cls, authority, mesh, [node, generation, since]))

    @classmethod
    def decode(cls, raw: bytes) -> Revocation:
        node, generation, since = _open(cls, raw, (bytes, int, int))
        return cls(
            raw,
            identity.check_public_key(node),
            _check_generation(generation),
            _check_sequence(since),
        )


@attrs.frozen
class Successor(Signed):
    """Who is the authority from now on, in the word of the key that was set aside for that.

    It takes effect when a grant or a revocation of the new generation is here for each node
    that it names: then, at once, what earlier authorities gave and took counts no more.
    """

    KIND = 4
    DOMAIN = "successor"
    LIMIT = 256

    generation: int
    """1 for the first; one more with each."""
    key: bytes = attrs.field(repr=identity.short_id)
    """Whose word it is: its SHA-256 is the ``next_hash`` of the authority before. It signs
    nothing else, so that it need never be where a thief of the new authority's key could be."""
    authority: bytes = attrs.field(repr=identity.short_id)
    """The new authority's key."""
    next_hash: bytes = attrs.field(repr=lambda value: value.hex())
    """SHA-256 of the key that alone can end its time."""
    serial: int
    """Of two for one generation the higher replaces, until one took effect. All nodes named
    were members by then: the ``since`` of what the new authority says of them is at most this."""
    count: int
    """How many nodes are named,"""
    members: bytes = attrs.field(repr=lambda value: value.hex())
    """... and ``members_hash`` of their keys."""

    @property
    def version(self) -> int:
        return self.serial

    @property
    def subject(self) -> bytes:
        """What its slot is named after."""
        return bytes([self.generation])

    @property
    def made(self) -> Authority:
        """The new authority."""
        return Authority(self.generation, self.authority, self.next_hash)

    def signer(self, mesh: Mesh) -> bytes | None:
        """Its key, if the generation before committed to that one; where that generation was
        skipped (a token says so), if it makes the very authority that is known."""
        before = mesh.of_generation(self.generation - 1)
        if before is None:
            return self.key if mesh.of_generation(self.generation) == self.made else None
        return self.key if before.next_hash == key_hash(self.key) else None

    @classmethod
    def sign(
        cls,
        key: Identity,
        mesh: Mesh,
        *,
        made: Authority,
        serial: int,
        members: Iterable[bytes],
    ) -> Successor:
        """A successor signed by ``key``, which was set aside for it, for ``members``."""
        named = tuple(members)
        fields = [
            made.generation, key.public, made.key, made.next_hash,
            serial, len(named), members_hash(named),
        ]  # fmt: skip
        return cls.decode(_seal(cls, key, mesh, fields))

    @classmethod
    def decode(cls, raw: bytes) -> Successor:
        generation, key, authority, next_hash, serial, count, members = _open(
            cls, raw, (int, bytes, bytes, bytes, int, int, bytes)
        )
        if generation == 0:
            raise Rejected("successor that comes first")
        if len(next_hash) != KEY_SIZE or len(members) != HASH_SIZE:
            raise Rejected("hash of wrong length")
        return cls(
            raw,
            _check_generation(generation),
            identity.check_public_key(key),
            identity.check_public_key(authority),
            next_hash,
            _check_sequence(serial),
            count,
            members,
        )


def members_hash(nodes: Iterable[bytes]) -> bytes:
    """What names a set of nodes: SHA-256 over their keys, ascending, cut to 16 bytes."""
    return hashlib.sha256(b"meshd/1 members\0" + b"".join(sorted(nodes))).digest()[:HASH_SIZE]


@attrs.frozen
class Announcement(Signed):
    """A node's own word about itself: where it is, and which prefixes lie behind it."""

    KIND = 3
    DOMAIN = "announcement"
    LIMIT = MAX_ANNOUNCEMENT

    node: bytes = attrs.field(repr=identity.short_id)
    sequence: int
    """Rises with each announcement; an integer to everyone but its owner, never a time."""
    boot_key: bytes = attrs.field(repr=identity.short_id)
    state: int
    """ALIVE or LEFT."""
    preference: int
    """0 to 255: among equal origins of a prefix the highest carries the traffic."""
    tunnel: int
    """UDP port of its VXLAN, at each of its endpoints' addresses; 0: it has none."""
    endpoints: tuple[Endpoint, ...]
    """At most one a family; each is the next hop for prefixes of its family."""
    prefixes: tuple[Prefix, ...]
    """Those that stand in the announcement itself: none of them where it names shards."""
    shards: tuple[bytes, ...] = ()
    """Hashes of the shards that hold its prefixes, in ascending order of these (shards.py)."""

    @property
    def version(self) -> int:
        return self.sequence

    @property
    def subject(self) -> bytes:
        """What its slot is named after."""
        return self.node

    @property
    def has_left(self) -> bool:
        return self.state == LEFT

    def signer(self, mesh: Mesh) -> bytes:
        return self.node

    @classmethod
    def sign(
        cls,
        node: Identity,
        mesh: Mesh,
        *,
        sequence: int,
        boot_key: bytes,
        endpoints: Iterable[Endpoint],
        prefixes: Iterable[Prefix],
        shards: Iterable[bytes] = (),
        state: int = ALIVE,
        preference: int = 100,
        tunnel: int = 0,
    ) -> Announcement:
        """An announcement by ``node``. ``Rejected`` when it would be too long."""
        draft = cls.draft(
            node.public,
            sequence=sequence,
            boot_key=boot_key,
            endpoints=endpoints,
            prefixes=prefixes,
            shards=shards,
            state=state,
            preference=preference,
            tunnel=tunnel,
        )
        return draft.signed(node, mesh)

    @classmethod
    def draft(
        cls,
        node: bytes,
        *,
        sequence: int,
        boot_key: bytes,
        endpoints: Iterable[Endpoint],
        prefixes: Iterable[Prefix],
        shards: Iterable[bytes] = (),
        state: int = ALIVE,
        preference: int = 100,
        tunnel: int = 0,
    ) -> Announcement:
        """What ``node`` might announce, with zeros for a signature: to see whether it may be
        said, and whether it has been. ``Rejected`` when it would be too long."""
        prefixes = tuple(prefixes)
        fields = [
            node, sequence, boot_key, state, preference, tunnel,
            sorted(pack_endpoint(where) for where in endpoints),
            pack_prefixes(prefixes, 4), pack_prefixes(prefixes, 6), list(shards),
        ]  # fmt: skip
        return cls.decode(bytes([cls.KIND]) + bytes(SIGNATURE_SIZE) + pack(fields))

    def signed(self, node: Identity, mesh: Mesh) -> Announcement:
        """The same, signed by ``node``."""
        signature = node.sign(_message(self.DOMAIN, mesh, self.body))
        return attrs.evolve(self, raw=bytes([self.KIND]) + signature + self.body)

    @classmethod
    def decode(cls, raw: bytes) -> Announcement:
        node, sequence, boot_key, state, preference, tunnel, endpoints, four, six, shards = _open(
            cls, raw, (bytes, int, bytes, int, int, int, list, bytes, bytes, list)
        )
        if state not in (ALIVE, LEFT):
            raise Rejected("announcement in no known state")
        if preference > 255:
            raise Rejected("preference above 255")
        if tunnel > MAX_PORT:
            raise Rejected(f"tunnel port above {MAX_PORT}")
        if any(not isinstance(where, bytes) for where in endpoints):
            raise Rejected("field of wrong type")
        if [len(where) for where in endpoints] not in ([], [6], [18], [6, 18], [18, 6]):
            raise Rejected("more than one endpoint of a family")
        if endpoints != sorted(endpoints):
            raise Rejected("endpoints not ascending")
        if four.startswith(b"\0") or six.startswith(b"\0"):
            raise Rejected("default route announced")  # length 0 sorts first
        if (four or six) and shards:
            raise Rejected("prefixes beside shards")
        if state == LEFT and (four or six or shards):
            raise Rejected("prefixes of a node that has left")
        return cls(
            raw,
            identity.check_public_key(node),
            _check_sequence(sequence),
            identity.check_boot_key(boot_key),
            state,
            preference,
            tunnel,
            tuple(unpack_endpoint(where) for where in endpoints),
            unpack_prefixes(four, 4) + unpack_prefixes(six, 6),
            _check_shards(shards),
        )


@attrs.frozen
class Accusation(Signed):
    """A member's word that a target was silent, or refused, at one of its sequences."""

    KIND = 5
    DOMAIN = "accusation"
    LIMIT = 192

    accuser: bytes = attrs.field(repr=identity.short_id)
    target: bytes = attrs.field(repr=identity.short_id)
    sequence: int
    refused: bool
    """The target's host answered that nobody listens there (ICMP port unreachable)."""

    def signer(self, mesh: Mesh) -> bytes:
        return self.accuser

    @classmethod
    def sign(
        cls, accuser: Identity, mesh: Mesh, *, target: bytes, sequence: int, refused: bool
    ) -> Accusation:
        fields = [accuser.public, target, sequence, int(refused)]
        return cls.decode(_seal(cls, accuser, mesh, fields))

    @classmethod
    def decode(cls, raw: bytes) -> Accusation:
        accuser, target, sequence, refused = _open(cls, raw, (bytes, bytes, int, int))
        if refused > 1:
            raise Rejected("refused is neither 0 nor 1")
        return cls(
            raw,
            identity.check_public_key(accuser),
            identity.check_public_key(target),
            _check_sequence(sequence),
            bool(refused),
        )


Record = Grant | Revocation | Announcement | Successor
"""The kinds that the store keeps, one newest object a slot."""

_KINDS: Final[dict[int, type[Record | Accusation]]] = {
    kind.KIND: kind for kind in (Grant, Revocation, Announcement, Successor, Accusation)
}


def decode(raw: bytes) -> Record | Accusation:
    """The object in an envelope, form and bounds checked, signature not yet."""
    if not raw or raw[0] not in _KINDS:
        raise Rejected("object of unknown kind")
    return _KINDS[raw[0]].decode(raw)


def _message(domain: str, mesh: Mesh, body: bytes) -> bytes:
    return b"meshd/1 " + domain.encode() + b"\0" + mesh.id + body


def _seal(kind: type[Signed], signer: Identity, mesh: Mesh, fields: list[Any]) -> bytes:
    body = pack(fields)
    return bytes([kind.KIND]) + signer.sign(_message(kind.DOMAIN, mesh, body)) + body


def _open(kind: type[Signed], raw: bytes, types: tuple[type, ...]) -> list[Any]:
    if len(raw) > kind.LIMIT:
        raise Rejected(f"{kind.DOMAIN} longer than {kind.LIMIT} bytes")
    if len(raw) <= _HEAD or raw[0] != kind.KIND:
        raise Rejected("object of another kind, or cut short")
    fields = unpack(raw[_HEAD:])
    if len(fields) != len(types):
        raise Rejected("wrong number of fields")
    if any(type(field) is not wanted for field, wanted in zip(fields, types, strict=True)):
        raise Rejected("field of wrong type")
    return fields


def _check_sequence(value: int) -> int:
    if value > MAX_SEQUENCE:
        raise Rejected("sequence of 2^63 or more")
    return value


def _check_generation(value: int) -> int:
    if value > MAX_GENERATION:
        raise Rejected(f"generation above {MAX_GENERATION}")
    return value


def _check_shards(hashes: list[Any]) -> tuple[bytes, ...]:
    if len(hashes) > MAX_SHARDS:
        raise Rejected(f"more than {MAX_SHARDS} shards")
    if any(not isinstance(each, bytes) for each in hashes):
        raise Rejected("field of wrong type")
    if any(len(each) != HASH_SIZE for each in hashes):
        raise Rejected("shard's hash of wrong length")
    if len(dict.fromkeys(hashes)) != len(hashes):
        raise Rejected("a shard named twice")
    return tuple(hashes)


__all__ = [
    "ALIVE",
    "HASH_SIZE",
    "KEY_SIZE",
    "LEFT",
    "MAX_ANNOUNCEMENT",
    "MAX_GENERATION",
    "MAX_GRANT",
    "MAX_SHARDS",
    "Accusation",
    "Announcement",
    "ByAuthority",
    "Grant",
    "Record",
    "Revocation",
    "Signed",
    "Successor",
    "check_name",
    "decode",
    "members_hash",
]
