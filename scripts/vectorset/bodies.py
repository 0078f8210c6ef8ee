"""Bodies of the strict msgpack subset, accepted with their value and refused with a reason."""

from __future__ import annotations

import struct
from typing import Any

from vectorset.rules import Value, encode

_ACCEPTED: list[Value] = [
    [],
    [0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63, 2**64 - 1],
    [b"", b"x" * 255, b"x" * 256],
    ["", "a", "\u00e9", "x" * 31, "x" * 32, "x" * 255, "x" * 256],
    [[], [0], [b"", "", 255]],
    [1] * 15,
    [1] * 16,
    [b"x" * 1020],
]

CUT, SMALL, TYPE = "body cut short", "not the smallest encoding", "type not allowed in a body"
DEEP, TRAIL, ARRAY = "arrays nested too deep", "bytes after the body", "body is not an array"

_REFUSED: list[tuple[str, bytes, str]] = [
    ("nothing", b"", ARRAY),
    ("a number alone", b"\x01", ARRAY),
    ("a byte string alone", b"\xc4\x01x", ARRAY),
    ("a map", b"\x80", TYPE),
    ("a map within", b"\x91\x81\x01\x01", TYPE),
    ("map16", b"\x91\xde\x00\x00", TYPE),
    ("map32 of 2^32 - 1", b"\x91\xdf\xff\xff\xff\xff", TYPE),
    ("array32 of 2^32 - 1", b"\xdd\xff\xff\xff\xff", TYPE),
    ("array32 within", b"\x91\xdd\x00\x00\x00\x00", TYPE),
    ("bin32 of 2^32 - 1", b"\x91\xc6\xff\xff\xff\xff", TYPE),
    ("str32", b"\x91\xdb\x00\x00\x00\x01a", TYPE),
    ("nil", b"\x91\xc0", TYPE),
    ("the byte that msgpack never uses", b"\x91\xc1", TYPE),
    ("false for 0", b"\x91\xc2", TYPE),
    ("true for 1", b"\x91\xc3", TYPE),
    ("float32", b"\x91\xca" + struct.pack("!f", 1.0), TYPE),
    ("float64", b"\x91\xcb" + struct.pack("!d", 1.0), TYPE),
    ("ext8", b"\x91\xc7\x01\x01x", TYPE),
    ("ext16", b"\x91\xc8\x00\x01\x01x", TYPE),
    ("ext32", b"\x91\xc9\x00\x00\x00\x01\x01x", TYPE),
    ("fixext1", b"\x91\xd4\x01x", TYPE),
    ("fixext16", b"\x91\xd8\x01" + b"x" * 16, TYPE),
    ("-1", b"\x91\xff", TYPE),
    ("-32", b"\x91\xe0", TYPE),
    ("int8", b"\x91\xd0\x01", TYPE),
    ("int64", b"\x91\xd3" + bytes(7) + b"\x01", TYPE),
    ("127 as uint8", b"\x91\xcc\x7f", SMALL),
    ("255 as uint16", b"\x91\xcd\x00\xff", SMALL),
    ("65535 as uint32", b"\x91\xce\x00\x00\xff\xff", SMALL),
    ("2^32 - 1 as uint64", b"\x91\xcf\x00\x00\x00\x00\xff\xff\xff\xff", SMALL),
    ("255 octets as bin16", b"\x91\xc5\x00\xff" + b"x" * 255, SMALL),
    ("31 characters as str8", b"\x91\xd9\x1f" + b"x" * 31, SMALL),
    ("255 characters as str16", b"\x91\xda\x00\xff" + b"x" * 255, SMALL),
    ("15 items as array16", b"\xdc\x00\x0f" + b"\x01" * 15, SMALL),
    ("an array that is one item short", b"\x92\x01", CUT),
    ("one byte behind the array", b"\x91\x01\x00", TRAIL),
    ("an array that counts one item too few", b"\x91\x01\x01", TRAIL),
    ("a byte string one longer than there is", b"\x91\xc4\x03xx", CUT),
    ("a byte string one shorter than there is", b"\x91\xc4\x01xx", TRAIL),
    ("text one longer than there is", b"\x91\xa3xx", CUT),
    ("a number cut short", b"\x91\xcd\x01", CUT),
    ("bin8 without its length", b"\x91\xc4", CUT),
    ("bin16 of 65535", b"\x91\xc5\xff\xff", CUT),
    ("array16 of 65535", b"\xdc\xff\xff", CUT),
    ("an array in an array in an array", b"\x91\x91\x90", DEEP),
    ("1,023 arrays within", b"\x91" * 1023 + b"\x90", DEEP),
    ("1,025 arrays within", b"\x91" * 1025 + b"\x90", "body too long"),
    ("390 nested array16(1168)", b"\xdc\x04\x90" * 390, "body too long"),
    ("340 nested array16(1000)", b"\xdc\x03\xe8" * 340, DEEP),
    ("340 nested array16(16)", b"\xdc\x00\x10" * 340, DEEP),
    ("1,025 bytes", b"\x91\xc5\x03\xfd" + b"x" * 1021, "body too long"),
    ("text that is not UTF-8", b"\x91\xa1\xff", "text is not UTF-8"),
    ("an overlong UTF-8 slash", b"\x91\xa2\xc0\xaf", "text is not UTF-8"),
    ("a UTF-8 surrogate", b"\x91\xa3\xed\xa0\x80", "text is not UTF-8"),
]


def make() -> dict[str, Any]:
    return {
        "note": 'Values: {"uint": decimal}, {"bin": hex}, {"str": text}, arrays as they are.',
        "accepted": [{"body": encode(value).hex(), "value": tagged(value)} for value in _ACCEPTED],
        "refused": [
            {"why": why, "body": body.hex(), "reason": reason} for why, body, reason in _REFUSED
        ],
    }


def tagged(value: Value) -> Any:
    """``value`` as JSON can carry it: 64-bit numbers as decimal text, octets as hex."""
    if isinstance(value, int):
        return {"uint": str(value)}
    if isinstance(value, bytes):
        return {"bin": value.hex()}
    if isinstance(value, str):
        return {"str": value}
    return [tagged(each) for each in value]
