"""SPEC.md's encodings, written down plainly a second time, and the keys of all vectors."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocol.address import Prefix

Value = int | bytes | str | list["Value"]


def seed(name: str) -> bytes:
    """The 32-byte secret called ``name`` in the vectors."""
    return hashlib.sha256(b"meshd vectors: " + name.encode()).digest()


def signer(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed(name))


def public(name: str) -> bytes:
    return signer(name).public_key().public_bytes_raw()


def boot(name: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(seed(name))


def boot_public(name: str) -> bytes:
    return boot(name).public_key().public_bytes_raw()


def digest(*parts: bytes, size: int = 32) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()[:size]


def mesh_id(authority: bytes, next_authority: bytes) -> bytes:
    """Section 2.3."""
    return digest(b"meshd/1 mesh\0", authority, digest(next_authority), size=16)


MESH = mesh_id(public("authority"), public("next authority"))
OTHER_MESH = mesh_id(public("other authority"), public("next authority"))


def encode(value: Value) -> bytes:
    """The strict msgpack subset of section 3.2."""
    if isinstance(value, int):
        return _encode_uint(value)
    if isinstance(value, bytes):
        size = len(value)
        head = b"\xc4" + bytes([size]) if size < 256 else b"\xc5" + size.to_bytes(2, "big")
        return head + value
    if isinstance(value, str):
        text = value.encode()
        size = len(text)
        if size < 32:
            return bytes([0xA0 | size]) + text
        return (b"\xd9" + bytes([size]) if size < 256 else b"\xda" + size.to_bytes(2, "big")) + text
    count = len(value)
    head = bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return head + b"".join(encode(each) for each in value)


def _encode_uint(value: int) -> bytes:
    if value < 0x80:
        return bytes([value])
    for head, size in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)):
        if value < 1 << (8 * size):
            return bytes([head]) + value.to_bytes(size, "big")
    raise ValueError(f"{value} needs more than 64 bits")


def prefixes(*texts: str) -> bytes:
    """Section 1.2: the packed prefixes, in canonical order."""
    return b"".join(sorted(prefix(text) for text in texts))


def prefix(text: str) -> bytes:
    network = Prefix.parse(text)
    octets = (network.prefixlen + 7) // 8
    return bytes([network.prefixlen]) + network.network_address.packed[:octets]


def endpoint(host: str, port: int) -> bytes:
    """Section 1.3."""
    return ipaddress.ip_address(host).packed + port.to_bytes(2, "big")


KINDS = {"grant": 1, "revocation": 2, "announcement": 3, "successor": 4, "accusation": 5}


def message_to_sign(kind: str, mesh: bytes, body: bytes) -> bytes:
    """Section 3.1."""
    return b"meshd/1 " + kind.encode() + b"\0" + mesh + body


def envelope(kind: str, by: str, body: bytes, mesh: bytes = MESH) -> bytes:
    signature = signer(by).sign(message_to_sign(kind, mesh, body))
    return bytes([KINDS[kind]]) + signature + body


def grant(
    node: str,
    name: str,
    *,
    serial: int = 1,
    since: int | None = None,
    generation: int = 0,
    by: str = "authority",
) -> bytes:
    fields: list[Value] = [
        public(node), generation, serial if since is None else since, name, serial,
        prefixes("10.0.0.0/8"), prefixes("fd00::/8"), b"", b"", 0, 0,
    ]  # fmt: skip
    return envelope("grant", by, encode(fields))


def announcement(
    node: str, sequence: int, *, endpoints: Sequence[bytes] = (), nets: Iterable[str] = ()
) -> bytes:
    listed = list(nets)
    fields: list[Value] = [
        public(node), sequence, boot_public(f"{node} boot"), 0, 100, 0, [*sorted(endpoints)],
        prefixes(*(net for net in listed if ":" not in net)),
        prefixes(*(net for net in listed if ":" in net)), [],
    ]  # fmt: skip
    return envelope("announcement", node, encode(fields))


def revocation(node: str, *, generation: int = 0, since: int = 0, by: str = "authority") -> bytes:
    return envelope("revocation", by, encode([public(node), generation, since]))


def successor(
    generation: int, key: str, made: str, following: str, serial: int, members: Sequence[str]
) -> bytes:
    """Sections 2.3 and 3.5: the word of ``key``, which was set aside, for ``made``."""
    named = sorted(public(each) for each in members)
    fields: list[Value] = [
        generation, public(key), public(made), digest(public(following)), serial, len(named),
        digest(b"meshd/1 members\0", *named, size=16),
    ]  # fmt: skip
    return envelope("successor", key, encode(fields))


def accusation(accuser: str, target: str, sequence: int, refused: int = 0) -> bytes:
    body = encode([public(accuser), public(target), sequence, refused])
    return envelope("accusation", accuser, body)


def shard(*nets: str) -> bytes:
    """Section 3.4: a shard of prefixes of one family."""
    return (b"\x06" if ":" in nets[0] else b"\x04") + prefixes(*nets)


def shard_hash(raw: bytes) -> bytes:
    """Section 3.4."""
    return digest(b"meshd/1 shard\0", raw, size=16)


def object_hash(raw: bytes) -> bytes:
    return digest(raw, size=16)


def slot_id(kind: str, subject: bytes) -> bytes:
    """Section 5.1."""
    return digest(b"meshd/1 slot\0", subject, size=11) + bytes([KINDS[kind]])


def key_id(mesh: bytes, node: bytes, boot_key: bytes) -> bytes:
    """Section 4.2."""
    return digest(b"meshd/1 boot\0", mesh, node, boot_key, size=8)


def network_identifier(mesh: bytes) -> int:
    """Section 9."""
    return int.from_bytes(digest(b"meshd/1 vni\0", mesh, size=3), "big") or 1


def hardware_address(node: bytes) -> bytes:
    """Section 9."""
    first, *rest = digest(b"meshd/1 mac\0", node, size=6)
    return bytes([first & 0xFC | 0x02, *rest])


def link_local(hardware: bytes) -> str:
    """Section 9."""
    first, *rest = hardware
    interface = bytes([first ^ 0x02, *rest[:2], 0xFF, 0xFE, *rest[2:]])
    return str(ipaddress.IPv6Address(bytes.fromhex("fe80000000000000") + interface))
