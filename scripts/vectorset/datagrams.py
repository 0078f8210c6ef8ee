"""HELLO and STALE; a sealed conversation between two boot keys, with a replay window."""

from __future__ import annotations

import hmac
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from vectorset.rules import (
    MESH,
    OTHER_MESH,
    announcement,
    boot,
    boot_public,
    endpoint,
    grant,
    key_id,
    public,
    revocation,
    seed,
    successor,
)

VERSION = 1
HELLO, SEALED, STALE, NOTICE = 1, 2, 3, 4


def hello(asks: bool, about: bytes, own: bytes, mesh: bytes = MESH, generation: int = 0) -> bytes:
    """Section 4.1."""
    head = bytes([VERSION, HELLO]) + mesh + bytes([asks, generation])
    head += len(about).to_bytes(2, "big") + len(own).to_bytes(2, "big")
    datagram = head + about + own
    return datagram + bytes(1200 - len(datagram)) if asks else datagram


def stale(recipient: bytes, counter: int) -> bytes:
    """Section 4.3."""
    return bytes([VERSION, STALE, 0, 0]) + recipient + counter.to_bytes(8, "big")


def notice(word: bytes, mesh: bytes = MESH) -> bytes:
    """Section 4.6."""
    return bytes([VERSION, NOTICE]) + mesh + word


def make_frames() -> dict[str, Any]:
    a = (grant("a", "a"), announcement("a", 5, endpoints=[endpoint("192.0.2.1", 6179)]))
    b = (grant("b", "b"), announcement("b", 9))
    asking, telling = hello(True, *a), hello(False, *a)
    end = 24 + len(a[0]) + len(a[1])
    words = [revocation("a"), successor(1, "next authority", "second", "second next", 9, ["a"])]
    recipient = key_id(MESH, public("a"), boot_public("a boot"))
    last = stale(recipient, 2**64 - 1)
    malformed, malformed_stale = "malformed HELLO", "malformed STALE"

    def put(data: bytes, at: int, value: bytes) -> bytes:
        return data[:at] + value + data[at + len(value) :]

    def sizes(about: int, own: int, base: bytes) -> bytes:
        return put(base, 20, about.to_bytes(2, "big") + own.to_bytes(2, "big"))

    refused = [
        ("nothing", b"", "datagram cut short"),
        ("one byte", b"\x01", "datagram cut short"),
        ("19 bytes", last[:19], "datagram cut short"),
        ("1,201 bytes", asking + b"\0", "datagram over 1,200 bytes"),
        ("version 0", put(asking, 0, b"\0"), "another protocol version"),
        ("version 2", put(asking, 0, b"\x02"), "another protocol version"),
        ("type 0", put(asking, 1, b"\0"), "frame of unknown type"),
        ("type 5", put(asking, 1, b"\x05"), "frame of unknown type"),
        ("HELLO of another mesh", hello(True, *a, OTHER_MESH), "another mesh"),
        ("HELLO with an unknown flag", put(asking, 18, b"\x03"), "unknown HELLO flags"),
        ("HELLO of generation 65", put(asking, 19, b"\x41"), "generation above 64"),
        ("HELLO of a head only", telling[:23], "datagram cut short"),
        ("HELLO that asks, not padded", put(telling, 18, b"\x01"),
         "a HELLO that asks is not padded"),
        ("HELLO that asks, one byte short of 1,200", asking[:-1],
         "a HELLO that asks is not padded"),
        ("HELLO with padding that is not zero", put(asking, 1199, b"\x01"), malformed),
        ("HELLO with padding that it may not have", telling + b"\0", malformed),
        ("HELLO cut by one byte", telling[:-1], malformed),
        ("HELLO whose lengths run beyond the end", sizes(65535, 65535, asking), malformed),
        ("HELLO whose announcement is one byte too long", sizes(len(a[0]), len(a[1]) + 1, asking),
         "bytes after the body"),
        ("HELLO whose grant is one byte too short", sizes(len(a[0]) - 1, len(a[1]) + 1, telling),
         "body cut short"),
        ("HELLO with its objects exchanged", hello(True, a[1], a[0]),
         "object of another kind, or cut short"),
        ("HELLO with the grant of one and the announcement of another", hello(True, a[0], b[1]),
         "grant and announcement of different nodes"),
        ("HELLO without objects", sizes(0, 0, bytes(asking[:24]) + bytes(1176)),
         "object of another kind, or cut short"),
        ("STALE of 21 bytes", last + b"\0", malformed_stale),
        ("STALE whose reserved bytes are not zero", put(last, 2, b"\x01"), malformed_stale),
        ("NOTICE of another mesh", notice(words[0], OTHER_MESH), "another mesh"),
        ("NOTICE of a grant", notice(a[0]), "notice of another kind"),
        ("NOTICE of a head and a kind", notice(b"\x02\0"), "object of another kind, or cut short"),
        ("NOTICE with a byte behind it", notice(words[0] + b"\0"), "bytes after the body"),
        ("NOTICE, padded", notice(words[1]).ljust(1200, b"\0"),
         "successor longer than 256 bytes"),
        ("SEALED of 42 bytes", bytes([VERSION, SEALED]) + bytes(40), "datagram cut short"),
    ]  # fmt: skip
    return {
        "mesh_id": MESH.hex(),
        "hello": [
            {
                "asks": asks,
                "grant": pair[0].hex(),
                "announcement": pair[1].hex(),
                "generation": generation,
                "end": 24 + len(pair[0]) + len(pair[1]),
                "datagram": hello(asks, *pair, generation=generation).hex(),
            }
            for pair, generation in ((a, 0), (b, 64))
            for asks in (True, False)
        ],
        "notice": [{"word": word.hex(), "datagram": notice(word).hex()} for word in words],
        "stale": [
            {
                "recipient": recipient.hex(),
                "counter": str(counter),
                "datagram": stale(recipient, counter).hex(),
            }
            for counter in (0, 1, 1_000_000_001, 2**64 - 1)
        ],
        "refused": [
            {"why": why, "datagram": data.hex(), "reason": reason} for why, data, reason in refused
        ],
        "padding_begins_at": end,
    }


class _Direction:
    """One direction of a session: section 4.2 with HKDF written out (RFC 5869)."""

    def __init__(self, key: bytes, sender: bytes, recipient: bytes) -> None:
        self.key, self.sender, self.recipient = key, sender, recipient

    def seal(self, counter: int, body: bytes) -> bytes:
        head = bytes([VERSION, SEALED]) + self.sender + self.recipient + counter.to_bytes(8, "big")
        nonce = bytes(4) + counter.to_bytes(8, "big")
        return head + ChaCha20Poly1305(self.key).encrypt(nonce, body, head)


def hkdf_64(salt: bytes, secret: bytes, info: bytes) -> bytes:
    extracted = hmac.digest(salt, secret, "sha256")
    first = hmac.digest(extracted, info + b"\x01", "sha256")
    return first + hmac.digest(extracted, first + info + b"\x02", "sha256")


def make_session() -> dict[str, Any]:
    shared = boot("a boot").exchange(X25519PublicKey.from_public_bytes(boot_public("b boot")))
    ends = {name: public(name) + boot_public(f"{name} boot") for name in ("a", "b")}
    low, high = sorted(ends.values())
    keys = hkdf_64(MESH, shared, b"meshd/1 seal\0" + low + high)
    ids = {name: key_id(MESH, end[:32], end[32:]) for name, end in ends.items()}
    from_a = keys[:32] if ends["a"] == low else keys[32:]
    from_b = keys[32:] if ends["a"] == low else keys[:32]
    to_b = _Direction(from_a, ids["a"], ids["b"])
    to_a = _Direction(from_b, ids["b"], ids["a"])

    start = 1_000_000_000
    sent = [
        {"from": "a", "counter": str(start + 1), "body": b"\x04\x00\x00\x00\x07"},
        {"from": "a", "counter": str(start + 2), "body": b"x"},
        {"from": "a", "counter": str(start + 3), "body": bytes(1158)},
        {"from": "b", "counter": str(start + 1), "body": b"\x05\x00\x00\x00\x07"},
    ]
    datagrams = []
    for each in sent:
        way = to_b if each["from"] == "a" else to_a
        body = bytes(each["body"])  # type: ignore[arg-type]
        datagram = way.seal(int(str(each["counter"])), body)
        datagrams.append({**each, "body": body.hex(), "datagram": datagram.hex()})
    return {
        "mesh_id": MESH.hex(),
        "ends": [
            {
                "name": name,
                "node": public(name).hex(),
                "boot_secret": seed(f"{name} boot").hex(),
                "boot_key": boot_public(f"{name} boot").hex(),
                "key_id": ids[name].hex(),
            }
            for name in ("a", "b")
        ],
        "shared_secret": shared.hex(),
        "key_from_a": from_a.hex(),
        "key_from_b": from_b.hex(),
        "sent": datagrams,
        "sent_note": "each end began at the monotonic second 1000, so at counter 1000000001",
        "received_by_b": _received(to_b, to_a),
        "received_note": "in this order, by a new session",
    }


def _received(way: _Direction, back: _Direction) -> list[dict[str, Any]]:
    old = "replayed, or older than the window"
    forged = "not sealed by that key"
    base = 5_000_000

    def tampered(datagram: bytes, at: int) -> bytes:
        return datagram[:at] + bytes([datagram[at] ^ 1]) + datagram[at + 1 :]

    def row(why: str, counter: int, reason: str | None, data: bytes | None = None) -> Any:
        datagram = way.seal(counter, counter.to_bytes(8, "big")) if data is None else data
        return {"why": why, "datagram": datagram.hex(), "reason": reason}

    good = way.seal(base + 1, b"forged")
    exchanged = good[:2] + good[10:18] + good[2:10] + good[18:]
    reflected = back.seal(base + 1, b"reflected")
    return [
        row("counter 0", 0, old),
        row("the first", base, None),
        row("the first again", base, old),
        row("the one before it", base - 1, None),
        row("a header bit changed", 0, forged, tampered(good, 3)),
        row("a body bit changed", 0, forged, tampered(good, 27)),
        row("a tag bit changed", 0, forged, tampered(good, len(good) - 1)),
        row("key ids exchanged", 0, forged, exchanged),
        row("sealed with the key of the other direction", 0, forged, reflected),
        row("the forged counter, now genuine", base + 1, None),
        row("1,022 ahead", base + 1023, None),
        row("1,023 behind the highest: the oldest in the window", base, old),
        row("1,023 behind, another highest", base + 1024, None),
        row("now 1,024 behind", base, old),
        row("1,023 behind and never seen before", base + 1025, None),
        row("the oldest that the window holds", base + 2, None),
        row("the same again", base + 2, old),
        row("far ahead", base + 1_000_000, None),
        row("just outside the window", base + 1_000_000 - 1024, old),
        row("just inside the window", base + 1_000_000 - 1023, None),
        row("the last counter there is", 2**64 - 1, None),
        row("after it", base + 1_000_001, old),
    ]
