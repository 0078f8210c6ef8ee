"""What must be true of every run, checked while it runs.

Whoever breaks a rule ends the run with ``InvariantBroken``, which names the seed.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import attrs

from protocol.frames import MAX_DATAGRAM, SEALED
from protocol.identity import short_id

if TYPE_CHECKING:
    from simulation.host import Host
    from simulation.network import Network

_SPURIOUS_EVERY: Final = 61
"""A node is ticked for nothing after so many pieces of work; a prime, so that it falls into
no step with periods."""

_PAIRS: Final = 1 << 18
"""Pairs of key ids whose last counter is remembered: about 50 MB."""

_HOLDINGS: Final = 1 << 19
"""Of how many pairs of host and root it is remembered that the one has held the other: some
100 MB. Roots that nobody holds any more go first, the oldest before others."""

MAX_ANSWERS: Final = 1
"""DESIGN 4: no message causes more than one reply."""

MAX_DRAWN: Final = 4
"""Datagrams of any kind that one may draw towards its source: the reply, our own next
question, a probe of one that had failed, and a pull of what an object of it lacked."""


class InvariantBroken(AssertionError):
    """A rule of the protocol does not hold in this run."""


@attrs.define(eq=False)
class Referee:
    """Checks one network's nodes."""

    network: Network
    truthful: bool = True
    """Whether *converged* is held against what every node really has held."""
    every_pair: bool = True
    """False: only one in sixteen pairs of key ids is watched for counters that repeat."""
    _counters: OrderedDict[bytes, int] = attrs.field(factory=OrderedDict)
    _holders: OrderedDict[bytes, dict[str, None]] = attrs.field(factory=OrderedDict)
    """Root to the names of the hosts that have held it."""
    _holdings: int = 0
    _forgot: bool = False
    """A root has gone from ``_holders``."""
    _works: int = 0

    def broken(self, host: Host, what: str) -> InvariantBroken:
        network = self.network
        return InvariantBroken(f"{host.name} at {network.now:.6f}: {what}; {network!r}")

    def sent(self, host: Host, data: bytes) -> None:
        """A datagram leaves ``host``: not too long, and under a counter of its own."""
        if len(data) > MAX_DATAGRAM:
            raise self.broken(host, f"a datagram of {len(data)} bytes")
        if data[1] != SEALED:
            return
        pair = data[2:18]
        if not self.every_pair and pair[0] & 15:
            return
        counter = int.from_bytes(data[18:26], "big")
        # Each end counts upwards, so no more than the last must be remembered.
        if counter <= self._counters.get(pair, 0):
            raise self.broken(host, f"counter {counter} again, or below one before it")
        if len(self._counters) >= _PAIRS:
            self._counters.popitem(last=False)
        self._counters[pair] = counter

    def drew(self, host: Host, answers: int, drawn: int, kind: str) -> None:
        """A received datagram of ``kind`` drew so many towards its source."""
        if answers > MAX_ANSWERS or drawn > MAX_DRAWN:
            raise self.broken(host, f"one {kind} drew {answers} answers in {drawn} datagrams")

    def ticked(self, host: Host, now: float) -> None:
        """After a tick nothing is due any more, or a loop would spin."""
        if host.up.deadline <= now:
            raise self.broken(host, "still due after a tick")

    def worked(self, host: Host, now: float) -> None:
        """After each piece of work, when all it made has been taken: sometimes tick too early."""
        self._works += 1
        if self._works % _SPURIOUS_EVERY or host.up.deadline <= now:
            return
        host.up.tick(now)
        if host.up.datagrams_to_send() or host.up.events():
            raise self.broken(host, "did something although nothing was due")

    def held(self, host: Host, root: bytes) -> dict[str, None]:
        """``host`` holds ``root`` now; the names of all that have held it."""
        holders = self._holders.setdefault(root, {})
        if host.name not in holders:
            holders[host.name] = None
            self._holdings += 1
            if self._holdings > _HOLDINGS:
                self._forget()
        return holders

    def _forget(self) -> None:
        for _ in range(len(self.network.roots) + 1):
            root, holders = self._holders.popitem(last=False)
            if root not in self.network.roots:
                self._holdings -= len(holders)
                self._forgot = True
                return
            self._holders[root] = holders

    def converged(self, host: Host, root: bytes) -> None:
        """``host`` says that all it holds live have held ``root``: have they?

        The root is one that it holds or held a moment ago, in the same piece of work.
        """
        if not self.truthful or (self._forgot and root not in self._holders):
            return
        holders = self.held(host, root)
        if len(holders) == len(self.network.hosts):
            return
        for other in self.network.hosts.values():
            if other.name in holders:
                continue
            member = host.up.members.get(other.key)
            if member is not None and member.live:
                raise self.broken(
                    host, f"converged on {short_id(root)}, which {other.name} has not held"
                )
