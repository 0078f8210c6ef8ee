"""Indirect probes: a relay waits as long as its network needs, and nothing of it piles up."""

from __future__ import annotations

import pytest

from protocol.tuning import Tuning
from simulation import Network, between


@pytest.mark.parametrize(("tuning", "delay"), [(Tuning.lan(), 0.002), (Tuning.wan(), 0.08)])
def test_a_member_that_only_others_reach_stays_alive(tuning: Tuning, delay: float) -> None:
    network = Network(3, delay=delay, tuning=tuning, cipher=False)
    network.mesh_of(5)
    network.drop(between("n1", "n2"))
    network.run(60 * tuning.probe_period)
    one, two = network.hosts["n1"], network.hosts["n2"]
    assert not one.up.members[two.key].reachable
    assert {network.state(each, "n2") for each in ("n1", "n3", "n4", "n5")} == {"alive"}


def test_questions_to_relays_are_forgotten_after_a_while() -> None:
    network = Network(4, cipher=False)
    network.mesh_of(4)
    network.drop(between("n1", "n2"))
    prober = network.hosts["n1"].up._detector.prober
    network.run(90.0)
    before = len(prober._nonces)
    network.run(300.0)
    assert len(prober._nonces) <= 1.2 * before
