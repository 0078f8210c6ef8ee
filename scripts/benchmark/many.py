"""Prefixes by the thousand for scenarios: none that a zone of a lab has, and never the same twice,
for what is withdrawn and announced again and again is held back by some systems, and rightly."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from typing import Final

import attrs

from benchmark.events import Counter, Events
from benchmark.systems import Fleet
from netlab import until

BASE: Final = int(IPv4Address("10.0.128.0"))
"""Zones have theirs in the first half of each /16 of 10.0.0.0/8; these stand in the second."""
LENGTH: Final = 28
SPACING: Final = 2 << (32 - LENGTH)
"""Every other one: no two could be taken together."""
IN_EACH: Final = 0x8000 // SPACING
"""So many in one half of a /16."""

PER_NODE: Final = 1000
"""Prefixes of one meshd node (DESIGN 3)."""

PATIENCE_S: Final = 120.0


@attrs.define(eq=False)
class Supply:
    """Where prefixes come from."""

    _next: int = 0

    def take(self, count: int) -> list[IPv4Network]:
        """So many that nobody has had."""
        first, self._next = self._next, self._next + count
        return [_numbered(number) for number in range(first, self._next)]


def _numbered(number: int) -> IPv4Network:
    block, place = divmod(number, IN_EACH)
    return IPv4Network((BASE + (block << 16) + place * SPACING, LENGTH))


def zones_for(prefixes: int) -> int:
    """Routers of a mesh in which nobody announces more than it may, and the first nothing."""
    return 1 + max(2, -(-prefixes // PER_NODE))


def shares(prefixes: Sequence[IPv4Network]) -> Iterator[tuple[int, Sequence[IPv4Network]]]:
    """The number of a zone, and what it is to announce."""
    for at in range(0, len(prefixes), PER_NODE):
        yield 2 + at // PER_NODE, prefixes[at : at + PER_NODE]


def make_room(fleet: Fleet) -> None:
    """Nobody announces the subnet of its zone any more: it would be one too many."""
    for daemon in fleet.daemons:
        daemon.withdraw([daemon.zone.prefix4])
    until(lambda: not fleet.routed(fleet.lab.zone(1)), 30, f"{fleet.system.name}: no route is left")


def spread(fleet: Fleet, prefixes: Sequence[IPv4Network], *, gone: bool = False) -> float:
    """Announce, or withdraw, `prefixes` from zones other than the first, all at once.

    Returns the seconds until the last of them is in the first router's kernel, or out of it.
    """
    router = fleet.lab.router(1)
    with Events((router,)) as events, ThreadPoolExecutor(16) as pool:
        what = Counter(
            events, router, "deleted" if gone else "added", set(prefixes), fleet.system.protocol
        )
        began = time.monotonic()

        def tell(share: tuple[int, Sequence[IPv4Network]]) -> None:
            daemon = fleet[share[0]]
            (daemon.withdraw if gone else daemon.announce)(share[1])

        list(pool.map(tell, shares(prefixes)))
        if not events.wait(what.done, PATIENCE_S):
            raise TimeoutError(f"{fleet.system.name}: {len(what.missing)} routes are missing")
    return what.last - began
