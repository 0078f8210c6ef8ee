"""Do packet filters on this host let the mesh's traffic pass?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from meshd.doctor import remedy
from meshd.doctor.checks.kernel import some
from meshd.doctor.facts import Facts
from meshd.doctor.finding import Finding, Level, unchecked
from meshd.doctor.judge import Packet, Stop, stops
from meshd.doctor.ruleset import Hook, Ruleset
from meshd.doctor.traffic import IN, Lane, default_device, lanes, packets
from meshd.values import PORT
from protocol.address import Prefix

PASSED: Final[tuple[Hook, ...]] = ("prerouting", "forward", "postrouting")
"""By what is forwarded."""


@attrs.define
class _Block:
    """One rule that stops the traffic of a lane, with what it stops."""

    lane: Lane
    stop: Stop
    sources: dict[Prefix, None] = attrs.field(factory=dict)
    destinations: dict[Prefix, None] = attrs.field(factory=dict)


def forward(facts: Facts) -> Iterator[Finding]:
    """Rules and policies that stop what is forwarded into the mesh or out of it."""
    if facts.rules is None:
        yield unchecked("forward", facts.unseen.get("nftables", "no rules could be listed"))
        return
    for missing in ("iptables", "iptables-legacy"):
        if missing in facts.unseen:
            yield unchecked("forward", facts.unseen[missing])
    blocks = list(_blocks(facts, facts.rules))
    for block in blocks:
        yield _blocked(facts, facts.rules, block)
    if blocks:
        return
    ways = lanes(facts)
    if not ways:
        reason = "nothing is announced here" if not facts.local else "no uplink is known"
        yield unchecked("forward", f"{reason}: there is no traffic to judge by")
    else:
        among = "the mesh's subnets" if facts.routes else "what is announced and the default route"
        yield Finding("forward", "ok", f"no rule stops traffic between {among}")


def _blocks(facts: Facts, rules: Ruleset) -> Iterable[_Block]:
    found: dict[tuple[object, ...], _Block] = {}
    for lane in lanes(facts):
        for hook in PASSED:
            for chain in rules.at(hook, lane.version):
                for packet in packets(lane):
                    stop = stops(rules, chain, packet)
                    if stop is None:
                        continue
                    key = (lane.iif, lane.oif, lane.version, chain.key, stop.path, stop.text)
                    block = found.setdefault((*key, stop.sure), _Block(lane, stop))
                    if packet.source is not None:
                        block.sources[packet.source] = None
                    if packet.destination is not None:
                        block.destinations[packet.destination] = None
    return found.values()


def _blocked(facts: Facts, rules: Ruleset, block: _Block) -> Finding:
    lane, stop = block.lane, block.stop
    owner = remedy.owner(stop, rules)
    by = f"{owner}: " if owner else ""
    if lane.direction == IN:
        what = f"connections from the mesh to {_these(block.destinations)} ({lane.oif})"
    else:
        what = f"connections from {_these(block.sources)} ({lane.iif}) into the mesh"
    told = f"{by}{_verb(stop)} {what}: {' > '.join(stop.path)}: {stop.text}"
    if stop.lets:
        told += f"; it lets pass {some([rule.text for rule in stop.lets])}"
    mend = remedy.forward(facts, rules, stop, lane, list(block.sources), list(block.destinations))
    return Finding("forward", _level(stop, lane), told, _why(stop), mend, str(stop.chain))


def _these(prefixes: Iterable[Prefix]) -> str:
    found = list(prefixes)
    return some(found) if found else "what is announced"


def _verb(stop: Stop) -> str:
    return {"all": "stops", "some": "stops part of", "maybe": "may stop"}[stop.sure]


def _why(stop: Stop) -> str:
    if stop.chain.hook == "prerouting" and stop.sure != "maybe":
        return "it stops replies as well: those hosts have no connection with the mesh at all"
    if stop.sure == "maybe":
        return (
            "a rule that meshd does not understand decides: prove it with"
            f" `nft list ruleset` and a ping while its counters are watched ({stop.chain})"
        )
    return "hosts of one subnet cannot begin a connection to those of the other"


def _level(stop: Stop, lane: Lane) -> Level:
    if stop.sure == "maybe":
        return "warning"
    # Who lets certain services through between whole subnets has meant to stop the others.
    return "warning" if any(_for_services(rule.text) for rule in stop.lets) else "error"


def _for_services(text: str) -> bool:
    return not any(word in text for word in ("icmp", "daddr", "-d "))


def ports(facts: Facts) -> list[tuple[int, str]]:
    """The UDP ports that must be reached here, and what for."""
    if facts.config is None:
        return [(PORT, "members' messages")]
    found = [(facts.config.port, "members' messages")]
    if facts.config.tunnel != "off":
        found.append((facts.config.tunnel_port, "the tunnel"))
    return found


def port(facts: Facts) -> Iterator[Finding]:
    """Input rules that stop members' datagrams, and output rules that stop ours."""
    if facts.rules is None:
        yield unchecked("port", facts.unseen.get("nftables", "no rules could be listed"))
        return
    alive = facts.daemon is not None and facts.daemon.status.get("peers", {}).get("alive", 0) > 0
    told: set[tuple[object, ...]] = set()
    for number, what in ports(facts):
        for hook, packet in _datagrams(facts, number):
            for chain in facts.rules.at(hook, packet.version):
                stop = stops(facts.rules, chain, packet)
                if stop is None or (key := (number, hook, chain.key, stop.path, stop.text)) in told:
                    continue
                told.add(key)
                yield _closed(facts, facts.rules, stop, packet, number, what, alive)
        if not told:
            yield Finding("port", "ok", f"no rule stops UDP port {number}")


def _datagrams(facts: Facts, number: int) -> Iterator[tuple[Hook, Packet]]:
    """What members send here and we send them; while none is known, any host on the uplinks."""
    seen: set[tuple[str, int]] = set()
    count = 0
    for _, address, there, way in facts.endpoints():
        if way is not None and way.device is not None and count < 256:
            count += 1
            seen.add((way.device, address.version))
            far = Prefix.single(address)
            here = Prefix.single(way.source) if way.source is not None else None
            inward = Packet(
                address.version, way.device, None, far, here, "udp", number, to_host=True
            )
            yield "prerouting", inward
            yield "input", inward
            yield "output", Packet(address.version, None, way.device, None, far, "udp", there)
    for version in (facts.versions or (4, 6)) if not seen else ():
        device = default_device(facts, version)
        if device is not None:
            anyone = Packet(version, device, None, None, None, "udp", number, to_host=True)
            yield "input", anyone


def _closed(
    facts: Facts, rules: Ruleset, stop: Stop, packet: Packet, number: int, what: str, alive: bool
) -> Finding:
    inward = stop.chain.hook != "output"
    owner = remedy.owner(stop, rules)
    by = f"{owner}: " if owner else ""
    way = f"from {packet.iif}" if inward else f"to {packet.oif}"
    level: Level = "error"
    why = "members cannot reach this node, and a new one cannot join through it"
    if stop.sure == "maybe":
        level = "warning"
    elif alive and inward:
        level = "warning"
        why = (
            "members that this node has not spoken to first cannot reach it, nor can a new one join"
        )
    return Finding(
        "port",
        level,
        f"{by}{_verb(stop)} UDP port {number} {way} ({what}): {' > '.join(stop.path)}: {stop.text}",
        why,
        remedy.port(facts, rules, stop, packet, number),
        str(stop.chain),
    )


def bridged(facts: Facts) -> Iterator[Finding]:
    """Frames within one bridge that pass the filters of routed traffic (br_netfilter)."""
    if facts.rules is None:
        return
    found = False
    for version, name in ((4, "bridge-nf-call-iptables"), (6, "bridge-nf-call-ip6tables")):
        if not facts.sysctl(f"bridge/{name}"):
            continue
        for device in dict.fromkeys((*facts.insides(), *facts.uplinks())):
            link = facts.links.get(device)
            if link is None or len(link.ports) < 2:
                continue
            packet = Packet(version, device, device)
            for chain in facts.rules.at("forward", version):
                stop = stops(facts.rules, chain, packet)
                if stop is not None and stop.sure == "all":
                    found = True
                    yield Finding(
                        "bridged",
                        "warning",
                        f"frames between ports of {device} pass the IPv{version} filter, and it"
                        f" stops them: {' > '.join(stop.path)}: {stop.text}",
                        "hosts on one bridge cannot reach each other, or this router's members"
                        " behind it",
                        f"sysctl -w net.bridge.{name}=0\n"
                        "# if another program wants it on: accept what stays on the bridge instead",
                        device,
                    )
                    break
    if not found:
        yield Finding("bridged", "ok", "no filter stops what stays on one bridge")
