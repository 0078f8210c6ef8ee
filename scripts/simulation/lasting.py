"""Scenarios of what lasts: peace, loss, nodes that stand still, links of one direction."""

from __future__ import annotations

from random import Random
from typing import Final

from protocol.events import Event, ReachabilityChanged
from simulation.case import EACH, Measure, Run, Scenario
from simulation.host import Host
from simulation.links import dead_links
from simulation.measure import Views, mean

_STALLED: Final = 0.04
_STALL: Final = 20.0
_MINUTE: Final = 60.0
"""Share of the nodes that stand still, for how long, and how often: Lifeguard's experiment
(Dadgar et al., DSN-W 2018, section V) in the shape of hosts that are short of memory."""

_CONVALESCENT: Final = 10.0
"""Seconds after a stall in which a node is not yet called healthy."""

_STUTTER: Final = (0.2, 1.0)
"""Seconds that a node stands still at a time: a garbage collection, a host with too few cores, a
machine that is moved."""

_OFTEN: Final = 10.0
"""Seconds between two of those of one node, on average."""

_RECOVERED: Final = 1.0
"""Seconds after such a stall in which a node may still be shown failed."""

_BAD: Final = 0.5
"""Share that a bad cable loses, each way."""

_ONE_WAY: Final = 0.01
"""Share of the directed links that are dead."""


def _idle(run: Run) -> None:
    network, hosts = run.network, run.warm()
    views = Views(network)
    run.mark()
    seconds = run.case.seconds
    network.run(seconds)
    sent = [run.sent_since(host) for host in hosts]
    run.values |= {
        "rate": mean(each.wire() for each in sent) / seconds,
        "busiest": max(each.wire() for each in sent) / seconds,
        "datagrams": mean(each.count() for each in sent) / seconds,
        "work": mean(run.busy_since(host) for host in hosts) / seconds * 1000,
        "withdrawn": len(views.falls),
    }


def _stall(run: Run) -> None:
    network, hosts = run.network, run.warm()
    views = Views(network)
    ill: dict[str, list[float]] = {host.name: [] for host in hosts}
    end = network.now + run.case.seconds
    while network.now < end:
        for host in run.rng.sample(hosts, max(1, round(_STALLED * len(hosts)))):
            host.stall(_STALL)
            ill[host.name].append(network.now)
        network.run(min(_MINUTE, end - network.now))

    def healthy(name: str, when: float) -> bool:
        return not any(at <= when < at + _STALL + _CONVALESCENT for at in ill[name])

    wrong = [(when, one) for when, one, other in views.falls if healthy(other, when)]
    run.values |= {
        "withdrawn": sum(healthy(one, when) for when, one in wrong),
        "by the stalled": sum(not healthy(one, when) for when, one in wrong),
        "dropped": run.dropped_since(),
    }


def _stutter(run: Run) -> None:
    network, hosts = run.network, run.warm()
    views = Views(network)
    over: dict[str, float] = {}
    end = network.now + run.case.seconds
    while network.now < end:
        network.run(run.rng.expovariate(len(hosts) / _OFTEN))
        host = run.rng.choice(hosts)
        if network.now >= host.stalled_until:
            host.stall(run.rng.uniform(*_STUTTER))
            over[host.name] = host.stalled_until
    run.values |= {
        "withdrawn": sum(
            when > over.get(other, 0.0) + _RECOVERED for when, _, other in views.falls
        ),
        "stalled": len(dict.fromkeys((other, round(when)) for when, _, other in views.falls)),
    }


def _bad(run: Run) -> None:
    network, hosts = run.network, run.warm()
    views = Views(network)
    bad, rng = run.rng.choice(hosts), Random(f"{run.case.seed} bad cable")
    network.drop(lambda one, other, _: bad in (one, other) and rng.random() < _BAD)
    network.run(run.case.seconds)
    run.values |= {
        "withdrawn": sum(bad.name not in (one, other) for _, one, other in views.falls),
        "by the bad": sum(one == bad.name for _, one, _ in views.falls),
        "the bad": sum(other == bad.name for _, _, other in views.falls),
    }


def _one_way(run: Run) -> None:
    network, hosts = run.network, run.warm()
    views = Views(network)
    number = len(hosts)
    picked = run.rng.sample(range(number * (number - 1)), max(1, round(_ONE_WAY * number**2)))
    dead: dict[tuple[str, str], None] = {}
    for each in picked:
        source, other = divmod(each, number - 1)
        dead[hosts[source].name, hosts[other + (other >= source)].name] = None
    network.drop(dead_links(dead))
    hidden, changes = dict(dead), 0

    def noticed(host: Host, when: float, event: Event) -> None:
        nonlocal changes
        if isinstance(event, ReachabilityChanged):
            pair = (host.name, names[event.node])
            if event.reachable:
                hidden.update({pair: None} if pair in dead else {})
                changes += 1
            else:
                hidden.pop(pair, None)

    names = {host.key: host.name for host in hosts}
    network.listeners.append(noticed)
    network.run(run.case.seconds)
    run.values |= {
        "withdrawn": len(views.falls),
        "returned": changes,
        "hidden": len(hidden),
    }


SCENARIOS: Final[dict[str, Scenario]] = {
    "idle": Scenario(
        "nothing happens for --seconds (with --loss, all the same)",
        _idle,
        {
            "rate": Measure("B/s", f"sent, {EACH}"),
            "busiest": Measure("B/s", "of the node that sent most"),
            "datagrams": Measure("1/s", "sent, each node's mean"),
            "work": Measure("ms/s", "a node's server was busy, mean"),
            "withdrawn": Measure("", "times that a node was shown failed"),
        },
        60.0,
        cost="rate",
    ),
    "stall": Scenario(
        "each minute for --seconds, another 4 % of the nodes stand still for 20 s",
        _stall,
        {
            "withdrawn": Measure("", "times that a healthy node showed a healthy one failed"),
            "by the stalled": Measure("", "times that one stalled of late did so"),
            "dropped": Measure("", "datagrams, by full receive buffers"),
        },
        3600.0,
        least=5,
    ),
    "stutter": Scenario(
        "each node stands still for 0.2 to 1 s, every 10 s on average",
        _stutter,
        {
            "withdrawn": Measure("", "times that one was shown failed a second after, or later"),
            "stalled": Measure("", "stalls for which anybody showed the node failed"),
        },
        600.0,
        least=4,
    ),
    "bad": Scenario(
        "the cable of one node loses half of all datagrams, each way",
        _bad,
        {
            "withdrawn": Measure("", "times that a healthy node was shown failed by a healthy one"),
            "by the bad": Measure("", "times that the node showed another failed"),
            "the bad": Measure("", "times that another showed the node failed"),
        },
        600.0,
        least=4,
    ),
    "oneway": Scenario(
        "1 % of the directed links are dead for --seconds",
        _one_way,
        {
            "withdrawn": Measure("", "times that a node was shown failed"),
            "returned": Measure("", "times that one unreachable from a node was reachable again"),
            "hidden": Measure("", "dead links not shown as unreachable at the end"),
        },
        3600.0,
        least=4,
    ),
}
