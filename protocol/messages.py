"""What stands inside a SEALED datagram: one message, ``type u8 | fields``.

Fixed binary layouts (big-endian); lists run to the end of the body and their items are
of fixed size or length-prefixed.  Decoding gives a value or raises ``Rejected``.
Requests carry a number that the answer repeats: an answer nobody asked for is dropped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import ClassVar, Final, TypeVar

import attrs

from protocol import objects
from protocol.address import Endpoint, pack_endpoint, unpack_endpoint
from protocol.errors import Rejected
from protocol.frames import MAX_BODY
from protocol.merkle import BUCKET, SLOT_SIZE, Branch, Bucket
from protocol.objects import HASH_SIZE, MAX_SHARDS, Accusation, Record
from protocol.shards import MAX_SHARD

OFFER_HASH: Final = 8
"""Bytes of an object's hash in an offer: with the slot id 20. A collision costs a walk."""

_U32: Final = struct.Struct("!I")
_PULSE: Final = struct.Struct("!I16s8s")
_INDIRECT: Final = struct.Struct(f"!I{SLOT_SIZE}s")

_ROOM: Final = MAX_BODY - 1 - _U32.size
"""Bytes for the objects of an OBJECTS, or the shards of a SHARDS."""

MAX_PULL: Final = 64
"""Slots asked for in one PULL: more than one answer ever holds."""


@attrs.frozen
class Probe:
    """SWIM's ping, with the sender's root and evidence digest."""

    TYPE: ClassVar[int] = 1
    nonce: int
    root: bytes
    evidence: bytes

    def body(self) -> bytes:
        return _PULSE.pack(self.nonce, self.root, self.evidence)

    @classmethod
    def parse(cls, body: bytes) -> Probe:
        if len(body) != _PULSE.size:
            raise Rejected("malformed PROBE")
        return cls(*_PULSE.unpack(body))


@attrs.frozen
class Ack:
    """The answer to a probe; ``observed`` is its source, where that is not announced."""

    TYPE: ClassVar[int] = 2
    nonce: int
    root: bytes
    evidence: bytes
    observed: Endpoint | None = None

    def body(self) -> bytes:
        pulse = _PULSE.pack(self.nonce, self.root, self.evidence)
        return pulse + (pack_endpoint(self.observed) if self.observed else b"")

    @classmethod
    def parse(cls, body: bytes) -> Ack:
        if len(body) < _PULSE.size:
            raise Rejected("malformed ACK")
        nonce, root, evidence = _PULSE.unpack_from(body)
        observed = body[_PULSE.size :]
        return cls(nonce, root, evidence, unpack_endpoint(observed) if observed else None)


@attrs.frozen
class Indirect:
    """SWIM's ping-req: probe the node whose announcement is in slot ``target`` for me."""

    TYPE: ClassVar[int] = 3
    nonce: int
    target: bytes

    def body(self) -> bytes:
        return _INDIRECT.pack(self.nonce, self.target)

    @classmethod
    def parse(cls, body: bytes) -> Indirect:
        if len(body) != _INDIRECT.size:
            raise Rejected("malformed INDIRECT")
        return cls(*_INDIRECT.unpack(body))


@attrs.frozen
class Reached:
    """The relay's answer: the target acknowledged."""

    TYPE: ClassVar[int] = 4
    nonce: int

    def body(self) -> bytes:
        return _U32.pack(self.nonce)

    @classmethod
    def parse(cls, body: bytes) -> Reached:
        return cls(_number(body, exact=True))


@attrs.frozen
class Nack:
    """The relay's answer: I am here, and the target did not acknowledge (Lifeguard)."""

    TYPE: ClassVar[int] = 5
    nonce: int

    def body(self) -> bytes:
        return _U32.pack(self.nonce)

    @classmethod
    def parse(cls, body: bytes) -> Nack:
        return cls(_number(body, exact=True))


@attrs.frozen
class Push:
    """News: objects that the sender has just made or learned."""

    TYPE: ClassVar[int] = 6
    objects: tuple[Record | Accusation, ...]

    def body(self) -> bytes:
        return _join(self.objects)

    @classmethod
    def parse(cls, body: bytes) -> Push:
        return cls(tuple(_split(body, 0)))


@attrs.frozen
class Offer:
    """News by name: ``(slot id, first 8 bytes of the object's hash)``."""

    TYPE: ClassVar[int] = 7
    items: tuple[tuple[bytes, bytes], ...]

    def body(self) -> bytes:
        return b"".join(slot + start for slot, start in self.items)

    @classmethod
    def parse(cls, body: bytes) -> Offer:
        items = _cut(body, SLOT_SIZE + OFFER_HASH)
        return cls(tuple((item[:SLOT_SIZE], item[SLOT_SIZE:]) for item in items))


@attrs.frozen
class Pull:
    """Send me what you hold in these slots."""

    TYPE: ClassVar[int] = 8
    request: int
    slots: tuple[bytes, ...]

    def body(self) -> bytes:
        return _U32.pack(self.request) + b"".join(self.slots)

    @classmethod
    def parse(cls, body: bytes) -> Pull:
        request, slots = _number(body), _cut(body[_U32.size :], SLOT_SIZE)
        if len(slots) > MAX_PULL:
            raise Rejected("PULL of too many slots")
        return cls(request, slots)


@attrs.frozen
class Objects:
    """The answer to a pull or an evidence request: as many as fit, in the order asked."""

    TYPE: ClassVar[int] = 9
    request: int
    objects: tuple[Record | Accusation, ...]

    def body(self) -> bytes:
        return _U32.pack(self.request) + _join(self.objects)

    @classmethod
    def parse(cls, body: bytes) -> Objects:
        return cls(_number(body), tuple(_split(body, _U32.size)))


@attrs.frozen
class Walk:
    """My subtree at ``path`` has this hash; show me yours if it differs."""

    TYPE: ClassVar[int] = 10
    request: int
    path: bytes
    hash: bytes

    def body(self) -> bytes:
        return _U32.pack(self.request) + bytes([len(self.path)]) + self.path + self.hash

    @classmethod
    def parse(cls, body: bytes) -> Walk:
        request, path, rest = _path(body)
        if len(rest) != HASH_SIZE:
            raise Rejected("malformed WALK")
        return cls(request, path, rest)


@attrs.frozen
class Subtree:
    """The answer to a walk: the sender's subtree at ``path``, or None when it is equal."""

    TYPE: ClassVar[int] = 11
    request: int
    path: bytes
    content: Bucket | Branch | None

    def body(self) -> bytes:
        head = _U32.pack(self.request) + bytes([len(self.path)]) + self.path
        if self.content is None:
            return head + b"\0"
        if isinstance(self.content, Branch):
            return head + b"\1" + b"".join(self.content.children)
        slots = self.content.slots
        return head + b"\2" + b"".join(slot + slots[slot] for slot in sorted(slots))

    @classmethod
    def parse(cls, body: bytes) -> Subtree:
        request, path, rest = _path(body)
        kind, rest = rest[:1], rest[1:]
        if kind == b"\0" and not rest:
            return cls(request, path, None)
        if kind == b"\1" and len(rest) == 16 * HASH_SIZE:
            return cls(request, path, Branch(_cut(rest, HASH_SIZE)))
        if kind == b"\2" and len(rest) <= BUCKET * (SLOT_SIZE + HASH_SIZE):
            items = _cut(rest, SLOT_SIZE + HASH_SIZE) if rest else ()
            return cls(
                request,
                path,
                Bucket({item[:SLOT_SIZE]: item[SLOT_SIZE:] for item in items}),
            )
        raise Rejected("malformed SUBTREE")


@attrs.frozen
class Vouch:
    """Which members under this root have you seen? Also the answer, with the bitmap.

    The bitmap follows the root's sorted member list, most significant bit first, and is
    empty in a request and in the answer of one whose root differs.
    """

    TYPE: ClassVar[int] = 12
    request: int
    answers: bool
    root: bytes
    bitmap: bytes = b""

    def body(self) -> bytes:
        return _U32.pack(self.request) + bytes([self.answers]) + self.root + self.bitmap

    @classmethod
    def parse(cls, body: bytes) -> Vouch:
        request, rest = _number(body), body[_U32.size :]
        if len(rest) < 1 + HASH_SIZE or rest[0] > 1 or (not rest[0] and len(rest) > 1 + HASH_SIZE):
            raise Rejected("malformed VOUCH")
        return cls(request, bool(rest[0]), rest[1 : 1 + HASH_SIZE], rest[1 + HASH_SIZE :])


@attrs.frozen
class AskEvidence:
    """I hold the accusations with these hashes (first 8 bytes each); send me the others."""

    TYPE: ClassVar[int] = 13
    request: int
    held: tuple[bytes, ...]

    def body(self) -> bytes:
        return _U32.pack(self.request) + b"".join(self.held)

    @classmethod
    def parse(cls, body: bytes) -> AskEvidence:
        rest = body[_U32.size :]
        return cls(_number(body), _cut(rest, OFFER_HASH) if rest else ())


@attrs.frozen
class PullShards:
    """Send me the shards with these hashes."""

    TYPE: ClassVar[int] = 14
    request: int
    hashes: tuple[bytes, ...]

    def body(self) -> bytes:
        return _U32.pack(self.request) + b"".join(self.hashes)

    @classmethod
    def parse(cls, body: bytes) -> PullShards:
        request, hashes = _number(body), _cut(body[_U32.size :], HASH_SIZE)
        if len(hashes) > MAX_SHARDS:
            raise Rejected("PULLSHARDS of too many shards")
        return cls(request, hashes)


@attrs.frozen
class Shards:
    """The answer to that: as many as fit, in the order asked, not yet looked into."""

    TYPE: ClassVar[int] = 15
    request: int
    shards: tuple[bytes, ...]

    def body(self) -> bytes:
        return _U32.pack(self.request) + b"".join(map(_sized, self.shards))

    @classmethod
    def parse(cls, body: bytes) -> Shards:
        request, shards = _number(body), tuple(_items(body, _U32.size))
        if any(not 0 < len(raw) <= MAX_SHARD for raw in shards):
            raise Rejected("shard of no length that one has")
        return cls(request, shards)


Message = (
    Probe | Ack | Indirect | Reached | Nack | Push | Offer | Pull | Objects | Walk | Subtree
    | Vouch | AskEvidence | PullShards | Shards
)  # fmt: skip

_TYPES: Final[dict[int, type[Message]]] = {
    each.TYPE: each
    for each in (
        Probe, Ack, Indirect, Reached, Nack, Push, Offer, Pull, Objects, Walk, Subtree,
        Vouch, AskEvidence, PullShards, Shards,
    )
}  # fmt: skip


def encode(message: Message) -> bytes:
    """The body of a SEALED datagram. ``ValueError`` if the caller made it too long."""
    body = bytes([message.TYPE]) + message.body()
    if len(body) > MAX_BODY:
        raise ValueError(f"{type(message).__name__} of {len(body)} bytes")
    return body


def decode(body: bytes) -> Message:
    kind = _TYPES.get(body[0]) if body else None
    if kind is None:
        raise Rejected("message of unknown type")
    return kind.parse(body[1:])


_AnyObject = TypeVar("_AnyObject", bound=Record | Accusation)


def fill(found: Iterable[_AnyObject]) -> Iterator[tuple[_AnyObject, ...]]:
    """``found`` in portions that each fit one PUSH or OBJECTS, order kept."""
    portion: list[_AnyObject] = []
    left = _ROOM
    for each in found:
        size = 2 + len(each.raw)
        if portion and size > left:
            yield tuple(portion)
            portion, left = [], _ROOM
        portion.append(each)
        left -= size
    if portion:
        yield tuple(portion)


def fill_shards(found: Iterable[bytes]) -> tuple[bytes, ...]:
    """As many of ``found``, from the first on, as fit one SHARDS."""
    portion: list[bytes] = []
    left = _ROOM
    for raw in found:
        left -= 2 + len(raw)
        if left < 0:
            break
        portion.append(raw)
    return tuple(portion)


def _join(found: Iterable[Record | Accusation]) -> bytes:
    return b"".join(_sized(each.raw) for each in found)


def _split(body: bytes, at: int) -> Iterator[Record | Accusation]:
    return map(objects.decode, _items(body, at))


def _sized(raw: bytes) -> bytes:
    return len(raw).to_bytes(2, "big") + raw


def _items(body: bytes, at: int) -> Iterator[bytes]:
    while at < len(body):
        end = at + 2 + int.from_bytes(body[at : at + 2], "big")
        if end > len(body):
            raise Rejected("object cut short")
        yield body[at + 2 : end]
        at = end


def _cut(data: bytes, size: int) -> tuple[bytes, ...]:
    if not data or len(data) % size:
        raise Rejected("list cut short, or empty")
    return tuple(data[at : at + size] for at in range(0, len(data), size))


def _number(body: bytes, *, exact: bool = False) -> int:
    if len(body) < _U32.size or (exact and len(body) != _U32.size):
        raise Rejected("message cut short")
    number: int = _U32.unpack_from(body)[0]
    return number


def _path(body: bytes) -> tuple[int, bytes, bytes]:
    request, rest = _number(body), body[_U32.size :]
    if not rest or rest[0] >= 2 * SLOT_SIZE or len(rest) < 1 + rest[0]:
        raise Rejected("malformed path")
    path = rest[1 : 1 + rest[0]]
    if any(digit > 15 for digit in path):
        raise Rejected("malformed path")
    return request, path, rest[1 + rest[0] :]
