"""Public keys, good and refused; mesh_id, key id and slot id."""

from __future__ import annotations

from typing import Any

from vectorset.rules import (
    MESH,
    OTHER_MESH,
    boot_public,
    digest,
    hardware_address,
    key_id,
    link_local,
    mesh_id,
    network_identifier,
    public,
    seed,
    slot_id,
)

P = 2**255 - 19
Y8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
U8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
SIGN = 1 << 255

ORDER = "public key of small order"
FORM = "public key not canonical"
BOOT_ORDER = "boot key of small order"
BOOT_FORM = "boot key not canonical"


def _key(number: int) -> str:
    return number.to_bytes(32, "little").hex()


SMALL_ORDER = [
    ("order 4, y = 0", _key(0)),
    ("order 4, y = 0, sign bit", _key(SIGN)),
    ("the neutral element, y = 1", _key(1)),
    ("y = 1 with the sign bit", _key(1 | SIGN)),
    ("order 2, y = -1", _key(P - 1)),
    ("order 2 with the sign bit", _key(P - 1 | SIGN)),
    ("order 8, y", _key(Y8)),
    ("order 8, y, sign bit", _key(Y8 | SIGN)),
    ("order 8, -y", _key(P - Y8)),
    ("order 8, -y, sign bit", _key(P - Y8 | SIGN)),
]
NOT_CANONICAL = [
    ("y = p, which is 0", _key(P)),
    ("y = p + 1, which is 1", _key(P + 1)),
    ("y = p + 1 with the sign bit", _key(P + 1 | SIGN)),
    ("y = 2^255 - 1", _key(2**255 - 1)),
    ("all bits", "ff" * 32),
]
BOOT_SMALL_ORDER = [
    ("u = 0", _key(0)),
    ("u = 1", _key(1)),
    ("u = -1", _key(P - 1)),
    ("order 8", _key(U8[0])),
    ("order 8, the other", _key(U8[1])),
]
BOOT_NOT_CANONICAL = [
    ("u = p, which is 0", _key(P)),
    ("u = p + 1, which is 1", _key(P + 1)),
    ("u = 2^255 - 1", _key(2**255 - 1)),
    ("u = 9 with the top bit, which RFC 7748 would mask", _key(9 | SIGN)),
]


def _refused(cases: list[tuple[str, str]], reason: str) -> list[dict[str, str]]:
    return [{"why": why, "key": key, "reason": reason} for why, key in cases]


def make() -> dict[str, Any]:
    names = ("authority", "next authority", "a", "b")
    pairs = [("authority", "next authority"), ("other authority", "next authority"), ("a", "b")]
    return {
        "signing_keys": [
            {"name": name, "secret": seed(name).hex(), "public": public(name).hex()}
            for name in names
        ],
        "signing_keys_refused": [
            *_refused(SMALL_ORDER, ORDER),
            *_refused(NOT_CANONICAL, FORM),
            {"why": "31 bytes", "key": "22" * 31, "reason": "public key of wrong length"},
            {"why": "33 bytes", "key": "22" * 33, "reason": "public key of wrong length"},
        ],
        "boot_keys": [
            {
                "name": name,
                "secret": seed(name).hex(),
                "public": boot_public(name).hex(),
            }
            for name in ("a boot", "b boot")
        ],
        "boot_keys_refused": [
            *_refused(BOOT_SMALL_ORDER, BOOT_ORDER),
            *_refused(BOOT_NOT_CANONICAL, BOOT_FORM),
            {"why": "31 bytes", "key": "22" * 31, "reason": "boot key of wrong length"},
        ],
        "mesh_ids": [
            {
                "authority": public(one).hex(),
                "next_hash": digest(public(other)).hex(),
                "mesh_id": mesh_id(public(one), public(other)).hex(),
            }
            for one, other in pairs
        ],
        "key_ids": [
            {
                "mesh_id": MESH.hex(),
                "node": public(node).hex(),
                "boot_key": boot_public(f"{node} boot").hex(),
                "key_id": key_id(MESH, public(node), boot_public(f"{node} boot")).hex(),
            }
            for node in ("a", "b")
        ],
        "slot_ids": [
            {"kind": kind, "node": public("a").hex(), "slot": slot_id(kind, public("a")).hex()}
            for kind in ("grant", "revocation", "announcement")
        ],
        "successor_slot_ids": [
            {"generation": number, "slot": slot_id("successor", bytes([number])).hex()}
            for number in (1, 2, 64)
        ],
        "network_identifiers": [
            {"mesh_id": mesh.hex(), "vni": network_identifier(mesh)} for mesh in (MESH, OTHER_MESH)
        ],
        "hardware_addresses": [
            {
                "node": public(name).hex(),
                "hardware": hardware_address(public(name)).hex(":"),
                "link_local": link_local(hardware_address(public(name))),
            }
            for name in ("authority", "a", "b")
        ],
    }
