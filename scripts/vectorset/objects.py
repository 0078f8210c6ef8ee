"""Signed objects of every kind, and what is refused: by its form, or by its signature."""

from __future__ import annotations

from typing import Any

from vectorset.keys import BOOT_SMALL_ORDER, SMALL_ORDER
from vectorset.rules import (
    KINDS,
    MESH,
    OTHER_MESH,
    Value,
    boot_public,
    digest,
    encode,
    endpoint,
    envelope,
    object_hash,
    prefix,
    prefixes,
    public,
    shard,
    shard_hash,
)

L = 2**252 + 27742317777372353535851937790883648493
NOT_SIGNED = "signature"
NAME = "name is not a lower-case host name of 1 to 63 characters"
TYPE = "field of wrong type"
HEAD = 65

GRANT: list[Value] = [
    public("a"), 0, 5, "a", 7,
    prefixes("10.0.0.0/8", "192.168.0.0/16"), prefixes("fd00::/8"),
    prefixes("192.0.2.0/24"), prefixes("2001:db8::/32"), 1000, 1_900_000_000,
]  # fmt: skip
ANNOUNCEMENT: list[Value] = [
    public("a"), 1_700_000_000_123, boot_public("a boot"), 0, 100, 6180,
    [endpoint("2001:db8::1", 6179), endpoint("192.0.2.1", 6179)],
    prefixes("10.1.0.0/24", "10.1.1.0/25"), prefixes("fd00:1::/64"), [],
]  # fmt: skip
ACCUSATION: list[Value] = [public("b"), public("a"), 1_700_000_000_123, 0]
REVOCATION: list[Value] = [public("a"), 0, 5]
SUCCESSOR: list[Value] = [
    1, public("next authority"), public("second"), digest(public("second next")), 9, 2,
    digest(b"meshd/1 members\0", *sorted([public("a"), public("b")]), size=16),
]  # fmt: skip
GOOD: dict[str, tuple[str, list[Value]]] = {
    "grant": ("authority", GRANT),
    "revocation": ("authority", REVOCATION),
    "announcement": ("a", ANNOUNCEMENT),
    "successor": ("next authority", SUCCESSOR),
    "accusation": ("b", ACCUSATION),
}


SHARDS: list[Value] = [shard_hash(shard(f"10.{number}.0.0/16")) for number in range(25)]


def _with(kind: str, field: int, value: Value) -> bytes:
    """A rightly signed object of ``kind`` with one field of another value."""
    by, fields = GOOD[kind]
    changed = list(fields)
    changed[field] = value
    return envelope(kind, by, encode(changed))


def _good(kind: str) -> bytes:
    by, fields = GOOD[kind]
    return envelope(kind, by, encode(fields))


def _many(count: int) -> list[str]:
    return [f"10.{number // 256}.{number % 256}.0/24" for number in range(count)]


def make() -> dict[str, Any]:
    return {
        "mesh_id": MESH.hex(),
        "authority": public("authority").hex(),
        "next_hash_of": public("next authority").hex(),
        "accepted": _accepted(),
        "refused": [
            {"why": why, "raw": raw.hex(), "reason": reason} for why, raw, reason in _refused()
        ],
        "note": f"reason {NOT_SIGNED!r}: the form is good, the signature does not verify",
    }


def _accepted() -> list[dict[str, Any]]:
    least_grant: list[Value] = [public("a"), 0, 0, "0", 0, b"", b"", b"", b"", 0, 0]
    widest: list[Value] = [
        public("a"), 0, 2**63 - 1, "x" * 63, 2**63 - 1, prefixes("0.0.0.0/0"), prefixes("::/0"),
        prefixes("0.0.0.0/0"), prefixes("::/0"), 2**64 - 1, 2**64 - 1,
    ]  # fmt: skip
    left: list[Value] = [*ANNOUNCEMENT[:3], 1, 255, 0, [], b"", b"", []]
    named: list[Value] = [*ANNOUNCEMENT[:7], b"", b"", [*SHARDS[:24]]]
    one_named: list[Value] = [*ANNOUNCEMENT[:7], b"", b"", [*SHARDS[:1]]]
    four_first = [*ANNOUNCEMENT]
    four_first[6] = [endpoint("10.0.0.1", 6179), endpoint("fd00::1", 6179)]
    one: list[Value] = [endpoint("192.0.2.1", 6179)]
    full: list[Value] = [*ANNOUNCEMENT[:5], 0, one, prefixes(*_many(132)), b"", []]
    with_refusal: list[Value] = [*ACCUSATION[:3], 1]
    hyphen: list[Value] = [*GRANT[:3], "r-1.x", *GRANT[4:]]
    never: list[Value] = [public("b"), 0, 0]
    nobody: list[Value] = [*SUCCESSOR[:5], 0, digest(b"meshd/1 members\0", size=16)]
    cases: list[tuple[str, str, str, list[Value]]] = [
        ("every field used", "grant", "authority", GRANT),
        ("the least grant", "grant", "authority", least_grant),
        ("every number at its largest", "grant", "authority", widest),
        ("a name with a dot and a hyphen", "grant", "authority", hyphen),
        ("a member since 5", "revocation", "authority", REVOCATION),
        ("of one that had no grant", "revocation", "authority", never),
        ("of two members", "successor", "next authority", SUCCESSOR),
        ("of none", "successor", "next authority", nobody),
        ("two endpoints, both families", "announcement", "a", ANNOUNCEMENT),
        ("left: no endpoints, no prefixes", "announcement", "a", left),
        ("endpoints sort as octets", "announcement", "a", four_first),
        ("132 prefixes", "announcement", "a", full),
        ("24 shards", "announcement", "a", named),
        ("one shard", "announcement", "a", one_named),
        ("silent", "accusation", "b", ACCUSATION),
        ("refused", "accusation", "b", with_refusal),
    ]
    accepted = []
    for why, kind, by, fields in cases:
        raw = envelope(kind, by, encode(fields))
        accepted.append(
            {
                "why": why,
                "kind": kind,
                "fields": [_shown(field) for field in fields],
                "raw": raw.hex(),
                "hash": object_hash(raw).hex(),
            }
        )
    return accepted


def _shown(field: Value) -> Any:
    if isinstance(field, int):
        return str(field)
    if isinstance(field, bytes):
        return field.hex()
    if isinstance(field, list):
        return [_shown(each) for each in field]
    return field


def _refused() -> list[tuple[str, bytes, str]]:
    parts = (_names, _keys, _grants, _announcements, _successors, _accusations, _envelopes)
    return [case for part in parts for case in part()]


def _names() -> list[tuple[str, bytes, str]]:
    names = {
        "no name": "",
        "64 characters": "x" * 64,
        "upper case": "A",
        "NUL": "a\0b",
        "a newline within": "a\nb",
        "a newline at the end": "a\n",
        "ESC": "a\x1b[2Jb",
        "right-to-left override": "a\u202eb",
        "a letter outside ASCII": "\u00e9",
        "a full-width letter": "\uff41",
        "a Kelvin sign, whose lower case is k": "\u212a",
        "a space": "a b",
        "a slash": "../a",
        "an underscore": "a_b",
        "a hyphen first": "-a",
        "a dot last": "a.",
    }
    cases = [(f"name: {why}", _with("grant", 3, name), NAME) for why, name in names.items()]
    by, fields = GOOD["grant"]
    body = encode(fields).replace(b"\xa1a\x07", b"\xa1\xff\x07")
    not_text = ("name: not UTF-8", envelope("grant", by, body), "text is not UTF-8")
    return [*cases, not_text]


def _keys() -> list[tuple[str, bytes, str]]:
    order = "public key of small order"
    cases = []
    for why, key in SMALL_ORDER:
        for kind in ("grant", "revocation", "announcement", "accusation"):
            cases.append((f"{kind} of {why}", _with(kind, 0, bytes.fromhex(key)), order))
    for why, key in SMALL_ORDER:
        for field in (1, 2):
            raw = _with("successor", field, bytes.fromhex(key))
            cases.append((f"successor with {why} in field {field}", raw, order))
    for why, key in SMALL_ORDER:
        cases.append((f"accused: {why}", _with("accusation", 1, bytes.fromhex(key)), order))
    for why, key in BOOT_SMALL_ORDER:
        raw = _with("announcement", 2, bytes.fromhex(key))
        cases.append((f"boot key: {why}", raw, "boot key of small order"))
    short = _with("revocation", 0, b"\x22" * 31)
    return [*cases, ("a key of 31 bytes", short, "public key of wrong length")]


def _grants() -> list[tuple[str, bytes, str]]:
    order, host = "prefixes not strictly ascending", "prefix with host bits"
    wide = prefixes(*_many(80))
    return [
        ("serial 2^63", _with("grant", 4, 2**63), "sequence of 2^63 or more"),
        ("older than its node's first", _with("grant", 2, 8), "grant older than its node's first"),
        ("grant of generation 65", _with("grant", 1, 65), "generation above 64"),
        ("revocation of generation 65", _with("revocation", 1, 65), "generation above 64"),
        ("revoked, and first granted at 2^63", _with("revocation", 2, 2**63),
         "sequence of 2^63 or more"),
        ("allow: host bits", _with("grant", 5, bytes([7, 11])), host),
        ("allow: unsorted", _with("grant", 5, prefix("11.0.0.0/8") + prefix("10.0.0.0/8")), order),
        ("allow: twice", _with("grant", 5, prefix("10.0.0.0/8") * 2), order),
        ("allow: IPv6 in the IPv4 field", _with("grant", 5, bytes([33, 10, 0, 0, 0, 0])),
         "prefix longer than its family"),
        ("at: cut short", _with("grant", 7, bytes([24, 10])), "prefix cut short"),
        ("over 440 bytes", _with("grant", 5, wide),
         "grant longer than 440 bytes"),
    ]  # fmt: skip


def _successors() -> list[tuple[str, bytes, str]]:
    kind, width = "successor", "hash of wrong length"
    return [
        ("successor of generation 0", _with(kind, 0, 0), "successor that comes first"),
        ("successor of generation 65", _with(kind, 0, 65), "generation above 64"),
        ("next hash of 16 bytes", _with(kind, 3, bytes(16)), width),
        ("members' hash of 32 bytes", _with(kind, 6, bytes(32)), width),
        ("serial 2^63", _with(kind, 4, 2**63), "sequence of 2^63 or more"),
        ("by the authority before", envelope(kind, "authority", encode(SUCCESSOR)), NOT_SIGNED),
        ("in the name of the authority before", _by("authority"), NOT_SIGNED),
        ("by the new authority", envelope(kind, "second", encode(SUCCESSOR)), NOT_SIGNED),
        ("in the name of the new authority", _by("second"), NOT_SIGNED),
        ("of the generation after the next", _with(kind, 0, 2), NOT_SIGNED),
    ]


def _by(key: str) -> bytes:
    """A successor rightly signed by a key that was not set aside for it."""
    return envelope("successor", key, encode([SUCCESSOR[0], public(key), *SUCCESSOR[2:]]))


def _announcements() -> list[tuple[str, bytes, str]]:
    host, order = "prefix with host bits", "prefixes not strictly ascending"
    four, six = endpoint("192.0.2.1", 6179), endpoint("2001:db8::1", 6179)
    mapped = bytes([120]) + bytes(10) + b"\xff\xff\x0a\x01\x00"
    kind, two = "announcement", "more than one endpoint of a family"
    default = "default route announced"
    nowhere, left = "endpoint that cannot be sent to", "prefixes of a node that has left"
    return [
        ("sequence 2^63", _with(kind, 1, 2**63), "sequence of 2^63 or more"),
        ("sequence 2^64 - 1", _with(kind, 1, 2**64 - 1), "sequence of 2^63 or more"),
        ("state 2", _with(kind, 3, 2), "announcement in no known state"),
        ("preference 256", _with(kind, 4, 256), "preference above 255"),
        ("tunnel port 65536", _with(kind, 5, 65536), "tunnel port above 65535"),
        ("tunnel as octets", _with(kind, 5, b"\x18\x24"), TYPE),
        ("two IPv4 endpoints", _with(kind, 6, [four, endpoint("192.0.2.2", 1)]), two),
        ("three endpoints", _with(kind, 6, [four, six, six]), two),
        ("an endpoint of 5 bytes", _with(kind, 6, [four[:5]]), two),
        ("endpoints descending", _with(kind, 6, [four, six]), "endpoints not ascending"),
        ("an endpoint as text", _with(kind, 6, ["192.0.2.1"]), TYPE),
        ("an endpoint as an array", _with(kind, 6, [[four]]), "arrays nested too deep"),
        ("port 0", _with(kind, 6, [endpoint("192.0.2.1", 0)]), nowhere),
        ("multicast", _with(kind, 6, [endpoint("ff02::1", 6179)]), nowhere),
        ("prefix: host bits", _with(kind, 7, bytes([7, 11])), host),
        ("prefix: length 33", _with(kind, 7, bytes([33]) + bytes(5)),
         "prefix longer than its family"),
        ("prefix: length 129", _with(kind, 8, bytes([129]) + bytes(17)),
         "prefix longer than its family"),
        ("prefix: 0.0.0.0/0", _with(kind, 7, prefixes("0.0.0.0/0", "10.0.0.0/8")), default),
        ("prefix: ::/0", _with(kind, 8, prefixes("::/0")), default),
        ("prefix: unsorted", _with(kind, 7, prefix("10.2.0.0/16") + prefix("10.1.0.0/16")), order),
        ("prefix: twice", _with(kind, 7, prefix("10.1.0.0/16") * 2), order),
        ("prefix: cut short", _with(kind, 7, prefix("10.1.0.0/16")[:-1]), "prefix cut short"),
        ("prefix: IPv4-mapped", _with(kind, 8, mapped), "IPv4-mapped prefix"),
        ("25 shards", _shards(SHARDS), "more than 24 shards"),
        ("a shard twice", _shards([*SHARDS[:2], SHARDS[0]]), "a shard named twice"),
        ("a shard's hash of 15 bytes", _shards([b"x" * 15]), "shard's hash of wrong length"),
        ("a shard's hash of 17 bytes", _shards([b"x" * 17]), "shard's hash of wrong length"),
        ("a shard's hash as text", _shards(["x" * 16]), TYPE),
        ("IPv4 beside shards", _with(kind, 9, SHARDS[:1]), "prefixes beside shards"),
        ("IPv6 beside shards", _shards(SHARDS[:1], prefixes6=prefixes("fd00:1::/64")),
         "prefixes beside shards"),
        ("left, with prefixes", _with(kind, 3, 1), left),
        ("left, with shards", _shards(SHARDS[:1], state=1), left),
        ("over 720 bytes", _with(kind, 7, prefixes(*_many(140))),
         "announcement longer than 720 bytes"),
    ]  # fmt: skip


def _shards(named: list[Value], *, state: int = 0, prefixes6: bytes = b"") -> bytes:
    head, endpoints = ANNOUNCEMENT[:3], ANNOUNCEMENT[6]
    return envelope(
        "announcement", "a", encode([*head, state, 100, 0, endpoints, b"", prefixes6, named])
    )


def _accusations() -> list[tuple[str, bytes, str]]:
    body = encode(ACCUSATION)
    true = envelope("accusation", "b", body[:-1] + b"\xc3")
    return [
        ("true for 1", true, "type not allowed in a body"),
        ("refused is 2", _with("accusation", 3, 2), "refused is neither 0 nor 1"),
        ("accused at 2^63", _with("accusation", 2, 2**63), "sequence of 2^63 or more"),
    ]


def _envelopes() -> list[tuple[str, bytes, str]]:
    cases: list[tuple[str, bytes, str]] = [
        ("nothing", b"", "object of unknown kind"),
        ("kind 0", b"\0" + _good("grant")[1:], "object of unknown kind"),
        ("kind 6", b"\x06" + _good("grant")[1:], "object of unknown kind"),
        ("a head and no body", _good("grant")[:HEAD], "object of another kind, or cut short"),
        ("a grant's kind on a revocation", b"\x01" + _good("revocation")[1:],
         "wrong number of fields"),
    ]  # fmt: skip
    for kind, (by, fields) in GOOD.items():
        body = encode(fields)
        raw = envelope(kind, by, body)
        number = raw[:1]
        others = [other for other in KINDS if other != kind]
        foreign = "b" if by != "b" else "a"
        count = bytes([0x90 | (len(fields) + 1)])
        cases += [
            (f"{kind}: signed by another", envelope(kind, foreign, body), NOT_SIGNED),
            (f"{kind}: of another mesh", envelope(kind, by, body, OTHER_MESH), NOT_SIGNED),
            (f"{kind}: signature of zeros", number + bytes(64) + body, NOT_SIGNED),
            (f"{kind}: S + L", _s_plus_l(raw), NOT_SIGNED),
            (f"{kind}: a byte behind the body", envelope(kind, by, body + b"\0"),
             "bytes after the body"),
            (f"{kind}: the last byte missing", raw[:-1], "body cut short"),
            (f"{kind}: one field more", envelope(kind, by, count + body[1:] + b"\0"),
             "wrong number of fields"),
            (f"{kind}: its first field as text", _with(kind, 0, "a"), TYPE),
        ]  # fmt: skip
        for other in others:
            stolen = envelope(other, by, body)
            cases.append((f"{kind}: signed as {other}", number + stolen[1:], NOT_SIGNED))
    return cases


def _s_plus_l(raw: bytes) -> bytes:
    """The same object with the other S of the same residue, which a lax check would take."""
    s = int.from_bytes(raw[33:HEAD], "little") + L
    return raw[:33] + s.to_bytes(32, "little") + raw[HEAD:]
