"""Rules as programs list them, and what a packet meets in them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshd.doctor import iptables, nft
from meshd.doctor.judge import DEEPEST, Packet, Stop, stops, translates
from meshd.doctor.ruleset import Ruleset
from protocol.address import Prefix

NEAR, FAR = Prefix.parse("10.1.0.0/24"), Prefix.parse("10.2.0.0/24")
INWARD = Packet(4, "net0", "lan0", FAR, NEAR)
OUTWARD = Packet(4, "lan0", "net0", NEAR, FAR)
DATAGRAM = Packet(4, "net0", None, None, None, "udp", 6179, to_host=True)


def saved(*rules: str, policy: str = "ACCEPT", chains: str = "") -> Ruleset:
    """What iptables-save says of the table filter; `chains` are those of a user, in one line."""
    lines = [f":FORWARD {policy} [0:0]", *(f":{name} - [0:0]" for name in chains.split())]
    text = "\n".join(["*filter", *lines, *(f"-A {rule}" for rule in rules), "COMMIT"])
    return Ruleset.of(*iptables.parse(text, "ip", "iptables"))


def met(rules: Ruleset, packet: Packet = INWARD) -> Stop | None:
    """What stops the packet at the first base chain of the hook forward."""
    (chain,) = rules.at("forward", 4)
    return stops(rules, chain, packet)


@pytest.mark.parametrize(
    ("rule", "packet", "stopped"),
    [
        ("-j DROP", INWARD, "all"),
        ("-j REJECT --reject-with icmp-port-unreachable", INWARD, "all"),
        ("-i net0 -j DROP", INWARD, "all"),
        ("-i net0 -j DROP", OUTWARD, None),
        ("-i net+ -j DROP", INWARD, "all"),
        ("! -i net0 -o net0 -j DROP", OUTWARD, "all"),
        ("! -i net0 -o lan0 -j DROP", INWARD, None),
        ("-s 10.2.0.0/16 -d 10.1.0.0/24 -j DROP", INWARD, "all"),
        ("-s 10.3.0.0/16 -j DROP", INWARD, None),
        ("! -s 10.2.0.0/16 -j DROP", INWARD, None),
        ("-d 10.1.0.2/32 ! -i lan0 -j DROP", INWARD, "some"),
        ("-m conntrack --ctstate INVALID -j DROP", INWARD, None),
        ("-m conntrack --ctstate NEW,INVALID -j DROP", INWARD, "all"),
        ("-m state --state RELATED,ESTABLISHED -j DROP", INWARD, None),
        ("-m addrtype --dst-type LOCAL -j DROP", INWARD, None),
        ("-m mark --mark 0x8000/0x8000 -j DROP", INWARD, None),
        ("-m rpfilter --invert -j DROP", INWARD, None),
        ("-m comment --comment \"drop it 'all'\" -j DROP", INWARD, "all"),
        ("-m set --match-set bad src -j DROP", INWARD, "maybe"),
        ("-m string --string x --algo bm -j DROP", INWARD, "maybe"),
        # Who stops one service has meant to.
        ("-p tcp -m tcp --dport 25 -j DROP", INWARD, None),
        ("-p icmp -m icmp --icmp-type 8 -j DROP", INWARD, None),
        ("-j LOG --log-prefix DROP", INWARD, None),
    ],
)
def test_an_iptables_rule_stops_what_it_says(
    rule: str, packet: Packet, stopped: str | None
) -> None:
    stop = met(saved(f"FORWARD {rule}"), packet)
    assert (stop.sure if stop is not None else None) == stopped


def test_a_policy_stops_what_no_rule_accepts() -> None:
    established = "FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    stop = met(saved(established, policy="DROP"))
    assert stop is not None
    assert (stop.sure, stop.rule, stop.text) == ("all", None, "policy of FORWARD: drop")
    accepted = "FORWARD -i net0 -o lan0 -j ACCEPT"
    assert met(saved(established, accepted, policy="DROP")) is None
    assert met(saved(established, accepted, policy="DROP"), OUTWARD) is not None


def test_services_that_are_let_through_are_named() -> None:
    ssh = "FORWARD -p tcp -m tcp --dport 22 -j ACCEPT"
    stop = met(saved(ssh, policy="DROP"))
    assert stop is not None
    assert [rule.text for rule in stop.lets] == ["-p tcp -m tcp --dport 22 -j ACCEPT"]
    assert stop.sure == "all"


def test_a_rule_that_is_not_understood_before_a_policy_leaves_it_open() -> None:
    unknown = "FORWARD -m set --match-set friends src -j ACCEPT"
    stop = met(saved(unknown, policy="DROP"))
    assert stop is not None
    assert stop.sure == "maybe"


def test_jumps_are_followed_and_come_back() -> None:
    rules = saved(
        "FORWARD -j USER",
        "FORWARD -j GUARD",
        "USER -s 10.9.0.0/24 -j RETURN",
        "USER -j RETURN",
        "USER -j DROP",
        "GUARD -o lan0 -j GUARD2",
        "GUARD2 ! -i lan0 -j DROP",
        chains="USER GUARD GUARD2",
    )
    stop = met(rules)
    assert stop is not None
    assert stop.path == ("FORWARD", "GUARD", "GUARD2")
    assert met(rules, OUTWARD) is None


def test_a_goto_does_not_come_back_to_where_it_was_said() -> None:
    rules = saved(
        "FORWARD -g LEAF", "FORWARD -j DROP", "LEAF -s 10.9.0.0/24 -j DROP", chains="LEAF"
    )
    assert met(rules) is None


def test_chains_that_jump_in_a_circle_end() -> None:
    rules = saved("FORWARD -j A", "A -j B", "B -j A", chains="A B", policy="DROP")
    stop = met(rules)
    assert stop is not None
    assert len(stop.path) <= DEEPEST


def test_a_port_is_judged_where_it_is_known() -> None:
    text = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p udp -m udp --dport {} -j ACCEPT\nCOMMIT"
    for ports, passes in (("6179", True), ("6000:6200", True), ("53", False)):
        rules = Ruleset.of(*iptables.parse(text.format(ports), "ip", "iptables"))
        (chain,) = rules.at("input", 4)
        assert (stops(rules, chain, DATAGRAM) is None) == passes


def test_counters_of_iptables_save_do_no_harm() -> None:
    text = (
        "*nat\n:POSTROUTING ACCEPT [7:9]\n[1:2] -A POSTROUTING -s 10.1.0.0/24 -j MASQUERADE\nCOMMIT"
    )
    rules = Ruleset.of(*iptables.parse(text, "ip", "iptables"))
    (chain,) = rules.at("postrouting", 4, "nat")
    assert chain.priority == 100
    rule = translates(rules, chain, OUTWARD)
    assert rule is not None
    assert rule.text == "-s 10.1.0.0/24 -j MASQUERADE"
    assert translates(rules, chain, INWARD) is None


# -- nft -----------------------------------------------------------------------------------------


def field(protocol: str, name: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": name}}


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def listed(*rules: list[dict[str, Any]], policy: str = "accept", more: tuple[Any, ...] = ()) -> str:
    """What nft says of a base chain on forward, and of what else there is in its table."""
    home = {"family": "inet", "table": "t"}
    base = {**home, "name": "f", "type": "filter", "hook": "forward", "prio": 0, "policy": policy}
    return json.dumps(
        {
            "nftables": [
                {"metainfo": {"json_schema_version": 1}},
                {"table": {"family": "inet", "name": "t"}},
                *more,
                {"chain": base},
                *({"rule": {**home, "chain": "f", "expr": expr}} for expr in rules),
            ]
        }
    )


def ruleset(text: str) -> Ruleset:
    return Ruleset.of(*nft.parse(text)[0])


DROP: dict[str, Any] = {"drop": None}
IIF, OIF = ({"meta": {"key": key}} for key in ("iifname", "oifname"))
STATE = {"ct": {"key": "state"}}
PREFIX = {"prefix": {"addr": "10.2.0.0", "len": 24}}
FIB = {"fib": {"result": "oif", "flags": ["saddr", "mark", "iif"]}}


@pytest.mark.parametrize(
    ("conditions", "stopped"),
    [
        ([], "all"),
        ([match(IIF, "net0")], "all"),
        ([match(IIF, {"set": ["lo", "lan0"]})], None),
        ([match(IIF, "lan0", "!=")], "all"),
        ([match(IIF, "net*")], "all"),
        ([match(field("ip", "saddr"), PREFIX)], "all"),
        ([match(field("ip6", "saddr"), {"prefix": {"addr": "fd00::", "len": 8}})], None),
        ([match(field("ip", "saddr"), {"set": [PREFIX, "10.9.0.1"]})], "all"),
        ([match(field("ip", "saddr"), {"range": ["10.2.0.0", "10.2.0.255"]})], "all"),
        ([match(field("ip", "saddr"), {"range": ["10.2.0.9", "10.2.0.99"]})], "some"),
        ([match(field("ip", "daddr"), "10.1.0.2"), match(IIF, "lan0", "!=")], "some"),
        ([match(STATE, {"set": ["established", "related"]})], None),
        ([match(STATE, "invalid", "in")], None),
        ([match(STATE, "new", "in")], "all"),
        ([match({"meta": {"key": "nfproto"}}, "ipv6")], None),
        ([match(field("ip6", "saddr"), "fd00::1", "!=")], None),
        ([match({"ct": {"key": "status"}}, "dnat", "in")], None),
        ([match({"meta": {"key": "protocol"}}, "ip")], "all"),
        ([match(FIB, False)], None),
        ([match({"&": [{"meta": {"key": "mark"}}, 1]}, 1)], None),
        ([match({"meta": {"key": "l4proto"}}, "tcp")], None),
        ([match(field("tcp", "dport"), 25)], None),
        ([match({"meta": {"key": "skuid"}}, 0)], "maybe"),
        ([{"limit": {"rate": 1, "per": "second"}}], "maybe"),
        ([match(field("ip", "saddr"), "@nowhere")], "maybe"),
        ([match({"concat": [IIF, OIF]}, "x")], "maybe"),
        ([{"xt": {"type": "match", "name": "comment"}}], "all"),
        ([{"xt": {"type": "match", "name": "recent"}}], "maybe"),
        ([{"counter": {"packets": 1, "bytes": 2}}], "all"),
    ],
)
def test_an_nft_rule_stops_what_it_says(
    conditions: list[dict[str, Any]], stopped: str | None
) -> None:
    stop = met(ruleset(listed([*conditions, DROP])))
    assert (stop.sure if stop is not None else None) == stopped


def test_named_sets_and_verdict_maps_are_looked_up() -> None:
    home = {"family": "inet", "table": "t"}
    jump = {"jump": {"target": "guard"}}
    more = (
        {"set": {**home, "name": "far", "type": "ipv4_addr", "elem": [{"elem": {"val": PREFIX}}]}},
        {"map": {**home, "name": "jumps", "type": "ifname", "elem": [["lan0", jump]]}},
        {"chain": {**home, "name": "guard"}},
        {"rule": {**home, "chain": "guard", "expr": [match(field("ip", "saddr"), "@far"), DROP]}},
    )
    rules = ruleset(listed([{"vmap": {"key": OIF, "data": "@jumps"}}], more=more))
    stop = met(rules)
    assert stop is not None
    assert (stop.path, stop.text) == (("f", "guard"), "ip saddr @far drop")
    assert met(rules, OUTWARD) is None


def test_a_target_of_iptables_is_known_by_its_name() -> None:
    reject = {"xt": {"type": "target", "name": "REJECT"}}
    log = {"xt": {"type": "target", "name": "LOG"}}
    text = listed([log], [reject])
    stop = met(ruleset(text))
    assert stop is not None
    assert stop.text == "REJECT"
    assert nft.parse(text)[1] == {("inet", "t")}


@pytest.mark.parametrize(
    "odd",
    [
        {"match": None},
        {"match": {"op": "==", "left": {"meta": None}, "right": "x"}},
        {"match": {"op": "==", "left": {"payload": {"protocol": "ip"}}, "right": {}}},
        {"vmap": {"key": 1, "data": {"set": [1, [2]]}}},
        {"jump": {}},
        {},
        7,
    ],
)
def test_what_a_newer_nft_says_may_be_anything(odd: Any) -> None:
    rules = ruleset(listed([odd, DROP]))
    stop = met(rules)
    assert stop is not None  # and nothing is raised


def test_a_dormant_table_stops_nothing() -> None:
    text = listed([DROP]).replace('"name": "t"}', '"name": "t", "flags": ["dormant"]}')
    assert ruleset(text).chains == {}


def test_chains_of_one_hook_are_passed_by_priority_and_family() -> None:
    chains = [
        {
            "family": family,
            "table": "t",
            "name": name,
            "type": "filter",
            "hook": "forward",
            "prio": p,
        }
        for name, family, p in (("late", "ip", 10), ("early", "inet", -5), ("other", "ip6", 0))
    ]
    rules = ruleset(json.dumps({"nftables": [{"chain": chain} for chain in chains]}))
    assert [chain.name for chain in rules.at("forward", 4)] == ["early", "late"]
    assert [chain.name for chain in rules.at("forward", 6)] == ["early", "other"]


@pytest.mark.parametrize("text", ["", "[]", '{"nftables": {}}', '{"x": 1}'])
def test_what_is_no_ruleset_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        nft.parse(text)
