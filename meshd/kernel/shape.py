"""What ``table inet meshd`` consists of, by the options ``nat`` and ``tunnel``: a value.

Writing the table, checking it and printing it all follow from its ``Shape``; what its sets hold is
the ``KernelState``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final, Literal

import attrs

from meshd.kernel.expressions import (
    Expression,
    counter,
    drop,
    family,
    is_in,
    is_not_in,
    keep_source,
    lies_in,
    load_destination,
    load_out_interface,
    load_source,
    masquerade,
    udp_to,
)
from protocol.address import Prefix

SetName = Literal["local", "mesh", "tunnel"]
"""What prefix sets are called, one a family: with 4 or 6 behind it."""

UPLINKS: Final = "uplinks"
"""The set of the interfaces whose traffic is masqueraded."""


@attrs.frozen
class NamedSet:
    """A set. ``kind`` is nft's name of what it holds; prefixes need an interval set."""

    name: str
    kind: Literal["ipv4_addr", "ipv6_addr", "ifname"]

    @property
    def interval(self) -> bool:
        return self.kind != "ifname"

    def __str__(self) -> str:
        return f"type {self.kind};{' flags interval;' if self.interval else ''}"


@attrs.frozen
class Rule:
    """A rule, as nft has it and as the kernel has it."""

    text: str
    expressions: tuple[Expression, ...]


@attrs.frozen
class Chain:
    """A base chain that accepts what its rules do not take."""

    name: str
    kind: str
    """nat or filter."""
    hook: str
    """Of netfilter, in nft's words: postrouting, input, ..."""
    priority: int
    shown: str
    """The priority in nft's words."""
    rules: tuple[Rule, ...]


@attrs.frozen(eq=False)
class Shape:
    """All of the table. There is one of each, so it compares by identity."""

    sets: tuple[NamedSet, ...] = ()
    """None: there is no table."""
    chains: tuple[Chain, ...] = ()
    shared: bool = False
    """Whether others may put chains of their own beside our sets."""

    @property
    def excludes(self) -> bool:
        """Whether it says what is not to be translated."""
        return any(each.name == "local4" for each in self.sets)

    @property
    def masquerades(self) -> bool:
        """Whether the table needs to know the uplinks."""
        return any(each.name == UPLINKS for each in self.sets)

    def text(self, elements: Mapping[str, Iterable[object]]) -> str:
        """As a person would write it, with what each set of a name holds."""
        lines = ["table inet meshd {"]
        for each in self.sets:
            found = ", ".join(map(str, elements.get(each.name, ())))
            holds = f" elements = {{ {found} }}" if found else ""
            lines.append(f"  set {each.name} {{ {each}{holds} }}")
        for chain in self.chains:
            where = f"type {chain.kind} hook {chain.hook} priority {chain.shown};"
            lines += [f"  chain {chain.name} {{ {where}"]
            lines += [f"    {rule.text}" for rule in chain.rules]
            lines += ["  }"]
        return "\n".join([*lines, "}"])


_PREFIXES: Final = (
    NamedSet("local4", "ipv4_addr"),
    NamedSet("mesh4", "ipv4_addr"),
    NamedSet("local6", "ipv6_addr"),
    NamedSet("mesh6", "ipv6_addr"),
)

_PRIVATE: Final = Prefix.parse("fc00::/7")  # RFC 4193


def _exempt(version: int) -> Rule:
    ip = "ip" if version == 4 else "ip6"
    text = f"{ip} saddr @local{version} {ip} daddr @mesh{version} counter snat {ip} to {ip} saddr"
    return Rule(
        text,
        (
            *family(version),
            load_source(version),
            is_in(f"local{version}"),
            load_destination(version),
            is_in(f"mesh{version}"),
            counter(),
            load_source(version),
            keep_source(version),
        ),
    )


def _translate(version: int) -> Rule:
    """The mesh needs no mention: what goes there has its mapping already. A global IPv6 prefix has
    no need of translation, and is left as it is."""
    ip, private, only = "ip", "", tuple[Expression, ...]()
    if version == 6:
        ip, private = "ip6", f"ip6 saddr {_PRIVATE} "
        only = (load_source(6), *lies_in(_PRIVATE))
    return Rule(
        f"{private}{ip} saddr @local{version} oifname @{UPLINKS} counter masquerade",
        (
            *family(version),
            *only,
            load_source(version),
            is_in(f"local{version}"),
            load_out_interface(),
            is_in(UPLINKS),
            counter(),
            masquerade(),
        ),
    )


EXEMPT: Final = Chain("exempt", "nat", "postrouting", 99, "srcnat - 1", (_exempt(4), _exempt(6)))
"""The first chain that sets a mapping wins, and Docker's, libvirt's and Incus's chains stand at 100
(NF_IP_PRI_NAT_SRC)."""

TRANSLATE: Final = Chain(
    "translate", "nat", "postrouting", 100, "srcnat", (_translate(4), _translate(6))
)

FILTER: Final = "tunnel"
"""The chain before the tunnel's UDP port."""


def _stranger(version: int, port: int) -> Rule:
    ip = "ip" if version == 4 else "ip6"
    return Rule(
        f"udp dport {port} {ip} saddr != @tunnel{version} counter drop",
        (
            *udp_to(port),
            *family(version),
            load_source(version),
            is_not_in(f"tunnel{version}"),
            counter(),
            drop(),
        ),
    )


_MEMBERS: Final = (NamedSet("tunnel4", "ipv4_addr"), NamedSet("tunnel6", "ipv6_addr"))

SHAPES: Final[Mapping[str, Shape]] = {
    "exempt": Shape(_PREFIXES, (EXEMPT,)),
    "masquerade": Shape((*_PREFIXES, NamedSet(UPLINKS, "ifname")), (EXEMPT, TRANSLATE)),
    "set": Shape(_PREFIXES, shared=True),
    "off": Shape(),
}
"""The option ``nat`` to its shape. "auto" is "exempt" on Linux."""


@cache
def shape_of(nat: str, tunnel_port: int = 0) -> Shape:
    """The table's shape with that mode of ``nat``, and a tunnel at that UDP port unless it is 0."""
    plain = SHAPES[nat]
    if not tunnel_port:
        return plain
    # Before the firewall's own input chains, so that what they accept has passed here; no rule
    # of ours accepts anything, so they judge it as well.
    rules = (_stranger(4, tunnel_port), _stranger(6, tunnel_port))
    guard = Chain(FILTER, "filter", "input", -1, "filter - 1", rules)
    return Shape((*plain.sets, *_MEMBERS), (*plain.chains, guard), plain.shared)


OWN_CHAINS: Final = (*dict.fromkeys(c.name for s in SHAPES.values() for c in s.chains), FILTER)
OWN_SETS: Final = tuple(
    dict.fromkeys(each.name for s in (*SHAPES.values(), Shape(_MEMBERS)) for each in s.sets)
)
"""Names that are meshd's in any mode: what the present mode does not have is a leftover."""
