"""Do members hear each other: datagrams, addresses, sizes?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from meshd.doctor.checks.kernel import some
from meshd.doctor.facts import Facts, parse_endpoint
from meshd.doctor.finding import Finding, unchecked

ENOUGH: Final = 10
"""Datagrams sent without an answer from anybody before that is told: five probe periods."""

DATAGRAM: Final = 1200
"""Octets of UDP payload, the most that the protocol sends (DESIGN section 4)."""
NEEDED: Final = {4: DATAGRAM + 28, 6: DATAGRAM + 48}
"""With the headers of IPv4 or IPv6, and UDP."""
IPV6_LEAST: Final = 1280
"""RFC 8200 section 5: below it the kernel has no IPv6 on an interface."""


def silence(facts: Facts) -> Iterator[Finding]:
    """Datagrams go out and none comes back."""
    if facts.daemon is None:
        return
    status = facts.daemon.status
    counters = status.get("counters", {})
    sent = sum(counters.get(f"sent {what}", 0) for what in ("HELLO", "Probe"))
    alive = status.get("peers", {}).get("alive", 0)
    known = [peer for peer in facts.daemon.peers if peer.get("state") != "left"]
    seeds = [str(seed) for seed in facts.config.seeds] if facts.config is not None else []
    if alive or sent < ENOUGH or not (known or seeds):
        yield Finding("silence", "ok", "members answer" if alive else "nobody has been asked yet")
        return
    asked = [str(peer.get("endpoint")) for peer in known if peer.get("endpoint")] or seeds
    port = facts.config.port if facts.config is not None else 6179
    refused = counters.get("port unreachable", 0)
    told = f"{sent} datagrams were sent to {some(asked)}, and nobody answers"
    if refused:
        told += f"; {refused} came back with `port unreachable`: no daemon runs there"
    yield Finding(
        "silence",
        "error",
        told,
        "without an answer there is no mesh: no daemon there, a filter on the way, or another mesh",
        f"tcpdump -ni any udp port {port}    # here: do ours go out? there: do they come in?",
    )


def advertised(facts: Facts) -> Iterator[Finding]:
    """The address that this node announces is the one that members see it under."""
    if facts.daemon is None:
        return
    own = facts.daemon.status.get("node", {}).get("endpoints", [])
    mend = (
        '# put the right one into the config, advertise = ["ADDR"], and run\n'
        f"meshd{facts.option} reload"
    )
    if not own:
        yield Finding(
            "advertised",
            "error",
            "this node announces no address of its own",
            "no member can send to it, or route through it",
            mend,
        )
        return
    announced = {where[0] for text in own if (where := parse_endpoint(text)) is not None}
    elsewhere: dict[str, list[str]] = {}
    ports: list[str] = []
    for peer in facts.daemon.peers:
        seen = parse_endpoint(peer.get("observed"))
        if peer.get("state") == "alive" and seen is not None:
            if seen[0] in announced:
                ports.append(str(peer.get("name")))
            else:
                elsewhere.setdefault(str(seen[0]), []).append(str(peer.get("name")))
    for address, names in elsewhere.items():
        yield Finding(
            "advertised",
            "warning",
            f"{some(names)} see this node at {address}, and it announces {', '.join(own)}",
            "a NAT stands between: members route through what is announced, and that may not be"
            " this router for them",
            mend,
            address,
        )
    absent = [
        str(address)
        for address in announced
        if not any(address in link.addresses for link in facts.links.values())
    ]
    if absent and not elsewhere:
        yield Finding(
            "advertised",
            "warning",
            f"{', '.join(absent)} is announced, and no interface here has it",
            "members route through it, so it must be this router's on their own link",
            mend,
            absent[0],
        )
    elif not elsewhere:
        told = "members see this node where it says it is"
        if ports:
            told += f" ({some(ports)}: behind another port, which does no harm)"
        yield Finding("advertised", "ok", told)


def mtu(facts: Facts) -> Iterator[Finding]:
    """Interfaces towards members take the largest datagram whole."""
    small: dict[tuple[str, int], list[str]] = {}
    devices: dict[str, int] = {}
    ways = [(name, way.device, address) for name, address, _, way in facts.endpoints() if way]
    ways += [
        (str(hop.address), hop.device, hop.address)
        for hops in facts.routes.values()
        for hop in hops
    ]
    for name, device, address in ways:
        link = facts.links.get(device or "")
        if link is None or link.name == "lo":
            continue
        devices[link.name] = link.mtu
        names = small.setdefault((link.name, address.version), [])
        if link.mtu < NEEDED[address.version] and name not in names:
            names.append(name)
    small = {key: names for key, names in small.items() if names}
    if not devices:
        yield unchecked("mtu", "no member is known")
        return
    for (device, version), names in small.items():
        need = NEEDED[version]
        yield Finding(
            "mtu",
            "error",
            f"{device} takes packets of {devices[device]} octets, and messages to {some(names)}"
            f" have up to {need}",
            "they are not fragmented: large messages never arrive, and members are lost",
            f"ip link set dev {device} mtu {max(need, IPV6_LEAST)}    # or what its network takes",
            device,
        )
    if len(set(devices.values())) > 1:
        shown = ", ".join(f"{name} {size}" for name, size in sorted(devices.items()))
        yield Finding(
            "mtu",
            "warning",
            f"the mesh's uplinks have different MTUs: {shown}",
            "a flow that moves to the smaller one needs ICMP `fragmentation needed` to go on",
            "# let ICMP of type 3 (ICMPv6: 2) through, or make them equal",
        )
    elif not small:
        yield Finding("mtu", "ok", "interfaces towards members take the largest messages")
