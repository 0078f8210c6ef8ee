"""Looks at this host, and changes nothing: no sysctl, no rule, no kernel module.

Netlink requests to a part of netfilter that is not there make the kernel load it
(``nfnetlink_rcv_msg``), so each is asked for only where it is there already; if it is not, there
is nothing to see.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path as File
from typing import Final

from meshd import client
from meshd import config as configuration
from meshd.config import Config
from meshd.doctor import iptables, nft, programs, services
from meshd.doctor.facts import (
    Daemon,
    Facts,
    Hop,
    Link,
    Path,
    Translation,
    first_host,
    parse_endpoint,
)
from meshd.doctor.programs import Unavailable
from meshd.doctor.ruleset import Chain, Ruleset
from meshd.errors import Refused, UsageError
from meshd.kernel import conntrack, rtnetlink
from meshd.kernel.netlink import NETFILTER, ROUTE, Channel, attribute, attributes
from meshd.kernel.plan import Cover
from meshd.kernel.state import ROUTE_METRIC, Interface, NextHops
from meshd.paths import Paths
from meshd.values import Followed
from protocol.address import Address, Prefix

PROC: Final = File("/proc")
SYS_MODULES: Final = File("/sys/module")
BUILT_IN: Final = File("/lib/modules") / os.uname().release / "modules.builtin"

_SYSCTLS: Final = ("forwarding", "rp_filter", "accept_ra", "force_forwarding")
_BRIDGED: Final = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")

_PROBED: Final = 256
"""Subnets that the kernel is asked the way to: a shadow over all of them shows in these."""
_TRANSLATED: Final = 16
"""Connections that are named; one is enough to prove it."""

_GET_TABLE: Final = 10 << 8 | 1  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE
_INET: Final = bytes([1, 0, 0, 0])  # struct nfgenmsg: NFPROTO_INET
_LINK: Final = struct.Struct("=BxHiII")  # struct ifinfomsg
_U32: Final = struct.Struct("=I")
_MTU, _MASTER, _LINK_INFO, _KIND = 4, 10, 18, 1  # IFLA_*
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_LOOKUP_TABLE: Final = 0x1000  # RTM_F_LOOKUP_TABLE: say which table it was in
_DST, _OIF, _GATEWAY, _PREFSRC, _TABLE, _VIA = 1, 4, 5, 7, 15, 18  # RTA_*


def gather(paths: Paths) -> Facts:
    """All that can be seen from here, with reasons for what cannot."""
    unseen: dict[str, str] = {}
    config = _config(paths, unseen)
    daemon = _daemon(paths, unseen)
    local = _local(config, daemon)
    metric = config.metric if config is not None else ROUTE_METRIC
    with contextlib.closing(Channel(ROUTE, strict=True)) as channel:
        interfaces = rtnetlink.read_interfaces(channel)
        names = {index: each.name for index, each in interfaces.items()}
        found = rtnetlink.read_routes(channel, names, metric)
        links = _links(channel, interfaces)
        wanted = [first_host(prefix) for prefix in list(found.routes)[:_PROBED]]
        for peer in daemon.peers if daemon is not None else ():
            if (where := parse_endpoint(peer.get("endpoint"))) is not None:
                wanted.append(where[0])
        ways = {address: _path(channel, address, names) for address in dict.fromkeys(wanted)}
    processes = services.running(PROC)
    return Facts(
        config=config,
        daemon=daemon,
        sysctls=_sysctls([each.name for each in interfaces.values()]),
        links=links,
        routes={prefix: _hops(found.routes[prefix]) for prefix in found.routes},
        local=local,
        foreign=tuple(found.foreign),
        paths=ways,
        table=_table(unseen),
        rules=_rules(unseen),
        programs=programs.installed(),
        translations=_translations(local, found.routes, unseen),
        networkd=services.networkd(File("/"), processes),
        network_manager="NetworkManager" in processes,
        clock=services.clock(),
        unseen=unseen,
        option=paths.option,
    )


def _hops(found: NextHops) -> tuple[Hop, ...]:
    return tuple(Hop(hop.address, hop.device) for hop in found.hops)


def _config(paths: Paths, unseen: dict[str, str]) -> Config | None:
    try:
        return configuration.load(paths.config)
    except UsageError as error:
        unseen["config"] = str(error)
        return None


def _daemon(paths: Paths, unseen: dict[str, str]) -> Daemon | None:
    try:
        with client.Connection(paths, 10.0) as connection:
            return Daemon(*(connection.call(name) for name in ("status", "peers", "routes")))
    except (UsageError, Refused, OSError) as error:
        unseen["daemon"] = str(error)
        return None


def _local(config: Config | None, daemon: Daemon | None) -> tuple[Prefix, ...]:
    if daemon is not None:
        told = daemon.status.get("prefixes", {}).get("local", [])
        return tuple(Prefix.parse(text) for text in told)
    wanted = config.announce if config is not None else ()
    return tuple(each for each in wanted if not isinstance(each, Followed))


def _links(channel: Channel, interfaces: Mapping[int, Interface]) -> dict[str, Link]:
    """Interfaces with their MTU, and bridges with what is in them (linux/if_link.h)."""
    about = {}
    for part in channel.dump(rtnetlink.GET_LINK, _LINK.pack(0, 0, 0, 0, 0)):
        index = _LINK.unpack_from(part.data, part.at)[2]
        about[index] = attributes(part.data, part.at + _LINK.size, part.end)
    names = {index: each.name for index, each in interfaces.items()}
    ports: dict[int, list[str]] = {}
    for index, found in about.items():
        if _MASTER in found and index in names:
            ports.setdefault(_U32.unpack(found[_MASTER])[0], []).append(names[index])
    return {
        each.name: Link(
            each.name,
            _U32.unpack(about[index][_MTU])[0],
            each.up,
            tuple(address.ip for address in each.addresses),
            tuple(sorted(ports.get(index, ()))),
            attributes(about[index].get(_LINK_INFO, b"")).get(_KIND, b"") == b"bridge\0",
        )
        for index, each in interfaces.items()
        if index in about
    }


def _path(channel: Channel, address: Address, names: Mapping[int, str]) -> Path:
    """What ``ip route get`` says."""
    # IPv6 always says which table it was, and takes no flag (inet6_rtm_valid_getroute_req).
    family, length, flags = (2, 32, _LOOKUP_TABLE) if address.version == 4 else (10, 128, 0)
    header = _ROUTE.pack(family, length, 0, 0, 0, 0, 0, 0, flags)
    body = header + attribute(_DST, address.packed)
    try:
        part = channel.get(rtnetlink.GET_ROUTE, body)
    except OSError:  # unreachable, by a guard for example
        return Path(None)
    if part is None:
        return Path(None)
    about = attributes(part.data, part.at + _ROUTE.size, part.end)
    return Path(
        names.get(_U32.unpack(about[_OIF])[0]) if _OIF in about else None,
        _gateway(about),
        ipaddress.ip_address(about[_PREFSRC]) if _PREFSRC in about else None,
        _U32.unpack(about[_TABLE])[0] if _TABLE in about else 0,
    )


def _gateway(about: Mapping[int, bytes]) -> Address | None:
    if _GATEWAY in about:
        return ipaddress.ip_address(about[_GATEWAY])
    if _VIA in about:  # struct rtvia: the other family's address behind a u16
        return ipaddress.ip_address(about[_VIA][2:])
    return None


def _sysctls(devices: Iterable[str]) -> dict[str, str]:
    wanted = ["ipv4/ip_forward", *(f"bridge/{name}" for name in _BRIDGED)]
    for family in ("ipv4", "ipv6"):
        for device in ("all", *devices):
            wanted += [f"{family}/conf/{device}/{name}" for name in _SYSCTLS]
    found = {}
    for path in wanted:
        with contextlib.suppress(OSError):  # of the other family, or not in this kernel
            found[path] = (PROC / "sys/net" / path).read_text("ascii").strip()
    return found


# -- netfilter --------------------------------------------------------------------------------


def loaded(module: str) -> bool:
    """Whether asking for a part of the kernel would load nothing: it is there, or never will be."""
    try:
        modules = (PROC / "modules").read_text("ascii")
    except OSError:
        return True  # this kernel has no modules
    if any(line.split(" ", 1)[0] == module for line in modules.splitlines()):
        return True
    if (SYS_MODULES / module).exists():
        return True
    try:
        return f"/{module}.ko" in BUILT_IN.read_text("utf-8", "replace")
    except OSError:
        return False


def _table(unseen: dict[str, str]) -> bool | None:
    if not loaded("nf_tables"):
        return False
    try:
        with contextlib.closing(Channel(NETFILTER)) as channel:
            return channel.get(_GET_TABLE, _INET + attribute(1, b"meshd\0")) is not None
    except OSError as error:
        unseen["table"] = _reason(error)
        return None


def _rules(unseen: dict[str, str]) -> Ruleset | None:
    """All chains of nftables and iptables; None when none could be listed."""
    chains: list[Chain] | None = None
    if not loaded("nf_tables"):
        chains = []
    else:
        try:
            chains = _nftables(unseen)
        except (Unavailable, ValueError, LookupError, TypeError) as error:
            unseen["nftables"] = f"{error}: rules of nftables and iptables-nft are not seen"
    legacy = _legacy(unseen)
    if chains is None and not legacy:
        return None
    return Ruleset.of(*(chains or ()), *legacy)


def _nftables(unseen: dict[str, str]) -> list[Chain]:
    chains, foreign = nft.parse(programs.listing(programs.LIST_NFTABLES))
    for family in ("ip", "ip6"):
        if not any(each.family == family and each.table in _TABLES for each in chains):
            continue
        try:
            text = programs.listing(programs.SAVE[family, "iptables"])
            saved = iptables.parse(text, family, "iptables")
        except (Unavailable, ValueError) as error:
            if any(each == family for each, _ in foreign):
                unseen["iptables"] = f"{error}: its rules are understood in part only"
            continue
        read = {each.table for each in saved if each.hook is not None}
        # A table of that name which somebody made with nft is none of iptables'.
        read -= {
            each.table
            for each in chains
            if each.family == family and each.hook is not None and each.name not in _BASES
        }
        chains = [each for each in chains if each.family != family or each.table not in read]
        chains += [each for each in saved if each.table in read]
    return chains


_TABLES: Final = ("filter", "nat", "raw", "mangle", "security")
_BASES: Final = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
"""What iptables calls its tables and base chains."""


def _legacy(unseen: dict[str, str]) -> list[Chain]:
    """Rules of the kernel's old tables, if there are any: only then is its program run, since it
    would make them."""
    found: list[Chain] = []
    for family, names in (("ip", "ip_tables_names"), ("ip6", "ip6_tables_names")):
        try:
            if not (PROC / "net" / names).read_text("ascii").strip():
                continue
            text = programs.listing(programs.SAVE[family, "iptables-legacy"])
            found += iptables.parse(text, family, "iptables-legacy")
        except FileNotFoundError:
            continue
        except (OSError, Unavailable, ValueError) as error:
            unseen["iptables-legacy"] = f"rules of iptables-legacy are not seen: {_reason(error)}"
    return found


def _translations(
    local: Iterable[Prefix], mesh: Iterable[Prefix], unseen: dict[str, str]
) -> tuple[Translation, ...] | None:
    """Connections between our subnets and the mesh's whose source is rewritten."""
    if not loaded("nf_conntrack_netlink"):
        return ()
    ours, theirs = Cover(local), Cover(mesh)
    found: list[Translation] = []
    try:
        with contextlib.closing(Channel(NETFILTER)) as channel:
            for flow in conntrack.translated(channel):
                version, source, destination, reply = flow
                inside, outside = ours.holds(version, source), theirs.holds(version, source)
                within = (inside and theirs.holds(version, destination)) or (
                    outside and ours.holds(version, destination)
                )
                if within and reply != source and len(found) < _TRANSLATED:
                    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
                    found.append(Translation(kind(source), kind(destination), kind(reply)))
    except OSError as error:
        unseen["conntrack"] = f"connections are not seen: {_reason(error)}"
        return None
    return tuple(found)


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EPERM:
        return "only root may look"
    return str(getattr(error, "strerror", None) or error)
