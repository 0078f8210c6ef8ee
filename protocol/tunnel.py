"""What members that are not on one link must agree on to reach each other by VXLAN (RFC 7348).

Nothing of it is negotiated: the network identifier follows from the mesh, the inner hardware
address of each node from its key.  Where a node is, and at which UDP port, its announcement
says.  SPEC.md section 9.
"""

from __future__ import annotations

import hashlib
import ipaddress

HARDWARE_SIZE = 6

_LOCAL = 0x02
_GROUP = 0x01
"""The two lowest bits of a hardware address's first octet: administered by whoever chose it,
and not one station's (IEEE 802-2014 section 8.2)."""


def network_identifier(mesh_id: bytes) -> int:
    """The VNI of a mesh, 1 to 2^24 - 1: two meshes on one host or one port do not mix."""
    found = int.from_bytes(hashlib.sha256(b"meshd/1 vni\0" + mesh_id).digest()[:3], "big")
    return found or 1


def hardware_address(node: bytes) -> bytes:
    """Six octets for the inner frames of the node with this key: local and unicast."""
    drawn = hashlib.sha256(b"meshd/1 mac\0" + node).digest()[:HARDWARE_SIZE]
    return bytes([drawn[0] & ~_GROUP | _LOCAL]) + drawn[1:]


def link_local(hardware: bytes) -> ipaddress.IPv6Address:
    """The next hop to the node with this hardware address: fe80::/64 and its modified EUI-64
    (RFC 4291 appendix A)."""
    interface = bytes([hardware[0] ^ _LOCAL]) + hardware[1:3] + b"\xff\xfe" + hardware[3:]
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + interface)
