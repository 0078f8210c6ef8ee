"""What a router's kernel holds, read with `ip -j` and `nft -j` and never with meshd's own reader.

Two halves: `holdings` is all that is meshd's (by route protocol 142 and by the name of its table),
`foreign` all that is not. `expected` says what the first must be in a lab; tests compare whole
values, so that anything too much is seen like anything missing.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from types import TracebackType
from typing import IO, Any

import attrs

from netlab.lab import UPLINK, Zone
from netlab.namespace import Namespace
from netlab.until import until

Network = IPv4Network | IPv6Network

METRIC = 142
GUARD_METRIC = 4294967294
PROTOCOL = "142"


@attrs.frozen
class Route:
    """A gateway route."""

    prefix: str
    gateway: str
    device: str
    source: str | None


@attrs.frozen
class Holdings:
    """All of meshd in one kernel. Sequences are sorted; a duplicate would show."""

    routes: tuple[Route, ...] = ()
    guards: tuple[str, ...] = ()
    sets: dict[str, tuple[str, ...]] = attrs.field(factory=dict)
    chain: tuple[Any, ...] = ()
    """The chain and its rules as nft tells them, without handles and counters."""
    rest: tuple[str, ...] = ()
    """What is ours and has no place above: there must be none."""


def _rule(family: str, suffix: str) -> Any:
    def address(field: str) -> Any:
        return {"payload": {"protocol": family, "field": field}}

    def match(field: str, name: str) -> Any:
        return {"match": {"op": "==", "left": address(field), "right": f"@{name}{suffix}"}}

    identity = {"snat": {"family": family, "addr": address("saddr")}}
    return [match("saddr", "local"), match("daddr", "mesh"), {"counter": None}, identity]


EXEMPT = (
    {"name": "exempt", "type": "nat", "hook": "postrouting", "prio": 99, "policy": "accept"},
    _rule("ip", "4"),
    _rule("ip6", "6"),
)
"""An identity SNAT one step before where Docker, libvirt and Incus masquerade."""


def _translate(family: str, suffix: str, only: list[Any]) -> Any:
    source = {"payload": {"protocol": family, "field": "saddr"}}
    local = {"match": {"op": "==", "left": source, "right": f"@local{suffix}"}}
    uplink = {"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "@uplinks"}}
    return [*only, local, uplink, {"counter": None}, {"masquerade": None}]


_PRIVATE6 = {
    "match": {
        "op": "==",
        "left": {"payload": {"protocol": "ip6", "field": "saddr"}},
        "right": {"prefix": {"addr": "fc00::", "len": 7}},
    }
}

MASQUERADE = (
    EXEMPT[0],
    {"name": "translate", "type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"},
    *EXEMPT[1:],
    _translate("ip", "4", []),
    _translate("ip6", "6", [_PRIVATE6]),
)
"""In mode masquerade, as `nft -j` tells it: all chains, then their rules."""


def holdings(router: Namespace) -> Holdings:
    """What meshd has in this kernel."""
    routes, guards, rest = [], [], []
    for family in ("-4", "-6"):
        shown = router.ip("-d", family, "route", "show", "table", "all", "proto", PROTOCOL)
        for route in shown:
            where = (route.get("type", "unicast"), route.get("table", "main"), route["metric"])
            if where == ("unicast", "main", METRIC) and "gateway" in route:
                path = (route["dst"], route["gateway"], route["dev"], route.get("prefsrc"))
                routes.append(Route(*path))
            elif where == ("unreachable", "main", GUARD_METRIC):
                guards.append(route["dst"])
            else:
                rest.append(json.dumps(route))
    sets: dict[str, tuple[str, ...]] = {}
    chain: list[Any] = []
    for entry in _ruleset(router):
        ((kind, what),) = entry.items()
        if not _is_ours(kind, what) or kind == "table":
            continue
        if kind == "set":
            of_names = what["type"] == "ifname"
            sets[what["name"]] = tuple(
                sorted(e if of_names else _element(e) for e in what.get("elem", ()))
            )
        elif kind == "chain":
            chain.append({k: what.get(k) for k in ("name", "type", "hook", "prio", "policy")})
        elif kind == "rule":
            chain.append(what["expr"])
        else:
            rest.append(json.dumps(entry))
    return Holdings(
        tuple(sorted(routes, key=str)), tuple(sorted(guards)), sets, tuple(chain), tuple(rest)
    )


def expected(
    zone: Zone,
    members: Iterable[Zone],
    *,
    local: Iterable[Network] | None = None,
    remote: Iterable[tuple[Network, Zone]] | None = None,
    unreachable: Iterable[Network] = (),
    nat: str = "exempt",
) -> Holdings:
    """What meshd should have in the kernel of `zone`'s router.

    members: all zones of the mesh, each announcing its two subnets. local and remote say it where
    that is not so; of `unreachable` only the guard is there, and the exclusion. nat: the mode.
    """
    mine = (zone.prefix4, zone.prefix6) if local is None else tuple(local)
    if remote is None:
        others = [other for other in members if other is not zone]
        remote = [(prefix, other) for other in others for prefix in (other.prefix4, other.prefix6)]
    theirs = dict(remote)
    guarded = [*theirs, *unreachable]
    paths = []
    for prefix, other in theirs.items():
        hop = other.uplink4.ip if prefix.version == 4 else other.uplink6.ip
        inside = zone.router4 if prefix.version == 4 else zone.router6
        source = str(inside) if any(inside in net for net in mine) else None
        paths.append(Route(str(prefix), str(hop), UPLINK, source))
    sets = {
        f"{name}{version}": _texts(net for net in nets if net.version == version)
        for name, nets in (("local", mine), ("mesh", guarded))
        for version in (4, 6)
        if nat != "off"
    }
    if nat == "masquerade":
        sets["uplinks"] = (UPLINK,)
    chains = {"exempt": EXEMPT, "masquerade": MASQUERADE}
    return Holdings(tuple(sorted(paths, key=str)), _texts(guarded), sets, chains.get(nat, ()))


def settle(router: Namespace, wanted: Holdings, timeout: float = 15) -> float:
    """Wait until a kernel holds exactly `wanted`; the seconds it took.

    AssertionError tells the difference when it does not.
    """
    began = time.monotonic()
    try:
        until(lambda: holdings(router) == wanted, timeout, "the kernel holds what it should")
    except TimeoutError:
        text = "\n".join(difference(holdings(router), wanted))
        raise AssertionError(f"{router.name} after {timeout:g} s\n{text}") from None
    return time.monotonic() - began


def difference(found: Holdings, wanted: Holdings) -> list[str]:
    """A line for each part in which two differ; none when they are equal."""
    return [
        f"{field.name}: {getattr(found, field.name)}, not {getattr(wanted, field.name)}"
        for field in attrs.fields(Holdings)
        if getattr(found, field.name) != getattr(wanted, field.name)
    ]


def foreign(router: Namespace) -> str:
    """Routes, rules and nftables that are not meshd's, as text; counters stand at nought.

    What the kernel itself adds to each device, such as IPv6's multicast route, goes with ours.
    """
    lines = []
    for family in ("-4", "-6"):
        lines += [
            json.dumps(route)
            for route in router.ip("-d", family, "route", "show", "table", "all")
            if route.get("protocol") != PROTOCOL
            and (route.get("protocol"), route.get("dev")) != ("kernel", "meshd0")
        ]
        lines += map(json.dumps, router.ip(family, "rule", "show"))
    for entry in _ruleset(router):
        ((kind, what),) = entry.items()
        if not _is_ours(kind, what):
            lines.append(json.dumps(entry))
    return "\n".join(lines)


def _ruleset(router: Namespace) -> list[dict[str, Any]]:
    def still(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: None if key == "counter" else still(each)
                for key, each in value.items()
                if key != "handle" or value.get("table") != "meshd"
            }
        return [still(each) for each in value] if isinstance(value, list) else value

    return [still(entry) for entry in router.nft("list", "ruleset")]


def _is_ours(kind: str, what: dict[str, Any]) -> bool:
    name = what["name"] if kind == "table" else what["table"]
    return (what["family"], name) == ("inet", "meshd")


def _element(element: Any) -> str:
    if isinstance(element, str):  # one address
        return str(ip_network(element))
    if "range" in element:  # which no prefix is
        return "-".join(element["range"])
    return f"{element['prefix']['addr']}/{element['prefix']['len']}"


def _texts(networks: Iterable[Network]) -> tuple[str, ...]:
    return tuple(sorted(map(str, networks)))


@attrs.define(eq=False)
class Deletions:
    """Context manager: every route and nftables object that is deleted in `router` meanwhile.

    After the block `seen` has a line for each, as `ip monitor` and `nft monitor` tell it.
    """

    router: Namespace
    seen: list[str] = attrs.field(factory=list, init=False)
    _running: list[tuple[subprocess.Popen[Any], IO[str]]] = attrs.field(factory=list, init=False)

    def __enter__(self) -> Deletions:
        # Both start reading when they are ready, and say nothing of it: a mark shows it.
        for command in (["ip", "-4", "monitor", "route"], ["ip", "-6", "monitor", "route"],
                        ["nft", "monitor"]):  # fmt: skip
            text = tempfile.TemporaryFile("w+")
            self._running.append((self.router.popen(command, stdout=text), text))
        try:
            self._mark("begun")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._mark("ended")
                self.seen = [
                    line
                    for text in self._texts()
                    for line in text.splitlines()
                    if re.match(r"(?i)deleted? ", line) and not _MARK.search(line)
                ]
        finally:
            self._end()

    def _mark(self, word: str) -> None:
        four, six = _MARKS[word]

        def everywhere() -> bool:
            self.router.run(["nft", f"add table inet {word}; delete table inet {word}"])
            for mark in (four, six):
                self.router.configure([f"route add blackhole {mark}", f"route del {mark}"])
            wanted = zip(self._texts(), (four, six, word), strict=True)
            return all(mark in text for text, mark in wanted)

        until(everywhere, 10, "the monitors hear")

    def _texts(self) -> list[str]:
        texts = []
        for _, file in self._running:
            file.seek(0)
            texts.append(file.read())
        return texts

    def _end(self) -> None:
        for process, file in self._running:
            process.kill()
            process.wait()
            file.close()


_MARKS = {
    "begun": ("198.51.100.253", "2001:db8:ffff::fffd"),
    "ended": ("198.51.100.254", "2001:db8:ffff::fffe"),
}
"""Documentation addresses that no lab routes to; made and deleted, they are seen by a monitor."""

_MARK = re.compile("|".join([*_MARKS, *(re.escape(m) for both in _MARKS.values() for m in both)]))
