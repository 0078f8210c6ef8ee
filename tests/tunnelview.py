"""A tunnel as `ip -j` and `bridge -j` show it, and what it must be by SPEC.md's rules alone.

Nothing here asks meshd, but for a node's key.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import attrs

from netlab import CommandError, Member, Namespace, Zone
from netlab.traffic import Address

DEVICE = "meshd0"
PORT = 6180


def _hash(domain: str, subject: bytes, size: int) -> bytes:
    return hashlib.sha256(f"meshd/1 {domain}\0".encode() + subject).digest()[:size]


def hardware(member: Member) -> str:
    """Section 9, from the key that `meshd status` shows."""
    key = bytes.fromhex(member.json("status")["node"]["id"])
    first, *rest = _hash("mac", key, 6)
    return bytes([first & 0xFC | 0x02, *rest]).hex(":")


def link_local(address: str) -> str:
    """The modified EUI-64 of a hardware address."""
    first, *rest = bytes.fromhex(address.replace(":", ""))
    octets = bytes([first ^ 2, *rest[:2], 0xFF, 0xFE, *rest[2:]])
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + octets))


@attrs.frozen
class Tunnel:
    """All of it in one kernel. Sequences are sorted."""

    device: dict[str, Any]
    neighbours: tuple[tuple[str, str], ...] = ()
    """Address and hardware address of the permanent entries."""
    forwarding: tuple[tuple[str, str, int], ...] = ()
    """Hardware address, outer destination, port."""
    routes: tuple[tuple[str, str, bool], ...] = ()
    """Prefix, next hop, whether it is said to be on-link."""


def tunnel(router: Namespace) -> Tunnel | None:
    """What is there; None without a device of that name, or when it went while we looked."""
    try:
        return _tunnel(router)
    except CommandError:
        return None


def _tunnel(router: Namespace) -> Tunnel | None:
    found = [link for link in router.ip("-d", "link", "show") if link["ifname"] == DEVICE]
    if not found:
        return None
    (link,) = found
    data = link["linkinfo"].get("info_data", {})
    device = {
        "kind": link["linkinfo"].get("info_kind"),
        "up": "UP" in link["flags"],
        "mtu": link["mtu"],
        "hardware": link["address"],
        "alias": link.get("ifalias", "").partition(":")[0],
        "local": data.get("local") or data.get("local6"),
        "port": data.get("port"),
        "learning": data.get("learning"),
        "zero_checksum6": [data.get("udp_zero_csum6_tx"), data.get("udp_zero_csum6_rx")],
        "addresses": [each["local"] for each in router.ip("addr", "show", DEVICE)[0]["addr_info"]],
    }
    neighbours = [
        (entry["dst"], entry["lladdr"])
        for entry in router.ip("neigh", "show", "dev", DEVICE, "nud", "permanent")
    ]
    listed = router.run(["bridge", "-j", "fdb", "show", "dev", DEVICE]).stdout
    forwarding = [
        (entry["mac"], entry["dst"], entry.get("port", PORT)) for entry in json.loads(listed)
    ]
    routes = []
    for family in ("-4", "-6"):
        for route in router.ip(family, "route", "show", "dev", DEVICE):
            hop = route.get("gateway") or f"inet6 {route['via']['host']}"
            routes.append((route["dst"], hop, "onlink" in route["flags"]))
    return Tunnel(
        device, tuple(sorted(neighbours)), tuple(sorted(forwarding)), tuple(sorted(routes))
    )


def expected(own: Member, behind: list[Member], *, version: int = 4, mtu: int = 1450) -> Tunnel:
    """What it must be where `behind` are reached through it, each announcing its two subnets."""

    def underlay(zone: Zone) -> Address:
        return zone.uplink4.ip if version == 4 else zone.uplink6.ip

    neighbours, forwarding, routes = [], [], []
    for member in behind:
        zone, there = member.zone, hardware(member)
        hop = link_local(there)
        neighbours.append((hop, there))
        forwarding.append((there, str(underlay(zone)), PORT))
        routes.append((str(zone.prefix6), hop, False))
        if version == 4:
            neighbours.append((str(underlay(zone)), there))
            routes.append((str(zone.prefix4), str(underlay(zone)), True))
        else:
            routes.append((str(zone.prefix4), f"inet6 {hop}", False))
    device = {
        "kind": "vxlan",
        "up": True,
        "mtu": mtu,
        "hardware": hardware(own),
        "alias": "meshd",
        "local": str(underlay(own.zone)),
        "port": PORT,
        "learning": False,
        "zero_checksum6": [False, False],
        "addresses": [],
    }
    return Tunnel(
        device, tuple(sorted(neighbours)), tuple(sorted(forwarding)), tuple(sorted(routes))
    )


def biggest(namespace: Namespace, address: Address, size: int) -> str:
    """What comes of one echo request in an IP packet of `size` octets that nobody may cut: "" for
    an answer, or what ping says instead."""
    head = 28 if address.version == 4 else 48
    command = ["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", str(size - head), str(address)]
    done = namespace.run(command, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def inject(
    sender: Namespace,
    to: Address,
    vni: int,
    frame_to: str,
    source: IPv4Address,
    target: IPv4Address,
) -> None:
    """A VXLAN datagram to a router: in it a UDP packet from `source` to `target`, made by hand."""
    payload = struct.pack("!HHHH", 9, 9, 8 + 6, 0) + b"inside"
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, 17, 0, source.packed, target.packed
    )
    head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
    frame = bytes.fromhex(frame_to.replace(":", "")) + bytes.fromhex("020000000099") + b"\x08\x00"
    vxlan = struct.pack("!II", 0x08000000, vni << 8)
    family = socket.AF_INET if to.version == 4 else socket.AF_INET6
    with sender.socket(family, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(vxlan + frame + head + payload, (str(to), PORT))


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def identifier(router: Namespace) -> int:
    """The VNI of the device that is there."""
    found: list[Any] = router.ip("-d", "link", "show", DEVICE)
    return int(found[0]["linkinfo"]["info_data"]["id"])
