"""Shards, the sets of prefixes they are joined to, and what is neither."""

from __future__ import annotations

from typing import Any

from vectorset.rules import prefix, prefixes, shard, shard_hash

ORDER, NONE = "prefixes not strictly ascending", "shard without prefixes"
DEFAULT, LONG = "default route announced", "shard longer than 900 bytes"
ASCENDING, MANY = "shards not strictly ascending", "more than 1000 prefixes of one node"

ONE = ["10.0.0.0/8"]
FOUR = ["10.0.0.0/8", "10.1.0.0/24", "10.0.1.0/25"]
NEXT = ["10.0.1.128/25", "10.0.0.1/32"]
SIX = ["fd00::/8", "fd00:1::/64", "fd00:1::1/128"]
LONGEST = [f"10.0.{number}.0/24" for number in range(221)] + [f"10.0.0.{n}/32" for n in range(3)]
"""900 octets."""


def _hosts(first: int, count: int) -> list[str]:
    return [f"10.0.{number // 256}.{number % 256}/32" for number in range(first, first + count)]


def make() -> dict[str, Any]:
    many = [f"fd00:1:0:{number:x}::/64" for number in range(1, 100)]
    return {
        "accepted": [_accepted(nets) for nets in (ONE, FOUR, SIX, LONGEST, many)],
        "refused": [
            {"why": why, "raw": raw.hex(), "reason": reason} for why, raw, reason in _refused()
        ],
        "sets": [
            _set([FOUR]),
            _set([FOUR, NEXT]),
            _set([FOUR, NEXT, SIX]),
            _set([_hosts(179 * number, 179) for number in range(5)] + [_hosts(895, 105)]),
        ],
        "sets_refused": [
            {"why": why, "shards": [shard(*nets).hex() for nets in listed], "reason": reason}
            for why, listed, reason in _sets_refused()
        ],
    }


def _accepted(nets: list[str]) -> dict[str, Any]:
    raw = shard(*nets)
    return {"raw": raw.hex(), "hash": shard_hash(raw).hex(), "prefixes": nets}


def _set(listed: list[list[str]]) -> dict[str, Any]:
    return {
        "shards": [shard(*nets).hex() for nets in listed],
        "prefixes": [net for nets in listed for net in nets],
    }


def _refused() -> list[tuple[str, bytes, str]]:
    ten, eleven = prefix("10.0.0.0/8"), prefix("11.0.0.0/8")
    return [
        ("nothing", b"", NONE),
        ("a family alone", b"\x04", NONE),
        ("family 0", b"\0" + ten, "shard of unknown family"),
        ("family 5", b"\x05" + ten, "shard of unknown family"),
        ("no order", b"\x04" + eleven + ten, ORDER),
        ("a prefix twice", b"\x04" + ten + ten, ORDER),
        ("host bits", b"\x04" + bytes([7, 11]), "prefix with host bits"),
        ("IPv6 under IPv4", b"\x04" + prefix("fd00::/64"), "prefix longer than its family"),
        ("cut short", shard(*FOUR)[:-1], "prefix cut short"),
        ("0.0.0.0/0", b"\x04" + prefixes("0.0.0.0/0", "10.0.0.0/8"), DEFAULT),
        ("::/0", b"\x06" + prefix("::/0"), DEFAULT),
        ("IPv4-mapped", b"\x06" + bytes([120]) + bytes(10) + b"\xff\xff\x0a\x01\x00",
         "IPv4-mapped prefix"),
        ("901 octets", b"\x04" + prefixes(*_hosts(0, 180)), LONG),
    ]  # fmt: skip


def _sets_refused() -> list[tuple[str, list[list[str]], str]]:
    many = [_hosts(179 * number, 179) for number in range(5)] + [_hosts(895, 106)]
    return [
        ("the second before the first", [NEXT, FOUR], ASCENDING),
        ("one prefix in two shards", [FOUR, [FOUR[-1], *NEXT]], ASCENDING),
        ("IPv6 before IPv4", [SIX, FOUR], ASCENDING),
        ("1,001 prefixes", many, MANY),
    ]
