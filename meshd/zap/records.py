"""What zap has written down of its router zones, read from a root directory.

    var/zap/zones/rconfig.10.1.0     one for each subnet, named by its significant octets:
        interface: zrstub0
        gateway: 10.1.0.1
        zone: r1                     "global": the global zone itself is the router
        public-ip: 192.0.2.9
    var/zap/zones/zonecfg.r1         the zone as zonecfg was told it: ``set zonepath=...``
    ZONEPATH/root/etc/ipf/ipnat.conf two map lines for each subnet

zap knows /8, /16 and /24 only, IPv4 only.  Nothing is changed here.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

import attrs

from meshd.errors import UsageError
from meshd.files import failure
from meshd.kernel.illumos import nat, pool
from meshd.kernel.illumos.nat import Map
from meshd.kernel.illumos.options import POOL
from protocol.address import Prefix

RECORDS: Final = Path("var/zap/zones")
GLOBAL: Final = "global"


@attrs.frozen
class Router:
    """A router zone."""

    zone: str
    subnets: tuple[Prefix, ...]
    public: IPv4Address | None
    root: Path
    """Where its files are."""


@attrs.frozen
class Form:
    """How the zone's NAT is to go on: options of ours, and why."""

    nat: str
    interface: str
    pool: int
    why: str


def routers(root: Path) -> list[Router]:
    """All of them, by name. ``UsageError`` where there is none, or a record is not understood."""
    places = root / RECORDS
    found: dict[str, list[tuple[Prefix, IPv4Address | None]]] = {}
    for path in sorted(places.glob("rconfig.*")):
        record = _read(path)
        if "zone" not in record:
            raise UsageError(f"{path}: names no zone")
        subnet = _subnet(path)
        found.setdefault(record["zone"], []).append((subnet, _public(path, record)))
    if not found:
        raise UsageError(
            f"there is no rconfig.* in {places}: run this in the global zone, after"
            " `zap create-zone -t router`, or name its root with --root"
        )
    return [
        Router(
            zone,
            tuple(sorted(subnet for subnet, _ in each)),
            next((public for _, public in each if public is not None), None),
            root if zone == GLOBAL else _zone_root(root, zone),
        )
        for zone, each in sorted(found.items())
    ]


def _read(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise failure(path, "read", error) from None
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _subnet(path: Path) -> Prefix:
    octets = path.name.removeprefix("rconfig.").split(".")
    padded = ".".join([*octets, "0", "0", "0"][:4])
    try:
        return Prefix.of(IPv4Network(f"{padded}/{8 * len(octets)}"))
    except ValueError:
        raise UsageError(f"{path}: its name is no subnet; zap writes rconfig.10.1.0") from None


def _public(path: Path, record: dict[str, str]) -> IPv4Address | None:
    text = record.get("public-ip", "")
    try:
        return IPv4Address(text) if text else None
    except ValueError:
        raise UsageError(f"{path}: public-ip {text!a} is no IPv4 address") from None


def _zone_root(root: Path, zone: str) -> Path:
    path = root / RECORDS / f"zonecfg.{zone}"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise failure(path, "read", error) from None
    found = re.search(r"^\s*set\s+zonepath\s*=\s*\"?([^\s\"]+)", text, re.MULTILINE)
    if found is None:
        raise UsageError(f"{path}: names no zonepath")
    return root / found[1].lstrip("/") / "root"


def form(router: Router) -> Form:
    """What fits the NAT that the zone has in its files."""
    maps = [line for line in map(nat.parse, _lines(router.root / "etc/ipf/ipnat.conf")) if line]
    mine = [
        line
        for line in maps
        if not line.generation and any(line.translates(subnet) for subnet in router.subnets)
    ]
    if not mine:
        return Form("off", "", POOL, "no map line of ipnat.conf takes its subnets")
    interface = mine[0].interface
    if all(line.tag for line in mine):
        number = _pool_number(router)
        where = "ipf.conf looks into it" if number is not None else "ipf.conf has to look into it"
        number = POOL if number is None else number
        why = f"the map lines have a tag: pool {number}, and {where}"
        return Form("ippool", interface, number, why)
    if all(_leaves_alone(line, router.subnets) for line in mine):
        why = f'"{mine[0]}" leaves one net alone: good if the whole mesh is in it'
        return Form("off", interface, POOL, why)
    return Form("ipnat", interface, POOL, f'"{mine[0]}": a list of ours takes its place')


def _leaves_alone(line: Map, subnets: tuple[Prefix, ...]) -> bool:
    """``! to`` a net that holds the subnets themselves, so one for the whole mesh."""
    held = line.to if line.negated else None
    return held is not None and all(held.covers(subnet) for subnet in subnets)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="latin-1")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise failure(path, "read", error) from None
    return [line.partition("#")[0].strip() for line in text.split("\n")]


def _pool_number(router: Router) -> int | None:
    for line in _lines(router.root / "etc/ipf/ipf.conf"):
        found = re.search(r"\bto !? ?pool/(\d+)", line)
        if found is not None:
            return int(found[1])
    return None


def needed(router: Router, chosen: Form) -> list[str]:
    """What the operator has to do beside the config, a line each."""
    if chosen.nat == "ippool":
        tag = "inet"
        return [
            "in ipf.conf, unless it is there: " + line
            for subnet in router.subnets
            for line in pool.filter_lines(chosen.interface, subnet, chosen.pool, tag)
        ]
    if chosen.nat == "ipnat":
        return [
            "when the daemon has started, let the old line come after ours:"
            f" echo '{line}' | ipnat -rf - ; echo '{line}' | ipnat -f -"
            for line in map(nat.parse, _lines(router.root / "etc/ipf/ipnat.conf"))
            if line is not None
            and not line.generation
            and any(line.translates(subnet) for subnet in router.subnets)
        ]
    return []


def announced(router: Router) -> list[str]:
    """The subnets behind it, for the config."""
    return [str(subnet) for subnet in router.subnets]


def address(router: Router) -> list[str]:
    """What others route to; without a record the daemon finds it out."""
    return [str(router.public)] if router.public else []
