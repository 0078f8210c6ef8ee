"""``ipnat``: the map lines that we write and read, and how one list becomes another. Pure.

Order is the whole game.  The kernel takes the first line that matches, new ones go to the end, and
only lines of one and the same source net are sure to be looked at in their order.  So a list of
ours is, for each source net, its exclusions and then the lines that translate:

    map pnic0 from 10.1.0.0/24 to 10.2.0.0/24 -> 0/0
    map pnic0 from 10.1.0.0/24 ! to 240.0.0.1/32 -> 0/32 portmap tcp/udp auto
    map pnic0 from 10.1.0.0/24 ! to 240.0.0.1/32 -> 0/32

``-> 0/0`` keeps the source, ``-> 0/32`` takes the interface's; the last line is for what has no
ports.  The address that nothing is sent to (class E) makes a line ours, and numbers its generation:
a new exclusion goes to the end together with base lines of another generation, and then the old
base lines are removed, so that at no moment anything is translated that should not be, or not
translated that should.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Final

import attrs

from protocol.address import Prefix

ORIGINAL: Final = Prefix.parse("0.0.0.0/0")
"""``-> 0/0``: the source stays as it is. (``-> 10.1.0.0/24`` is not identity.)"""

INTERFACE: Final = Prefix.parse("0.0.0.0/32")
"""``-> 0/32``: the source becomes the interface's address."""

_GENERATIONS: Final = Prefix.parse("240.0.0.0/24")
"""Of class E (RFC 1112 section 4): no router forwards to it, so ``! to`` one of these is always
true."""

_LINE: Final = re.compile(
    r"map (?P<interface>[A-Za-z][A-Za-z0-9_.]*[0-9]|\*) "
    r"(?:from (?P<source>\S+)(?P<negated> !)? to (?P<to>\S+)|(?P<plain>\S+))"
    r" -> (?P<onto>\S+)"
    r"(?: portmap tcp/udp (?P<ports>auto|\d+:\d+))?"
    r"(?: age \d+/\d+)?"
    r"(?: tag (?P<tag>\S+))?"
)
"""The interface: letters, digits, "_" and ".", a number at the end (``net0:1`` is a syntax error
there), or all of them."""


@attrs.frozen
class Map:
    """One ``map`` line, of those shapes that we have to understand."""

    interface: str
    source: Prefix
    to: Prefix | None
    """The destination that it is for, or not for if ``negated``; None: for all."""
    negated: bool
    onto: Prefix
    ports: str | None = None
    """``auto`` or ``LOW:HIGH``: for tcp and udp; None: for everything."""
    tag: str = ""

    def __str__(self) -> str:
        who = str(self.source)
        if self.to is not None:
            who = f"from {self.source}{' !' if self.negated else ''} to {self.to}"
        onto = {ORIGINAL: "0/0", INTERFACE: "0/32"}.get(self.onto, str(self.onto))
        ports = f" portmap tcp/udp {self.ports}" if self.ports else ""
        tag = f" tag {self.tag}" if self.tag else ""
        return f"map {self.interface} {who} -> {onto}{ports}{tag}"

    @property
    def generation(self) -> int:
        """That of a base line of ours; 0: it is none."""
        if not self.negated or self.to is None or self.onto != INTERFACE or self.tag:
            return 0
        if self.to.prefixlen != 32 or not _GENERATIONS.covers(self.to):
            return 0
        return self.to.first - _GENERATIONS.first

    @property
    def excludes(self) -> bool:
        """It keeps the source of what goes to ``to``."""
        return self.to is not None and not self.negated and self.onto == ORIGINAL

    def translates(self, source: Prefix) -> bool:
        """It may take the source of packets from there away."""
        return self.onto != ORIGINAL and self.source.overlaps(source)


def parse(line: str) -> Map | None:
    """What a line means, as we write it or as ``ipnat -l`` prints it; None: none of our shapes."""
    found = _LINE.fullmatch(line.strip())
    if found is None:
        return None
    try:
        return Map(
            found["interface"],
            _net(found["source"] or found["plain"]),
            _net(found["to"]) if found["to"] else None,
            bool(found["negated"]),
            _net(found["onto"]),
            found["ports"],
            found["tag"] or "",
        )
    except ValueError:
        return None


def _net(text: str) -> Prefix:
    if text == "any":
        return ORIGINAL
    address, _, length = text.partition("/")
    if address == "0":
        address = "0.0.0.0"
    return Prefix.of(IPv4Network(f"{IPv4Address(address)}/{length or 32}"))


def listed(out: str) -> list[Map | str]:
    """``ipnat -l``: the rules in their order; a text where it is none that we understand."""
    rules = out.partition("\n\nList of active sessions")[0].split("\n")
    return [parse(line) or line for line in rules if line and not line.startswith("List of ")]


def exclusion(interface: str, source: Prefix, destination: Prefix) -> Map:
    """The line that keeps what goes from one subnet to another as it is."""
    return Map(interface, source, destination, False, ORIGINAL)


def base(interface: str, source: Prefix, generation: int) -> tuple[Map, Map]:
    """The two lines that translate what is not excluded: with ports, and without (ICMP)."""
    mark = Prefix(4, _GENERATIONS.first + generation, 32)
    return (
        Map(interface, source, mark, True, INTERFACE, "auto"),
        Map(interface, source, mark, True, INTERFACE),
    )


def four(prefixes: Iterable[Prefix]) -> list[Prefix]:
    """Those of IPv4, in order: this NAT knows no other family."""
    return [p for p in sorted(prefixes) if p.version == 4]


@attrs.frozen
class Reload:
    """What makes one list of another: first append, then remove."""

    add: tuple[Map, ...] = ()
    remove: tuple[Map, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.remove)


def reload(
    there: Sequence[Map],
    ours: frozenset[Map],
    interface: str,
    local: Iterable[Prefix],
    mesh: Iterable[Prefix],
) -> Reload:
    """From the list as it is ``there`` to one that excludes ``mesh`` for each of ``local``.

    Only what is in ``ours``, or is a base line of ``local`` by its mark, is ever removed; an
    exclusion that somebody else has written counts as it stands.  Whatever a crash left half done,
    what results is whole; nothing to do is an empty reload.
    """
    add: list[Map] = []
    remove: list[Map] = []
    sources = four(local)
    for source in sources:
        mine = [line for line in there if (line.interface, line.source) == (interface, source)]
        one = _one(mine, ours, interface, source, four(mesh))
        add += one.add
        remove += one.remove
    kept = {(interface, source) for source in sources}
    remove += [line for line in there if (line.interface, line.source) not in kept and line in ours]
    return Reload(tuple(add), tuple(remove))


def _one(
    mine: list[Map],
    ours: frozenset[Map],
    interface: str,
    source: Prefix,
    mesh: list[Prefix],
) -> Reload:
    wanted = dict.fromkeys(exclusion(interface, source, each) for each in mesh)
    present = set(mine)
    stale = [line for line in mine if line in ours and line.excludes and line not in wanted]
    used = {line.generation for line in mine if line.generation}
    whole = [number for number in used if present.issuperset(base(interface, source, number))]
    last = max(whole, key=lambda number: _places(mine, number)[-1], default=0)
    ahead = set(mine[: _places(mine, last)[0]]) if last else set()
    keep = last if last and ahead >= wanted.keys() else 0
    old = [line for line in mine if line.generation not in (0, keep)]
    if keep:
        return Reload((), (*old, *stale))
    fresh = next(number for number in range(1, 255) if number not in used)
    missing = [line for line in wanted if line not in present]
    return Reload((*missing, *base(interface, source, fresh)), (*old, *stale))


def _places(mine: list[Map], generation: int) -> list[int]:
    return [at for at, line in enumerate(mine) if line.generation == generation]


def effective(there: Sequence[Map], interface: str, source: Prefix) -> frozenset[Prefix]:
    """The destinations that are excluded for ``source``: those ahead of any base line of ours.

    None when there is no base line: then the list is not whole.
    """
    found: set[Prefix] = set()
    for line in there:
        if (line.interface, line.source) == (interface, source):
            if line.generation:
                return frozenset(found)
            if line.excludes and line.to is not None:
                found.add(line.to)
    return frozenset()


def ahead_of_ours(there: Sequence[Map], source: Prefix) -> Map | None:
    """A line of somebody else that translates ``source`` before ours are looked at."""
    for line in there:
        if line.generation and line.source == source:
            return None
        if not line.generation and line.translates(source):
            return line
    return None


def text(interface: str, local: Iterable[Prefix], mesh: Iterable[Prefix]) -> list[str]:
    """The whole list, for the file that is read at boot."""
    lines: list[Map] = []
    for source in four(local):
        lines += [exclusion(interface, source, each) for each in four(mesh)]
        lines += base(interface, source, 1)
    return [str(line) for line in lines]
