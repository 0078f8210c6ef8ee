"""Newcomers, one or many at once: what it costs them and those they ask."""

from __future__ import annotations

import attrs
import pytest

from protocol.events import PeerChanged
from protocol.tuning import Tuning
from simulation import Network
from simulation.warm import warm_mesh


@pytest.mark.parametrize("seed", range(2))
def test_a_joiner_of_a_mesh_of_200_sends_and_receives_at_most_half_more_than_it_lacked(
    seed: int,
) -> None:
    net = Network(seed, cipher=False)
    hosts = warm_mesh(net, 200, prefixes=lambda n: [f"10.{n}.{k}.0/24" for k in range(4)])
    net.run_until(lambda: all(host.up.converged for host in hosts))
    net.recording = True
    joiner = net.add("joiner")
    net.start("joiner", "n1")
    took = net.run_until(lambda: all(host.up.converged for host in (joiner, *hosts)), 10)
    assert took < 3, net
    assert net.together(*hosts, joiner), net
    lacked = sum(len(each.raw) for each in joiner.up.store if each.subject != joiner.key)
    carried = sum(len(data) for _, *ends, data in net.tap if "joiner" in ends)
    assert carried <= 1.5 * lacked, net
    told = joiner.told(PeerChanged)
    assert {event.state for event in told} == {"alive"}
    assert len(told) == 200


@pytest.mark.parametrize("seed", range(2))
def test_many_that_know_one_seed_with_few_answers_to_spare_fill_one_another(seed: int) -> None:
    few = attrs.evolve(Tuning.lan(), serve_rate=100.0, serve_burst=200.0)
    net = Network(seed, cipher=False, tuning=few)
    hosts = [net.add(f"n{number}") for number in range(60)]
    net.start("n0")
    for host in hosts[1:]:
        net.start(host.name, "n0")
    took = net.run_until(lambda: net.together(*hosts), 20)
    assert took < 3, net
    given = hosts[0].sent.count("repair") + hosts[0].sent.count("news")
    assert given < 0.1 * sum(host.sent.count("repair") + host.sent.count("news") for host in hosts)
