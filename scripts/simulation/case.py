"""One run: what was asked for, the mesh it runs in, and what came out.

Where a figure is about time it is in seconds of virtual time; octets on the wire have IPv4's
and UDP's headers and no frame's.  For every figure less is better.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

import attrs

from protocol.tuning import Tuning
from simulation.host import Host
from simulation.links import Delay
from simulation.network import Network
from simulation.rules import Rules
from simulation.traffic import Traffic
from simulation.warm import warm_mesh

CIPHERS_UP_TO: Final = 64
"""Nodes with real ciphers and each its own signature checks; above, the work is shared."""

EVERY_PAIR_UP_TO: Final = 1000
"""Nodes whose every pair of keys is watched for counters that repeat."""

_SETTLING: Final = 40
"""Probe periods at most that a warm mesh is given to find itself converged."""

NETWORKS: Final[dict[str, tuple[Callable[[], Tuning], Callable[[], Delay]]]] = {
    "lan": (Tuning.lan, Delay.lan),
    "wan": (Tuning.wan, Delay.wan),
}
"""Timers and delays that belong together."""


@attrs.frozen
class Case:
    """What was asked for."""

    scenario: str
    nodes: int
    loss: float
    """Share of datagrams, 0 to 1."""
    seed: int
    seconds: float
    """How long the scenario's own phase lasts, where it has one."""
    network: str = "lan"
    explicit: bool = False
    """Whether ``seconds`` was given, and not the scenario's own."""

    @property
    def replay(self) -> str:
        """The command that makes this very run again."""
        words = [f"scripts/simulate --scenario {self.scenario} --nodes {self.nodes}"]
        words += [f"--loss {self.loss:g}"] if self.loss else []
        words += [f"--network {self.network}"] if self.network != "lan" else []
        words += [f"--seconds {self.seconds:g}"] if self.explicit else []
        return " ".join([*words, f"--seed {self.seed}"])


@attrs.frozen
class Outcome:
    """What came out of one run."""

    case: Case
    values: dict[str, float | None] = attrs.field(factory=dict)
    """By measure; None: it did not come about in time."""
    curve: tuple[float, ...] = ()
    """When each node had it, ascending; the last are missing if they never did."""
    of: int = 0
    """How many there are in the curve when all have it."""
    failure: str = ""
    """The invariant that was broken, or what else went wrong."""
    trace: str = attrs.field(default="", eq=False)
    """Where, if that was no invariant."""


@attrs.define(eq=False)
class Run:
    """The mesh of one case, and what was measured in it so far."""

    case: Case
    truthful: bool
    network: Network = attrs.field(init=False)
    rules: Rules = attrs.field(init=False)
    """Kept once a second in a mesh with real ciphers: it is small enough."""
    rng: Random = attrs.field(init=False)
    """Chooses what happens to whom."""
    values: dict[str, float | None] = attrs.field(factory=dict)
    curve: tuple[float, ...] = ()
    of: int = 0
    tell: Callable[[str], None] | None = None
    """Told each virtual second how far the run is."""
    _marked: dict[str, Traffic] = attrs.field(factory=dict)
    _heard: dict[str, Traffic] = attrs.field(factory=dict)
    _busy: dict[str, float] = attrs.field(factory=dict)
    _dropped: dict[str, int] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.rng = Random(f"{self.case.seed} scenario")
        tuning, delay = NETWORKS[self.case.network]
        self.network = Network(
            self.case.seed,
            loss=self.case.loss,
            delay=delay(),
            tuning=tuning(),
            cipher=self.case.nodes <= CIPHERS_UP_TO,
            truthful=self.truthful,
            replay=self.case.replay,
        )
        self.network.keep_events = False
        self.network.referee.every_pair = self.case.nodes <= EVERY_PAIR_UP_TO
        self.rules = Rules(self.network)
        if self.case.nodes <= CIPHERS_UP_TO:
            self.rules.keep()
        if self.tell is not None:
            self._tell(self.tell, self.network.now)

    def _tell(self, tell: Callable[[str], None], began: float) -> None:
        network = self.network
        tell(f"{network.now - began:.0f} virtual seconds")
        network.push(network.now + 1.0, self._tell, tell, began)

    def warm(self, prefixes: Callable[[int], list[str]] | None = None) -> list[Host]:
        """The mesh as it stands long after it converged, which it calls itself by then."""
        hosts = warm_mesh(self.network, self.case.nodes, prefixes=prefixes)
        for _ in range(_SETTLING):
            self.network.run(self.network.tuning.probe_period)
            if all(host.up.converged for host in hosts):
                break
        return hosts

    def until(self, condition: Callable[[], bool], timeout: float) -> float | None:
        """Seconds until ``condition`` holds; None when it does not within ``timeout``."""
        began = self.network.now
        while not condition():
            if not self.network.step(began + timeout):
                return None
        return self.network.now - began

    def mark(self) -> None:
        """From now on what ends in ``_since`` counts."""
        for host in self.network.hosts.values():
            self._marked[host.name] = Traffic.of([host.sent])
            self._heard[host.name] = Traffic.of([host.received])
            self._busy[host.name] = host.busy
            self._dropped[host.name] = host.dropped

    def sent_since(self, host: Host) -> Traffic:
        """What ``host`` has sent since the mark."""
        return host.sent - self._marked.get(host.name, Traffic())

    def received_since(self, host: Host) -> Traffic:
        """What has reached ``host`` since the mark."""
        return host.received - self._heard.get(host.name, Traffic())

    def busy_since(self, host: Host) -> float:
        """Seconds of work since the mark."""
        return host.busy - self._busy.get(host.name, 0.0)

    def dropped_since(self) -> int:
        """Datagrams that full buffers dropped since the mark, everywhere."""
        hosts = self.network.hosts.values()
        return sum(host.dropped - self._dropped.get(host.name, 0) for host in hosts)

    def outcome(self) -> Outcome:
        """What was measured."""
        return Outcome(self.case, self.values, self.curve, self.of)


@attrs.frozen
class Measure:
    """One figure of a scenario."""

    unit: str
    meaning: str


@attrs.frozen
class Scenario:
    """Something that happens to a mesh."""

    summary: str
    run: Callable[[Run], None]
    measures: dict[str, Measure]
    seconds: float
    """How long its own phase lasts, or is waited for, unless the command line says so."""
    least: int = 2
    """Nodes it needs."""
    truthful: bool = True
    """Whether a *converged* that is not true ends the run."""
    cost: str = ""
    """The measure that is a node's cost, for the picture."""


IN_TIME: Final = 30.0
"""Seconds that most things are waited for before they are said not to have come about."""

EACH: Final = "on the wire, each node's mean"
"""How octets are counted that every node sends."""
