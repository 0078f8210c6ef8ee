"""Which traffic the mesh makes on this host: between which interfaces, from where to where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import attrs

from meshd.doctor.facts import Facts
from meshd.doctor.judge import Packet
from protocol.address import Prefix

Direction = Literal["into the mesh", "out of the mesh"]
OUT: Final = "into the mesh"
IN: Final = "out of the mesh"

MOST: Final = 512
"""Pairs of prefixes that are followed on one lane: what is dropped among thousands shows there."""


@attrs.frozen
class Lane:
    """New connections one way, between an interface inside and an uplink, of one IP version."""

    direction: Direction
    version: int
    iif: str
    oif: str
    sources: tuple[Prefix, ...]
    """Empty: not known yet."""
    destinations: tuple[Prefix, ...]


def lanes(facts: Facts) -> list[Lane]:
    """All of them; while there is no route of ours, as they will be through the default route."""
    found = []
    for inside, local in facts.insides().items():
        for version in (4, 6):
            near = tuple(prefix for prefix in local if prefix.version == version)
            if not near:
                continue
            for uplink, far in _uplinks(facts, version).items():
                found.append(Lane(OUT, version, inside, uplink, near, far))
                found.append(Lane(IN, version, uplink, inside, far, near))
    return found


def _uplinks(facts: Facts, version: int) -> dict[str, tuple[Prefix, ...]]:
    found = {
        device: tuple(prefix for prefix in prefixes if prefix.version == version)
        for device, prefixes in facts.uplinks().items()
    }
    found = {device: prefixes for device, prefixes in found.items() if prefixes}
    if found or facts.routes:
        return found
    device = default_device(facts, version)
    return {device: ()} if device is not None else {}


def default_device(facts: Facts, version: int) -> str | None:
    """Where the default route leads."""
    routes = [
        route
        for route in facts.foreign
        if route.prefix.version == version and not route.prefix.prefixlen and route.device
    ]
    best = min(routes, key=lambda route: route.metric, default=None)
    return best.device if best is not None else None


def packets(lane: Lane) -> Iterator[Packet]:
    """One for each pair of prefixes."""
    pairs = (
        (source, destination)
        for source in lane.sources or (None,)
        for destination in lane.destinations or (None,)
    )
    for count, (source, destination) in enumerate(pairs):
        if count == MOST:
            return
        yield Packet(lane.version, lane.iif, lane.oif, source, destination)
