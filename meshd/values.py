"""What operators write, on a command line or in the config: prefixes, hosts, times.

Each function takes text and returns a canonical value or raises ``UsageError`` with
the value and the remedy; none knows whether the text came from a file or from argv, so
the caller puts that in front.  No other exception leaves here, whatever the text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final, NamedTuple

from meshd.errors import UsageError
from protocol.address import Address, Endpoint, Prefix

PORT: Final = 6179
"""UDP. Unassigned in IANA's registry; 179 is BGP's."""

TUNNEL_PORT: Final = 6180
"""UDP, for VXLAN. Not IANA's 4789 nor Linux's old 8472: Docker swarm, Calico, flannel and Cilium
have theirs there, and one port of a host takes one kind of VXLAN only."""

_HOST: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*\.?")
"""A host name (RFC 1123 section 2.1) with the underscores that some networks have."""

_LENGTH: Final = re.compile(r"[0-9]{1,3}")

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_MAX_DURATION: Final = 10 * 366 * 86400
"""Seconds. Ten years: longer is a slip of the finger, and dates stay in datetime's range."""


class Seed(NamedTuple):
    """A place where a member may answer: resolved anew whenever it is asked."""

    host: str
    """A host name, or an address in canonical text."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Followed(NamedTuple):
    """``interface:NAME``: the subnets that interface has, as they come and go."""

    interface: str

    def __str__(self) -> str:
        return f"{FOLLOW}{self.interface}"


FOLLOW: Final = "interface:"

Announced = Prefix | Followed
"""What an operator can want announced."""

_INTERFACE: Final = re.compile(r"[!-.0-9;-~]{1,31}")
"""Printable, without slash and colon: 15 octets on Linux (dev_valid_name), 31 on illumos."""


def shown(text: str) -> str:
    """``text`` as a message quotes it: short, printable, in one line."""
    quoted = ascii(text)[1:-1]
    return quoted if len(quoted) <= 60 else quoted[:57] + "..."


def prefix(text: str) -> Prefix:
    """A subnet such as ``10.1.0.0/24``; host bits are refused, naming what was meant."""
    address, slash, length = text.strip().partition("/")
    parsed = _address(address)
    if parsed is None:
        raise UsageError(
            f"{shown(text)} is not a prefix; write one like 10.1.0.0/24 or fd00:1::/64"
        )
    bits = parsed.max_prefixlen
    if not slash:
        raise UsageError(f"{parsed} has no length; write {parsed}/{bits} if you mean this one host")
    if not _LENGTH.fullmatch(length) or int(length) > bits:
        raise UsageError(f"{shown(text)} has no valid length; it is a number from 0 to {bits}")
    value, host = int(parsed), bits - int(length)
    network = Prefix(parsed.version, value >> host << host, int(length))
    if network.first != value:
        raise UsageError(f"{parsed}/{int(length)} has host bits set; the network is {network}")
    return network


def announced(text: str) -> Announced:
    """A subnet, or ``interface:NAME``."""
    stripped = text.strip()
    if not stripped.startswith(FOLLOW):
        return prefix(text)
    return Followed(interface(stripped.removeprefix(FOLLOW)))


def interface(text: str) -> str:
    """The name of an interface, be there one or not."""
    if not _INTERFACE.fullmatch(text):
        raise UsageError(f"{shown(text)} can be no interface's name; write one like br0")
    return text


def prefix_or_address(text: str) -> Prefix:
    """A prefix, or one address as the prefix that holds only it."""
    parsed = _address(text.strip())
    return prefix(f"{parsed}/{parsed.max_prefixlen}" if parsed else text)


def distinct(prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """``prefixes`` each once in order; two of which one contains the other are refused."""
    once = tuple(dict.fromkeys(prefixes))
    for cover, inner in pairwise(sorted(once)):
        if cover.covers(inner):
            raise UsageError(f"{inner} lies inside {cover}; keep only one of them")
    return once


def distinct_announced(wanted: Iterable[Announced]) -> tuple[Announced, ...]:
    """``wanted`` each once in order; prefixes as ``distinct`` has them."""
    once = tuple(dict.fromkeys(wanted))
    distinct(item for item in once if not isinstance(item, Followed))
    return once


def seed(text: str, port: int = PORT) -> Seed:
    """``HOST[:PORT]``; an IPv6 address stands in brackets when a port follows."""
    host, port = _split(text, port)
    address = _address(host)
    if address is not None:
        return Seed(str(address), port)
    if ":" in host or not _HOST.fullmatch(host) or re.fullmatch(r"[0-9.]+", host):
        raise UsageError(f"{shown(text)} is no host; write HOST, HOST:PORT or [IPv6]:PORT")
    return Seed(host.lower(), port)


def advertised(text: str, port: int = PORT) -> Endpoint:
    """``ADDR[:PORT]``, an address of this host that other members can send to."""
    host, port = _split(text, port)
    address = _address(host)
    if address is None:
        raise UsageError(f"{shown(text)} is no address; write ADDR, ADDR:PORT or [IPv6]:PORT")
    if address.is_unspecified or address.is_multicast:
        raise UsageError(f"{address} cannot be sent to; give an address of this host")
    return Endpoint(str(address), port)


def one_a_family(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """``endpoints``, or ``UsageError``: one of a family is the next hop for its prefixes."""
    found: dict[int, Endpoint] = {}
    for endpoint in endpoints:
        other = found.setdefault(endpoint.family, endpoint)
        if other != endpoint:
            raise UsageError(f"{other} and {endpoint} are of one family; advertise one of them")
    return tuple(found.values())


def duration(text: str) -> int:
    """Seconds in ``90s``, ``30m``, ``24h``, ``7d`` or ``2w``."""
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", text.strip())
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= _MAX_DURATION:
        raise UsageError(f"{shown(text)} is no duration; write 30m, 24h or 7d, at most ten years")
    return seconds


def until(text: str) -> int:
    """Unix seconds at the end of a date in UTC (``2027-01-31``, that day included), or at a
    time with its offset (``2027-01-31T12:00+01:00``)."""
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text.strip()):
            day = datetime.fromisoformat(text.strip()).replace(tzinfo=UTC)
            return int((day + timedelta(days=1)).timestamp())
        moment = datetime.fromisoformat(text.strip())
        if moment.tzinfo is not None and moment.timestamp() > 0:
            return int(moment.timestamp())
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"{shown(text)} is no date; write 2027-01-31, or 2027-01-31T12:00Z")


def moment(unix: int) -> str:
    """``unix`` seconds as ``2027-01-31 12:00 UTC``, for messages."""
    if unix > 253402300799:  # The last second of 9999, where datetime ends.
        return "a time after the year 9999"
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id):
        return None  # One is IPv4 in disguise; the other means something on one link only.
    return address


def _split(text: str, default: int) -> tuple[str, int]:
    """Host and port of ``HOST``, ``HOST:PORT``, ``[IPv6]``, ``[IPv6]:PORT`` or bare IPv6."""
    text = text.strip()
    if _address(text) is not None:
        return text, default
    match = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", text) or re.fullmatch(
        r"([^:\[\]]*)(?::([^:]*))?", text
    )
    if match is None:
        raise UsageError(f"{shown(text)} is no host and port; write HOST:PORT or [IPv6]:PORT")
    if match[2] is None:
        return match[1], default
    if not re.fullmatch(r"[0-9]{1,5}", match[2]) or not 0 < int(match[2]) < 65536:
        raise UsageError(f"{shown(text)} has no valid port; it is a number from 1 to 65535")
    return match[1], int(match[2])
