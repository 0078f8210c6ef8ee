"""Follows a packet through chains: does it pass, and if not, which rule stops it?

Not a simulation of the kernel.  A packet stands for all new connections between two prefixes, so
a condition may hold for some of them only, and some conditions are not understood; both are kept
apart, that a finding says "drops" only where nothing before could have let it through.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, Literal

import attrs

from meshd.doctor.ruleset import Chain, Condition, Field, Rule, Ruleset, Verdict
from protocol.address import Prefix

DEEPEST: Final = 16
"""Jumps within jumps: the kernel's own limit (NFT_JUMP_STACK_SIZE)."""


class Match(Enum):
    """Which of the packets a condition holds for."""

    NONE = 0
    ALL = 1
    SOME = 2
    """Those with some addresses only."""
    SERVICE = 3
    """Those of one protocol or port only."""
    UNKNOWN = 4
    """It is not understood."""


_STOPPING: Final = ("drop", "reject")


@attrs.frozen
class Packet:
    """The first packet of new connections. None: any."""

    version: int
    iif: str | None = None
    oif: str | None = None
    source: Prefix | None = None
    destination: Prefix | None = None
    protocol: str | None = None
    port: int | None = None
    """The destination port."""
    to_host: bool = False
    """It is for this host itself."""


Certainty = Literal["all", "some", "maybe"]
"""some: part of the addresses.  maybe: a rule that is not understood may decide otherwise."""

_CERTAINTY: Final[dict[Match, Certainty]] = {Match.SOME: "some", Match.UNKNOWN: "maybe"}
"""A rule that stops one service is somebody's will, and no finding."""


@attrs.frozen
class Stop:
    """What does not let a packet pass."""

    chain: Chain
    """The base chain."""
    path: tuple[str, ...]
    """From the base chain to the one that decides."""
    rule: Rule | None
    """None: the base chain's policy."""
    sure: Certainty
    lets: tuple[Rule, ...] = ()
    """Rules before it that let some services through."""

    @property
    def text(self) -> str:
        """The rule as it is listed, or the policy."""
        return self.rule.text if self.rule is not None else f"policy of {self.chain.name}: drop"


@attrs.frozen
class _End:
    verdict: Verdict
    rule: Rule | None
    path: tuple[str, ...]


@attrs.define
class _Walk:
    """One base chain: what happened on the way, besides how it ended."""

    rules: Ruleset
    packet: Packet
    partial: list[tuple[Match, _End]] = attrs.field(factory=list)

    def through(self, chain: Chain, path: tuple[str, ...]) -> _End | None:
        """How it ends; None: it comes back from the chain."""
        if len(path) > DEEPEST:
            return None
        for rule in chain.rules:
            match = holds(rule, self.packet)
            if match is Match.NONE or not rule.verdict:
                continue
            end, leaves = self._taken(chain, rule, path)
            if match is Match.ALL:
                if end is not None or leaves:
                    return end
            elif end is not None:
                self.partial.append((match, end))
        return None

    def _taken(self, chain: Chain, rule: Rule, path: tuple[str, ...]) -> tuple[_End | None, bool]:
        """Where the rule leads, and whether what it does not decide goes back to the caller."""
        if rule.verdict == "return":
            return None, True
        if rule.verdict not in ("jump", "goto"):
            return _End(rule.verdict, rule, path), False
        target = self.rules.target(chain, rule.target)
        if target is None:
            return _End("other", rule, path), False
        return self.through(target, (*path, target.name)), rule.verdict == "goto"


def stops(rules: Ruleset, chain: Chain, packet: Packet) -> Stop | None:
    """What in a base chain stops the packet, or part of what it stands for."""
    walk = _Walk(rules, packet)
    end = walk.through(chain, (chain.name,))
    if end is None:
        end = _End("drop" if chain.drops else "accept", None, (chain.name,))
    if end.verdict in _STOPPING:
        passing = [(m, e) for m, e in walk.partial if e.verdict not in _STOPPING]
        unsure = any(match is Match.UNKNOWN for match, _ in passing)
        lets = tuple(e.rule for m, e in passing if m is Match.SERVICE and e.rule is not None)
        return Stop(chain, end.path, end.rule, "maybe" if unsure else "all", lets)
    for match, partial in walk.partial:
        if partial.verdict in _STOPPING and match in _CERTAINTY:
            return Stop(chain, partial.path, partial.rule, _CERTAINTY[match])
    return None


def translates(rules: Ruleset, chain: Chain, packet: Packet) -> Rule | None:
    """The rule of a base chain that rewrites the source of all these packets."""
    end = _Walk(rules, packet).through(chain, (chain.name,))
    return end.rule if end is not None and end.verdict == "translate" else None


def holds(rule: Rule, packet: Packet) -> Match:
    """Which of the packets a rule takes: the narrowest of its conditions."""
    found = [answer(each, packet) for each in rule.conditions]
    for match in (Match.NONE, Match.UNKNOWN, Match.SOME, Match.SERVICE):
        if match in found:
            return match
    return Match.ALL


def answer(test: Condition, packet: Packet) -> Match:
    """Which of the packets a condition holds for."""
    match = _ANSWERS[test.field](test, packet)
    if test.negated and match in (Match.NONE, Match.ALL):
        return Match.ALL if match is Match.NONE else Match.NONE
    return match


def _device(name: str | None, test: Condition) -> Match:
    if name is None:
        return Match.UNKNOWN
    wanted = [str(value) for value in test.values]
    fits = any(
        name.startswith(each[:-1]) if each.endswith("*") else name == each for each in wanted
    )
    return Match.ALL if fits else Match.NONE


def _address(prefix: Prefix | None, test: Condition, version: int) -> Match:
    if any(isinstance(value, str) for value in test.values):
        return Match.UNKNOWN  # a set that was not listed
    nets = [
        value for value in test.values if isinstance(value, Prefix) and value.version == version
    ]
    if prefix is None:
        return Match.SOME if nets else Match.NONE
    if any(net.covers(prefix) for net in nets):
        return Match.ALL
    return Match.SOME if any(prefix.overlaps(net) for net in nets) else Match.NONE


def _number(number: int | None, test: Condition) -> Match:
    if number is None:
        return Match.SERVICE
    for value in test.values:
        if isinstance(value, tuple) and value[0] <= number <= value[1]:
            return Match.ALL
        if value == number:
            return Match.ALL
        if isinstance(value, str):
            return Match.UNKNOWN
    return Match.NONE


def _named(name: str | None, test: Condition, unnamed: Match) -> Match:
    if name is None:
        return unnamed
    return Match.ALL if name in test.values else Match.NONE


_ANSWERS: Final[dict[Field, Callable[[Condition, Packet], Match]]] = {
    "iif": lambda test, packet: _device(packet.iif, test),
    "oif": lambda test, packet: _device(packet.oif, test),
    "source": lambda test, packet: _address(packet.source, test, packet.version),
    "destination": lambda test, packet: _address(packet.destination, test, packet.version),
    "version": lambda test, packet: _named(f"ipv{packet.version}", test, Match.UNKNOWN),
    "protocol": lambda test, packet: _named(packet.protocol, test, Match.SERVICE),
    "port": lambda test, packet: _number(packet.port, test),
    "service": lambda test, packet: Match.SERVICE,
    "state": lambda test, packet: _named("new", test, Match.UNKNOWN),
    # Mesh traffic was not translated before it came here, and has a way back through where it came
    # from: whether that is so is a check of its own.
    "nat": lambda test, packet: Match.NONE,
    "return-path": lambda test, packet: Match.ALL,
    "local": lambda test, packet: Match.ALL if packet.to_host else Match.NONE,
    # Nobody is assumed to mark it.
    "mark": lambda test, packet: Match.ALL if 0 in test.values else Match.NONE,
    "other": lambda test, packet: Match.UNKNOWN,
}
