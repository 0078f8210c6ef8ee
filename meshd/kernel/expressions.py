"""The expressions of which nftables rules consist, as nft 1.0.6 sends them.

Each is a value that can be written and compared with what the kernel lists.  The numbers are those
of linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from meshd.kernel.netlink import attribute, attributes, each_attribute, nested
from protocol.address import Prefix

FAMILY: Final = {4: 2, 6: 10}
"""NFPROTO_IPV4 and NFPROTO_IPV6."""

_OIFNAME, _NFPROTO, _L4PROTO = 7, 15, 16  # NFT_META_*
_UDP: Final = 17  # IPPROTO_UDP


def u32(number: int) -> bytes:
    """As nfnetlink wants its numbers: big endian."""
    return struct.pack(">I", number)


_REGISTER: Final = u32(1)  # NFT_REG_1: 16 octets, enough for an address or a name


@attrs.frozen
class Expression:
    """One expression of a rule. ``shown`` is what the kernel adds when it lists the rule."""

    name: str
    sent: Mapping[int, bytes] = {}
    shown: Mapping[int, bytes] = {}

    def encode(self) -> bytes:
        """As an element of a rule's list of expressions."""
        data = b"".join(attribute(kind, value) for kind, value in self.sent.items())
        return nested(1, attribute(1, self.name.encode() + b"\0"), nested(2, data))

    def matches(self, name: str, data: Mapping[int, bytes]) -> bool:
        """Whether the kernel lists it as written. Attributes unknown to us are a newer
        kernel's own; a changed or a missing one is damage."""
        return (
            name == self.name
            and all(data.get(kind) == value for kind, value in self.sent.items())
            and all(data.get(kind, value) == value for kind, value in self.shown.items())
        )


def listed(data: bytes) -> Iterator[tuple[str, dict[int, bytes]]]:
    """Name and attributes of each expression in a rule that the kernel lists."""
    for _, element in each_attribute(data):
        expression = attributes(element)
        name = expression.get(1, b"").rstrip(b"\0").decode("ascii", "replace")
        yield name, attributes(expression.get(2, b""))


def family(version: int) -> tuple[Expression, ...]:
    """Packets of one family only, in a table of both."""
    return (
        Expression("meta", {1: _REGISTER, 2: u32(_NFPROTO)}),
        _equals(bytes([FAMILY[version]])),
    )


def load_source(version: int) -> Expression:
    """The packet's source address into the register."""
    return _load(12, 4) if version == 4 else _load(8, 16)


def load_destination(version: int) -> Expression:
    """The packet's destination address into the register."""
    return _load(16, 4) if version == 4 else _load(24, 16)


def load_out_interface() -> Expression:
    """The name of the interface that the packet leaves by into the register."""
    return Expression("meta", {1: _REGISTER, 2: u32(_OIFNAME)}, {})


def is_in(name: str) -> Expression:
    """Goes on if the register is in the set ``name``."""
    # Attribute 5 holds the flags: 1 would be "is not in".
    return Expression("lookup", {1: name.encode() + b"\0", 2: _REGISTER}, {5: u32(0)})


def lies_in(prefix: Prefix) -> tuple[Expression, ...]:
    """Goes on if the address in the register lies in ``prefix``, and spoils the register."""
    host_bits = prefix.first ^ prefix.last
    mask = attribute(1, ((1 << 128) - 1 - host_bits).to_bytes(16, "big"))
    nothing = attribute(1, bytes(16))
    bitwise = {1: _REGISTER, 2: _REGISTER, 3: u32(16), 4: mask, 5: nothing}
    return Expression("bitwise", bitwise), _equals(prefix.octets)


def is_not_in(name: str) -> Expression:
    """Goes on unless the register is in the set ``name``."""
    return Expression("lookup", {1: name.encode() + b"\0", 2: _REGISTER, 5: u32(1)})


def udp_to(port: int) -> tuple[Expression, ...]:
    """Goes on if the packet is UDP to that port."""
    return (
        Expression("meta", {1: _REGISTER, 2: u32(_L4PROTO)}),
        _equals(bytes([_UDP])),
        # Base 2: the transport header.
        Expression("payload", {1: _REGISTER, 2: u32(2), 3: u32(2), 4: u32(2)}),
        _equals(port.to_bytes(2, "big")),
    )


def drop() -> Expression:
    """The packet ends here."""
    verdict = attribute(2, attribute(1, u32(0)))  # NFTA_DATA_VERDICT, NFTA_VERDICT_CODE, NF_DROP
    return Expression("immediate", {1: u32(0), 2: verdict})


def counter() -> Expression:
    """Counts packets and octets."""
    return Expression("counter")


def keep_source(version: int) -> Expression:
    """Source NAT to the address in the register: to the source itself, an identity."""
    return Expression(
        "nat",
        {1: u32(0), 2: u32(FAMILY[version]), 3: _REGISTER},
        {4: _REGISTER, 7: u32(1)},  # the same register as maximum; NF_NAT_RANGE_MAP_IPS
    )


def masquerade() -> Expression:
    """Source NAT to the address of the interface that the packet leaves by."""
    return Expression("masq", {}, {1: u32(0)})  # no flags, such as random


def _load(offset: int, size: int) -> Expression:  # base 1: the network header
    return Expression("payload", {1: _REGISTER, 2: u32(1), 3: u32(offset), 4: u32(size)})


def _equals(value: bytes) -> Expression:
    return Expression("cmp", {1: _REGISTER, 2: u32(0), 3: attribute(1, value)})
