"""What goes wrong, at random: nodes, disks, clocks and links, and everything mended at the end."""

from __future__ import annotations

from random import Random
from typing import Final

from protocol.address import Prefix
from simulation.host import Disk, Host
from simulation.links import Filter, apart, one_way
from simulation.network import EPOCH, Network
from simulation.rules import Rules

_WALLS: Final = (0.0, 4_070_908_800.0)
"""Unix seconds that a wrong clock shows: 1970 and 2099."""

_STALL: Final = 20.0
"""Seconds at most that a node stands still."""


class Churn:
    """Does one random thing after another to a mesh, and mends everything at the end."""

    def __init__(self, network: Network, hosts: list[Host], rng: Random) -> None:
        self.network, self.hosts, self.rng = network, hosts, rng
        self._faults: list[Filter] = []
        self._copies: dict[str, Disk] = {}
        self._rules = Rules(network)

    def step(self) -> None:
        """One deed, a second or so, and the rules hold."""
        self.rng.choice(
            (
                *(self.kill, self.start, self.start, self.forget, self.restore, self.leave),
                *(self.announce, self.cut, self.one_way, self.heal, self.stall),
                *(self.jump, self.copy, self.rest),
            )
        )()
        self.network.run(self.rng.expovariate(1.0))
        self._rules.check()

    def bring_up(self, host: Host, *, disk: bool | Disk = True) -> None:
        """Start ``host`` with a seed that is not itself."""
        seed = self.hosts[1] if host is self.hosts[0] else self.hosts[0]
        self.network.start(host.name, seed.name, disk=disk)

    def mend(self) -> None:
        """No fault is left, and every node runs."""
        while self._faults:
            self.heal()
        for host in self.hosts:
            host.unix = EPOCH
            if host.node is None:
                self.bring_up(host)
            host.resume()

    # The deeds.

    def kill(self) -> None:
        """A node dies; its host may say so."""
        if (host := self._one_of_many()) is not None:
            self.network.kill(host.name, refuses=self.rng.random() < 0.5)

    def start(self, *, disk: bool = True) -> None:
        """A node that was down comes back."""
        if (host := self._one_down()) is not None:
            self.bring_up(host, disk=disk)

    def forget(self) -> None:
        """... without its disk."""
        self.start(disk=False)

    def copy(self) -> None:
        """A disk is copied."""
        host = self.rng.choice(self.hosts)
        self._copies[host.name] = host.disk.copy()

    def restore(self) -> None:
        """A node that was down comes back with a disk of old."""
        host = self._one_down()
        if host is not None:
            self.bring_up(host, disk=self._copies.get(host.name, True))

    def leave(self) -> None:
        """A node takes its leave, and ends soon after."""
        if (host := self._one_of_many()) is not None:
            host.do(lambda node, now: node.leave(now))
            self.network.run(self.rng.random())
            self.network.kill(host.name)

    def announce(self) -> None:
        """A node announces one prefix more, inside its grant or not."""
        host = self.rng.choice(list(self.network.running()))
        where = self.rng.choice(("10.200", "10.200", "172.16"))
        prefix = Prefix.parse(f"{where}.{self.rng.randrange(250)}.0/24")
        host.prefixes = (*host.prefixes[:4], prefix)
        host.do(lambda node, now: node.announce(now, prefixes=host.prefixes))

    def cut(self) -> None:
        """Some are cut off from the others."""
        some = self.rng.sample(self.hosts, self.rng.randrange(1, len(self.hosts)))
        self._fault(apart(frozenset(host.name for host in some)))

    def one_way(self) -> None:
        """One cannot reach another any more."""
        source, target = self.rng.sample(self.hosts, 2)
        self._fault(one_way(source.name, target.name))

    def heal(self) -> None:
        """One fault of the network is mended."""
        if self._faults:
            self.network.heal(self._faults.pop(self.rng.randrange(len(self._faults))))

    def stall(self) -> None:
        """A node stands still for a while."""
        self.rng.choice(self.hosts).stall(self.rng.random() * _STALL)

    def jump(self) -> None:
        """A wall clock goes wrong, or is set right."""
        host = self.rng.choice(self.hosts)
        host.set_wall(self.rng.choice((*_WALLS, EPOCH + self.network.now)))

    def rest(self) -> None:
        """Nothing happens for a while."""
        self.network.run(5)

    def _fault(self, fault: Filter) -> None:
        self._faults.append(self.network.drop(fault))

    def _one_of_many(self) -> Host | None:
        running = list(self.network.running())
        return self.rng.choice(running) if len(running) > 2 else None

    def _one_down(self) -> Host | None:
        down = [host for host in self.hosts if host.node is None]
        return self.rng.choice(down) if down else None
