"""Scenarios of what nodes come to know: an update, a newcomer, a whole mesh at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.address import Prefix
from protocol.events import Converged, Event, PrefixesChanged
from protocol.shards import MAX_PREFIXES
from simulation.case import EACH, IN_TIME, Measure, Run, Scenario
from simulation.host import Host
from simulation.measure import Rate, Spread, mean, median, quantile

_STRAGGLERS: Final = 1.0
"""Seconds for which what an update caused is still counted after it has arrived."""


def _update(run: Run) -> None:
    network, hosts = run.network, run.warm()
    origin = run.rng.choice(hosts)
    added = Prefix.parse("10.255.0.0/24")
    origin.prefixes = (*origin.prefixes, added)
    run.mark()

    holds = Spread(network, hosts, lambda host, event: _is_about(event, origin))
    agrees = Spread(network, hosts, _agreed_after(holds))
    origin.do(lambda node, now: node.announce(now, prefixes=origin.prefixes))
    run.until(lambda: holds.done, run.case.seconds)
    run.until(lambda: agrees.done, run.case.seconds)
    network.run(_STRAGGLERS)
    own = origin.up.announcement
    assert own is not None
    sent = [run.sent_since(host) for host in hosts]
    run.curve, run.of = tuple(sorted(holds.times.values())), len(hosts)
    run.values |= {
        "everywhere": holds.last,
        "converged": agrees.last,
        "datagrams": mean(each.count("news") for each in sent),
        "busiest": max(each.count("news") for each in sent),
        "bytes": mean(each.wire("news") for each in sent),
        "ratio": mean(each.bodies("news") for each in sent) / len(own.raw),
        "wire ratio": mean(each.wire("news") for each in sent) / len(own.raw),
        "agreement": mean(each.wire("agreement") for each in sent),
    }


def _shards(run: Run) -> None:
    network, hosts = run.network, run.warm()
    origin = run.rng.choice(hosts)
    first, *rest = (
        Prefix.parse(f"10.{128 + (number >> 8)}.{number & 255}.0/24")
        for number in run.rng.sample(range(1 << 15), 1 + MAX_PREFIXES)
    )

    def announces(prefixes: tuple[Prefix, ...]) -> Spread:
        holds = Spread(network, hosts, lambda host, event: _is_about(event, origin))
        origin.prefixes = prefixes
        origin.do(lambda node, now: node.announce(now, prefixes=prefixes))
        run.until(lambda: holds.done, run.case.seconds)
        return holds

    whole = announces(tuple(rest))
    run.until(lambda: all(host.up.converged for host in hosts), run.case.seconds)
    run.mark()
    holds = announces((first, *rest[1:]))
    network.run(_STRAGGLERS)
    got = [run.received_since(host) for host in hosts if host is not origin]
    both = [each.wire("news") + each.wire("shards") for each in got]
    run.curve, run.of = tuple(sorted(holds.times.values())), len(hosts)
    run.values |= {
        "whole set": whole.last,
        "in force": holds.last,
        "bytes": median(both),
        "most bytes": max(both),
        "p99 bytes": quantile(both, 0.99),
        "news": mean(each.wire("news") for each in got),
        "shards": mean(each.wire("shards") for each in got),
        "origin sent": run.sent_since(origin).wire("news") + run.sent_since(origin).wire("shards"),
    }


def _is_about(event: Event, origin: Host) -> bool:
    """It says that ``origin`` announces other prefixes than before."""
    return isinstance(event, PrefixesChanged) and event.node == origin.key


def _agreed_after(holds: Spread) -> Callable[[Host, Event], bool]:
    """Calls itself converged, and had heard what ``holds`` is about."""
    return lambda host, event: isinstance(event, Converged) and host.name not in holds.missing


def _join(run: Run) -> None:
    network, hosts = run.network, run.warm()
    newcomer = network.add("newcomer")
    run.mark()

    everyone = [*hosts, newcomer]
    knows = Spread(network, everyone, lambda host, event: _is_about(event, newcomer))
    agrees = Spread(network, everyone, _agreed_after(knows))
    network.start(newcomer.name, run.rng.choice(hosts).name)
    in_sync = run.until(lambda: _in_sync(newcomer, hosts), run.case.seconds)
    run.until(lambda: knows.done, run.case.seconds)
    run.until(lambda: agrees.done, run.case.seconds)
    sent = [run.sent_since(host) for host in hosts]
    run.values |= {
        "in sync": in_sync,
        "everywhere": knows.last,
        "converged": agrees.last,
        "bytes": mean(each.wire() - each.wire("probes") for each in sent),
    }


def _in_sync(newcomer: Host, hosts: list[Host]) -> bool:
    """It holds what they all hold: its root is theirs, and names them all."""
    return newcomer.root == hosts[0].root and len(newcomer.up.store.announcements) > len(hosts)


def _joiner(run: Run) -> None:
    network = run.network

    def quarters(number: int) -> list[str]:
        return [f"10.{number >> 8}.{number & 255}.{64 * each}/26" for each in range(4)]

    hosts = run.warm(quarters)
    seed = hosts[0]
    newcomer = network.add("newcomer")
    lacked = sum(len(record.raw) for record in seed.up.store)
    count = len(hosts)
    rate = Rate(network, seed).begin()
    network.start(newcomer.name, seed.name)
    in_sync = run.until(lambda: _in_sync(newcomer, hosts), run.case.seconds)
    rate.end()
    both = newcomer.sent.wire() + newcomer.received.wire()
    run.values |= {
        "in sync": in_sync,
        "ratio": both / lacked,
        "datagrams": (newcomer.sent.count() + newcomer.received.count()) / count,
        "seed's peak": rate.peak,
    }


def _cold(run: Run) -> None:
    network, number = run.network, run.case.nodes
    hosts = [network.add(f"n{each}") for each in range(1, number + 1)]
    seed = hosts[0]
    network.start(seed.name)
    rate = Rate(network, seed).begin()
    for host in hosts[1:]:
        network.push(network.now + run.rng.random(), network.start, host.name, seed.name)

    def equal() -> bool:
        return (
            len(network.roots) == 1
            and network.roots.get(seed.root or b"") == number
            and len(seed.up.store.announcements) == number
        )

    took = run.until(equal, run.case.seconds)
    rate.end()
    run.values |= {
        "equal roots": took,
        "datagrams": mean(host.sent.count() for host in hosts),
        "bytes": mean(host.sent.wire() for host in hosts),
        "busiest": max(host.sent.wire() for host in hosts),
        "seed's peak": rate.peak,
        "seed's work": seed.busy,
        "dropped": run.dropped_since(),
    }


SCENARIOS: Final[dict[str, Scenario]] = {
    "join": Scenario(
        "one newcomer joins a converged mesh through a member",
        _join,
        {
            "in sync": Measure("s", "until the newcomer holds what all hold"),
            "everywhere": Measure("s", "until every member holds the newcomer"),
            "converged": Measure("s", "until every node calls itself converged"),
            "bytes": Measure("B", f"sent besides probes, {EACH}"),
        },
        IN_TIME,
    ),
    "update": Scenario(
        "one announcement changes",
        _update,
        {
            "everywhere": Measure("s", "until every node holds it"),
            "converged": Measure("s", "until every node calls itself converged"),
            "datagrams": Measure("", "PUSH, OFFER, PULL and OBJECTS, each node's mean"),
            "busiest": Measure("", "the same of the node that sent most"),
            "bytes": Measure("B", f"of these, {EACH}"),
            "ratio": Measure("x", "of these without headers, to the object's own octets"),
            "wire ratio": Measure("x", "of these on the wire, to the object's own octets"),
            "agreement": Measure("B", f"of agreement, {EACH}"),
        },
        IN_TIME,
        cost="bytes",
    ),
    "cold": Scenario(
        "all nodes start within a second and know one seed",
        _cold,
        {
            "equal roots": Measure("s", "until all hold the whole mesh"),
            "datagrams": Measure("", "sent, each node's mean"),
            "bytes": Measure("B", f"sent, {EACH}"),
            "busiest": Measure("B", "of the node that sent most"),
            "seed's peak": Measure("B/s", "the seed's busiest tenth of a second"),
            "seed's work": Measure("s", "the seed's server was busy"),
            "dropped": Measure("", "datagrams, by full receive buffers"),
        },
        120.0,
        cost="bytes",
    ),
    "joiner": Scenario(
        "one newcomer joins a mesh of nodes with four prefixes each",
        _joiner,
        {
            "in sync": Measure("s", "until the newcomer holds what all hold"),
            "ratio": Measure("x", "its octets on the wire, both ways, to the objects it lacked"),
            "datagrams": Measure("", "its own, both ways, for each member"),
            "seed's peak": Measure("B/s", "the seed's busiest tenth of a second"),
        },
        IN_TIME,
    ),
    "shards": Scenario(
        "an origin with 1,000 prefixes changes one of them",
        _shards,
        {
            "whole set": Measure("s", "until every node has the 1,000 in force, where none were"),
            "in force": Measure("s", "until every node has the new set in force"),
            "bytes": Measure("B", "of news and shards received on the wire, the median node"),
            "p99 bytes": Measure("B", "the same, the node that 99 % do not exceed"),
            "most bytes": Measure("B", "of the node that received most"),
            "news": Measure("B", "PUSH, OFFER, PULL and OBJECTS of that, each node's mean"),
            "shards": Measure("B", "PULLSHARDS and SHARDS of that, each node's mean"),
            "origin sent": Measure("B", "of both, by the origin"),
        },
        IN_TIME,
        cost="bytes",
    ),
}
