"""Which name servers this host asks: what a route from the mesh must never take over.

Read from resolv.conf(5) each time policy looks at the host, for DHCP rewrites it.  Where that
names systemd-resolved's stub, the servers behind it stand in a file of its own
(systemd-resolved.service(8), "/etc/resolv.conf").  Other loopback servers do not matter: no route
of ours can cover them, and where they ask in turn nobody can tell.
"""

from __future__ import annotations

import ipaddress
import os
from functools import lru_cache
from pathlib import Path
from typing import Final

from protocol.address import Address

CONF: Final = Path("/etc/resolv.conf")
UPLINKS: Final = Path("/run/systemd/resolve/resolv.conf")

STUBS: Final = frozenset(map(ipaddress.ip_address, ("127.0.0.53", "127.0.0.54")))
"""systemd-resolved's own listeners."""

MAX_FILE: Final = 65_536
"""Bytes that are read of a file; glibc itself heeds three servers of it (MAXNS)."""


def resolvers(conf: Path = CONF, uplinks: Path = UPLINKS) -> tuple[Address, ...]:
    """The addresses of the name servers, each once; none where no file names any."""
    named = _servers(conf)
    if any(address in STUBS for address in named):
        named += _servers(uplinks)
    return tuple(dict.fromkeys(address for address in named if not address.is_loopback))


def _servers(path: Path) -> tuple[Address, ...]:
    """Those of one file, in order; it is read again when it has changed."""
    try:
        there = os.stat(path)
        return _read(path, (there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns))
    except OSError:
        return ()


@lru_cache(maxsize=2)
def _read(path: Path, seen: tuple[int, ...]) -> tuple[Address, ...]:
    """What is no address in it is left to the resolver to mind; ``seen``: as it is now."""
    with path.open("rb") as file:
        text = file.read(MAX_FILE).decode("ascii", "replace")
    found: list[Address] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                # A zone names a link: fe80::1%eth0.
                found.append(ipaddress.ip_address(words[1].partition("%")[0]))
            except ValueError:
                continue
    return tuple(found)
