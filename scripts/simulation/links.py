"""How long a datagram travels, and whether it arrives."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from random import Random
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from simulation.host import Host

_QUANTILES: Final = 4096
"""Steps of a delay's distribution: it ends at its 1/8,192 quantiles, 3.7 sigma out."""

Filter = Callable[["Host", "Host", bytes], bool]
"""Is this datagram, from the one host to the other, lost?"""


@lru_cache
def _lognormal(median: float, sigma: float) -> tuple[float, ...]:
    normal = NormalDist()
    places = ((each + 0.5) / _QUANTILES for each in range(_QUANTILES))
    return tuple(median * math.exp(sigma * normal.inv_cdf(place)) for place in places)


@attrs.frozen
class Delay:
    """One-way times: what two hosts are apart, and lognormal jitter of each datagram."""

    median: float = 0.001
    """Seconds, of each datagram; the simulated LAN's is 1 ms."""
    sigma: float = 0.3
    """Of the jitter's logarithm; 0: every datagram takes the median."""
    distance: float = 0.0
    """Median of each host's own way to the middle of the network, in seconds."""
    distance_sigma: float = 0.0

    @classmethod
    def lan(cls) -> Delay:
        return cls()

    @classmethod
    def constant(cls, seconds: float) -> Delay:
        return cls(seconds, 0.0)

    @classmethod
    def wan(cls) -> Delay:
        """Round trips of about 20 to 300 ms, which ``Tuning.wan`` is for: two hosts are 40 ms
        apart in the median, and a datagram's own jitter is a few."""
        return cls(median=0.002, sigma=0.5, distance=0.02, distance_sigma=0.6)

    def jitter(self) -> tuple[float, ...]:
        """Equally probable times of a datagram, beside the distance."""
        return _lognormal(self.median, self.sigma) if self.sigma else (self.median,)

    def place(self, rng: Random) -> float:
        """A host's distance from the middle."""
        if not self.distance:
            return 0.0
        return rng.lognormvariate(math.log(self.distance), self.distance_sigma)


@attrs.define(eq=False)
class Links:
    """Every directed link between two hosts; each of these may change while it runs."""

    delay: Delay = attrs.field(factory=Delay.lan)
    loss: float = 0.0
    """Share of datagrams lost, each by its own draw."""
    duplicate: float = 0.0
    """Share of datagrams that arrive twice."""
    reorder: float = 0.0
    """Share of datagrams held back by up to ``hold``, beyond what jitter overtakes."""
    hold: float = 0.05
    drops: list[Filter] = attrs.field(factory=list)
    """A datagram for which any of these is true is lost."""

    def trips(self, source: Host, target: Host, data: bytes, rng: Random) -> list[float]:
        """Seconds after which ``data`` arrives: none if it is lost, two if it is doubled."""
        for drop in self.drops:
            if drop(source, target, data):
                return []
        if self.loss and rng.random() < self.loss:
            return []
        jitter = self.delay.jitter()
        apart = source.distance + target.distance
        trip = apart + jitter[int(rng.random() * len(jitter))]
        if self.reorder and rng.random() < self.reorder:
            trip += self.hold * rng.random()
        if self.duplicate and rng.random() < self.duplicate:
            return [trip, apart + jitter[int(rng.random() * len(jitter))]]
        return [trip]


def one_way(source_name: str, target_name: str) -> Filter:
    """Everything from the one to the other is lost; the way back is open."""
    return lambda source, target, data: (source.name, target.name) == (source_name, target_name)


def between(one: str, other: str) -> Filter:
    """Everything between the two is lost, both ways."""
    pair = {one, other}
    return lambda source, target, data: {source.name, target.name} == pair


def apart(names: frozenset[str]) -> Filter:
    """Nothing passes between ``names`` and the others."""
    return lambda source, target, data: (source.name in names) != (target.name in names)


def dead_links(pairs: dict[tuple[str, str], None]) -> Filter:
    """Everything on these directed links (source's name, target's name) is lost."""
    return lambda source, target, data: (source.name, target.name) in pairs
