"""What stands inside SEALED: one case and more of each message, and refused bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vectorset.rules import (
    accusation,
    announcement,
    digest,
    endpoint,
    grant,
    object_hash,
    public,
    revocation,
    shard,
    shard_hash,
    slot_id,
)
from vectorset.shards import LONGEST

ROOT = digest(b"a root", size=16)
EVIDENCE = digest(b"evidence", size=8)
SLOT = slot_id("announcement", public("a"))
OTHER_SLOT = slot_id("grant", public("a"))
NUMBER = 0xDEADBEEF
FOUR, SIX = endpoint("192.0.2.9", 40000), endpoint("2001:db8::9", 40000)


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _u16(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _object(raw: bytes) -> bytes:
    return _u16(len(raw)) + raw


def _item(raw: bytes, vouched: bool) -> bytes:
    """An object in OBJECTS: the top bit of its size says that the sender vouches."""
    return _u16(len(raw) + (0x8000 if vouched else 0)) + raw


def bitmap(places: Sequence[int], size: int) -> bytes:
    """One bit a place, the least significant bit of each octet first."""
    octets = bytearray((size + 7) // 8)
    for place in places:
        octets[place // 8] |= 1 << place % 8
    return bytes(octets)


def member_set(places: Sequence[int], size: int) -> bytes:
    """Section 6, a set of members: the shortest of three forms, by its definition."""
    inside = dict.fromkeys(places)
    others = [place for place in range(size) if place not in inside]
    form, few = (1, others) if len(others) < len(places) else (0, places)
    if 2 * len(few) >= (size + 7) // 8:
        return _u16(size) + b"\2" + bitmap(places, size)
    return _u16(size) + bytes([form]) + b"".join(map(_u16, few))


def make() -> dict[str, Any]:
    return {
        "accepted": [
            {"message": name, "fields": fields, "body": body.hex()}
            for name, fields, body in [*_detector(), *_store(), *_walks(), *_members(), *_shards()]
        ],
        "refused": [
            {"why": why, "body": body.hex(), "reason": reason} for why, body, reason in _refused()
        ],
    }


_Case = tuple[str, dict[str, Any], bytes]


def _detector() -> list[_Case]:
    pulse = {"nonce": NUMBER, "root": ROOT.hex(), "evidence": EVIDENCE.hex()}
    packed = _u32(NUMBER) + ROOT + EVIDENCE
    cases: list[_Case] = [("PROBE", pulse, b"\x01" + packed)]
    for observed in (b"", FOUR, SIX):
        fields = {**pulse, "observed": observed.hex()}
        cases.append(("ACK", fields, b"\x02" + packed + observed))
    return [
        *cases,
        ("INDIRECT", {"nonce": NUMBER, "target": SLOT.hex()}, b"\x03" + _u32(NUMBER) + SLOT),
        ("REACHED", {"nonce": 0}, b"\x04" + _u32(0)),
        ("NACK", {"nonce": 2**32 - 1}, b"\x05" + _u32(2**32 - 1)),
        (
            "SUSPECT",
            {"target": SLOT.hex(), "sequence": 2**63 - 1},
            b"\x12" + SLOT + (2**63 - 1).to_bytes(8, "big"),
        ),
    ]


def _store() -> list[_Case]:
    listed = [grant("a", "a"), announcement("a", 5), accusation("b", "a", 5), revocation("b")]
    packed = b"".join(map(_object, listed))
    objects = [raw.hex() for raw in listed]
    start = object_hash(listed[1])[:8]
    vouched = [[raw, number == 1] for number, raw in enumerate(objects)]
    flagged = b"".join(_item(raw, number == 1) for number, raw in enumerate(listed))
    return [
        ("PUSH", {"objects": objects}, b"\x06" + packed),
        ("PUSH", {"objects": objects[:1]}, b"\x06" + _object(listed[0])),
        ("OFFER", {"items": [[SLOT.hex(), start.hex()]]}, b"\x07" + SLOT + start),
        ("OFFER", {"items": [[SLOT.hex(), start.hex()]] * 2}, b"\x07" + (SLOT + start) * 2),
        ("PULL", {"request": NUMBER, "slots": [SLOT.hex(), OTHER_SLOT.hex()]},
         b"\x08" + _u32(NUMBER) + SLOT + OTHER_SLOT),
        ("PULL", {"request": NUMBER, "slots": [SLOT.hex()] * 64},
         b"\x08" + _u32(NUMBER) + SLOT * 64),
        ("OBJECTS", {"request": NUMBER, "more": False, "items": vouched},
         b"\x09" + _u32(NUMBER) + b"\0" + flagged),
        ("OBJECTS", {"request": NUMBER, "more": True, "items": vouched[:1]},
         b"\x09" + _u32(NUMBER) + b"\1" + _item(listed[0], False)),
        ("OBJECTS", {"request": NUMBER, "more": False, "items": []},
         b"\x09" + _u32(NUMBER) + b"\0"),
    ]  # fmt: skip


def _walks() -> list[_Case]:
    path = bytes([0, 15, 7])
    children = [digest(b"child", bytes([each]), size=16) for each in range(16)]
    bucket = {
        slot: digest(slot, size=16)
        for slot in sorted(digest(b"slot", bytes([each]), size=12) for each in range(16))
    }
    head = _u32(NUMBER) + b"\x03" + path
    fields: dict[str, Any] = {"request": NUMBER, "path": path.hex()}
    shown = {slot.hex(): value.hex() for slot, value in bucket.items()}
    packed = b"".join(slot + value for slot, value in bucket.items())
    deepest = bytes(range(16)) + bytes(7)
    below = bytes.fromhex("0f73") + bytes(10)
    held = [digest(bytes([each]), size=8) for each in range(64)]
    return [
        ("WALK", {"request": NUMBER, "path": "", "hash": ROOT.hex()},
         b"\x0a" + _u32(NUMBER) + b"\0" + ROOT),
        ("WALK", {**fields, "hash": ROOT.hex()}, b"\x0a" + head + ROOT),
        ("WALK", {"request": NUMBER, "path": deepest.hex(), "hash": ROOT.hex()},
         b"\x0a" + _u32(NUMBER) + bytes([23]) + deepest + ROOT),
        ("SUBTREE", {**fields, "content": "same"}, b"\x0b" + head + b"\0"),
        ("SUBTREE", {**fields, "content": "later"}, b"\x0b" + head + b"\3"),
        ("SUBTREE", {**fields, "content": [child.hex() for child in children]},
         b"\x0b" + head + b"\1" + b"".join(children)),
        ("SUBTREE", {**fields, "content": {}}, b"\x0b" + head + b"\2"),
        ("SUBTREE", {**fields, "content": shown}, b"\x0b" + head + b"\2" + packed),
        ("EVIDENCE", {"request": NUMBER, "held": []}, b"\x0d" + _u32(NUMBER)),
        ("EVIDENCE", {"request": NUMBER, "held": [each.hex() for each in held]},
         b"\x0d" + _u32(NUMBER) + b"".join(held)),
        ("SCAN", {"request": NUMBER, "path": "", "start": "00" * 12},
         b"\x0e" + _u32(NUMBER) + b"\0" + bytes(12)),
        ("SCAN", {**fields, "start": below.hex()}, b"\x0e" + head + below),
        ("SCAN", {"request": NUMBER, "path": "0b", "start": "bf" * 12},
         b"\x0e" + _u32(NUMBER) + b"\x01\x0b" + bytes.fromhex("bf" * 12)),
    ]  # fmt: skip


def _shards() -> list[_Case]:
    raws = [shard("10.1.0.0/24", "10.2.0.0/24"), shard("fd00:1::/64")]
    longest = shard(*LONGEST)
    named = [shard_hash(raw) for raw in raws]
    many = [digest(bytes([each]), size=16) for each in range(24)]
    head = _u32(NUMBER)
    return [
        ("PULLSHARDS", {"request": NUMBER, "hashes": [each.hex() for each in named]},
         b"\x10" + head + b"".join(named)),
        ("PULLSHARDS", {"request": NUMBER, "hashes": [each.hex() for each in many]},
         b"\x10" + head + b"".join(many)),
        ("SHARDS", {"request": NUMBER, "shards": [raw.hex() for raw in raws]},
         b"\x11" + head + b"".join(map(_object, raws))),
        ("SHARDS", {"request": NUMBER, "shards": []}, b"\x11" + head),
        ("SHARDS", {"request": NUMBER, "shards": [longest.hex()]},
         b"\x11" + head + _object(longest)),
    ]  # fmt: skip


SETS: list[tuple[list[int], int]] = [
    ([], 0),
    ([0], 1),
    ([], 1),
    ([0, 2], 9),
    ([7], 24),
    ([3], 25),
    (list(range(25)), 25),
    ([place for place in range(40) if place not in (8, 39)], 40),
    ([0, 19], 40),
    ([0, 20, 39], 40),
    (list(range(0, 200, 2)), 200),
    (list(range(8192)), 8192),
    ([place for place in range(8192) if place != 4097], 8192),
    ([0, 258, 8191], 8192),
]
"""Sets of members and of how many: around each border between the three forms."""


def _members() -> list[_Case]:
    ask = {"request": NUMBER, "answers": False, "root": ROOT.hex(), "bits": "", "size": 0}
    cases: list[_Case] = [("VOUCH", ask, b"\x0c" + _u32(NUMBER) + b"\0" + ROOT)]
    for number, (places, size) in enumerate(SETS):
        fields = {"root": ROOT.hex(), "bits": bitmap(places, size).hex(), "size": size}
        packed = ROOT + member_set(places, size)
        vouch = {"request": NUMBER, "answers": True, **fields}
        cases.append(("VOUCH", vouch, b"\x0c" + _u32(NUMBER) + b"\1" + packed))
        agree = {"answers": number % 2 > 0, **fields}
        cases.append(("AGREE", agree, b"\x0f" + bytes([number % 2]) + packed))
    return cases


_REFUSED_SETS = [
    ("nothing", ""),
    ("a size alone", "0010"),
    ("a form of 3", "0010 03 0100"),
    ("a bitmap one octet short", "0010 02 55"),
    ("a bitmap one octet long", "0010 02 555500"),
    ("a bit behind the size", "000f 02 5580"),
    ("a place behind the size", "0019 00 0019"),
    ("a bitmap where a list is shorter", "0019 02 08000000"),
    ("a list where a bitmap is no longer", "0018 00 0007 0009"),
    ("places that do not ascend", "0028 00 0013 0000"),
    ("a place twice", "0028 00 0000 0000"),
    ("those that are not in it, where those that are are fewer", "0028 01 "
     + "".join(f"{place:04x}" for place in range(1, 40))),
    ("more than 8,192 members", "2001 00 0000"),
]  # fmt: skip


def _refused() -> list[tuple[str, bytes, str]]:
    listing, short, path = "list cut short, or empty", "message cut short", "malformed path"
    pulse = _u32(NUMBER) + ROOT + EVIDENCE
    raw = grant("a", "a")
    walk, subtree, scan = "malformed WALK", "malformed SUBTREE", "malformed SCAN"
    members = "malformed list of members"
    length = "shard of no length that one has"
    number = _u32(NUMBER)
    return [
        ("nothing", b"", "message of unknown type"),
        ("type 0", b"\0" + pulse, "message of unknown type"),
        ("type 19", b"\x13" + pulse, "message of unknown type"),
        ("type 255", b"\xff", "message of unknown type"),
        ("PROBE, one byte short", b"\x01" + pulse[:-1], "malformed PROBE"),
        ("PROBE, one byte long", b"\x01" + pulse + b"\0", "malformed PROBE"),
        ("ACK, one byte short", b"\x02" + pulse[:-1], "malformed ACK"),
        ("ACK, endpoint of 5 bytes", b"\x02" + pulse + FOUR[:5], "endpoint of wrong length"),
        ("ACK, endpoint at port 0", b"\x02" + pulse + FOUR[:4] + b"\0\0",
         "endpoint that cannot be sent to"),
        ("INDIRECT, one byte short", b"\x03" + number + SLOT[:-1], "malformed INDIRECT"),
        ("INDIRECT, one byte long", b"\x03" + number + SLOT + b"\0", "malformed INDIRECT"),
        ("REACHED, one byte short", b"\x04" + number[:3], short),
        ("REACHED, one byte long", b"\x04" + number + b"\0", short),
        ("NACK, empty", b"\x05", short),
        ("PUSH, half a length", b"\x06\x00", "object cut short"),
        ("PUSH, object cut short", b"\x06" + _object(raw)[:-1], "object cut short"),
        ("PUSH, length one too small", b"\x06" + (len(raw) - 1).to_bytes(2, "big") + raw,
         "body cut short"),
        ("PUSH, object of no bytes", b"\x06\x00\x00", "object of unknown kind"),
        ("PUSH, second object of unknown kind", b"\x06" + _object(raw) + b"\x00\x01\x09",
         "object of unknown kind"),
        ("PUSH, object with the bit that vouches", b"\x06" + _item(raw, True), "object cut short"),
        ("OFFER, empty", b"\x07", listing),
        ("OFFER, one byte short", b"\x07" + SLOT + ROOT[:7], listing),
        ("PULL, no slots", b"\x08" + number, listing),
        ("PULL, one byte long", b"\x08" + number + SLOT + b"\0", listing),
        ("PULL, 65 slots", b"\x08" + number + SLOT * 65, "PULL of too many slots"),
        ("OBJECTS without a number", b"\x09\x00\x00\x00", "malformed OBJECTS"),
        ("OBJECTS that does not say whether there are more", b"\x09" + number, "malformed OBJECTS"),
        ("OBJECTS, more is neither 0 nor 1", b"\x09" + number + b"\2", "malformed OBJECTS"),
        ("OBJECTS, vouched object cut short", b"\x09" + number + b"\0" + _item(raw, True)[:-1],
         "object cut short"),
        ("WALK without a path", b"\x0a" + number, path),
        ("WALK, path of 24", b"\x0a" + number + b"\x18" + bytes(24) + ROOT, path),
        ("WALK, digit 16", b"\x0a" + number + b"\x01\x10" + ROOT, path),
        ("WALK, path cut short", b"\x0a" + number + b"\x05\x01", path),
        ("WALK, one byte short", b"\x0a" + number + b"\0" + ROOT[:-1], walk),
        ("WALK, one byte long", b"\x0a" + number + b"\0" + ROOT + b"\0", walk),
        ("SUBTREE without content", b"\x0b" + number + b"\0", subtree),
        ("SUBTREE of kind 4", b"\x0b" + number + b"\0\4", subtree),
        ("SUBTREE, equal and more", b"\x0b" + number + b"\0\0\0", subtree),
        ("SUBTREE, later and more", b"\x0b" + number + b"\0\3\0", subtree),
        ("SUBTREE of 15 children", b"\x0b" + number + b"\0\1" + ROOT * 15, subtree),
        ("SUBTREE of 17 children", b"\x0b" + number + b"\0\1" + ROOT * 17, subtree),
        ("SUBTREE, slot cut short", b"\x0b" + number + b"\0\2" + bytes(27), listing),
        ("SUBTREE of 17 slots", b"\x0b" + number + b"\0\2" + bytes(17 * 28), subtree),
        ("VOUCH, one byte short", b"\x0c" + number + b"\0" + ROOT[:-1], "malformed VOUCH"),
        ("VOUCH, a request with a set", b"\x0c" + number + b"\0" + ROOT + member_set([], 0),
         "malformed VOUCH"),
        ("VOUCH, neither 0 nor 1", b"\x0c" + number + b"\2" + ROOT, "malformed VOUCH"),
        ("VOUCH, an answer without a set", b"\x0c" + number + b"\1" + ROOT, members),
        ("AGREE, one byte short", b"\x0f\0" + ROOT[:-1], "malformed AGREE"),
        ("AGREE, neither 0 nor 1", b"\x0f\2" + ROOT + member_set([], 0), "malformed AGREE"),
        *((f"AGREE, {why}", b"\x0f\0" + ROOT + bytes.fromhex(packed), members)
          for why, packed in _REFUSED_SETS),
        ("AGREE, half a place", b"\x0f\0" + ROOT + bytes.fromhex("00190000"), listing),
        ("SCAN without a slot", b"\x0e" + number + b"\0", scan),
        ("SCAN, slot cut short", b"\x0e" + number + b"\0" + SLOT[:-1], scan),
        ("SCAN, one byte long", b"\x0e" + number + b"\0" + SLOT + b"\0", scan),
        ("SCAN, from a slot before the path", b"\x0e" + number + b"\x01\x01" + bytes(12), scan),
        ("SCAN, from a slot behind the path", b"\x0e" + number + b"\x01\x01" + b"\x20" * 12, scan),
        ("SCAN, digit 16", b"\x0e" + number + b"\x01\x10" + SLOT, path),
        ("EVIDENCE, hash cut short", b"\x0d" + number + bytes(7), listing),
        ("EVIDENCE without a number", b"\x0d\0\0", short),
        ("PULLSHARDS of none", b"\x10" + number, listing),
        ("PULLSHARDS, hash cut short", b"\x10" + number + bytes(31), listing),
        ("PULLSHARDS, 25 shards", b"\x10" + number + ROOT * 25, "PULLSHARDS of too many shards"),
        ("SHARDS without a number", b"\x11\0\0\0", short),
        ("SHARDS, cut short", b"\x11" + number + b"\0\x09" + bytes(8), "object cut short"),
        ("SHARDS, an empty one", b"\x11" + number + b"\0\0", length),
        ("SHARDS, one of 901 octets", b"\x11" + number + b"\x03\x85" + bytes(901), length),
        ("SUSPECT, one byte short", b"\x12" + SLOT + bytes(7), "malformed SUSPECT"),
        ("SUSPECT, one byte long", b"\x12" + SLOT + bytes(9), "malformed SUSPECT"),
    ]  # fmt: skip
