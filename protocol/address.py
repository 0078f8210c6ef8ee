"""Prefixes and endpoints: how they are written in datagrams, and their canonical form.

A prefix travels as ``length u8 | significant octets`` (the octets that the length
covers, as in BGP's NLRI, RFC 4271 section 4.3), concatenated per family in strictly
ascending byte order with every host bit zero: one set of prefixes has one encoding.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, NamedTuple

from protocol.errors import Rejected

Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Family = Literal[4, 6]

MAX_PORT = 65535

_BITS: dict[Family, int] = {4: 32, 6: 128}
_V4_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


class Endpoint(NamedTuple):
    """A UDP address. ``host`` is canonical text, so equal endpoints are equal tuples."""

    host: str
    port: int

    @property
    def family(self) -> Family:
        """4 or 6."""
        return 6 if ":" in self.host else 4

    @property
    def address(self) -> Address:
        """The host as an ``ipaddress`` value."""
        return ipaddress.ip_address(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def endpoint(host: str, port: int) -> Endpoint:
    """Canonical endpoint; an IPv4-mapped IPv6 address becomes IPv4. ``ValueError`` if bad."""
    address = ipaddress.ip_address(host)
    mapped = getattr(address, "ipv4_mapped", None)
    if not 0 < port <= MAX_PORT:
        raise ValueError(f"port {port} is not in 1..{MAX_PORT}")
    return Endpoint(str(mapped or address), port)


def pack_endpoint(where: Endpoint) -> bytes:
    """``address | port u16``: 6 bytes for IPv4, 18 for IPv6."""
    return where.address.packed + where.port.to_bytes(2, "big")


def unpack_endpoint(data: bytes) -> Endpoint:
    """The endpoint in ``data``, or ``Rejected`` where no datagram could be sent to it."""
    if len(data) not in (6, 18):
        raise Rejected("endpoint of wrong length")
    address = ipaddress.ip_address(data[:-2])
    port = int.from_bytes(data[-2:], "big")
    if port == 0 or address.is_unspecified or address.is_multicast:
        raise Rejected("endpoint that cannot be sent to")
    if isinstance(address, ipaddress.IPv6Address) and address in _V4_MAPPED:
        raise Rejected("IPv4-mapped endpoint")
    return Endpoint(str(address), port)


def pack_prefixes(prefixes: Iterable[Prefix], family: Family) -> bytes:
    """The prefixes of ``family`` among ``prefixes``, each once, in canonical order."""
    return b"".join(sorted({_pack(prefix) for prefix in prefixes if prefix.version == family}))


def unpack_prefixes(data: bytes, family: Family) -> tuple[Prefix, ...]:
    """Decode a concatenation of packed prefixes, or raise ``Rejected``."""
    found: list[Prefix] = []
    at, last = 0, b""
    while at < len(data):
        octets = (data[at] + 7) // 8
        packed = data[at : at + 1 + octets]
        if len(packed) != 1 + octets:
            raise Rejected("prefix cut short")
        if packed <= last:
            raise Rejected("prefixes not strictly ascending")
        found.append(_unpack(packed, family))
        last = packed
        at += len(packed)
    return tuple(found)


@lru_cache(maxsize=32768)
def _pack(prefix: Prefix) -> bytes:
    octets = (prefix.prefixlen + 7) // 8
    return bytes([prefix.prefixlen]) + prefix.network_address.packed[:octets]


@lru_cache(maxsize=32768)
def _unpack(packed: bytes, family: Family) -> Prefix:
    bits, length = _BITS[family], packed[0]
    if length > bits:
        raise Rejected("prefix longer than its family")
    address = packed[1:].ljust(bits // 8, b"\0")
    if int.from_bytes(address, "big") & ((1 << (bits - length)) - 1):
        raise Rejected("prefix with host bits")
    if family == 4:
        return ipaddress.IPv4Network((address, length))
    prefix = ipaddress.IPv6Network((address, length))
    if prefix.subnet_of(_V4_MAPPED):
        raise Rejected("IPv4-mapped prefix")
    return prefix
