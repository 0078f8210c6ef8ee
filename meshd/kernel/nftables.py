"""``table inet meshd`` over NETLINK_NETFILTER: read whole, written in one transaction.

No library and no ``nft`` binary: one element into a set of 10,000 costs libnftables 22 ms and
21 MB of memory, for it reads the set back and parses text, and this well under a millisecond.
The messages are those that nft 1.0.6 sends (``nft --debug=mnl``), so ``nft list`` shows the
table as a person would have written it.  See linux/netfilter/nf_tables.h.

An interval set holds ends, not prefixes: one element where a prefix begins, and one flagged
INTERVAL_END behind its last address.  Every other table is none of our business.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

import attrs

from meshd.kernel.netlink import (
    APPEND,
    CREATE,
    EXCL,
    NESTED,
    Channel,
    Message,
    Part,
    Refusal,
    attribute,
    attributes,
    each_attribute,
    nested,
)
from meshd.kernel.plan import (
    AddElement,
    BuildTable,
    RemoveElement,
    RemoveTable,
    SetName,
    TableStep,
)
from meshd.kernel.state import interned, order
from protocol.address import Prefix

GROUP: Final = 7
"""NFNLGRP_NFTABLES"""

_SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 16, 17
(_NEW_TABLE, _GET_TABLE, _DEL_TABLE, _NEW_CHAIN, _GET_CHAIN, _DEL_CHAIN) = range(6)
(_NEW_RULE, _GET_RULE, _DEL_RULE, _NEW_SET, _GET_SET, _DEL_SET) = range(6, 12)
(_NEW_ELEMENTS, _GET_ELEMENTS, _DEL_ELEMENTS, _NEW_GENERATION, _GET_GENERATION) = range(12, 17)

_INET: Final = 1  # NFPROTO_INET
_FAMILY: Final = {4: 2, 6: 10}
_TABLE: Final = attribute(1, b"meshd\0")
"""The table's name is attribute 1 in every message about a table or what is in it."""
_CHAIN_NAME: Final = b"exempt\0"

_INTERVAL: Final = 4  # NFT_SET_INTERVAL
_END: Final = 1  # NFT_SET_ELEM_INTERVAL_END
_KEY_TYPE: Final = {4: 7, 6: 8}  # nft's datatypes ipv4_addr and ipv6_addr
_BIG_ENDIAN_KEYS: Final = bytes([0, 4]) + struct.pack("=I", 2)
"""NFTNL_UDATA_SET_KEYBYTEORDER: how nft is to print the keys."""

_POSTROUTING: Final = 4  # NF_INET_POST_ROUTING
_PRIORITY: Final = 99
"""NF_IP_PRI_NAT_SRC - 1: the first chain that sets a mapping wins, and Docker's, libvirt's
and Incus's chains stand at 100."""
_ACCEPT: Final = 1
_REGISTER: Final = 1  # NFT_REG_1

_SETS: Final[tuple[tuple[SetName, int], ...]] = (
    ("local", 4),
    ("mesh", 4),
    ("local", 6),
    ("mesh", 6),
)

_ATTRIBUTE: Final = struct.Struct("=HH")


def _u32(number: int) -> bytes:
    return struct.pack(">I", number)


@attrs.define(eq=False)
class Table:
    """What was read."""

    present: bool = False
    problems: list[str] = attrs.field(factory=list)
    local: set[Prefix] = attrs.field(factory=set)
    mesh: set[Prefix] = attrs.field(factory=set)


@attrs.frozen
class _Expression:
    """One expression of a rule. ``shown`` is what the kernel adds when it lists the rule."""

    name: str
    sent: Mapping[int, bytes] = {}
    shown: Mapping[int, bytes] = {}

    def encode(self) -> bytes:
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


def _rule(version: int) -> tuple[_Expression, ...]:
    """``ip saddr @local4 ip daddr @mesh4 counter snat ip to ip saddr``, or its IPv6 twin."""
    source, destination, size = (12, 16, 4) if version == 4 else (8, 24, 16)
    register = _u32(_REGISTER)

    def load(offset: int) -> _Expression:  # base 1: the network header
        return _Expression("payload", {1: register, 2: _u32(1), 3: _u32(offset), 4: _u32(size)})

    def lookup(name: SetName) -> _Expression:
        # Attribute 5 holds the flags: 1 would be "is not in".
        return _Expression("lookup", {1: f"{name}{version}\0".encode(), 2: register}, {5: _u32(0)})

    family = bytes([_FAMILY[version]])
    return (
        _Expression("meta", {1: register, 2: _u32(15)}),  # NFT_META_NFPROTO
        _Expression("cmp", {1: register, 2: _u32(0), 3: attribute(1, family)}),
        load(source),
        lookup("local"),
        load(destination),
        lookup("mesh"),
        _Expression("counter"),
        load(source),
        _Expression(
            "nat",
            {1: _u32(0), 2: _u32(_FAMILY[version]), 3: register},
            {4: register, 7: _u32(1)},  # the same register as maximum; NF_NAT_RANGE_MAP_IPS
        ),
    )


_RULES: Final = (_rule(4), _rule(6))


def _message(kind: int, flags: int, *body: bytes) -> Message:
    return Message(_SUBSYSTEM << 8 | kind, flags, bytes([_INET, 0, 0, 0]) + b"".join(body))


def _edge(kind: int) -> Message:
    return Message(kind, 0, bytes([0, 0]) + struct.pack(">H", _SUBSYSTEM))


def read(channel: Channel) -> Table:
    """The table as it is; ``Refusal`` when the kernel has no nf_tables or forbids it."""
    table = Table()
    part = channel.get(*_ask(_GET_TABLE))
    if part is None:
        return table
    table.present = True
    if attributes(part.data, part.at + 4, part.end).get(2, _u32(0)) != _u32(0):
        table.problems.append("table inet meshd is dormant")
    _check_chain(channel, table)
    for name, version in _SETS:
        _read_set(channel, table, name, version)
    return table


def _ask(kind: int, *body: bytes) -> tuple[int, bytes]:
    message = _message(kind, 0, _TABLE, *body)
    return message.kind, message.body


def _check_chain(channel: Channel, table: Table) -> None:
    part = channel.get(*_ask(_GET_CHAIN, attribute(3, _CHAIN_NAME)))
    if part is None:
        table.problems.append("chain exempt is missing")
        return
    chain = attributes(part.data, part.at + 4, part.end)
    hook = attributes(chain.get(4, b""))
    expected = (_u32(_POSTROUTING), _u32(_PRIORITY), _u32(_ACCEPT), b"nat\0")
    if (hook.get(1), hook.get(2), chain.get(5), chain.get(7)) != expected:
        table.problems.append("chain exempt is not nat postrouting at srcnat - 1")
    rules = []
    for part in channel.dump(*_ask(_GET_RULE, attribute(2, _CHAIN_NAME))):
        rule = attributes(part.data, part.at + 4, part.end)
        # Some kernels filter by table only, older ones not at all.
        if rule.get(1) == b"meshd\0" and rule.get(2) == _CHAIN_NAME:
            rules.append(list(_expressions(rule.get(4, b""))))
    intact = len(rules) == len(_RULES) and all(
        len(rule) == len(written)
        and all(e.matches(name, data) for e, (name, data) in zip(written, rule, strict=True))
        for written, rule in zip(_RULES, rules, strict=True)
    )
    if not intact:
        table.problems.append("the rules of chain exempt are not meshd's")


def _expressions(data: bytes) -> Iterator[tuple[str, dict[int, bytes]]]:
    for _, element in each_attribute(data):
        expression = attributes(element)
        name = expression.get(1, b"").rstrip(b"\0").decode("ascii", "replace")
        yield name, attributes(expression.get(2, b""))


def _read_set(channel: Channel, table: Table, name: SetName, version: int) -> None:
    called = f"{name}{version}"
    part = channel.get(*_ask(_GET_SET, attribute(2, called.encode() + b"\0")))
    if part is None:
        table.problems.append(f"set {called} is missing")
        return
    about = attributes(part.data, part.at + 4, part.end)
    size = 4 if version == 4 else 16
    expected = (_u32(_INTERVAL), _u32(_KEY_TYPE[version]), _u32(size))
    if (about.get(3, _u32(0)), about.get(4), about.get(5)) != expected:
        table.problems.append(f"set {called} is not an interval set of ipv{version}_addr")
        return
    edges: list[tuple[int, bool]] = []
    for part in channel.dump(*_ask(_GET_ELEMENTS, attribute(2, called.encode() + b"\0"))):
        elements = attributes(part.data, part.at + 4, part.end).get(3, b"")
        edges += _edges(elements, size)
    found = table.local if name == "local" else table.mesh
    for prefix in _prefixes(edges, size):
        if prefix is None:
            table.problems.append(f"set {called} holds what is no prefix")
            return
        found.add(prefix)


def _edges(elements: bytes, size: int) -> Iterator[tuple[int, bool]]:
    """Key, and whether a prefix begins there. Written for speed: two for every prefix."""
    at, stop = 0, len(elements)
    plain = 12 + size
    while at + plain <= stop:
        length, _ = _ATTRIBUTE.unpack_from(elements, at)
        # element { key { value } flags ... }: the kernel puts the key first.
        begins = True
        if length > plain:
            flags = attributes(elements, at + plain, at + length).get(3, b"\0\0\0\0")
            begins = not flags[3] & _END
        yield int.from_bytes(elements[at + 12 : at + plain], "big"), begins
        at += (length + 3) & ~3


def _prefixes(edges: list[tuple[int, bool]], size: int) -> Iterator[Prefix | None]:
    """Prefixes from ends; None for an interval that is none, or open where it must not be."""
    begin: int | None = None
    for key, begins in sorted(edges):  # an end sorts before the beginning of its neighbour
        if begins:
            if begin is not None:
                yield None
            begin = key
        elif begin is not None:
            yield _prefix(begin, key - begin, size)
            begin = None
        # Else it ends nothing: nft marks the space before the first element so.
    if begin is not None:
        yield _prefix(begin, (1 << 8 * size) - begin, size)


@lru_cache(maxsize=32768)  # more than the 20,000 prefixes that policy imports
def _prefix(begin: int, count: int, size: int) -> Prefix | None:
    length = 8 * size + 1 - count.bit_length()
    if count & (count - 1) or begin & (count - 1):
        return None
    return interned(begin.to_bytes(size, "big"), length)


def write(channel: Channel, steps: Sequence[TableStep]) -> dict[TableStep, str]:
    """Do ``steps`` in one transaction.

    What the kernel refuses is left out and the others are tried again without it, so one
    bad element keeps no other out.  Returns the refused, in words.
    """
    refused: dict[TableStep, str] = {}
    present = channel.get(*_ask(_GET_TABLE)) is not None
    left = list(steps)
    while left:
        messages, origins = _encode(left, present=present)
        answers = _transact(channel, [*messages, _edge(_BATCH_END)])
        if not answers:
            break
        bad = {origins[index]: r.words for index, r in answers.items() if index in origins}
        if not bad:  # the transaction as a whole
            bad = dict.fromkeys(left, next(iter(answers.values())).words)
        refused.update(bad)
        left = [step for step in left if step not in bad]
    return refused


def rehearse(channel: Channel, *, present: bool) -> Refusal | None:
    """Build the table without committing, as ``nft --check`` does; why it cannot be."""
    some = frozenset[Prefix]({ipaddress.IPv4Network("192.0.2.0/24")})
    messages, _ = _encode([BuildTable(some, some, ())], present=present)
    return next(iter(_transact(channel, messages).values()), None)


def _transact(channel: Channel, messages: Sequence[Message]) -> dict[int, Refusal]:
    """The refusals by index into ``messages``, or by -1 for the transaction as a whole."""
    answers = channel.transact([_edge(_BATCH_BEGIN), *messages])
    return {index - 1: refusal for index, refusal in answers.items()}


def _encode(
    steps: Sequence[TableStep], *, present: bool
) -> tuple[list[Message], dict[int, TableStep]]:
    messages: list[Message] = []
    origins: dict[int, TableStep] = {}
    for step in steps:
        for message in _requests(step, present=present):
            origins[len(messages)] = step
            messages.append(message)
    return messages, origins


def _requests(step: TableStep, *, present: bool) -> Iterator[Message]:
    match step:
        case AddElement(name=name, prefix=prefix):
            yield _elements(_NEW_ELEMENTS, CREATE | EXCL, name, prefix)
        case RemoveElement(name=name, prefix=prefix):
            yield _elements(_DEL_ELEMENTS, 0, name, prefix)
        case RemoveTable():
            yield _message(_DEL_TABLE, 0, _TABLE)
        case BuildTable(local=local, mesh=mesh):
            if present:
                yield _message(_DEL_TABLE, 0, _TABLE)
            yield _message(_NEW_TABLE, CREATE | EXCL, _TABLE)
            for identifier, (name, version) in enumerate(_SETS, 1):
                yield _new_set(f"{name}{version}", version, identifier)
            yield _new_chain()
            for rule in _RULES:
                expressions = [expression.encode() for expression in rule]
                yield _message(
                    _NEW_RULE,
                    CREATE | APPEND,
                    _TABLE,
                    attribute(2, _CHAIN_NAME),
                    nested(4, *expressions),
                )
            both: tuple[tuple[SetName, frozenset[Prefix]], ...] = (("local", local), ("mesh", mesh))
            for name, prefixes in both:
                for prefix in sorted(prefixes, key=order):
                    yield _elements(_NEW_ELEMENTS, CREATE | EXCL, name, prefix)


def _new_set(name: str, version: int, identifier: int) -> Message:
    return _message(
        _NEW_SET,
        CREATE | EXCL,
        _TABLE,
        attribute(2, name.encode() + b"\0"),
        attribute(3, _u32(_INTERVAL)),
        attribute(4, _u32(_KEY_TYPE[version])),
        attribute(5, _u32(4 if version == 4 else 16)),
        attribute(10, _u32(identifier)),
        attribute(13, _BIG_ENDIAN_KEYS),
    )


def _new_chain() -> Message:
    return _message(
        _NEW_CHAIN,
        CREATE | EXCL,
        _TABLE,
        attribute(3, _CHAIN_NAME),
        nested(4, attribute(1, _u32(_POSTROUTING)), attribute(2, _u32(_PRIORITY))),
        attribute(5, _u32(_ACCEPT)),
        attribute(7, b"nat\0"),
    )


def _elements(kind: int, flags: int, name: SetName, prefix: Prefix) -> Message:
    size = prefix.max_prefixlen // 8
    first = int(prefix.network_address)
    behind = first + (1 << (prefix.max_prefixlen - prefix.prefixlen))
    ends = [_element(first.to_bytes(size, "big"))]
    if behind >> prefix.max_prefixlen == 0:  # else it reaches the end of the space
        ends.append(_element(behind.to_bytes(size, "big"), _END))
    called = attribute(2, f"{name}{prefix.version}\0".encode())
    return _message(kind, flags, _TABLE, called, attribute(3 | NESTED, b"".join(ends)))


def _element(key: bytes, flags: int = 0) -> bytes:
    value = nested(1, attribute(1, key))
    return nested(1, attribute(3, _u32(flags)), value) if flags else nested(1, value)


def describe(part: Part) -> str | None:
    """A notification in words, or None when it is not about our table."""
    if part.kind >> 8 != _SUBSYSTEM or part.data[part.at] != _INET:
        return None
    what = _CHANGES.get(part.kind & 0xFF)
    if what is None or attributes(part.data, part.at + 4, part.end).get(1) != b"meshd\0":
        return None
    return f"table inet meshd: {what}"


_CHANGES: Final = {
    _NEW_TABLE: "table written",
    _DEL_TABLE: "table deleted",
    _NEW_CHAIN: "chain written",
    _DEL_CHAIN: "chain deleted",
    _NEW_RULE: "rule written",
    _DEL_RULE: "rule deleted",
    _NEW_SET: "set written",
    _DEL_SET: "set deleted",
    _NEW_ELEMENTS: "elements added",
    _DEL_ELEMENTS: "elements deleted",
}
