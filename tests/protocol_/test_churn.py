"""Meshes under random faults in virtual time: whatever happened, the living agree afterwards."""

from __future__ import annotations

from random import Random

import pytest

from simulation import Churn, Network


@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(6))
def test_the_living_agree_once_the_faults_stop(seed: int, loss: float) -> None:
    net = Network(seed, loss=loss, cipher=False)
    net.links.duplicate = net.links.reorder = loss / 2
    hosts = net.mesh_of(2)
    hosts += [net.add(f"n{number}") for number in range(3, 8)]
    churn = Churn(net, hosts, Random(seed))
    for host in hosts[2:]:
        churn.bring_up(host)
    for _ in range(60):
        churn.step()
    churn.mend()
    net.run_until(lambda: net.together(*hosts), 30)
    wanted = {host.key: set(host.prefixes) for host in hosts}
    for host in hosts:
        held = host.up.store.announcements
        assert {key: set(held[key].prefixes) for key in held} == wanted, net
