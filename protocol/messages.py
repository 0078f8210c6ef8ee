"""What stands inside a SEALED datagram: one message, ``type u8 | fields``.

Fixed binary layouts (big-endian); lists run to the end of the body and their items are
of fixed size or length-prefixed.  Decoding gives a value or raises ``Rejected``.
Requests carry a number that the answer repeats: an answer nobody asked for is dropped.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, Final, TypeVar

import attrs

from protocol import objects
from protocol.address import Endpoint, pack_endpoint, unpack_endpoint
from protocol.errors import Rejected
from protocol.frames import MAX_BODY
from protocol.merkle import BUCKET, SLOT_SIZE, Branch, Bucket
from protocol.objects import HASH_SIZE, MAX_SHARDS, Accusation, Record
from protocol.shards import MAX_SHARD
from protocol.store import slot_of
from protocol.tuning import MAX_MEMBERS

OFFER_HASH: Final = 8
"""Bytes of an object's hash in an offer: with the slot id 20. A collision costs a walk."""

_U32: Final = struct.Struct("!I")
_PULSE: Final = struct.Struct("!I16s8s")
_OBJECTS: Final = struct.Struct("!IB")
_INDIRECT: Final = struct.Struct(f"!I{SLOT_SIZE}s")
_SUSPECT: Final = struct.Struct(f"!{SLOT_SIZE}sQ")

_ROOM: Final = MAX_BODY - 1 - _OBJECTS.size
"""Bytes for the objects of a PUSH or OBJECTS, or the shards of a SHARDS."""

MAX_PULL: Final = 64
"""Slots asked for in one PULL: more than one answer ever holds."""

MAX_OFFER: Final = (MAX_BODY - 1) // (SLOT_SIZE + OFFER_HASH)
"""Items that fit one OFFER: 57."""

News = Record | Accusation
"""What members tell each other."""

DecodeObject = Callable[[bytes], News]
_DECODE_OBJECT: Final[DecodeObject] = objects.decode

_VOUCHED: Final = 0x8000
"""In an item's size: the sender has seen the origin of this object and holds it live."""


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
    objects: tuple[News, ...]

    def body(self) -> bytes:
        return b"".join([_sized(each.raw) for each in self.objects])

    @classmethod
    def parse(cls, body: bytes, decode: DecodeObject = _DECODE_OBJECT) -> Push:
        items = tuple(_split(body, 0, decode))
        if any(vouched for _, vouched in items):
            raise Rejected("object cut short")
        return cls(tuple(each for each, _ in items))


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
    """The answer to a pull, a scan or an evidence request: as many as fit, in order."""

    TYPE: ClassVar[int] = 9
    request: int
    more: bool
    """A scan: there are others behind the last."""
    items: tuple[tuple[News, bool], ...]
    """Each with whether the sender has seen its origin and holds it live."""

    def body(self) -> bytes:
        head = _OBJECTS.pack(self.request, self.more)
        return head + b"".join([_sized(each.raw, vouched) for each, vouched in self.items])

    @classmethod
    def parse(cls, body: bytes, decode: DecodeObject = _DECODE_OBJECT) -> Objects:
        if len(body) < _OBJECTS.size or body[_OBJECTS.size - 1] > 1:
            raise Rejected("malformed OBJECTS")
        request, more = _OBJECTS.unpack_from(body)
        return cls(request, bool(more), tuple(_split(body, _OBJECTS.size, decode)))

    def behind(self, asked: list[bytes]) -> list[bytes]:
        """The slots of ``asked`` that are still to be asked for: as many as fit came."""
        last = self.items[-1][0] if self.items else None
        if last is None or isinstance(last, Accusation):
            return []
        slot = slot_of(last)
        return asked[asked.index(slot) + 1 :] if slot in asked else []


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
class Slots:
    """What a walk sees of a small subtree: its slots, ascending, each with its object's hash."""

    slots: dict[bytes, bytes]


@attrs.frozen
class Branches:
    """What a walk sees of a large subtree: the hashes of its 16 children."""

    children: tuple[bytes, ...]


@attrs.frozen
class Later:
    """What a walk sees of a newcomer: it is being filled, and whoever walks it learns little."""


def shown(subtree: Bucket[Record] | Branch[Record]) -> Slots | Branches:
    """What a walk is told of ``subtree``."""
    if isinstance(subtree, Branch):
        return Branches(tuple(child.hash for child in subtree.children))
    return Slots({slot: item.hash for slot, item in subtree.slots.items()})


@attrs.frozen
class Subtree:
    """The answer to a walk: the sender's subtree at ``path``, or None when it is equal."""

    TYPE: ClassVar[int] = 11
    request: int
    path: bytes
    content: Slots | Branches | Later | None

    def body(self) -> bytes:
        head = _U32.pack(self.request) + bytes([len(self.path)]) + self.path
        if self.content is None:
            return head + b"\0"
        if isinstance(self.content, Later):
            return head + b"\3"
        if isinstance(self.content, Branches):
            return head + b"\1" + b"".join(self.content.children)
        slots = self.content.slots
        return head + b"\2" + b"".join(slot + slots[slot] for slot in sorted(slots))

    @classmethod
    def parse(cls, body: bytes) -> Subtree:
        request, path, rest = _path(body)
        kind, rest = rest[:1], rest[1:]
        if kind == b"\0" and not rest:
            return cls(request, path, None)
        if kind == b"\3" and not rest:
            return cls(request, path, Later())
        if kind == b"\1" and len(rest) == 16 * HASH_SIZE:
            return cls(request, path, Branches(_cut(rest, HASH_SIZE)))
        if kind == b"\2" and len(rest) <= BUCKET * (SLOT_SIZE + HASH_SIZE):
            items = _cut(rest, SLOT_SIZE + HASH_SIZE) if rest else ()
            return cls(
                request,
                path,
                Slots({item[:SLOT_SIZE]: item[SLOT_SIZE:] for item in items}),
            )
        raise Rejected("malformed SUBTREE")


@attrs.frozen
class Vouch:
    """Which members under this root have you seen? Also the answer, with their places.

    A request names nobody; the answer of one whose root differs has no places either.
    """

    TYPE: ClassVar[int] = 12
    request: int
    answers: bool
    root: bytes
    bits: int = 0
    size: int = 0

    def body(self) -> bytes:
        head = _U32.pack(self.request) + bytes([self.answers]) + self.root
        return head + _pack_places(self.bits, self.size) if self.answers else head

    @classmethod
    def parse(cls, body: bytes) -> Vouch:
        request, rest = _number(body), body[_U32.size :]
        if len(rest) < 1 + HASH_SIZE or rest[0] > 1 or (not rest[0] and len(rest) > 1 + HASH_SIZE):
            raise Rejected("malformed VOUCH")
        places = _unpack_places(rest[1 + HASH_SIZE :]) if rest[0] else (0, 0)
        return cls(request, bool(rest[0]), rest[1 : 1 + HASH_SIZE], *places)


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
class Scan:
    """Send me what you hold below ``path``, from slot ``start`` on: I hold nothing there."""

    TYPE: ClassVar[int] = 14
    request: int
    path: bytes
    start: bytes
    """A slot id below ``path``."""

    def body(self) -> bytes:
        return _U32.pack(self.request) + bytes([len(self.path)]) + self.path + self.start

    @classmethod
    def parse(cls, body: bytes) -> Scan:
        request, path, start = _path(body)
        digits = tuple(digit for octet in start for digit in (octet >> 4, octet & 15))
        if len(start) != SLOT_SIZE or digits[: len(path)] != tuple(path):
            raise Rejected("malformed SCAN")
        return cls(request, path, start)


@attrs.frozen
class Agree:
    """Who has held this root, as far as the sender knows; also the answer.

    ``bits`` are places in the root's member list, ``size`` is its length.
    """

    TYPE: ClassVar[int] = 15
    answers: bool
    root: bytes
    bits: int
    size: int

    def body(self) -> bytes:
        return bytes([self.answers]) + self.root + _pack_places(self.bits, self.size)

    @classmethod
    def parse(cls, body: bytes) -> Agree:
        if len(body) < 1 + HASH_SIZE or body[0] > 1:
            raise Rejected("malformed AGREE")
        return cls(bool(body[0]), body[1 : 1 + HASH_SIZE], *_unpack_places(body[1 + HASH_SIZE :]))


@attrs.frozen
class PullShards:
    """Send me the shards with these hashes."""

    TYPE: ClassVar[int] = 16
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

    TYPE: ClassVar[int] = 17
    request: int
    shards: tuple[bytes, ...]

    def body(self) -> bytes:
        return _U32.pack(self.request) + b"".join(map(_sized, self.shards))

    @classmethod
    def parse(cls, body: bytes) -> Shards:
        request, items = _number(body), tuple(_items(body, _U32.size))
        if any(marked or not 0 < len(raw) <= MAX_SHARD for raw, marked in items):
            raise Rejected("shard of no length that one has")
        return cls(request, tuple(raw for raw, _ in items))


@attrs.frozen
class Suspect:
    """The node whose announcement of that sequence is in slot ``target`` is silent to me: is
    it to you?"""

    TYPE: ClassVar[int] = 18
    target: bytes
    sequence: int

    def body(self) -> bytes:
        return _SUSPECT.pack(self.target, self.sequence)

    @classmethod
    def parse(cls, body: bytes) -> Suspect:
        if len(body) != _SUSPECT.size:
            raise Rejected("malformed SUSPECT")
        return cls(*_SUSPECT.unpack(body))


Message = (
    Probe | Ack | Indirect | Reached | Nack | Push | Offer | Pull | Objects | Walk | Subtree
    | Vouch | AskEvidence | Scan | Agree | PullShards | Shards | Suspect
)  # fmt: skip

_TYPES: Final[dict[int, type[Message]]] = {
    each.TYPE: each
    for each in (
        Probe, Ack, Indirect, Reached, Nack, Push, Offer, Pull, Objects, Walk, Subtree,
        Vouch, AskEvidence, Scan, Agree, PullShards, Shards, Suspect,
    )
}  # fmt: skip


def encode(message: Message) -> bytes:
    """The body of a SEALED datagram. ``ValueError`` if the caller made it too long."""
    body = bytes([message.TYPE]) + message.body()
    if len(body) > MAX_BODY:
        raise ValueError(f"{type(message).__name__} of {len(body)} bytes")
    return body


def decode(body: bytes, decode_object: DecodeObject = _DECODE_OBJECT) -> Message:
    """The message in a body, or ``Rejected``; ``decode_object`` makes the objects in it."""
    kind = _TYPES.get(body[0]) if body else None
    if kind is None:
        raise Rejected("message of unknown type")
    if issubclass(kind, Push | Objects):
        return kind.parse(body[1:], decode_object)
    return kind.parse(body[1:])


AnyNews = TypeVar("AnyNews", bound=News)


def fill(found: Iterable[AnyNews]) -> Iterator[tuple[AnyNews, ...]]:
    """``found`` in portions that each fit one PUSH or OBJECTS, order kept."""
    portion: list[AnyNews] = []
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


def _split(body: bytes, at: int, decode: DecodeObject) -> Iterator[tuple[News, bool]]:
    for raw, marked in _items(body, at):
        yield decode(raw), marked


def _sized(raw: bytes, marked: bool = False) -> bytes:
    return (len(raw) | (_VOUCHED if marked else 0)).to_bytes(2, "big") + raw


def _items(body: bytes, at: int) -> Iterator[tuple[bytes, bool]]:
    while at < len(body):
        size = int.from_bytes(body[at : at + 2], "big")
        end = at + 2 + (size & ~_VOUCHED)
        if end > len(body):
            raise Rejected("object cut short")
        yield body[at + 2 : end], size >= _VOUCHED
        at = end


def _pack_places(bits: int, size: int) -> bytes:
    """A set of places below ``size`` (bit 0 of ``bits`` is place 0), the shortest way:
    those that are in it, those that are not, or a bitmap."""
    dense, ones = (size + 7) // 8, bits.bit_count()
    if 2 * min(ones, size - ones) >= dense:
        return size.to_bytes(2, "big") + b"\2" + bits.to_bytes(dense, "little")
    few = bits if ones <= size - ones else bits ^ ((1 << size) - 1)
    listed = [size.to_bytes(2, "big"), b"\0" if few == bits else b"\1"]
    while few:
        lowest = few & -few
        listed.append((lowest.bit_length() - 1).to_bytes(2, "big"))
        few ^= lowest
    return b"".join(listed)


def _unpack_places(packed: bytes) -> tuple[int, int]:
    """The bits and the size; one set has one encoding."""
    size, form, rest = int.from_bytes(packed[:2], "big"), packed[2:3], packed[3:]
    bits = 0
    if form == b"\2":
        bits = int.from_bytes(rest, "little")
    else:
        for place in _cut(rest, 2) if rest else ():
            bits |= 1 << int.from_bytes(place, "big")
        if form == b"\1":
            bits ^= (1 << size) - 1
    if size > MAX_MEMBERS or bits >> size or _pack_places(bits, size) != packed:
        raise Rejected("malformed list of members")
    return bits, size


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
