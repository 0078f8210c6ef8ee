"""``netstat -rnv``, ``ifconfig -a`` and ``route monitor``: what they print. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv6Interface
from typing import Final

import attrs

from meshd.kernel.state import Interface
from protocol.address import Address, Prefix

NETSTAT: Final = ("netstat", "-rnv")
IFCONFIG: Final = ("ifconfig", "-a")


@attrs.frozen
class Row:
    """One line of the routing table."""

    prefix: Prefix
    gateway: Address | None
    device: str | None
    """None: a gateway route that was bound to none."""
    flags: str
    """Letters; R: reject, B: blackhole, G: gateway."""

    @property
    def leads_nowhere(self) -> bool:
        """By its letters, or as a route of the loopback to what is not its own: there are versions
        that do not show the letters, least of all for IPv6."""
        looped = self.gateway is not None and self.gateway.is_loopback
        own = self.prefix.network_address.is_loopback
        return (looped and not own) or "R" in self.flags or "B" in self.flags


def table(out: str) -> list[Row]:
    """Both tables of ``netstat -rnv``. What is none of its rows is left out."""
    rows: list[Row] = []
    version = 0
    for line in out.splitlines():
        heading = re.match(r"(?:IRE|Routing) Table: IPv([46])", line)
        if heading is not None:
            version = int(heading[1])
            continue
        row = _row(line, version)
        if row is not None:
            rows.append(row)
    return rows


_TAIL: Final = re.compile(r"\s(U[A-Za-z]*)\s*\d+\s+\d+\s*$")
"""Flg Out In/Fwd at the end of a row. Between letters and number there may be no blank: IPv4's is
printed by ``%-4s%6u``."""


def _row(line: str, version: int) -> Row | None:
    # IPv4 begins with destination, mask, gateway; IPv6 with destination/length, gateway. Then comes
    # the device, or nothing, and numbers: MTU, in older versions a round-trip time, Ref.
    first = {4: 3, 6: 2}.get(version, 0)
    tail = _TAIL.search(line)
    if not first or tail is None:
        return None
    words = line[: tail.start()].split()
    rest = words[first:]
    device = None
    if rest and not re.fullmatch(r"\d+\*?", rest[0]):
        device = rest.pop(0).partition(":")[0]
    if len(rest) not in (2, 3) or not re.fullmatch(r"\d+\*?", rest[0]):
        return None
    try:
        if version == 4:
            where = "0.0.0.0" if words[0] == "default" else words[0]
            prefix: Prefix = Prefix.parse(f"{where}/{words[1]}")
        else:
            prefix = Prefix.parse("::/0" if words[0] == "default" else words[0])
        hop = words[first - 1]
        gateway = ipaddress.ip_address(hop) if hop != "--" else None
    except ValueError:
        return None
    return Row(prefix, gateway, device, tail[1])


def interfaces(out: str) -> tuple[Interface, ...]:
    """``ifconfig -a``: logical interfaces (``net0:1``) are addresses of the one they belong to."""
    found: dict[str, Interface] = {}
    name = ""
    for line in out.splitlines():
        head = re.match(r"(\S+?)(?::\d+)?: flags=[0-9a-f]*<([^>]*)>.*?index (\d+)", line)
        if head is not None:
            name, up = head[1], "UP" in head[2].split(",")
            there = found.get(name, Interface(name, int(head[3]), False))
            found[name] = attrs.evolve(there, up=there.up or up)
            continue
        address = _own(line)
        if address is not None and name in found:
            there = found[name]
            found[name] = attrs.evolve(there, addresses=(*there.addresses, address))
    return tuple(found.values())


def _own(line: str) -> IPv4Interface | IPv6Interface | None:
    four = re.match(r"\s+inet (\S+)(?: --> \S+)? netmask ([0-9a-f]{1,8})\b", line)
    six = re.match(r"\s+inet6 ([0-9A-Fa-f:.]+)/(\d+)", line)
    try:
        if four is not None:
            length = f"{int(four[2], 16):b}".count("1")
            return IPv4Interface(f"{four[1]}/{length}")
        if six is not None:
            return IPv6Interface(f"{six[1]}/{six[2]}")
    except ValueError:
        pass
    return None


def on_link(interfaces: Iterable[Interface], address: Address) -> str | None:
    """The interface that is up and whose subnet has ``address``; of several the smallest one."""
    found = [
        (own.network.prefixlen, -number, interface.name)
        for number, interface in enumerate(interfaces)
        for own in interface.addresses
        if interface.up and address in own.network
    ]
    return max(found)[2] if found else None


@attrs.frozen
class Event:
    """Something that the routing socket told."""

    pid: int
    """The process that did it; 0: the kernel."""
    what: str
    prefix: Prefix | None = None
    """Of a route; None: it was a link or an address."""


class Events:
    """The lines of ``route monitor``, put together to what happened."""

    def __init__(self) -> None:
        self._title = ""
        self._pid = 0
        self._addresses = False

    def feed(self, line: str) -> Event | None:
        """What ``line`` completes, if anything."""
        head = re.match(r"(RTM_[A-Z]+): .*?len \d+,(?: pid: (\d+),)?", line)
        if head is not None:
            failed = re.search(r"errno ([1-9]\d*),", line)
            # Nobody's route changes by a question, or by what was refused.
            quiet = head[1] in ("RTM_GET", "RTM_MISS", "RTM_LOSING", "RTM_RESOLVE") or failed
            self._title = "" if quiet else head[1]
            self._pid = int(head[2] or 0)
            self._addresses = False
            return None
        if line.startswith("sockaddrs:"):
            self._addresses = True
            return None
        if not self._addresses or not self._title or not line.startswith(" "):
            return None
        self._addresses = False
        return self._event(line.split())

    def _event(self, words: list[str]) -> Event:
        done = {"RTM_ADD": "written", "RTM_DELETE": "deleted", "RTM_CHANGE": "changed"}
        prefix = _prefix(words)
        if self._title in done and prefix is not None:
            return Event(self._pid, f"{prefix} {done[self._title]}", prefix)
        if self._title == "RTM_IFINFO" and words:
            return Event(self._pid, f"link {words[0]} changed")
        return Event(self._pid, "addresses or routes changed")


def _prefix(words: list[str]) -> Prefix | None:
    """From destination, gateway and mask."""
    try:
        length = f"{int(ipaddress.ip_address(words[2])):b}".count("1")
        return Prefix.parse(f"{words[0]}/{length}")
    except (ValueError, IndexError):
        return None
