"""Scenarios of a cable that is pulled, and of what is cut off and comes back: stage by stage."""

from __future__ import annotations

from typing import Final

import attrs

from protocol.events import Event, PeerChanged
from simulation.case import IN_TIME, Measure, Run, Scenario
from simulation.host import Host
from simulation.links import apart
from simulation.measure import Views
from simulation.traffic import NAMES

_AWAY: Final = 20.0
"""Seconds that a cable is out before it is in again."""

_SPLIT: Final = 30.0
"""Seconds that a mesh is in two parts, one to three."""

_SETTLED: Final = 10.0
"""Seconds at least that a mesh is left alone before."""

_AFTER: Final = 5.0
"""Seconds from the cut in which datagrams are counted: what one failure costs."""

_STAGES: Final = ("probed", "suspected", "accused", "first")
_WATCHED: Final = ("Indirect", "Suspect", "Push")


@attrs.define(eq=False)
class _Stages:
    """What goes on about one node from the moment it is cut off."""

    run: Run
    target: Host
    began: float
    values: dict[str, float | None] = attrs.field(factory=dict)
    """Stage to when it was reached first, in seconds from the cut."""
    shown: dict[str, float] = attrs.field(factory=dict)
    """Viewer's name to when it showed the target failed."""

    def reached(self, stage: str, when: float) -> None:
        if self.values.get(stage) is None:
            self.values[stage] = when - self.began

    def dropped(self, source: Host, target: Host, data: bytes) -> bool:
        """A filter that cuts the target off, and sees what is sent to it."""
        if source is self.target:
            return True
        if target is not self.target:
            return False
        self.reached("probed", self.run.network.now)
        if source.up.counters.get("accusations signed"):
            self.reached("accused", self.run.network.now)
        return True

    def hear(self, host: Host, when: float, event: Event) -> None:
        if not isinstance(event, PeerChanged) or event.node != self.target.key:
            return
        if event.state == "suspect":
            self.reached("suspected", when)
        elif event.state == "failed":
            self.reached("first", when)
            self.shown.setdefault(host.name, when - self.began)


def _cut(run: Run) -> None:
    network, hosts = run.network, run.warm()
    network.run(_SETTLED * (1 + run.rng.random()))
    target = run.rng.choice(hosts)
    others = [host for host in hosts if host is not target]
    views = Views(network)
    stages = _Stages(run, target, network.now)
    network.listeners.append(stages.hear)
    run.mark()
    network.drop(stages.dropped)
    run.until(lambda: len(stages.shown) == len(others), run.case.seconds)
    network.run(max(0.0, stages.began + _AFTER - network.now))
    counted = [run.sent_since(host) for host in others]
    took = network.now - stages.began
    places = {name: NAMES.index(name) for name in _WATCHED}
    run.curve, run.of = tuple(sorted(stages.shown.values())), len(others)
    run.values |= {
        **{stage: stages.values.get(stage) for stage in _STAGES},
        "everywhere": max(stages.shown.values()) if len(stages.shown) == len(others) else None,
        "withdrawn": sum(target.name not in (one, other) for _, one, other in views.falls),
        "datagrams": sum(each.count() for each in counted) / len(others) / took,
        **{
            name.lower(): sum(each.datagrams[place] for each in counted)
            for name, place in places.items()
        },
    }


def _back(run: Run, *, told: bool) -> None:
    network, hosts = run.network, run.warm()
    network.run(_SETTLED * (1 + run.rng.random()))
    target = run.rng.choice(hosts)
    _apart_and_together(run, hosts, [target], run.case.seconds, told=told)


def _unplugged(run: Run) -> None:
    _back(run, told=True)


def _unheard(run: Run) -> None:
    _back(run, told=False)


def _split(run: Run) -> None:
    network, hosts = run.network, run.warm()
    network.run(_SETTLED * (1 + run.rng.random()))
    fewer = run.rng.sample(hosts, max(1, len(hosts) // 4))
    _apart_and_together(run, hosts, fewer, run.case.seconds, told=False)


def _apart_and_together(
    run: Run, hosts: list[Host], fewer: list[Host], seconds: float, *, told: bool
) -> None:
    """``fewer`` are cut off and come back; ``told``: their kernels say that the cable is in."""
    network, views = run.network, Views(run.network)
    names = {host.name: None for host in fewer}
    cut = network.drop(apart(frozenset(names)))
    network.run(seconds + run.rng.random())
    before = {host.name: None for host in hosts if host.name not in names}
    network.heal(cut)
    run.mark()
    began = network.now
    larger = back = None
    if told:
        for host in fewer:
            host.do(lambda node, now: node.link_changed(now))

    def across() -> bool:
        return any(one in before and other in names for one, other in views.down)

    larger = run.until(lambda: not across(), IN_TIME)
    run.until(lambda: not views.down, IN_TIME)
    back = network.now - began if not views.down else None
    rooted = run.until(lambda: len(network.roots) == 1, IN_TIME)
    network.run(max(0.0, began + _AFTER - network.now))
    took = network.now - began
    run.values |= {
        "larger": larger,
        "everywhere": back,
        "one root": None if rooted is None else (back or 0.0) + rooted,
        "datagrams": sum(run.sent_since(host).count() for host in hosts) / len(hosts) / took,
    }


_RETURNING: Final = {
    "larger": Measure("s", "until the larger side shows all alive"),
    "everywhere": Measure("s", "until everybody shows everybody alive"),
    "one root": Measure("s", "until all hold the same"),
    "datagrams": Measure("1/s", f"sent in the {_AFTER:g} s since, each node's mean"),
}

SCENARIOS: Final[dict[str, Scenario]] = {
    "cut": Scenario(
        "one node's cable is pulled at a random moment; each stage until all others know",
        _cut,
        {
            "probed": Measure("s", "until something was sent to it"),
            "suspected": Measure("s", "until one other shows it suspect"),
            "accused": Measure("s", "until an accusation of it is pushed, to it too"),
            "first": Measure("s", "until one other shows it failed"),
            "everywhere": Measure("s", "until all others show it failed"),
            "withdrawn": Measure("", "times that a healthy node was shown failed by a healthy one"),
            "datagrams": Measure("1/s", f"sent in the {_AFTER:g} s since, each node's mean"),
            "indirect": Measure("", "INDIRECTs sent in that time, by all"),
            "suspect": Measure("", "SUSPECTs sent in that time, by all"),
            "push": Measure("", "PUSHes sent in that time, by all"),
        },
        IN_TIME,
        least=3,
    ),
    "back": Scenario(
        "a cable is pulled for --seconds; its node's kernel tells that it is in again",
        _unplugged,
        _RETURNING,
        _AWAY,
        least=3,
    ),
    "unheard": Scenario(
        "likewise, but the cable is another's: no kernel tells anything",
        _unheard,
        _RETURNING,
        _AWAY,
        least=3,
    ),
    "split": Scenario(
        "a quarter of the nodes is cut off for --seconds",
        _split,
        _RETURNING,
        _SPLIT,
        least=4,
    ),
}
