"""Turns: all go round the mesh in one order, and whatever others say, nobody is left out."""

from __future__ import annotations

from random import Random

import pytest

from protocol.messages import Probe
from simulation import Host, Network
from simulation.warm import warm_mesh


def longest_wait(net: Network, seconds: float) -> float:
    """The longest that any host was not probed, in that time from now."""
    last = dict.fromkeys(net.hosts, net.now)
    waits: list[float] = []

    def see(source: Host, target: Host, data: bytes) -> bool:
        if source.wire is not None and source.wire.peek(data)[:1] == bytes([Probe.TYPE]):
            waits.append(net.now - last[target.name])
            last[target.name] = net.now
        return False

    seen = net.drop(see)
    net.run(seconds)
    net.heal(seen)
    return max(waits)


@pytest.mark.parametrize("number", [8, 16, 40])
def test_in_a_mesh_at_rest_nobody_is_unprobed_for_more_than_two_periods(number: int) -> None:
    net = Network(5, cipher=False)
    warm_mesh(net, number)
    net.run(30)
    assert longest_wait(net, 20) < 2.1 * net.tuning.probe_period, net


def test_those_who_begin_anywhere_come_into_step() -> None:
    net = Network(6, cipher=False)
    for number, host in enumerate(warm_mesh(net, 16)):
        host.up._detector.turns._step = 7 * number % 15
    net.run(30)
    assert longest_wait(net, 20) < 2.1 * net.tuning.probe_period, net


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
    assert longest_wait(net, 20) < 3.1 * net.tuning.probe_period, net


@pytest.mark.parametrize("seed", range(20))
def test_whatever_others_show_everybody_has_a_turn_within_two_rounds(seed: int) -> None:
    rng = Random(seed)
    net = Network(7, cipher=False)
    hosts = warm_mesh(net, 12)
    turns = hosts[0].up._detector.turns
    others = [host.key for host in hosts[1:]]
    unmoved = hosts[0].up.counters.get("turns moved", 0)
    for _ in others:
        turns.next()
    waited = dict.fromkeys(others, 0)
    for _ in range(600):
        for _ in range(rng.randrange(6)):
            turns.probed_by(rng.choice(others), net.now)
        chosen = turns.next()
        assert chosen in waited
        waited = {key: 0 if key == chosen else turn + 1 for key, turn in waited.items()}
        assert max(waited.values()) <= 2 * len(others), seed
    assert hosts[0].up.counters["turns moved"] > unmoved


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
        chosen = node._detector.turns.next()
        assert chosen in node.members.live if len(node.members.live) else chosen is None


def test_above_the_bound_each_goes_round_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.turns.MAX_RING", 6)
    net = Network(9, cipher=False)
    hosts = warm_mesh(net, 8)
    turns = hosts[0].up._detector.turns
    turns.probed_by(hosts[1].key, net.now)
    rounds = [[turns.next() for _ in range(7)] for _ in range(2)]
    keys = sorted(host.key for host in hosts[1:])
    assert [sorted(key for key in each if key) for each in rounds] == [keys, keys]
    assert rounds[0] != rounds[1]
