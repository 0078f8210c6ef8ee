"""What the kernel must do for the mesh: forward, take what comes, and use our routes."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import Final

from meshd.doctor.facts import Facts, Path, first_host
from meshd.doctor.finding import Finding, Level, unchecked
from meshd.kernel.state import ForeignRoute
from protocol.address import Prefix

_STRICT: Final = 1
"""rp_filter: RFC 3704 section 2.2, by the best route to the source only."""
_RA: Final = 9  # RTPROT_RA
NO_ROUTES: Final = "no route of ours is in the kernel"
_NAMED: Final = 8
"""Prefixes that a sentence names; the others are counted."""


def some(prefixes: list[Prefix] | list[str]) -> str:
    """A list for a sentence."""
    shown = ", ".join(map(str, prefixes[:_NAMED]))
    return shown if len(prefixes) <= _NAMED else f"{shown} and {len(prefixes) - _NAMED} more"


def forwarding(facts: Facts) -> Iterator[Finding]:
    """IPv4 is forwarded by the switch of the interface that a packet comes in through (``IN_DEV_
    FORWARD``), IPv6 by that of all (``ip6_forward``)."""
    why = "what comes from the mesh, or for it, is thrown away instead of being passed on"
    found = 0
    level: Level = "error" if facts.versions else "warning"
    for version in facts.versions or (4, 6):
        home = f"ipv{version}/conf"
        whole = facts.sysctl(f"{home}/all/forwarding")
        if whole is None:
            continue
        found += 1
        if not whole:
            yield Finding(
                "forwarding",
                level,
                f"IPv{version} forwarding is off",
                why,
                _forward(facts, version),
                f"net.{home.replace('/', '.')}.all.forwarding",
            )
            continue
        off = [
            device
            for device in dict.fromkeys((*facts.insides(), *facts.uplinks()))
            if version == 4 and facts.sysctl(f"{home}/{device}/forwarding") == 0
        ]
        for device in off:
            yield Finding(
                "forwarding",
                "error",
                f"IPv4 forwarding is off for what comes in through {device}",
                why,
                f"sysctl -w {quote(f'net/ipv4/conf/{device}/forwarding=1')}",
                device,
            )
        if not off:
            yield Finding("forwarding", "ok", f"IPv{version} is forwarded")
    if not found:
        yield unchecked("forwarding", "the kernel's settings could not be read")


def _forward(facts: Facts, version: int) -> str:
    setting = "net.ipv4.ip_forward" if version == 4 else "net.ipv6.conf.all.forwarding"
    lines = [f"sysctl -w {setting}=1"]
    if version == 6:
        # Else the default route that a router advertised is never renewed (ip-sysctl.rst).
        advertised = {
            route.device
            for route in facts.foreign
            if route.prefix.version == 6 and not route.prefix.prefixlen and route.protocol == _RA
        }
        for device in sorted(filter(None, advertised)):
            if facts.sysctl(f"ipv6/conf/{device}/accept_ra") == 1:
                lines.insert(0, f"sysctl -w {quote(f'net/ipv6/conf/{device}/accept_ra=2')}")
    lines.append(f"# to keep it: echo {setting}=1 > /etc/sysctl.d/60-meshd-ipv{version}.conf")
    return "\n".join(lines)


def announced(facts: Facts) -> Iterator[Finding]:
    """What this node announces lies behind an interface of this host, or behind a route."""
    why = "members send its traffic here, and this host sends it away again, or nowhere"
    found = False
    for prefix in facts.local:
        device = facts.inside(prefix)
        link = facts.links.get(device or "")
        if link is not None and link.up:
            continue
        found = True
        withdraw = f"meshd{facts.option} withdraw {prefix}    # if it is not here any more"
        if link is None:
            yield Finding(
                "announced",
                "error",
                f"{prefix} is announced, and no interface and no route here leads to it",
                why,
                withdraw,
                str(prefix),
            )
        else:
            yield Finding(
                "announced",
                "error",
                f"{prefix} is announced, and {link.name}, behind which it lies, is down",
                why,
                f"ip link set dev {quote(link.name)} up\n# {withdraw}",
                link.name,
            )
    if facts.local and not found:
        yield Finding("announced", "ok", "what is announced lies behind this router")


def reverse_path(facts: Facts) -> Iterator[Finding]:
    """The filter in force is the greater of all's and the interface's (ip-sysctl.rst); it knows
    IPv4 only.  Strict, it drops what comes in elsewhere than its way back leads."""
    if facts.sysctl("ipv4/conf/all/rp_filter") is None:
        yield unchecked("rp_filter", "the kernel's settings could not be read")
        return
    if not facts.routes:
        yield unchecked("rp_filter", NO_ROUTES)
        return
    arrivals = _arrivals(facts)
    dropped: dict[tuple[str, str], list[Prefix]] = {}
    for prefix, hops in facts.routes.items():
        way = facts.paths.get(first_host(prefix), Path(hops[0].device))
        for device in arrivals if prefix.version == 4 else ():
            if way.device not in (None, device) and _in_force(facts, device) == _STRICT:
                dropped.setdefault((device, str(way.device)), []).append(prefix)
    for (device, back), prefixes in dropped.items():
        yield Finding(
            "rp_filter",
            "error",
            f"strict reverse path filtering on {device} drops what comes from {some(prefixes)}",
            f"members send to our address on {device}, and the way back to them is through {back}",
            _loosen(device),
            device,
        )
    uplinks = [
        device
        for device, prefixes in facts.uplinks().items()
        if any(prefix.version == 4 for prefix in prefixes)
    ]
    strict = [device for device in uplinks if _in_force(facts, device) == _STRICT]
    if not dropped and len(uplinks) > 1 and strict:
        yield Finding(
            "rp_filter",
            "warning",
            f"strict reverse path filtering on {', '.join(strict)}, and the mesh has"
            f" {len(uplinks)} uplinks",
            "when a member reaches us through another uplink than we reach it, its packets are"
            " dropped",
            "\n".join(_loosen(device) for device in strict),
            strict[0],
        )
    elif not dropped:
        yield Finding("rp_filter", "ok", "reverse path filtering drops nothing of the mesh")


def _arrivals(facts: Facts) -> list[str]:
    """The interfaces that hold the IPv4 address we announce: others send there."""
    if facts.daemon is None:
        return []
    announced = [
        text.rpartition(":")[0] for text in facts.daemon.status.get("node", {}).get("endpoints", [])
    ]
    return [
        link.name
        for link in facts.links.values()
        if any(address.version == 4 and str(address) in announced for address in link.addresses)
    ]


def _in_force(facts: Facts, device: str) -> int:
    return max(
        facts.sysctl("ipv4/conf/all/rp_filter") or 0,
        facts.sysctl(f"ipv4/conf/{device}/rp_filter") or 0,
    )


def _loosen(device: str) -> str:
    # 2 beats the 1 of all, since the greater is in force: nothing changes for other interfaces.
    setting = quote(f"net/ipv4/conf/{device}/rp_filter=2")
    return f"sysctl -w {setting}\n# to keep it: put {setting} into a file in /etc/sysctl.d"


def shadows(facts: Facts) -> Iterator[Finding]:
    """Routes or rules of others that take the mesh's traffic elsewhere."""
    if not facts.routes:
        yield unchecked("shadowed", NO_ROUTES)
        return
    found = False
    for prefix, hops in facts.routes.items():
        way = facts.paths.get(first_host(prefix))
        inside = [route for route in facts.foreign if _covers(prefix, route)]
        meant = [(hop.device, hop.address) for hop in hops]
        if way is not None and (way.device, way.gateway) not in meant:
            found = True
            leads = f"{way.gateway or 'on-link'} dev {way.device}" if way.device else "nowhere"
            table = "" if way.table == 254 else f" (table {way.table})"
            yield Finding(
                "shadowed",
                "error",
                f"traffic for {prefix} goes to {leads}{table}, not to {hops[0].address}"
                f" dev {hops[0].device}",
                "a route or rule of somebody else comes before ours",
                _show(prefix, inside, way),
                str(prefix),
            )
        elif inside:
            found = True
            yield Finding(
                "shadowed",
                "warning",
                f"part of {prefix} is taken by foreign routes:"
                f" {some([str(route.prefix) for route in inside])}",
                "what is more specific wins, so that part does not go through the mesh",
                _show(prefix, inside, None),
                str(prefix),
            )
    if not found:
        yield Finding("shadowed", "ok", "nothing comes before our routes")


def _covers(prefix: Prefix, route: ForeignRoute) -> bool:
    return route.prefix != prefix and prefix.covers(route.prefix)


def _show(prefix: Prefix, inside: list[ForeignRoute], way: Path | None) -> str:
    ip = "ip" if prefix.version == 4 else "ip -6"
    lines = [f"{ip} route get {first_host(prefix)}    # what the kernel does"]
    if way is not None and way.table != 254:
        lines.append(f"{ip} rule    # which rule comes before the table main")
    for route in inside:
        device = f" dev {quote(route.device)}" if route.device else ""
        lines.append(f"# if it is not needed: {ip} route del {route.prefix}{device}")
    if way is not None and way.table == 254 and not inside:
        lines.append(f"{ip} route show {prefix}    # the one of the lower metric is in use")
    return "\n".join(lines)


def table(facts: Facts) -> Iterator[Finding]:
    """Whether our NAT exclusion is there while the daemon runs."""
    if facts.daemon is None:
        return
    backend = facts.daemon.status.get("kernel", {}).get("backend")
    off = facts.config is not None and facts.config.nat == "off"
    observes = facts.daemon.status.get("kernel", {}).get("observing")
    if off or observes or backend != "linux":
        yield Finding("table", "ok", "meshd keeps no table of nftables here")
    elif facts.table is None:
        yield unchecked("table", f"table inet meshd: {facts.unseen.get('table', 'not seen')}")
    elif facts.table:
        yield Finding("table", "ok", "table inet meshd is there")
    else:
        yield Finding(
            "table",
            "error",
            "the daemon runs, and its table inet meshd is not there",
            "traffic within the mesh is translated as if it left it",
            f"meshd{facts.option} plan    # what the daemon is about to do\n"
            "modprobe -a nf_tables nft_chain_nat nft_nat    # if it cannot",
            "table inet meshd",
        )


def managers(facts: Facts) -> Iterator[Finding]:
    """Programs that take routes away which they did not make."""
    networkd = facts.networkd
    if networkd is None:
        yield Finding("networkd", "ok", "systemd-networkd does not run")
    elif networkd.manages_routes:
        decided = networkd.file or "its default"
        yield Finding(
            "networkd",
            "warning",
            f"systemd-networkd may take away routes that it did not make ({decided})",
            "it manages foreign routes when it starts or configures an interface anew; meshd puts"
            " them back, but only while it runs",
            NETWORKD,
            decided,
        )
    else:
        yield Finding("networkd", "ok", "systemd-networkd leaves routes of others alone")
    if facts.network_manager:
        # Seen with 1.42.4: `nmcli device reapply` keeps protocol 142, and takes protocol static.
        yield Finding(
            "networkmanager",
            "ok",
            "NetworkManager leaves routes of meshd's protocol alone; with an address that it takes"
            " away the kernel drops them, and meshd puts them back",
        )


NETWORKD: Final = """\
mkdir -p /etc/systemd/networkd.conf.d
printf '%s\\n' '[Network]' ManageForeignRoutes=no ManageForeignRoutingPolicyRules=no \\
  ManageForeignNextHops=no > /etc/systemd/networkd.conf.d/meshd.conf
systemctl restart systemd-networkd"""
"""Also config/networkd.conf.d/meshd.conf."""
