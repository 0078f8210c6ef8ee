"""What ``iptables-save`` says, as chains (iptables-save(8), iptables-extensions(8))."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from meshd.doctor.ruleset import Chain, Condition, Dialect, Field, Hook, Rule, Verdict
from protocol.address import Prefix

_HOOKS: Final[Mapping[str, Hook]] = {
    "PREROUTING": "prerouting",
    "INPUT": "input",
    "FORWARD": "forward",
    "OUTPUT": "output",
    "POSTROUTING": "postrouting",
}
_PRIORITIES: Final[Mapping[str, int]] = {
    "raw": -300, "mangle": -150, "filter": 0, "security": 50, "nat": 100,
}  # fmt: skip
"""linux/netfilter_ipv4.h, NF_IP_PRI_*; of nat the one that sources are translated at."""

_VERDICTS: Final[Mapping[str, Verdict]] = {
    "ACCEPT": "accept", "DROP": "drop", "REJECT": "reject", "RETURN": "return",
    "MASQUERADE": "translate", "SNAT": "translate", "NETMAP": "translate", "DNAT": "other",
    "REDIRECT": "other", "NFQUEUE": "other", "QUEUE": "other", "TPROXY": "other",
}  # fmt: skip

_Values = Callable[[str], tuple[object, ...]]


def _words(text: str) -> tuple[object, ...]:
    return tuple(text.split(","))


def _device(text: str) -> tuple[object, ...]:
    return (text[:-1] + "*" if text.endswith("+") else text,)


def _nets(text: str) -> tuple[object, ...]:
    return tuple(Prefix.parse(part, strict=False) for part in text.split(","))


def _ports(text: str) -> tuple[object, ...]:
    found: list[object] = []
    for part in text.split(","):
        low, colon, high = part.partition(":")
        found.append((int(low or 0), int(high or 65535)) if colon else int(part))
    return tuple(found)


def _mark(text: str) -> tuple[object, ...]:
    return (int(text.partition("/")[0], 0),)


_OPTIONS: Final[Mapping[str, tuple[Field, _Values]]] = {
    "-i": ("iif", _device),
    "-o": ("oif", _device),
    "-s": ("source", _nets),
    "-d": ("destination", _nets),
    "-p": ("protocol", _words),
    "--dport": ("port", _ports),
    "--dports": ("port", _ports),
    "--ports": ("service", lambda _: ()),
    "--sport": ("service", lambda _: ()),
    "--sports": ("service", lambda _: ()),
    "--icmp-type": ("service", lambda _: ()),
    "--icmpv6-type": ("service", lambda _: ()),
    "--tcp-flags": ("service", lambda _: ()),
    "--syn": ("service", lambda _: ()),
    "--ctstate": ("state", lambda text: tuple(text.lower().split(","))),
    "--state": ("state", lambda text: tuple(text.lower().split(","))),
    "--ctstatus": ("nat", _words),
    "--mark": ("mark", _mark),
}
_TWO: Final = ("--tcp-flags",)
_NONE: Final = ("--syn",)
"""Options with two values, and with none."""


def parse(text: str, family: str, dialect: Dialect) -> list[Chain]:
    """The chains of ``iptables-save``; ``family`` is ip or ip6. ``ValueError`` for what is none."""
    found: list[Chain] = []
    chains: dict[str, Chain] = {}
    table = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("*"):
            table, chains = line[1:], {}
        elif line.startswith(":"):
            name, policy = line[1:].split()[:2]
            hook = _HOOKS.get(name) if policy != "-" else None
            # NAT of destinations is of no interest, and its chains see no forwarded packet.
            kind = "nat" if table == "nat" else "filter"
            priority = _PRIORITIES.get(table, 0)
            chains[name] = Chain(
                dialect, family, table, name, (), hook, kind, priority, policy == "DROP"
            )
        elif line == "COMMIT":
            found += chains.values()
        elif "-A " in line:
            words = shlex.split(line)
            start = words.index("-A")  # behind counters, if there are some
            name = words[start + 1]
            rule = _rule(words[start + 2 :])
            chain = chains.get(name, Chain(dialect, family, table, name))
            chains[name] = attrs.evolve(chain, rules=(*chain.rules, rule))
    return found


def _rule(words: list[str]) -> Rule:
    conditions: list[Condition] = []
    verdict: Verdict = ""
    target = ""
    negated, rpfilter = False, False
    at = 0
    while at < len(words):
        word = words[at]
        value = words[at + 1] if at + 1 < len(words) else ""
        at += 2
        if word == "!":
            negated, at = True, at - 1
            continue
        if word in ("-j", "-g"):
            if value in _VERDICTS:
                verdict = _VERDICTS[value]
            elif word == "-g" or value not in _PASSING:
                verdict, target = ("goto" if word == "-g" else "jump"), value
            break  # what follows are the target's own options
        if word == "-m":
            rpfilter |= value == "rpfilter"
            if rpfilter and value == "rpfilter":
                conditions.append(Condition("return-path"))
        elif word == "--comment":
            pass
        elif word in ("--dst-type", "--src-type"):
            local = word == "--dst-type" and value == "LOCAL"
            conditions.append(Condition("local", (), negated) if local else Condition("other"))
        elif word == "--invert" and rpfilter:
            conditions[-1], at = Condition("return-path", (), True), at - 1
        elif word in _OPTIONS:
            field, read = _OPTIONS[word]
            at += (word in _TWO) - (word in _NONE)
            conditions.append(_condition(field, read, value, negated))
        else:
            conditions.append(Condition("other"))
            at = _next_option(words, at - 1)
        negated = False
    return Rule(tuple(conditions), verdict, target, shlex.join(words))


def _condition(field: Field, read: _Values, value: str, negated: bool) -> Condition:
    try:
        return Condition(field, read(value), negated)  # type: ignore[arg-type]
    except ValueError:
        return Condition("other")


def _next_option(words: list[str], at: int) -> int:
    while at < len(words) and not words[at].startswith("-") and words[at] != "!":
        at += 1
    return at


_PASSING: Final = (
    "LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "CT", "NOTRACK", "TCPMSS", "TRACE", "CHECKSUM",
    "SET", "CLASSIFY", "DSCP", "TOS", "TTL", "HL", "SECMARK", "CONNSECMARK", "AUDIT", "RATEEST",
    "TEE", "TCPOPTSTRIP", "IDLETIMER", "LED", "HMARK", "ECN",
)  # fmt: skip
"""Targets behind which a packet goes on."""
