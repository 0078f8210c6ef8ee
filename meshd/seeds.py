"""Where the config's seeds are: those written as addresses at once, names as they resolve.

They are resolved again and again, for life: a seed may move, and its name with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from meshd.log import EventLog
from meshd.values import Seed
from protocol.address import Endpoint, endpoint

RESOLVE_PERIOD: Final = 30.0
"""Seconds between two resolutions of the seeds' names."""


class Resolving:
    """Calls ``found`` whenever the seeds are at other places than before."""

    def __init__(
        self,
        seeds: tuple[Seed, ...],
        log: EventLog,
        found: Callable[[tuple[Endpoint, ...]], None],
    ) -> None:
        self.seeds = seeds
        """Another value takes effect at the next round, as far as it is of names."""
        self._log, self._found = log, found
        self._current: tuple[Endpoint, ...] = ()

    def literal(self) -> tuple[Endpoint, ...]:
        """The seeds that are addresses, which are where they are from now on."""
        found = []
        for seed in self.seeds:
            try:
                found.append(endpoint(seed.host, seed.port))
            except ValueError:
                continue  # a name: it is resolved in the background
        self._current = tuple(found)
        return self._current

    async def run(self) -> None:
        """Resolve until cancelled. A name that does not resolve is told once."""
        lost: set[str] = set()
        while True:
            found: dict[Endpoint, None] = {}
            for seed in self.seeds:
                try:
                    infos = await trio.socket.getaddrinfo(
                        seed.host, seed.port, type=trio.socket.SOCK_DGRAM
                    )
                except OSError as error:
                    if str(seed) not in lost:
                        lost.add(str(seed))
                        self._log.emit("error", seed=str(seed), reason=error.strerror)
                    continue
                lost.discard(str(seed))
                for info in infos:
                    found[endpoint(str(info[4][0]).partition("%")[0], int(info[4][1]))] = None
            if found and tuple(found) != self._current:
                self._current = tuple(found)
                self._found(self._current)
            await trio.sleep(RESOLVE_PERIOD)
