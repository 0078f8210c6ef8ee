"""Scenarios of what nodes come to miss: one, many, half of them, and all sorts of things."""

from __future__ import annotations

from typing import Final

from protocol.events import Event, PeerChanged
from simulation.case import EACH, IN_TIME, Measure, Run, Scenario
from simulation.faults import Churn
from simulation.host import Host
from simulation.links import apart
from simulation.measure import Views, mean

_DEAD: Final = 0.2
"""Share of the nodes that die at once."""

_HEALING: Final = 60.0
"""Seconds that a mesh is given to be whole again."""


def _crash(run: Run) -> None:
    _die(run, [run.rng.choice(run.warm())])


def _deaths(run: Run) -> None:
    hosts = run.warm()
    _die(run, run.rng.sample(hosts, max(1, round(_DEAD * len(hosts)))))


def _die(run: Run, dead: list[Host]) -> None:
    network = run.network
    views = Views(network)
    gone = {host.key: host.name for host in dead}
    living = [host for host in network.hosts.values() if host.key not in gone]
    missing = {(host.name, name): None for host in living for name in gone.values()}
    began = network.now
    times: list[float] = []

    def buried(host: Host, when: float, event: Event) -> None:
        if isinstance(event, PeerChanged) and event.state == "failed" and event.node in gone:
            pair = (host.name, gone[event.node])
            if pair in missing:
                del missing[pair]
                times.append(when - began)

    network.listeners.append(buried)
    run.mark()
    for host in dead:
        network.kill(host.name)
    run.until(lambda: not missing, run.case.seconds)
    took = network.now - began
    sent = [run.sent_since(host).wire() / took for host in living]
    run.curve, run.of = tuple(sorted(times)), len(living) * len(dead)
    run.values |= {
        "first": min(times, default=None),
        "everywhere": None if missing else max(times),
        "withdrawn": sum(target not in gone.values() for _, _, target in views.falls),
        "bytes": mean(sent),
    }


def _partition(run: Run) -> None:
    network, hosts = run.network, run.warm()
    views = Views(network)
    half = frozenset(host.name for host in run.rng.sample(hosts, len(hosts) // 2))
    cut = network.drop(apart(half))
    network.run(run.case.seconds)
    run.values["unseen"] = sum(
        views.down.get((one.name, other.name)) != "failed"
        for one in hosts
        for other in hosts
        if (one.name in half) != (other.name in half)
    )
    network.heal(cut)
    run.mark()
    took = run.until(lambda: not views.down and len(network.roots) == 1, _HEALING)
    run.values |= {
        "healed": took,
        "bytes": mean(run.sent_since(host).wire() for host in hosts),
    }


def _churn(run: Run) -> None:
    network = run.network
    hosts = network.mesh_of(2)
    hosts += [network.add(f"n{each}") for each in range(3, run.case.nodes + 1)]
    churn = Churn(network, hosts, run.rng)
    for host in hosts[2:]:
        churn.bring_up(host)
    end = network.now + run.case.seconds
    while network.now < end:
        churn.step()
    churn.mend()
    run.values["agreed"] = run.until(lambda: network.together(*hosts), _HEALING)


SCENARIOS: Final[dict[str, Scenario]] = {
    "crash": Scenario(
        "one node dies, and its host with it",
        _crash,
        {
            "first": Measure("s", "until one other shows it failed"),
            "everywhere": Measure("s", "until all others show it failed"),
            "withdrawn": Measure("", "times that a living node was shown failed"),
            "bytes": Measure("B/s", f"meanwhile, {EACH}"),
        },
        IN_TIME,
        least=3,
    ),
    "deaths": Scenario(
        "a fifth of the nodes die at once",
        _deaths,
        {
            "first": Measure("s", "until one other shows one failed"),
            "everywhere": Measure("s", "until all others show all of them failed"),
            "withdrawn": Measure("", "times that a living node was shown failed"),
            "bytes": Measure("B/s", f"meanwhile, {EACH}"),
        },
        IN_TIME,
        least=5,
    ),
    "partition": Scenario(
        "two halves are apart for --seconds, then not",
        _partition,
        {
            "unseen": Measure("", "pairs across the cut not shown failed when it ends"),
            "healed": Measure("s", "until all are alive in every table, under one root"),
            "bytes": Measure("B", f"sent until then, {EACH}"),
        },
        600.0,
        least=4,
    ),
    "churn": Scenario(
        "nodes, disks, clocks and links fail at random for --seconds, then all is mended",
        _churn,
        {"agreed": Measure("s", "until all are alive in every table, under one root")},
        120.0,
        least=3,
    ),
}
