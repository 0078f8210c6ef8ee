"""The bodies of signed objects: a strict, small subset of msgpack.

A body is one positional array of unsigned integers, byte strings, text and arrays
of those, nested at most once, and every item stands in its smallest encoding, so
that ``pack(unpack(b)) == b`` holds for every body this module accepts.  Anything
else is refused by a scan over the raw bytes *before* msgpack sees them: msgpack
allocates what a length field claims, and a 1,170-byte datagram of nested headers
can otherwise cost megabytes.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from protocol.errors import Rejected

MAX_BODY: Final = 1024
"""Bytes. No object's own limit (440, 720, SPEC.md section 3) is above it."""

MAX_DEPTH: Final = 2
"""A body is an array that may hold arrays of scalars; no object needs more."""


def pack(fields: list[Any]) -> bytes:
    """Encode ``fields`` (int >= 0, bytes, str, list of those) in smallest form."""
    encoded: bytes = msgpack.packb(fields, use_bin_type=True)
    return encoded


def unpack(body: bytes) -> list[Any]:
    """Decode a body, or raise ``Rejected`` without having allocated for its claims."""
    if len(body) > MAX_BODY:
        raise Rejected("body too long")
    if not body or _kind(body[0]) != "array":
        raise Rejected("body is not an array")
    if _scan(body, 0, 1) != len(body):
        raise Rejected("bytes after the body")
    try:
        fields: list[Any] = msgpack.unpackb(body, raw=False, use_list=True)
    except ValueError:
        # The scan has left msgpack one thing to find: text that is not UTF-8.
        raise Rejected("text is not UTF-8") from None
    return fields


def _kind(head: int) -> str:
    if head <= 0x7F or 0xCC <= head <= 0xCF:
        return "uint"
    if 0xA0 <= head <= 0xBF or head in (0xD9, 0xDA):
        return "str"
    if head in (0xC4, 0xC5):
        return "bin"
    if 0x90 <= head <= 0x9F or head == 0xDC:
        return "array"
    raise Rejected("type not allowed in a body")


_WIDTH: Final = {
    0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8,
    0xC4: 1, 0xC5: 2, 0xD9: 1, 0xDA: 2, 0xDC: 2,
}  # fmt: skip
_SMALLEST: Final = {
    0xCC: 0x80, 0xCD: 0x100, 0xCE: 0x1_0000, 0xCF: 0x1_0000_0000,
    0xC4: 0, 0xC5: 0x100, 0xD9: 32, 0xDA: 0x100, 0xDC: 16,
}  # fmt: skip
"""The least value that may stand behind each head: below it a shorter head exists."""


def _scan(data: bytes, at: int, depth: int) -> int:
    """Check the item at ``at``; return the offset behind it."""
    if at >= len(data):
        raise Rejected("body cut short")
    head = data[at]
    kind = _kind(head)
    at += 1
    width = _WIDTH.get(head, 0)
    if width:
        if at + width > len(data):
            raise Rejected("body cut short")
        value = int.from_bytes(data[at : at + width], "big")
        if value < _SMALLEST[head]:
            raise Rejected("not the smallest encoding")
        at += width
    else:
        value = head & (0x1F if kind == "str" else 0x0F)
    if kind == "uint":
        return at
    if kind in ("str", "bin"):
        if at + value > len(data):
            raise Rejected("body cut short")
        return at + value
    if depth > MAX_DEPTH:
        raise Rejected("arrays nested too deep")
    if value > len(data) - at:
        raise Rejected("body cut short")
    for _ in range(value):
        at = _scan(data, at, depth + 1)
    return at
