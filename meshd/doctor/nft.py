"""What ``nft -j list ruleset`` says, as chains (libnftables-json(5)).

Families inet, ip and ip6; dormant tables are left out, for they see no packet.  A table that
iptables-nft wrote holds expressions that nft names and does not explain (``xt``): its chains come
out incomplete, and ``iptables`` reads them better.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from meshd.doctor.ruleset import Chain, Condition, Field, Hook, Rule, Verdict
from protocol.address import Prefix

_FAMILIES: Final = ("inet", "ip", "ip6")
_HOOKS: Final = ("prerouting", "input", "forward", "output", "postrouting")

_VERDICTS: Final[Mapping[str, Verdict]] = {
    "accept": "accept", "drop": "drop", "reject": "reject", "return": "return",
    "masquerade": "translate", "snat": "translate", "queue": "other", "dnat": "other",
    "redirect": "other", "tproxy": "other", "synproxy": "other",
}  # fmt: skip
_TARGETS: Final[Mapping[str, Verdict]] = {
    "MASQUERADE": "translate", "SNAT": "translate", "NETMAP": "translate", "REJECT": "reject",
    "DNAT": "other", "REDIRECT": "other", "NFQUEUE": "other", "TPROXY": "other",
}  # fmt: skip
"""Of iptables; those not named here let a packet go on."""

_META: Final[Mapping[str, Field]] = {
    "iifname": "iif", "iif": "iif", "oifname": "oif", "oif": "oif", "nfproto": "version",
    "l4proto": "protocol", "mark": "mark",
}  # fmt: skip
_CT: Final[Mapping[str, Field]] = {"state": "state", "status": "nat", "mark": "mark"}
_LIMITS: Final = ("limit", "quota", "ct count", "synproxy")

_Sets = Mapping[tuple[str, str, str], list[Any]]


def parse(text: str) -> tuple[list[Chain], set[tuple[str, str]]]:
    """All chains, and the tables (family, name) with expressions of iptables. ``ValueError`` for
    what is no ruleset."""
    listed = json.loads(text)
    if not isinstance(listed, dict) or not isinstance(listed.get("nftables"), list):
        raise ValueError("no list of nftables")
    entries = [entry for entry in listed["nftables"] if isinstance(entry, dict)]
    asleep = {
        (table["family"], table["name"])
        for table in _all(entries, "table")
        if "dormant" in _listed(table.get("flags"))
    }
    sets = {
        (each["family"], each["table"], each["name"]): _listed(each.get("elem"))
        for kind in ("set", "map")
        for each in _all(entries, kind)
    }
    rules: dict[tuple[str, str, str], list[Rule]] = {}
    foreign: set[tuple[str, str]] = set()
    for rule in _all(entries, "rule"):
        family, table = rule["family"], rule["table"]
        if any(isinstance(each, dict) and "xt" in each for each in rule["expr"]):
            foreign.add((family, table))
        try:
            made = _rules(rule["expr"], family, table, sets, rule.get("comment", ""))
        except (LookupError, TypeError, ValueError, AttributeError):
            # A newer nft says something in a way of its own: it may be anything.
            made = [Rule((Condition("other"),), "drop", "", "a rule that is not understood")]
        rules.setdefault((family, table, rule["chain"]), []).extend(made)
    chains = [
        Chain(
            "nft",
            chain["family"],
            chain["table"],
            chain["name"],
            tuple(rules.get((chain["family"], chain["table"], chain["name"]), ())),
            cast(Hook, chain["hook"]) if chain.get("hook") in _HOOKS else None,
            chain.get("type", "filter"),
            chain.get("prio", 0),
            chain.get("policy") == "drop",
        )
        for chain in _all(entries, "chain")
        if chain["family"] in _FAMILIES and (chain["family"], chain["table"]) not in asleep
    ]
    return chains, foreign


def _all(entries: Iterable[dict[str, Any]], kind: str) -> Iterable[dict[str, Any]]:
    return (entry[kind] for entry in entries if kind in entry)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _rules(
    expr: list[dict[str, Any]], family: str, table: str, sets: _Sets, comment: str
) -> list[Rule]:
    """One rule; of a verdict map one for each of its elements."""
    conditions: list[Condition] = []
    found: list[Rule] = []
    text = " ".join(filter(None, map(_say, expr)))
    text += f' comment "{comment}"' if comment else ""
    for statement in expr:
        ((name, body),) = list(statement.items())[:1]
        if name == "match":
            conditions += _match(body, family, table, sets)
        elif name == "vmap":
            where = (family, table)
            pairs = _elements(body.get("data"), where, sets)
            for key, verdict in (pair for pair in pairs if _is_pair(pair)):
                only = _match({"op": "==", "left": body["key"], "right": key}, *where, sets)
                ends, target = _verdict(verdict)
                said = f"{_value(body['key'])} {_value(key)} {_say(verdict)}"
                found.append(Rule((*conditions, *only), ends, target, said))
            if not pairs:
                found.append(Rule((*conditions, Condition("other")), "other", "", text))
        elif name == "xt":
            if body.get("type") == "target":
                ends = _TARGETS.get(str(body.get("name")), "")
                found.append(Rule(tuple(conditions), ends, "", text))
            elif body.get("name") != "comment":
                conditions.append(Condition("other"))
        elif name in _LIMITS:
            conditions.append(Condition("other"))
        elif name in _VERDICTS or name in ("jump", "goto"):
            ends, target = _verdict(statement)
            found.append(Rule(tuple(conditions), ends, target, text))
    return found


def _is_pair(element: Any) -> bool:
    return isinstance(element, list) and len(element) == 2


def _verdict(statement: Any) -> tuple[Verdict, str]:
    if isinstance(statement, dict):
        for name, body in statement.items():
            if name in ("jump", "goto"):
                return cast(Verdict, name), str(body["target"])
            if name in _VERDICTS:
                return _VERDICTS[name], ""
    return "other", ""


def _match(body: dict[str, Any], family: str, table: str, sets: _Sets) -> list[Condition]:
    left, negated = body.get("left"), body.get("op") == "!="
    if body.get("op") not in ("==", "!=", "in") or not isinstance(left, dict):
        return [Condition("other")]
    if "&" in left:  # a mask: nobody marks what we look at
        left = next((part for part in left["&"] if isinstance(part, dict)), {})
        if not _is_mark(left):
            return [Condition("other")]
    ((kind, what),) = list(left.items())[:1]
    values = _elements(body.get("right"), (family, table), sets)
    if kind == "meta":
        key = str(what.get("key"))
        if key == "protocol":
            named = {"ip": "ipv4", "ip6": "ipv6"}
            return [Condition("version", tuple(named.get(str(v), "?") for v in values), negated)]
        return [_plain(_META.get(key, "other"), values, negated)]
    if kind == "ct":
        return [_plain(_CT.get(str(what.get("key")), "other"), values, negated)]
    if kind == "fib":
        if what.get("result") == "type" and "daddr" in what.get("flags", ()):
            return [Condition("local", (), negated ^ ("local" not in values))]
        if what.get("result") == "oif" and "saddr" in what.get("flags", ()):
            return [Condition("return-path", (), negated ^ (values == [False]))]
    if kind == "payload" and "protocol" in what:
        return _payload(str(what["protocol"]), str(what.get("field")), values, negated)
    return [Condition("other")]


def _is_mark(left: dict[str, Any]) -> bool:
    return bool(left.get("meta", left.get("ct", {})).get("key") == "mark")


def _payload(protocol: str, field: str, values: list[Any], negated: bool) -> list[Condition]:
    if protocol in ("ip", "ip6"):
        version = Condition("version", ("ipv4" if protocol == "ip" else "ipv6",))
        if field in ("saddr", "daddr"):
            side: Field = "source" if field == "saddr" else "destination"
            nets = [net for value in values for net in _nets(value)]
            return [version, Condition(side, tuple(nets), negated)]
        if field in ("protocol", "nexthdr"):
            return [version, _plain("protocol", values, negated)]
        return [version, Condition("other")]
    conditions = (
        [] if protocol == "th" else [Condition("protocol", (_PROTOCOLS.get(protocol, protocol),))]
    )
    if field == "dport":
        return [*conditions, _plain("port", values, negated)]
    return [*conditions, Condition("service")]


_PROTOCOLS: Final = {"icmpv6": "ipv6-icmp"}
"""What a payload is called, to what its protocol is."""


def _plain(field: Field, values: list[Any], negated: bool) -> Condition:
    found: list[str | int | tuple[int, int]] = []
    for value in values:
        if isinstance(value, dict) and "range" in value:
            low, high = value["range"]
            found.append((int(low), int(high)))
        elif isinstance(value, str | int):
            found.append(value)
        else:
            return Condition("other")
    return Condition(field, tuple(found), negated)


def _nets(value: Any) -> list[Prefix | str]:
    """The prefixes of an address, a prefix or a range; the text of what is none of them."""
    try:
        if isinstance(value, dict) and "range" in value:
            low, high = map(ipaddress.ip_address, value["range"])
            return list(map(Prefix.of, ipaddress.summarize_address_range(low, high)))
        if isinstance(value, dict) and "prefix" in value:
            value = f"{value['prefix']['addr']}/{value['prefix']['len']}"
        return [Prefix.parse(value, strict=False)]
    except (ValueError, TypeError):
        return [str(value)]


def _elements(right: Any, where: tuple[str, str], sets: _Sets) -> list[Any]:
    """What a right side stands for: one value, or those of a set."""
    if isinstance(right, str) and right.startswith("@"):
        right = {"set": sets.get((*where, right[1:]), [right])}
    if isinstance(right, dict) and "set" in right:
        right = right["set"]
    return [
        each["elem"].get("val") if isinstance(each, dict) and "elem" in each else each
        for each in _listed(right)
    ]


# -- in words ---------------------------------------------------------------------------------


def _say(statement: Any) -> str:
    """A statement much as nft would print it; nothing for what decides nothing."""
    if not isinstance(statement, dict):
        return ""
    ((name, body),) = list(statement.items())[:1]
    if name == "match":
        op = f" {body['op']}" if body.get("op") not in ("==", "in") else ""
        return f"{_value(body.get('left'))}{op} {_value(body.get('right'))}"
    if name == "vmap":
        return f"{_value(body.get('key'))} vmap {_value(body.get('data'))}"
    if name in ("jump", "goto"):
        return f"{name} {body['target']}"
    if name == "xt":
        return str(body.get("name", "xt"))
    return name if name in _VERDICTS or name in _LIMITS else ""


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_value, value))
    if isinstance(value, bool):
        return "exists" if value else "missing"
    if not isinstance(value, dict):
        return str(value)
    ((name, body),) = list(value.items())[:1]
    match name:
        case "payload" if "protocol" in body:
            return f"{body['protocol']} {body['field']}"
        case "meta":
            key = str(body["key"])
            return key if key.endswith("name") else f"meta {key}"
        case "ct":
            return f"ct {body['key']}"
        case "fib":
            return f"fib {' . '.join(body['flags'])} {body['result']}"
        case "set":
            return "{ " + ", ".join(map(_value, body)) + " }"
        case "prefix":
            return f"{body['addr']}/{body['len']}"
        case "range":
            return "-".join(map(_value, body))
        case "elem":
            return _value(body.get("val"))
        case _:
            return str(name)
