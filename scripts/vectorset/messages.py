"""What stands inside SEALED: one case and more of each message, and refused bodies."""

from __future__ import annotations

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


def _object(raw: bytes) -> bytes:
    return len(raw).to_bytes(2, "big") + raw


def make() -> dict[str, Any]:
    return {
        "accepted": [
            {"message": name, "fields": fields, "body": body.hex()}
            for name, fields, body in [*_detector(), *_store(), *_walks(), *_shards()]
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
    ]


def _store() -> list[_Case]:
    listed = [grant("a", "a"), announcement("a", 5), accusation("b", "a", 5), revocation("b")]
    packed = b"".join(map(_object, listed))
    objects = [raw.hex() for raw in listed]
    start = object_hash(listed[1])[:8]
    return [
        ("PUSH", {"objects": objects}, b"\x06" + packed),
        ("PUSH", {"objects": objects[:1]}, b"\x06" + _object(listed[0])),
        ("OFFER", {"items": [[SLOT.hex(), start.hex()]]}, b"\x07" + SLOT + start),
        ("OFFER", {"items": [[SLOT.hex(), start.hex()]] * 2}, b"\x07" + (SLOT + start) * 2),
        ("PULL", {"request": NUMBER, "slots": [SLOT.hex(), OTHER_SLOT.hex()]},
         b"\x08" + _u32(NUMBER) + SLOT + OTHER_SLOT),
        ("PULL", {"request": NUMBER, "slots": [SLOT.hex()] * 64},
         b"\x08" + _u32(NUMBER) + SLOT * 64),
        ("OBJECTS", {"request": NUMBER, "objects": objects}, b"\x09" + _u32(NUMBER) + packed),
        ("OBJECTS", {"request": NUMBER, "objects": []}, b"\x09" + _u32(NUMBER)),
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
    vouch = {"request": NUMBER, "root": ROOT.hex()}
    held = [digest(bytes([each]), size=8) for each in range(64)]
    return [
        ("WALK", {"request": NUMBER, "path": "", "hash": ROOT.hex()},
         b"\x0a" + _u32(NUMBER) + b"\0" + ROOT),
        ("WALK", {**fields, "hash": ROOT.hex()}, b"\x0a" + head + ROOT),
        ("WALK", {"request": NUMBER, "path": deepest.hex(), "hash": ROOT.hex()},
         b"\x0a" + _u32(NUMBER) + bytes([23]) + deepest + ROOT),
        ("SUBTREE", {**fields, "content": "same"}, b"\x0b" + head + b"\0"),
        ("SUBTREE", {**fields, "content": [child.hex() for child in children]},
         b"\x0b" + head + b"\1" + b"".join(children)),
        ("SUBTREE", {**fields, "content": {}}, b"\x0b" + head + b"\2"),
        ("SUBTREE", {**fields, "content": shown}, b"\x0b" + head + b"\2" + packed),
        ("VOUCH", {**vouch, "answers": False, "bitmap": ""},
         b"\x0c" + _u32(NUMBER) + b"\0" + ROOT),
        ("VOUCH", {**vouch, "answers": True, "bitmap": ""},
         b"\x0c" + _u32(NUMBER) + b"\1" + ROOT),
        ("VOUCH", {**vouch, "answers": True, "bitmap": "a080"},
         b"\x0c" + _u32(NUMBER) + b"\1" + ROOT + b"\xa0\x80"),
        ("EVIDENCE", {"request": NUMBER, "held": []}, b"\x0d" + _u32(NUMBER)),
        ("EVIDENCE", {"request": NUMBER, "held": [each.hex() for each in held]},
         b"\x0d" + _u32(NUMBER) + b"".join(held)),
    ]  # fmt: skip


def _shards() -> list[_Case]:
    raws = [shard("10.1.0.0/24", "10.2.0.0/24"), shard("fd00:1::/64")]
    longest = shard(*LONGEST)
    named = [shard_hash(raw) for raw in raws]
    many = [digest(bytes([each]), size=16) for each in range(24)]
    head = _u32(NUMBER)
    return [
        ("PULLSHARDS", {"request": NUMBER, "hashes": [each.hex() for each in named]},
         b"\x0e" + head + b"".join(named)),
        ("PULLSHARDS", {"request": NUMBER, "hashes": [each.hex() for each in many]},
         b"\x0e" + head + b"".join(many)),
        ("SHARDS", {"request": NUMBER, "shards": [raw.hex() for raw in raws]},
         b"\x0f" + head + b"".join(map(_object, raws))),
        ("SHARDS", {"request": NUMBER, "shards": []}, b"\x0f" + head),
        ("SHARDS", {"request": NUMBER, "shards": [longest.hex()]},
         b"\x0f" + head + _object(longest)),
    ]  # fmt: skip


def _refused() -> list[tuple[str, bytes, str]]:
    listing, short, path = "list cut short, or empty", "message cut short", "malformed path"
    pulse = _u32(NUMBER) + ROOT + EVIDENCE
    raw = grant("a", "a")
    walk, subtree = "malformed WALK", "malformed SUBTREE"
    length = "shard of no length that one has"
    number = _u32(NUMBER)
    return [
        ("nothing", b"", "message of unknown type"),
        ("type 0", b"\0" + pulse, "message of unknown type"),
        ("type 16", b"\x10" + pulse, "message of unknown type"),
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
        ("OFFER, empty", b"\x07", listing),
        ("OFFER, one byte short", b"\x07" + SLOT + ROOT[:7], listing),
        ("PULL, no slots", b"\x08" + number, listing),
        ("PULL, one byte long", b"\x08" + number + SLOT + b"\0", listing),
        ("PULL, 65 slots", b"\x08" + number + SLOT * 65, "PULL of too many slots"),
        ("OBJECTS without a number", b"\x09\x00\x00\x00", short),
        ("WALK without a path", b"\x0a" + number, path),
        ("WALK, path of 24", b"\x0a" + number + b"\x18" + bytes(24) + ROOT, path),
        ("WALK, digit 16", b"\x0a" + number + b"\x01\x10" + ROOT, path),
        ("WALK, path cut short", b"\x0a" + number + b"\x05\x01", path),
        ("WALK, one byte short", b"\x0a" + number + b"\0" + ROOT[:-1], walk),
        ("WALK, one byte long", b"\x0a" + number + b"\0" + ROOT + b"\0", walk),
        ("SUBTREE without content", b"\x0b" + number + b"\0", subtree),
        ("SUBTREE of kind 3", b"\x0b" + number + b"\0\3", subtree),
        ("SUBTREE, equal and more", b"\x0b" + number + b"\0\0\0", subtree),
        ("SUBTREE of 15 children", b"\x0b" + number + b"\0\1" + ROOT * 15, subtree),
        ("SUBTREE of 17 children", b"\x0b" + number + b"\0\1" + ROOT * 17, subtree),
        ("SUBTREE, slot cut short", b"\x0b" + number + b"\0\2" + bytes(27), listing),
        ("SUBTREE of 17 slots", b"\x0b" + number + b"\0\2" + bytes(17 * 28), subtree),
        ("VOUCH, one byte short", b"\x0c" + number + b"\0" + ROOT[:-1], "malformed VOUCH"),
        ("VOUCH, a request with a bitmap", b"\x0c" + number + b"\0" + ROOT + b"\x80",
         "malformed VOUCH"),
        ("VOUCH, neither 0 nor 1", b"\x0c" + number + b"\2" + ROOT, "malformed VOUCH"),
        ("EVIDENCE, hash cut short", b"\x0d" + number + bytes(7), listing),
        ("EVIDENCE without a number", b"\x0d\0\0", short),
        ("PULLSHARDS of none", b"\x0e" + number, listing),
        ("PULLSHARDS, hash cut short", b"\x0e" + number + bytes(31), listing),
        ("PULLSHARDS, 25 shards", b"\x0e" + number + ROOT * 25, "PULLSHARDS of too many shards"),
        ("SHARDS without a number", b"\x0f\0\0\0", short),
        ("SHARDS, cut short", b"\x0f" + number + b"\0\x09" + bytes(8), "object cut short"),
        ("SHARDS, an empty one", b"\x0f" + number + b"\0\0", length),
        ("SHARDS, one of 901 octets", b"\x0f" + number + b"\x03\x85" + bytes(901), length),
    ]  # fmt: skip
