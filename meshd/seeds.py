"""Seeds: from names and addresses in the config to endpoints, again and again for life."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import trio

from meshd.log import EventLog
from meshd.values import Seed
from protocol.address import Endpoint, endpoint

RESOLVE_PERIOD: Final = 30.0
"""Seconds between two resolutions of the seeds' names, for life."""


def literal(seeds: Iterable[Seed]) -> tuple[Endpoint, ...]:
    """Those that are addresses already."""
    found = []
    for seed in seeds:
        try:
            found.append(endpoint(seed.host, seed.port))
        except ValueError:
            continue  # a name: it is resolved in the background
    return tuple(found)


async def resolve_forever(
    seeds: Callable[[], Iterable[Seed]],
    known: Callable[[], tuple[Endpoint, ...]],
    found: Callable[[tuple[Endpoint, ...]], None],
    log: EventLog,
) -> None:
    """Tell ``found`` whenever the ``seeds`` of now resolve to something else than is ``known``."""
    lost: set[str] = set()
    while True:
        endpoints: dict[Endpoint, None] = {}
        for seed in seeds():
            try:
                infos = await trio.socket.getaddrinfo(
                    seed.host, seed.port, type=trio.socket.SOCK_DGRAM
                )
            except OSError as error:
                if str(seed) not in lost:
                    lost.add(str(seed))
                    log.emit("error", seed=str(seed), reason=error.strerror)
                continue
            lost.discard(str(seed))
            for info in infos:
                endpoints[endpoint(str(info[4][0]).partition("%")[0], int(info[4][1]))] = None
        if endpoints and tuple(endpoints) != known():
            found(tuple(endpoints))
        await trio.sleep(RESOLVE_PERIOD)
