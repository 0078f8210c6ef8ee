"""Packed prefixes and endpoints, accepted and refused."""

from __future__ import annotations

from typing import Any

from vectorset.rules import endpoint, prefix, prefixes

HOST, ORDER, CUT = "prefix with host bits", "prefixes not strictly ascending", "prefix cut short"
LONG, MAPPED = "prefix longer than its family", "IPv4-mapped prefix"
NOWHERE = "endpoint that cannot be sent to"

_SETS: list[tuple[int, list[str]]] = [
    (4, []),
    (4, ["10.1.0.0/24"]),
    (4, ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8", "10.1.0.0/25", "192.0.2.1/32"]),
    (4, ["172.16.0.0/12", "172.16.0.0/13", "172.24.0.0/13"]),
    (6, []),
    (6, ["::/0", "fd00::/8", "fd00::/48", "2001:db8::/32", "2001:db8::1/128"]),
    (6, ["fd00:0:0:1::/64", "fd00:0:0:2::/64", "fd00:0:0:2::/63"]),
]

_REFUSED: list[tuple[str, int, bytes, str]] = [
    ("a host bit", 4, bytes([24, 10, 1, 1]) + bytes([25, 10, 1, 1, 1]), HOST),
    ("the highest host bit", 4, bytes([23, 10, 1, 1]), HOST),
    ("length 33", 4, bytes([33, 10, 0, 0, 0, 0]), LONG),
    ("length 255", 4, bytes([255]) + bytes(32), LONG),
    ("length 129", 6, bytes([129]) + bytes(17), LONG),
    ("descending", 4, prefix("10.2.0.0/24") + prefix("10.1.0.0/24"), ORDER),
    ("twice the same", 4, prefix("10.1.0.0/24") * 2, ORDER),
    ("the longer length first", 4, prefix("10.1.0.0/24") + prefix("10.0.0.0/8"), ORDER),
    ("one octet missing", 4, prefix("10.1.0.0/24")[:-1], CUT),
    ("a length and nothing else", 4, bytes([24]), CUT),
    ("the second one cut", 4, prefix("10.1.0.0/24") + bytes([24, 10, 2]), CUT),
    ("one octet too many", 4, prefix("10.1.0.0/24") + b"\0", ORDER),
    ("::ffff:10.1.0.0/120", 6, bytes([120]) + bytes(10) + b"\xff\xff\x0a\x01\x00", MAPPED),
    ("::ffff:0:0/96", 6, bytes([96]) + bytes(10) + b"\xff\xff", MAPPED),
    ("an IPv6 host bit", 6, bytes([63, 0xFD, 0, 0, 0, 0, 0, 0, 1]), HOST),
]

_ENDPOINTS = [("192.0.2.1", 6179), ("10.0.0.1", 1), ("2001:db8::1", 65535), ("fd00::7", 6179)]

_ENDPOINTS_REFUSED: list[tuple[str, bytes, str]] = [
    ("port 0", endpoint("192.0.2.1", 0), NOWHERE),
    ("the IPv4 unspecified address", endpoint("0.0.0.0", 6179), NOWHERE),
    ("the IPv6 unspecified address", endpoint("::", 6179), NOWHERE),
    ("IPv4 multicast", endpoint("224.0.0.1", 6179), NOWHERE),
    ("IPv6 multicast", endpoint("ff02::1", 6179), NOWHERE),
    ("IPv4-mapped", endpoint("::ffff:192.0.2.1", 6179), "IPv4-mapped endpoint"),
    ("5 bytes", bytes(5), "endpoint of wrong length"),
    ("7 bytes", bytes(7), "endpoint of wrong length"),
    ("nothing", b"", "endpoint of wrong length"),
]


def make() -> dict[str, Any]:
    return {
        "prefixes": [
            {"family": family, "packed": prefixes(*texts).hex(), "prefixes": _in_order(texts)}
            for family, texts in _SETS
        ],
        "prefixes_refused": [
            {"why": why, "family": family, "packed": packed.hex(), "reason": reason}
            for why, family, packed, reason in _REFUSED
        ],
        "endpoints": [
            {"host": host, "port": port, "packed": endpoint(host, port).hex()}
            for host, port in _ENDPOINTS
        ],
        "endpoints_refused": [
            {"why": why, "packed": packed.hex(), "reason": reason}
            for why, packed, reason in _ENDPOINTS_REFUSED
        ],
    }


def _in_order(texts: list[str]) -> list[str]:
    return sorted(texts, key=prefix)
