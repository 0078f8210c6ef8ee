"""Turns: all go round the mesh in one order, and whatever others say, nobody is left out."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from protocol.messages import Probe
from simulation import Host, Network
from simulation.warm import warm_mesh


def probes(net: Network, seconds: float) -> list[tuple[float, str, str]]:
    """Those of that time from now: when, who and whom."""
    found: list[tuple[float, str, str]] = []

    def see(source: Host, target: Host, data: bytes) -> bool:
        if source.wire is not None and source.wire.peek(data)[:1] == bytes([Probe.TYPE]):
            found.append((net.now, source.name, target.name))
        return False

    seen = net.drop(see)
    net.run(seconds)
    net.heal(seen)
    return found


def longest_wait(net: Network, seconds: float) -> float:
    """The longest that any host was not probed, in that time from now."""
    last = dict.fromkeys(net.hosts, net.now)
    waits: list[float] = []
    for when, _, target in probes(net, seconds):
        waits.append(when - last[target])
        last[target] = when
    return max(waits)


@pytest.mark.parametrize("number", [3, 8, 16, 40])
def test_in_a_mesh_at_rest_nobody_is_unprobed_for_much_more_than_a_period(number: int) -> None:
    net = Network(5, cipher=False)
    warm_mesh(net, number)
    net.run(30)
    assert longest_wait(net, 20) < 1.15 * net.tuning.probe_period, net


def test_turns_are_spread_over_the_period_and_a_period_is_as_long_as_ever() -> None:
    net = Network(11, cipher=False)
    hosts = warm_mesh(net, 16)
    net.run(30)
    found = probes(net, 60)
    taken = Counter(source for _, source, _ in found)
    assert [taken[host.name] for host in hosts] == [pytest.approx(120, abs=1)] * 16, net
    period = net.tuning.probe_period
    places = sorted(when % period / period for when, _, _ in found[-16:])
    gaps = [after - first for first, after in pairwise([*places, places[0] + 1])]
    assert max(gaps) < 2 / 16


def test_those_who_begin_anywhere_come_into_step() -> None:
    net = Network(6, cipher=False)
    for number, host in enumerate(warm_mesh(net, 16)):
        host.up._detector.turns._step = 7 * number % 15
    net.run(30)
    assert longest_wait(net, 20) < 1.15 * net.tuning.probe_period, net


def test_those_who_probe_because_somebody_died_bring_nobody_out_of_step() -> None:
    net = Network(10, cipher=False)
    hosts = warm_mesh(net, 16)
    net.run(30)
    for host in hosts[10:15]:
        cut = net.cut(host.name)
        net.run(3)
        net.heal(cut)
        net.run(3)
        steps = [each.up._detector.turns._step for each in hosts if each is not host]
        # Some have begun their next period, and where the ring is counted anew one step is lost.
        assert sum(min((step - steps[0]) % 15, (steps[0] - step) % 15) > 2 for step in steps) <= 1
    net.run(1)
    assert longest_wait(net, 20) < 2.5 * net.tuning.probe_period, net


@pytest.mark.parametrize("seed", range(20))
def test_whatever_others_show_everybody_has_a_turn_within_two_rounds(seed: int) -> None:
    rng = Random(seed)
    net = Network(7, cipher=False)
    hosts = warm_mesh(net, 12)
    turns = hosts[0].up._detector.turns
    others = [host.key for host in hosts[1:]]
    unmoved = hosts[0].up.counters.get("turns moved", 0)
    for _ in others:
        turns.next(net.now)
    waited = dict.fromkeys(others, 0)
    for _ in range(600):
        for _ in range(rng.randrange(6)):
            turns.probed_by(rng.choice(others), net.now)
        chosen = turns.next(net.now)
        assert chosen in waited
        waited = {key: 0 if key == chosen else turn + 1 for key, turn in waited.items()}
        assert max(waited.values()) <= 2 * len(others), seed
    assert hosts[0].up.counters["turns moved"] > unmoved


@pytest.mark.parametrize("seed", range(5))
def test_whatever_others_show_turns_come_a_quarter_sooner_or_later_at_most(seed: int) -> None:
    rng = Random(seed)
    net = Network(12, cipher=False)
    hosts = warm_mesh(net, 12)
    turns, period = hosts[0].up._detector.turns, net.tuning.probe_period
    for _ in range(300):
        began = net.now + rng.random() * 100
        turns.next(began)
        for _ in range(rng.randrange(9)):
            turns.probed_by(rng.choice(hosts).key, began + rng.random() * period)
        assert 0.75 * period <= turns.pause() <= 1.25 * period


def test_a_turn_is_a_live_members_however_they_come_and_go() -> None:
    rng = Random(8)
    net = Network(8, cipher=False)
    hosts = warm_mesh(net, 10)
    node = hosts[0].up
    away: list[bytes] = []
    for _ in range(300):
        if rng.random() < 0.3 and len(node.members.live):
            key = rng.choice(list(node.members.live))
            node.members.live.discard(key)
            away.append(key)
            node.members.changes += 1
        elif away and rng.random() < 0.3:
            node.members.live.add(away.pop())
            node.members.changes += 1
        node._detector.turns.probed_by(rng.choice(hosts).key, net.now)
        chosen = node._detector.turns.next(net.now)
        assert chosen in node.members.live if len(node.members.live) else chosen is None


def test_above_the_bound_each_goes_round_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.turns.MAX_RING", 6)
    net = Network(9, cipher=False)
    hosts = warm_mesh(net, 8)
    turns = hosts[0].up._detector.turns
    turns.probed_by(hosts[1].key, net.now)
    rounds = [[turns.next(net.now) for _ in range(7)] for _ in range(2)]
    keys = sorted(host.key for host in hosts[1:])
    assert [sorted(key for key in each if key) for each in rounds] == [keys, keys]
    assert rounds[0] != rounds[1]
