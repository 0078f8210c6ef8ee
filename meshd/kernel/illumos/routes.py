"""``route``: the command lines that we run, and what its answers mean. Pure.

Never ``-p``, which would write the route to disk; always the prefix length, for without one the
class of the address decides; on delete always the gateway, for a destination may have several
routes.  ``-proto1`` (RTF_PROTO1) is the mark that the kernel keeps for us: nothing else there uses
it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

import attrs

from protocol.address import Address, Prefix

EPERM: Final = 1
ESRCH: Final = 3
EBUSY: Final = 16
EEXIST: Final = 17
EADDRNOTAVAIL: Final = 126
ENETUNREACH: Final = 128
"""illumos's numbers. The exit code of ``route`` is the errno; 1 is also its usage."""

_WORDS: Final = {
    EPERM: "the privilege sys_ip_config is missing",
    ESRCH: "it is not there any more",
    EBUSY: "the entry is in use",
    EEXIST: "it is there already",
    EADDRNOTAVAIL: "its preferred source is no address of this host",
    ENETUNREACH: "its next hop is not on-link",
}

_LOOPBACK: Final = {4: "127.0.0.1", 6: "::1"}
"""A ``-reject`` route needs a gateway, and this one leads nowhere."""

Argv = tuple[str, ...]


def add(prefix: Prefix, gateway: Address, source: Address | None = None) -> Argv:
    """A route of ours. ``source``: the preferred source of what this host itself sends."""
    setsrc = ("-setsrc", str(source)) if source is not None else ()
    return ("route", "-n", "add", *_family(prefix), str(prefix), str(gateway), "-proto1", *setsrc)


def delete(prefix: Prefix, gateway: Address) -> Argv:
    """Take that one away."""
    return ("route", "-n", "delete", *_family(prefix), str(prefix), str(gateway))


def add_reject(prefix: Prefix) -> Argv:
    """What stands in where there is no gateway route: its traffic is refused, not sent on."""
    gateway = _LOOPBACK[prefix.version]
    return ("route", "-n", "add", *_family(prefix), str(prefix), gateway, "-reject", "-proto1")


def delete_reject(prefix: Prefix) -> Argv:
    """Take that away again, and no other route of the prefix."""
    return (
        "route", "-n", "delete", *_family(prefix), str(prefix), _LOOPBACK[prefix.version], "-reject"
    )  # fmt: skip


def get(prefix: Prefix) -> Argv:
    """What the kernel knows of it; needs no privilege."""
    return ("route", "-n", "get", *_family(prefix), str(prefix))


MONITOR: Final[Argv] = ("route", "-n", "monitor")


def failure(code: int, out: str) -> str:
    """What exit code ``code`` means. ``out`` is the standard output: refusals stand there."""
    if code == EPERM and "insufficient privileges" not in out:
        return f"route does not understand us: {_last(out) or 'usage'}"
    return _WORDS.get(code, _last(out) or f"errno {code}")


def _last(out: str) -> str:
    return out.strip().rpartition(": ")[2]


def _family(prefix: Prefix) -> Argv:
    return ("-inet6",) if prefix.version == 6 else ()


@attrs.frozen
class Got:
    """What ``route get`` told."""

    gateway: Address | None
    flags: frozenset[str]

    @property
    def ours(self) -> bool:
        return "PROTO1" in self.flags


def got(out: str) -> Got | None:
    """The answer of ``route -n get``; None when it is not understood."""
    flags = re.search(r"^\s*flags: <([A-Z0-9,]*)>", out, re.MULTILINE)
    gateway = re.search(r"^\s*gateway: (\S+)", out, re.MULTILINE)
    if flags is None:
        return None
    return Got(_address(gateway[1]) if gateway else None, frozenset(flags[1].split(",")))


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
