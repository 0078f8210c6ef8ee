"""What a scenario watches while it runs, and what is made of many runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import attrs

from protocol.events import Event, PeerChanged
from simulation.host import Host
from simulation.network import Network


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of ``values`` do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle one, or the mean of the two in the middle."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean; 0 of nothing."""
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else 0.0


class Spread:
    """When each of some hosts told something for the first time since ``began``."""

    def __init__(
        self, network: Network, hosts: Iterable[Host], wanted: Callable[[Host, Event], bool]
    ) -> None:
        self.began = network.now
        self.times: dict[str, float] = {}
        self.missing = {host.name: None for host in hosts}
        self._wanted = wanted
        network.listeners.append(self._hear)

    def _hear(self, host: Host, when: float, event: Event) -> None:
        if host.name in self.missing and self._wanted(host, event):
            del self.missing[host.name]
            self.times[host.name] = when - self.began

    @property
    def done(self) -> bool:
        """All have told it."""
        return not self.missing

    @property
    def last(self) -> float | None:
        """Seconds until all had, or None."""
        return max(self.times.values(), default=0.0) if self.done else None


class Views:
    """Who shows whom as what, followed by events: pairs that are not shown alive, and falls."""

    def __init__(self, network: Network) -> None:
        self.down: dict[tuple[str, str], str] = {}
        """(viewer's name, target's name) to the state it is shown in, if not alive."""
        self.falls: list[tuple[float, str, str]] = []
        """(when, viewer's name, target's name) for each time that one was shown failed."""
        self._names = {host.key: host.name for host in network.hosts.values()}
        network.listeners.append(self._hear)

    def _hear(self, host: Host, when: float, event: Event) -> None:
        if not isinstance(event, PeerChanged):
            return
        pair = (host.name, self._names.get(event.node, event.name))
        if event.state == "alive":
            self.down.pop(pair, None)
            return
        self.down[pair] = event.state
        if event.state == "failed":
            self.falls.append((when, *pair))


@attrs.define(eq=False)
class Rate:
    """What a host sends, in each tenth of a second."""

    network: Network
    host: Host
    peak: float = 0.0
    """Octets a second on the wire, in the busiest tenth."""
    _before: int = 0
    _going: bool = True

    _STEP = 0.1

    def begin(self) -> Rate:
        """Sample from now on."""
        self._before = self.host.sent.wire()
        self.network.push(self.network.now + self._STEP, self._sample)
        return self

    def end(self) -> None:
        """The last sample is taken now."""
        self._sample()
        self._going = False

    def _sample(self) -> None:
        if self._going:
            sent = self.host.sent.wire()
            self.peak = max(self.peak, (sent - self._before) / self._STEP)
            self._before = sent
            self.network.push(self.network.now + self._STEP, self._sample)
