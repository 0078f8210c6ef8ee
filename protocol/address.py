"""Prefixes and endpoints: how they are written in datagrams, and their canonical form.

A prefix travels as ``length u8 | significant octets`` (the octets that the length
covers, as in BGP's NLRI, RFC 4271 section 4.3), concatenated per family in strictly
ascending byte order with every host bit zero: one set of prefixes has one encoding.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from protocol.errors import Rejected

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Family = Literal[4, 6]

MAX_PORT = 65535

_BITS: Final[Mapping[int, int]] = {4: 32, 6: 128}
_V4_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


class Prefix(NamedTuple):
    """An IPv4 or IPv6 prefix, for tables of many thousands: a tuple of three integers, so that
    Python's own code hashes and compares it.

    Prefixes sort IPv4 first, then by address, then the shorter: what lies in a prefix stands
    behind it. The constructor believes what it is given; ``parse``, ``of`` and ``unpack_prefixes``
    make canonical ones.
    """

    version: Family
    first: int
    """Its lowest address, host bits zero."""
    prefixlen: int

    @classmethod
    def parse(cls, text: str, *, strict: bool = True) -> Prefix:
        """The prefix that ``ipaddress`` reads in ``text``, or its ``ValueError``; host bits are an
        error unless ``strict`` is false."""
        return cls.of(ipaddress.ip_network(text, strict=strict))

    @classmethod
    def of(cls, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> Prefix:
        """``network`` of the standard library as a prefix."""
        return cls(network.version, int(network.network_address), network.prefixlen)

    @classmethod
    def single(cls, address: Address) -> Prefix:
        """The prefix that holds ``address`` and nothing else."""
        return cls(address.version, int(address), address.max_prefixlen)

    @classmethod
    def from_octets(cls, address: bytes, prefixlen: int) -> Prefix:
        """That of a lowest address in 4 or 16 octets, as kernels tell it: host bits are zero."""
        return cls(4 if len(address) == 4 else 6, int.from_bytes(address, "big"), prefixlen)

    @property
    def max_prefixlen(self) -> int:
        """Bits of an address: 32 or 128."""
        return _BITS[self.version]

    @property
    def last(self) -> int:
        """Its highest address."""
        version, first, length = self
        return first | (1 << (_BITS[version] - length)) - 1

    @property
    def network_address(self) -> Address:
        """Its lowest address, as an ``ipaddress`` value."""
        if self.version == 4:
            return ipaddress.IPv4Address(self.first)
        return ipaddress.IPv6Address(self.first)

    @property
    def octets(self) -> bytes:
        """Its lowest address in 4 or 16 octets."""
        return self.first.to_bytes(_BITS[self.version] >> 3, "big")

    def covers(self, other: Prefix) -> bool:
        """True when every address of ``other`` lies in it."""
        version, first, length = self
        of, begin, longer = other
        return (
            length <= longer and version == of and not (first ^ begin) >> (_BITS[version] - length)
        )

    def overlaps(self, other: Prefix) -> bool:
        """True when some address lies in both: then one of them covers the other."""
        version, first, length = self
        of, begin, other_length = other
        shorter = length if length < other_length else other_length
        return version == of and not (first ^ begin) >> (_BITS[version] - shorter)

    def supernet(self) -> Prefix:
        """The prefix one bit shorter that it lies in. ``ValueError`` for a default route."""
        version, first, length = self
        if not length:
            raise ValueError("nothing is shorter than a default route")
        host = _BITS[version] - length + 1
        return Prefix(version, first >> host << host, length - 1)

    def __contains__(self, address: object) -> bool:
        """True when it holds ``address``, an ``ipaddress`` value."""
        if not isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address):
            raise TypeError(f"a prefix holds addresses, not {address!r}")
        version, first, length = self
        same = address.version == version
        return same and not (int(address) ^ first) >> (_BITS[version] - length)

    def __str__(self) -> str:
        version, first, length = self
        if version == 4:
            return f"{first >> 24}.{first >> 16 & 255}.{first >> 8 & 255}.{first & 255}/{length}"
        return f"{ipaddress.IPv6Address(first)}/{length}"

    def __repr__(self) -> str:
        return f"Prefix({str(self)!r})"


@lru_cache(maxsize=16384)
def _parsed(host: str) -> Address:
    """Of two endpoints of each member of the largest mesh."""
    return ipaddress.ip_address(host)


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
        return _parsed(self.host)

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


def pack_prefix(prefix: Prefix) -> bytes:
    """``length u8 | significant octets``."""
    version, first, length = prefix
    octets = (length + 7) >> 3
    return bytes((length,)) + (first >> _BITS[version] - 8 * octets).to_bytes(octets, "big")


def pack_prefixes(prefixes: Iterable[Prefix], family: Family) -> bytes:
    """The prefixes of ``family`` among ``prefixes``, each once, in canonical order."""
    return b"".join(sorted({pack_prefix(each) for each in prefixes if each.version == family}))


def unpack_prefixes(data: bytes, family: Family) -> tuple[Prefix, ...]:
    """Decode a concatenation of packed prefixes, or raise ``Rejected``."""
    bits, end = _BITS[family], len(data)
    found: list[Prefix] = []
    at, last = 0, b""
    while at < end:
        length = data[at]
        behind = at + 1 + ((length + 7) >> 3)
        if behind > end:
            raise Rejected("prefix cut short")
        packed = data[at:behind]
        if packed <= last:
            raise Rejected("prefixes not strictly ascending")
        if length > bits:
            raise Rejected("prefix longer than its family")
        value = int.from_bytes(packed[1:], "big")
        if value & (1 << (-length & 7)) - 1:
            raise Rejected("prefix with host bits")
        prefix = Prefix(family, value << (bits - (length + 7 & ~7)), length)
        if family == 6 and length >= 96 and prefix.first >> 32 == 0xFFFF:
            raise Rejected("IPv4-mapped prefix")
        found.append(prefix)
        at, last = behind, packed
    return tuple(found)
