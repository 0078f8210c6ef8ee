"""Meshes under random faults in virtual time: whatever happened, the living agree afterwards."""

from __future__ import annotations

import ipaddress
from random import Random

import pytest
from simnet import Filter, Host, Network


class Churn:
    """Does one random thing after another to a mesh, and mends everything at the end."""

    def __init__(self, net: Network, hosts: list[Host], rng: Random) -> None:
        self.net, self.hosts, self.rng = net, hosts, rng
        self.cuts: list[Filter] = []
        self.highest: dict[tuple[str, bytes], int] = {}

    def running(self) -> list[Host]:
        return [host for host in self.hosts if host.node is not None]

    def step(self) -> None:
        deeds = (self.kill, self.start, self.start, self.forget, self.leave, self.announce)
        self.rng.choice((*deeds, self.cut, self.heal, self.stall, self.rest))()
        self.net.run(self.rng.expovariate(1.0))
        self.check_sequences()

    def kill(self) -> None:
        if len(self.running()) > 2:
            host = self.rng.choice(self.running())
            self.net.kill(host.name, refuses=self.rng.random() < 0.5)

    def start(self, *, disk: bool = True) -> None:
        down = [host for host in self.hosts if host.node is None]
        if down:
            self.bring_up(self.rng.choice(down), disk=disk)

    def bring_up(self, host: Host, *, disk: bool = True) -> None:
        seeds = [self.hosts[0].name] if host is not self.hosts[0] else [self.hosts[1].name]
        self.net.refuses.discard(host.name)
        self.net.start(host.name, *seeds, disk=disk)

    def forget(self) -> None:
        self.start(disk=False)

    def leave(self) -> None:
        if len(self.running()) > 2:
            host = self.rng.choice(self.running())
            host.up.leave(self.net.clock(host))
            self.net.drain(host)
            self.net.run(self.rng.random())
            self.net.kill(host.name)

    def announce(self) -> None:
        host = self.rng.choice(self.running())
        prefix = ipaddress.ip_network(f"10.200.{self.rng.randrange(250)}.0/24")
        host.prefixes = (*host.prefixes[:4], prefix)
        host.up.announce(self.net.clock(host), prefixes=host.prefixes)
        self.net.drain(host)

    def cut(self) -> None:
        some = self.rng.sample(self.hosts, self.rng.randrange(1, len(self.hosts)))
        self.cuts.append(self.net.cut(*(host.name for host in some)))

    def heal(self) -> None:
        if self.cuts:
            self.net.drops.remove(self.cuts.pop(self.rng.randrange(len(self.cuts))))

    def stall(self) -> None:
        self.rng.choice(self.hosts).stalled_until = self.net.now + self.rng.random() * 20

    def rest(self) -> None:
        self.net.run(5)

    def mend(self) -> None:
        while self.cuts:
            self.heal()
        for host in self.hosts:
            host.stalled_until = 0.0
            if host.node is None:
                self.bring_up(host)

    def check_sequences(self) -> None:
        for host in self.running():
            for key, announcement in host.up.store.announcements.items():
                place = (f"{host.name}/{id(host.node)}", key)
                assert announcement.sequence >= self.highest.get(place, 0), self.net
                self.highest[place] = announcement.sequence


@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(6))
def test_the_living_agree_once_the_faults_stop(seed: int, loss: float) -> None:
    net = Network(seed, loss=loss)
    hosts = net.mesh_of(2)
    hosts += [net.add(f"n{number}") for number in range(3, 8)]
    churn = Churn(net, hosts, Random(seed))
    for host in hosts[2:]:
        churn.bring_up(host)
    for _ in range(60):
        churn.step()
    churn.mend()
    net.run_until(lambda: net.together(*hosts), 30)
    wanted = {host.key: host.prefixes for host in hosts}
    for host in hosts:
        held = host.up.store.announcements
        assert {key: set(held[key].prefixes) for key in held} == {
            key: set(prefixes) for key, prefixes in wanted.items()
        }, net
