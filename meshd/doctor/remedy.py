"""Which commands let the mesh's traffic pass a filter, in the way of the program that wrote it.

Every address, name and number in a command comes from this host's kernel or from parsed values,
and is quoted where a shell could take it for more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from shlex import quote
from typing import Final

from meshd.config import POOL
from meshd.doctor.facts import Facts
from meshd.doctor.judge import Packet, Stop
from meshd.doctor.ruleset import FAMILY, Ruleset
from meshd.doctor.traffic import Lane
from protocol.address import Prefix

MANY: Final = 32
"""Prefixes that a command names one by one."""


def owner(stop: Stop, rules: Ruleset) -> str:
    """The program whose rule it is, by the names that it gives to tables and chains, or nothing."""
    table, path = stop.chain.table, stop.path
    named = (table, *path)
    for program, sign in _SIGNS:
        if any(re.match(sign, name) for name in named):
            return program
    if stop.chain.dialect != "nft":
        if rules.has("filter", "DOCKER-USER") and (table == "raw" or stop.rule is None):
            return "Docker"  # which sets the policy of FORWARD, and guards published ports
        if rules.has("filter", "ufw-user-forward") and stop.rule is None:
            return "ufw"
    return ""


_SIGNS: Final = (
    ("Docker", r"docker-bridges$|DOCKER"),
    ("libvirt", r"libvirt_network$|LIBVIRT_"),
    ("firewalld", r"firewalld$"),
    ("Incus", r"incus$|lxd$"),
    ("ufw", r"ufw6?-"),
)


def forward(
    facts: Facts,
    rules: Ruleset,
    stop: Stop,
    lane: Lane,
    sources: Sequence[Prefix],
    destinations: Sequence[Prefix],
) -> str:
    """Let new connections pass from ``sources`` to ``destinations``."""
    sources, destinations = _brief(facts, lane, sources), _brief(facts, lane, destinations)
    if not sources or not destinations:
        return "# join the mesh first; then meshd doctor names the subnets"
    whose = owner(stop, rules)
    if whose == "firewalld":
        return _firewalld(lane.version, sources, destinations)
    if whose == "ufw":
        pairs = [f"ufw route allow from {s} to {d}" for s in sources for d in destinations]
        return "\n".join(pairs)
    if stop.chain.dialect == "nft":
        family = FAMILY[lane.version]
        rule = (
            f"insert rule {stop.chain.family} {stop.chain.table} {stop.chain.name} {family} saddr"
            f" {_set(sources)} {family} daddr {_set(destinations)} counter accept"
        )
        return f"nft {quote(rule)}\n{_LASTING.get((whose, 'nft'), _LASTING['', 'nft'])}"
    if whose == "Docker" and stop.chain.table == "filter" and rules.has("filter", "DOCKER-USER"):
        chain, lasting = "DOCKER-USER", _LASTING["Docker", "filter"]
    else:
        chain = stop.chain.name
        lasting = _LASTING.get((whose, stop.chain.table), _LASTING["", "iptables"])
    table = f" -t {quote(stop.chain.table)}" if stop.chain.table != "filter" else ""
    return (
        f"{_iptables(facts, stop, lane.version)}{table} -I {quote(chain)}"
        f" -s {_list(sources)} -d {_list(destinations)} -j ACCEPT\n{lasting}"
    )


def _brief(facts: Facts, lane: Lane, prefixes: Sequence[Prefix]) -> list[Prefix]:
    """The prefixes, or where they are many or not known yet, the pool that they come from."""
    if 0 < len(prefixes) <= MANY:
        return list(prefixes)
    pool = facts.config.pool if facts.config is not None else POOL
    meant = [prefix for prefix in pool if prefix.version == lane.version]
    if not prefixes:
        return meant
    covering = [p for p in meant if any(p.overlaps(each) for each in prefixes)]
    return covering if _within(prefixes, covering) else list(prefixes)


def _within(prefixes: Sequence[Prefix], covering: Sequence[Prefix]) -> bool:
    return all(any(p.covers(each) for p in covering) for each in prefixes)


_LASTING: Final = {
    ("Docker", "filter"): (
        "# Docker keeps DOCKER-USER when it restarts; a reboot and `firewall-cmd --reload` empty\n"
        "# it: put the line where your rules are loaded at boot"
    ),
    ("Docker", "raw"): (
        '# lasting: "allow-direct-routing": true in /etc/docker/daemon.json, and'
        " systemctl restart docker"
    ),
    ("Docker", "nft"): (
        "# Docker makes its tables anew when it restarts: put the line into an ExecStartPost= of"
        " docker.service"
    ),
    ("libvirt", "filter"): (
        "# stays when libvirt or its network restarts, not over a reboot: put the line into\n"
        "# /etc/libvirt/hooks/network, or give the network <forward mode='route'/>"
    ),
    ("libvirt", "nft"): (
        "# stays while libvirt's table does, not over a reboot: put the line into\n"
        "# /etc/libvirt/hooks/network, or give the network <forward mode='route'/>"
    ),
    ("Incus", "nft"): "# lasting: a rule in the network's ACL (incus network acl rule add)",
    (
        "",
        "nft",
    ): "# to keep it: put the rule into the file that makes that table, /etc/nftables.conf",
    ("", "iptables"): "# to keep it: put the line where your rules are loaded at boot",
}


def port(facts: Facts, rules: Ruleset, stop: Stop, packet: Packet, number: int) -> str:
    """Let datagrams to our UDP port in, or ours out."""
    whose = owner(stop, rules)
    inward = stop.chain.hook != "output"
    number = number if inward else packet.port or number
    if whose == "firewalld" and inward:
        zone = next(
            (name[len(_ZONE) :] for name in reversed(stop.path) if name.startswith(_ZONE)), ""
        )
        option = f" --zone={quote(zone)}" if zone else ""
        return f"firewall-cmd --permanent{option} --add-port={number}/udp\nfirewall-cmd --reload"
    if whose == "ufw":
        return f"ufw allow {number}/udp" if inward else f"ufw allow out {number}/udp"
    if stop.chain.dialect == "nft":
        rule = (
            f"insert rule {stop.chain.family} {stop.chain.table} {stop.chain.name}"
            f" udp dport {number} counter accept"
        )
        return f"nft {quote(rule)}\n{_LASTING['', 'nft']}"
    table = f" -t {quote(stop.chain.table)}" if stop.chain.table != "filter" else ""
    return (
        f"{_iptables(facts, stop, packet.version)}{table} -I {quote(stop.chain.name)}"
        f" -p udp --dport {number} -j ACCEPT\n{_LASTING['', 'iptables']}"
    )


_ZONE: Final = "filter_IN_"


def _iptables(facts: Facts, stop: Stop, version: int) -> str:
    name = "iptables" if version == 4 else "ip6tables"
    if stop.chain.dialect == "iptables-legacy":
        return f"{name}-legacy"
    # Where the plain name is the old program's, it would write into tables of its own.
    return name if "iptables" in facts.programs else f"{name}-nft"


def _firewalld(version: int, sources: Sequence[Prefix], destinations: Sequence[Prefix]) -> str:
    """A policy of our own, beside the zones: it opens nothing but what is named."""
    lines = [
        "firewall-cmd --permanent --info-policy=meshd >/dev/null 2>&1 ||"
        " firewall-cmd --permanent --new-policy=meshd",
        "firewall-cmd --permanent --policy=meshd --add-ingress-zone=ANY",
        "firewall-cmd --permanent --policy=meshd --add-egress-zone=ANY",
    ]
    for source in sources:
        for destination in destinations:
            rule = (
                f"rule family=ipv{version} source address={source}"
                f" destination address={destination} accept"
            )
            lines.append(f"firewall-cmd --permanent --policy=meshd --add-rich-rule={quote(rule)}")
    return "\n".join([*lines, "firewall-cmd --reload"])


def _set(prefixes: Sequence[Prefix]) -> str:
    return "{ " + ", ".join(map(str, prefixes)) + " }"


def _list(prefixes: Sequence[Prefix]) -> str:
    return ",".join(map(str, prefixes))
