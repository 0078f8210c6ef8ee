"""``ippool``, and the rules that look into a pool. Pure.

Pools are numbered, for ipf knows no others here.  ``-f`` changes no pool that is there, so entries
come and go one by one, and only a pool that is not there is made from a text.  IPv4 only: the
command reads no other address, and there is nothing to exclude, for IPv6 is not translated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network
from typing import Final

import attrs

from meshd.kernel.illumos.nat import Map, four
from protocol.address import Prefix

Argv = tuple[str, ...]

LOAD: Final[Argv] = ("ippool", "-f", "-")
"""``-f`` must come first. Exit 0 also when the pool was there already and nothing was done."""


def table(number: int, prefixes: Iterable[Prefix]) -> list[str]:
    """The text of the pool, for ``LOAD`` and for the file that is read at boot."""
    nets = four(prefixes)
    inside = " ".join(f"{net};" for net in nets) if nets else ";"
    return [f"table role = ipf type = tree number = {number}", f"\t{{ {inside} }};"]


def add(number: int, prefix: Prefix) -> Argv:
    """Put one entry in; the kernel refuses one that is there."""
    return ("ippool", "-a", "-m", str(number), "-i", str(prefix))


def remove(number: int, prefix: Prefix) -> Argv:
    """Take one entry out; rules that refer to the pool may stand."""
    return ("ippool", "-r", "-m", str(number), "-i", str(prefix))


def destroy(number: int) -> Argv:
    """The pool itself; refused while a rule refers to it."""
    return ("ippool", "-R", "-m", str(number), "-t", "tree")


def show(number: int) -> Argv:
    """List the pool, for ``listed``."""
    return ("ippool", "-l", "-m", str(number))


def inspect(number: int) -> Argv:
    """The same with how often it is referred to."""
    return ("ippool", "-l", "-d", "-m", str(number))


@attrs.frozen
class Pool:
    """A pool as the kernel has it."""

    nets: frozenset[Prefix]
    others: tuple[str, ...] = ()
    """Entries that we never write: inverted ones, IPv6."""


_TABLE: Final = re.compile(
    r"table\s+role\s*=\s*ipf\s+type\s*=\s*tree\s+number\s*=\s*(\S+)\s*\{([^}]*)\}\s*;"
)


def listed(out: str, number: int) -> Pool | None:
    """What ``show`` printed, or a file holds; None: there is no such pool."""
    for name, inside in _TABLE.findall(out):
        if name == str(number):
            nets: set[Prefix] = set()
            others: list[str] = []
            for entry in re.split(r"[;,]", inside):
                try:
                    nets.add(Prefix.of(IPv4Network(entry.strip())))
                except ValueError:
                    others += [entry.strip()] if entry.strip() else []
            return Pool(frozenset(nets), tuple(others))
    return None


def references(out: str) -> int | None:
    """From ``inspect``: the pool itself, each rule, perhaps who asks; None: it does not say."""
    found = re.search(r"References:\s*(\d+)", out)
    return int(found[1]) if found else None


# -- the rules that make the pool count ----------------------------------------------------------


def filter_lines(interface: str, source: Prefix, number: int, tag: str) -> list[str]:
    """What ipf.conf needs for ``source``: the mesh first, and all else gets the tag."""
    return [
        f"pass out quick on {interface} from {source} to pool/{number}",
        f"pass out quick on {interface} from {source} to any set-tag(nat={tag})",
    ]


def map_lines(interface: str, source: Prefix, tag: str) -> list[str]:
    """What ipnat.conf needs: only what has the tag is translated."""
    return [
        f"map {interface} {source} -> 0/32 portmap tcp/udp auto tag {tag}",
        f"map {interface} {source} -> 0/32 tag {tag}",
    ]


_RULE: Final = re.compile(
    r"(?:@\d+ )?pass out quick (?:on (?P<on>\S+) )?"
    r"(?:(?P<all>all)|from (?P<source>!?\S+) to (?P<to>!?\S+))(?P<rest>.*)"
)


@attrs.frozen
class _Rule:
    on: str | None
    source: Prefix | None
    """None: not one net."""
    to: str
    tag: str | None
    """None: it does more than pass and tag."""

    def covers(self, interface: str, source: Prefix) -> bool:
        """It is for all of ``source``."""
        return self._at(interface) and self.source is not None and self.source.covers(source)

    def meets(self, interface: str, source: Prefix) -> bool:
        """It is for some of it."""
        return self._at(interface) and self.source is not None and source.overlaps(self.source)

    def _at(self, interface: str) -> bool:
        return self.on is None or interface in (self.on, "*")


def _rules(out: str) -> list[_Rule]:
    found = []
    for line in out.splitlines():
        match = _RULE.fullmatch(line.strip())
        if match is None:
            continue
        tag = re.fullmatch(r"(?: set-tag\(nat=(\S+)\))?", match["rest"])
        source, to = ("any", "any") if match["all"] else (match["source"], match["to"])
        to = re.sub(r"\(!\)$", "", to)
        found.append(_Rule(match["on"], _net(source), to, (tag[1] or "") if tag else None))
    return found


def _net(text: str) -> Prefix | None:
    try:
        return Prefix.of(IPv4Network("0.0.0.0/0" if text == "any" else text))
    except ValueError:
        return None


def tagging(filters: str, interface: str, source: Prefix) -> str:
    """A rule that gives a tag to what leaves there from ``source``: then only map lines with that
    tag are looked at (``fr_matchtag``)."""
    for line in filters.splitlines():
        if "set-tag(nat=" in line and any(rule.meets(interface, source) for rule in _rules(line)):
            return line
    return ""


def other_use(filters: str, number: int) -> str:
    """A rule that looks into the pool and neither passes what leaves for it nor tags the rest."""
    for line in filters.splitlines():
        mine = [rule for rule in _rules(line) if rule.to in (f"pool/{number}", f"!pool/{number}")]
        if re.search(rf"\bpool/{number}\b", line) and not mine:
            return line
    return ""


def missing(source: Prefix, number: int, maps: Sequence[Map | str], filters: str) -> list[str]:
    """Why traffic of ``source`` to the pool would be translated, or nothing would: a line each.

    ``maps``: what ``nat.listed`` found; ``filters``: what ``ipfstat -o`` printed.
    """
    # Lines of the other form, which are ours, are on their way out.
    mine = [
        each
        for each in maps
        if isinstance(each, Map) and not each.generation and each.translates(source)
    ]
    plain = [each for each in mine if not each.tag]
    if plain:
        return [f'the map line "{plain[0]}" has no tag, so it translates the mesh too: add a tag']
    covering = [each for each in mine if each.source.covers(source)]
    ported = [each for each in covering if each.ports]
    bare = [each for each in covering if not each.ports and each.tag in {m.tag for m in ported}]
    if not ported or not bare:
        interface = covering[0].interface if covering else "INTERFACE"
        tag = covering[0].tag if covering else "inet"
        wanted = map_lines(interface, source, tag)[bool(ported)]
        return [f'ipnat has no line "{wanted}"; add it to ipnat.conf']
    interface, tag = ported[0].interface, ported[0].tag
    rules = [each for each in _rules(filters) if each.covers(interface, source)]
    passes = _first(rules, f"pool/{number}", "")
    tags = _first(rules, "any", tag)
    others = _first(rules, f"!pool/{number}", tag)
    rest = _first(rules, "any", "")
    # Without any rule that matches the tag is not looked at, and the mesh is translated too.
    if others is not None and (passes is not None or (rest is not None and others < rest)):
        return []
    first, second = filter_lines(interface, source, number, tag)
    if passes is None:
        return [f'ipf has no rule "{first}"; add it to ipf.conf']
    if tags is None:
        return [f'ipf has no rule "{second}"; add it to ipf.conf']
    return [] if passes < tags else [f'in ipf "{first}" stands behind "{second}"; exchange them']


def _first(rules: list[_Rule], to: str, tag: str) -> int | None:
    places = (at for at, rule in enumerate(rules) if (rule.to, rule.tag) == (to, tag))
    return next(places, None)
