"""``table inet meshd`` over NETLINK_NETFILTER: read whole, written in one transaction.

No library and no ``nft`` binary: one element into a set of 10,000 costs libnftables 22 ms and
21 MB of memory, for it reads the set back and parses text, and this well under a millisecond.
The messages are those that nft 1.0.6 sends (``nft --debug=mnl``), so ``nft list`` shows the
table as a person would have written it.  See linux/netfilter/nf_tables.h.

An interval set holds ends, not prefixes: one element where a prefix begins, and one flagged
INTERVAL_END behind its last address.  Every other table is none of our business.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

import attrs

from meshd.kernel import suspects
from meshd.kernel.expressions import listed, u32
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
    nested,
)
from meshd.kernel.plan import (
    AddElement,
    AddUplink,
    BuildTable,
    RemoveElement,
    RemoveFilter,
    RemoveTable,
    RemoveUplink,
    TableStep,
)
from meshd.kernel.shape import (
    FILTER,
    OWN_CHAINS,
    OWN_SETS,
    UPLINKS,
    Chain,
    NamedSet,
    SetName,
    Shape,
)
from protocol.address import Prefix

GROUP: Final = 7
"""NFNLGRP_NFTABLES"""

_SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 16, 17
(_NEW_TABLE, _GET_TABLE, _DEL_TABLE, _NEW_CHAIN, _GET_CHAIN, _DEL_CHAIN) = range(6)
(_NEW_RULE, _GET_RULE, _DEL_RULE, _NEW_SET, _GET_SET, _DEL_SET) = range(6, 12)
(_NEW_ELEMENTS, _GET_ELEMENTS, _DEL_ELEMENTS, _NEW_GENERATION, _GET_GENERATION) = range(12, 17)

_INET: Final = 1  # NFPROTO_INET
_TABLE: Final = attribute(1, b"meshd\0")
"""The table's name is attribute 1 in every message about a table or what is in it."""

_INTERVAL: Final = 4  # NFT_SET_INTERVAL
_END: Final = 1  # NFT_SET_ELEM_INTERVAL_END
_TYPES: Final = {"ipv4_addr": (7, 4), "ipv6_addr": (8, 16), "ifname": (41, 16)}
"""nft's datatypes: number and size in octets."""
_BYTE_ORDER: Final = {
    interval: bytes([0, 4]) + struct.pack("=I", 2 if interval else 1) for interval in (True, False)
}
"""NFTNL_UDATA_SET_KEYBYTEORDER: how nft is to print the keys. Names are in the host's order."""

_HOOKS: Final = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
_ACCEPT: Final = 1

_ATTRIBUTE: Final = struct.Struct("=HH")


@attrs.define(eq=False)
class Table:
    """What was read."""

    present: bool = False
    problems: list[str] = attrs.field(factory=list)
    prefixes: dict[str, set[Prefix]] = attrs.field(factory=dict)
    """Name of a set to what it holds, such as ``local4``."""
    uplinks: set[str] = attrs.field(factory=set)
    filtered: bool = False
    """The chain before the tunnel is there."""
    others: bool = False
    """Something is in it that is not ours, and that the shape lets be there."""

    def holds(self, name: SetName) -> frozenset[Prefix]:
        """What both families' sets of a name hold."""
        return frozenset().union(*(self.prefixes.get(f"{name}{v}", ()) for v in (4, 6)))


def _message(kind: int, flags: int, *body: bytes) -> Message:
    return Message(_SUBSYSTEM << 8 | kind, flags, bytes([_INET, 0, 0, 0]) + b"".join(body))


def _edge(kind: int) -> Message:
    return Message(kind, 0, bytes([0, 0]) + struct.pack(">H", _SUBSYSTEM))


def read(channel: Channel, shape: Shape) -> Table:
    """The table as it is, and how it differs from ``shape``; ``Refusal`` when the kernel has no
    nf_tables or forbids it."""
    table = Table()
    part = channel.get(*_ask(_GET_TABLE))
    if part is None:
        return table
    table.present = True
    about = attributes(part.data, part.at + 4, part.end)
    ours, usable = 0, True
    for each in shape.sets:
        there, right = _read_set(channel, table, each)
        ours, usable = ours + there, usable and right
    for chain in shape.chains:
        there = _check_chain(channel, table, chain)
        ours += there
        table.filtered |= there and chain.name == FILTER
    # How many sets, chains and other objects the table has.
    foreign = int.from_bytes(about.get(3, b""), "big") - ours
    if shape.shared:
        for name, _ in _leftovers(channel, shape):
            foreign -= 1
            table.problems.append(f"{name} is of another mode of nat")
        table.others = foreign > 0 and usable
    elif shape.sets:
        if foreign > 0:
            table.problems.append("something in table inet meshd is not meshd's")
        if about.get(2, u32(0)) != u32(0):  # flags
            table.problems.append("table inet meshd is dormant")
    return table


def _ask(kind: int, *body: bytes) -> tuple[int, bytes]:
    message = _message(kind, 0, _TABLE, *body)
    return message.kind, message.body


def _named(name: str) -> bytes:
    return name.encode() + b"\0"


def _leftovers(channel: Channel, shape: Shape) -> Iterator[tuple[str, Message]]:
    """What is ours and not of ``shape``, in words, and what deletes it; chains before sets."""
    present = {each.name for each in shape.sets} | {each.name for each in shape.chains}
    for names, attribute_of, get, delete, word in (
        (OWN_CHAINS, 3, _GET_CHAIN, _DEL_CHAIN, "chain"),
        (OWN_SETS, 2, _GET_SET, _DEL_SET, "set"),
    ):
        for name in names:
            called = attribute(attribute_of, _named(name))
            if name not in present and channel.get(*_ask(get, called)):
                yield f"{word} {name}", _message(delete, 0, _TABLE, called)


def _check_chain(channel: Channel, table: Table, chain: Chain) -> bool:
    """Whether it is there; what is wrong with it goes into ``table``."""
    called = _named(chain.name)
    part = channel.get(*_ask(_GET_CHAIN, attribute(3, called)))
    if part is None:
        table.problems.append(f"chain {chain.name} is missing")
        return False
    found = attributes(part.data, part.at + 4, part.end)
    hook = attributes(found.get(4, b""))
    wanted = (u32(_HOOKS[chain.hook]), _priority(chain), u32(_ACCEPT), _named(chain.kind))
    if (hook.get(1), hook.get(2), found.get(5), found.get(7)) != wanted:
        table.problems.append(
            f"chain {chain.name} is not {chain.kind} {chain.hook} at {chain.shown}"
        )
    rules = []
    for part in channel.dump(*_ask(_GET_RULE, attribute(2, called))):
        rule = attributes(part.data, part.at + 4, part.end)
        # Some kernels filter by table only, older ones not at all.
        if rule.get(1) == b"meshd\0" and rule.get(2) == called:
            rules.append(list(listed(rule.get(4, b""))))
    intact = len(rules) == len(chain.rules) and all(
        len(there) == len(rule.expressions)
        and all(e.matches(*data) for e, data in zip(rule.expressions, there, strict=True))
        for rule, there in zip(chain.rules, rules, strict=True)
    )
    if not intact:
        table.problems.append(f"the rules of chain {chain.name} are not meshd's")
    return True


def _priority(chain: Chain) -> bytes:
    return struct.pack(">i", chain.priority)


def _read_set(channel: Channel, table: Table, wanted: NamedSet) -> tuple[bool, bool]:
    """Whether it is there, and whether it can be used as it is or be mended."""
    name = wanted.name
    part = channel.get(*_ask(_GET_SET, attribute(2, _named(name))))
    if part is None:
        table.problems.append(f"set {name} is missing")
        return False, True
    about = attributes(part.data, part.at + 4, part.end)
    number, size = _TYPES[wanted.kind]
    expected = (u32(_INTERVAL if wanted.interval else 0), u32(number), u32(size))
    if (about.get(3, u32(0)), about.get(4), about.get(5)) != expected:
        what = f"an interval set of {wanted.kind}" if wanted.interval else f"a set of {wanted.kind}"
        table.problems.append(f"set {name} is not {what}")
        return True, False
    dumped = [
        attributes(part.data, part.at + 4, part.end).get(3, b"")
        for part in channel.dump(*_ask(_GET_ELEMENTS, attribute(2, _named(name))))
    ]
    edges = [edge for elements in dumped for edge in _edges(elements, size)]
    if not wanted.interval:
        keys = (key.to_bytes(size, "big") for key, _ in edges)
        table.uplinks.update(os.fsdecode(key.rstrip(b"\0")) for key in keys)
        return True, True
    found = table.prefixes[name] = set()
    for prefix in _prefixes(edges, size):
        if prefix is None:
            table.problems.append(f"set {name} holds what is no prefix")
            break
        found.add(prefix)
    return True, True


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
    return Prefix(4 if size == 4 else 6, begin, length)


def write(channel: Channel, steps: Sequence[TableStep]) -> dict[TableStep, str]:
    """Do ``steps`` in one transaction.

    What the kernel refuses is left out and the others are tried again without it, so one
    bad element keeps no other out.  Returns the refused, in words.
    """
    refused: dict[TableStep, str] = {}
    doomed = _doomed(channel, steps)
    left = list(steps)
    while left:
        messages, origins = _encode(left, doomed)
        answers = _transact(channel, [*messages, _edge(_BATCH_END)])
        if not answers:
            break
        bad = {origins[index]: r.words for index, r in answers.items() if index in origins}
        if not bad:  # the transaction as a whole
            bad = dict.fromkeys(left, next(iter(answers.values())).words)
        refused.update(bad)
        left = [step for step in left if step not in bad]
    return refused


def _doomed(channel: Channel, steps: Sequence[TableStep]) -> list[Message]:
    """What must go before the table is built: all of it, or where it is kept the leftovers."""
    for step in steps:
        if isinstance(step, BuildTable) and step.keep:
            return [deletion for _, deletion in _leftovers(channel, step.shape)]
        if isinstance(step, BuildTable):
            return [_message(_DEL_TABLE, 0, _TABLE)] if channel.get(*_ask(_GET_TABLE)) else []
    return []


def rehearse(channel: Channel, shape: Shape) -> Refusal | None:
    """Build the table without committing, as ``nft --check`` does; why it cannot be."""
    some = frozenset[Prefix]({Prefix.parse("192.0.2.0/24")})
    step = BuildTable(shape, some, some)
    messages, _ = _encode([step], _doomed(channel, [step]))
    return next(iter(_transact(channel, messages).values()), None)


def _transact(channel: Channel, messages: Sequence[Message]) -> dict[int, Refusal]:
    """The refusals by index into ``messages``, or by -1 for the transaction as a whole."""
    answers = channel.transact([_edge(_BATCH_BEGIN), *messages])
    return {index - 1: refusal for index, refusal in answers.items()}


def _encode(
    steps: Sequence[TableStep], doomed: Sequence[Message]
) -> tuple[list[Message], dict[int, TableStep]]:
    messages: list[Message] = []
    origins: dict[int, TableStep] = {}
    for step in steps:
        for message in _requests(step, doomed):
            origins[len(messages)] = step
            messages.append(message)
    return messages, origins


def _requests(step: TableStep, doomed: Sequence[Message]) -> Iterator[Message]:
    match step:
        case AddElement(name=name, prefix=prefix):
            yield _one(_NEW_ELEMENTS, CREATE | EXCL, name, prefix)
        case RemoveElement(name=name, prefix=prefix):
            yield _one(_DEL_ELEMENTS, 0, name, prefix)
        case AddUplink(device=device):
            yield _elements(_NEW_ELEMENTS, CREATE | EXCL, UPLINKS, [_element(_device(device))])
        case RemoveUplink(device=device):
            yield _elements(_DEL_ELEMENTS, 0, UPLINKS, [_element(_device(device))])
        case RemoveTable():
            yield _message(_DEL_TABLE, 0, _TABLE)
        case RemoveFilter():
            yield _message(_DEL_CHAIN, 0, _TABLE, attribute(3, _named(FILTER)))
            for version in (4, 6):
                yield _message(_DEL_SET, 0, _TABLE, attribute(2, _named(f"tunnel{version}")))
        case BuildTable(shape=shape, keep=keep):
            yield from doomed
            flags = CREATE if keep else CREATE | EXCL
            yield _message(_NEW_TABLE, flags, _TABLE)
            for identifier, each in enumerate(shape.sets, 1):
                yield _new_set(each, identifier, flags)
                if keep:  # Without elements: all that it has.
                    yield _message(_DEL_ELEMENTS, 0, _TABLE, attribute(2, _named(each.name)))
            for chain in shape.chains:
                yield from _new_chain(chain)
            for each in shape.sets:
                for element in step.elements(each.name):
                    if isinstance(element, str):
                        ends = [_element(_device(element))]
                        yield _elements(_NEW_ELEMENTS, CREATE | EXCL, each.name, ends)
                    else:
                        yield _one(_NEW_ELEMENTS, CREATE | EXCL, each.name[:-1], element)


def _new_set(wanted: NamedSet, identifier: int, flags: int) -> Message:
    number, size = _TYPES[wanted.kind]
    return _message(
        _NEW_SET,
        flags,
        _TABLE,
        attribute(2, _named(wanted.name)),
        attribute(3, u32(_INTERVAL if wanted.interval else 0)),
        attribute(4, u32(number)),
        attribute(5, u32(size)),
        attribute(10, u32(identifier)),
        attribute(13, _BYTE_ORDER[wanted.interval]),
    )


def _new_chain(chain: Chain) -> Iterator[Message]:
    yield _message(
        _NEW_CHAIN,
        CREATE | EXCL,
        _TABLE,
        attribute(3, _named(chain.name)),
        nested(4, attribute(1, u32(_HOOKS[chain.hook])), attribute(2, _priority(chain))),
        attribute(5, u32(_ACCEPT)),
        attribute(7, _named(chain.kind)),
    )
    for rule in chain.rules:
        expressions = [expression.encode() for expression in rule.expressions]
        about = attribute(2, _named(chain.name)), nested(4, *expressions)
        yield _message(_NEW_RULE, CREATE | APPEND, _TABLE, *about)


def _elements(kind: int, flags: int, name: str, elements: Sequence[bytes]) -> Message:
    listing = attribute(3 | NESTED, b"".join(elements))
    return _message(kind, flags, _TABLE, attribute(2, _named(name)), listing)


def _one(kind: int, flags: int, name: str, prefix: Prefix) -> Message:
    """The request about the element of ``prefix`` in its family's set of that name. Thousands may
    be made at a time, so only the ends' octets are put in."""
    version, first, length = prefix
    size, bits = (4, 32) if version == 4 else (16, 128)
    behind = first + (1 << (bits - length))
    if behind >> bits:  # it reaches the end of the space
        begin, finish = _around(kind, f"{name}{version}", size, ends=1)
        return Message(_SUBSYSTEM << 8 | kind, flags, begin + first.to_bytes(size, "big") + finish)
    begin, between = _around(kind, f"{name}{version}", size, ends=2)
    ends = first.to_bytes(size, "big") + between + behind.to_bytes(size, "big")
    return Message(_SUBSYSTEM << 8 | kind, flags, begin + ends)


@lru_cache(maxsize=64)
def _around(kind: int, name: str, size: int, *, ends: int) -> tuple[bytes, bytes]:
    """What stands around the octets of one end, or before and between those of two."""
    mark = b"\xff" * size
    elements = [_element(mark), _element(mark, _END)][:ends]
    before, between, *rest = _elements(kind, 0, name, elements).body.split(mark)
    assert not any(rest), "the last end's octets end the message"
    return before, between


def _device(name: str) -> bytes:
    return os.fsencode(name).ljust(16, b"\0")  # IFNAMSIZ


def _element(key: bytes, flags: int = 0) -> bytes:
    value = nested(1, attribute(1, key))
    return nested(1, attribute(3, u32(flags)), value) if flags else nested(1, value)


class Notices:
    """Notifications in words: what a transaction did to our table is told at its end, by which
    the kernel names the process that asked for it."""

    def __init__(self) -> None:
        self._pending: dict[str, None] = {}

    @property
    def pending(self) -> bool:
        """A change to our table is heard of, and not yet whose it is."""
        return bool(self._pending)

    def take(self, part: Part) -> list[tuple[str, str]]:
        """What is known now of our table, and by whom: most notifications tell nothing yet."""
        if part.kind >> 8 != _SUBSYSTEM:
            return []
        about = attributes(part.data, part.at + 4, part.end)
        if part.kind & 0xFF == _NEW_GENERATION:
            told, self._pending = list(self._pending), {}
            pid, name = about.get(2), about.get(3, b"").rstrip(b"\0").decode("utf-8", "replace")
            by = suspects.told(int.from_bytes(pid, "big"), name) if told and pid and name else ""
            return [(f"table inet meshd: {what}", by) for what in told]
        what = _CHANGES.get(part.kind & 0xFF)
        if what and part.data[part.at] == _INET and about.get(1) == b"meshd\0":
            self._pending[what] = None
        return []


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
