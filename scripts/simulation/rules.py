"""What must be true of every mesh and is too dear to look at after each datagram.

``Referee`` watches what passes; these look at what the nodes hold, from time to time, in
meshes small enough for it.  Whoever breaks one ends the run with ``InvariantBroken``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from meshd.kernel.memory import connected
from meshd.kernel.state import Host as Surroundings
from meshd.kernel.state import Interface
from meshd.policy import decide as policy
from meshd.policy.origin import Origin
from protocol.address import Prefix
from protocol.identity import short_id
from protocol.objects import Grant
from simulation.host import Host
from simulation.network import Network

VIEWERS: Final = 2
"""Nodes whose plan is looked at each time, by turns: it costs a look at every prefix."""


def decision(host: Host) -> policy.Decision:
    """What the daemon on ``host`` would want of its kernel now, all others being on-link."""
    node = host.up
    uplink = Interface("net0", 2, True, (ipaddress.ip_interface(f"{host.where.address}/8"),))
    origins = [
        Origin.of(
            member,
            node.store.grants[member.key],
            host.clock(),
            "held" if node.holds(member.key) else "",
        )
        for member in node.members.values()
    ]
    around = Surroundings((uplink,), tuple(connected([uplink])))
    return policy.decide(origins, node.prefixes, around, host.wall())


@attrs.define(eq=False)
class Rules:
    """The rules of one network."""

    network: Network
    _highest: dict[tuple[str, int, bytes], int] = attrs.field(factory=dict)
    _turn: int = 0

    def keep(self, period: float = 1.0) -> None:
        """Check every ``period`` seconds from now on."""
        self.check()
        self.network.push(self.network.now + period, self.keep, period)

    def check(self) -> None:
        """Check everything now."""
        running = list(self.network.running())
        self._sequences(running)
        self._stores(running)
        for _ in range(min(VIEWERS, len(running))):
            self._turn += 1
            self._plan(running[self._turn % len(running)])

    def settle(self, timeout: float = 30.0) -> None:
        """No fault is left: within so many seconds of virtual time all that run must see one
        another alive, and nobody else, under one root."""
        network, running = self.network, list(self.network.running())
        end = network.now + timeout
        while not network.together(*running):
            if not network.step(end):
                raise network.referee.broken(running[0], "; ".join(self._apart(running)))
        self.check()

    def _apart(self, running: list[Host]) -> Iterator[str]:
        roots = {short_id(host.up.store.root) for host in running}
        yield f"not settled: roots {', '.join(sorted(roots))}"
        for one in running:
            for other in running:
                state = self.network.state(one.name, other.name)
                if one is not other and state != "alive":
                    yield f"{one.name} shows {other.name} {state}"

    def _sequences(self, running: Iterable[Host]) -> None:
        """Nobody's stored sequence of anybody decreases while that node runs."""
        for host in running:
            for announcement in host.up.store.announcements.all():
                place = (host.name, host.life, announcement.node)
                if announcement.sequence < self._highest.get(place, 0):
                    told = f"a lower sequence of {short_id(announcement.node)} than before"
                    raise self.network.referee.broken(host, told)
                self._highest[place] = announcement.sequence

    def _stores(self, running: Iterable[Host]) -> None:
        """The same content has one root, and one root the same content."""
        roots: dict[tuple[bytes, ...], bytes] = {}
        contents: dict[bytes, tuple[bytes, ...]] = {}
        for host in running:
            root, content = host.up.store.root, tuple(each.hash for each in host.up.store)
            if roots.setdefault(content, root) != root:
                raise self.network.referee.broken(host, "another root of what another holds")
            if contents.setdefault(root, content) != content:
                raise self.network.referee.broken(host, "another content under one root")

    def _plan(self, host: Host) -> None:
        """Nothing is wanted of a kernel that no grant allows, nor through another node."""
        node, wanted = host.up, decision(host).desired
        origins: dict[Prefix, list[bytes]] = {}
        for member in node.members.values():
            for prefix in member.prefixes:
                if _allows(node.store.grants[member.key], prefix):
                    origins.setdefault(prefix, []).append(member.key)
        for prefix in (*wanted.guards, *wanted.mesh, *wanted.routes):
            if prefix not in origins:
                raise self.network.referee.broken(host, f"plans {prefix}, which no grant allows")
        for prefix, hops in wanted.routes.items():
            announced = (node.store.announcements[key].endpoints for key in origins[prefix])
            where = {endpoint.address for endpoints in announced for endpoint in endpoints}
            for hop in hops.hops:
                if hop.address not in where:
                    told = f"plans {prefix} via {hop.address}, where nobody may announce it"
                    raise self.network.referee.broken(host, told)


def _allows(grant: Grant, prefix: Prefix) -> bool:
    """By counting, and not as the policy finds it."""
    return any(
        net.version == prefix.version and net.first <= prefix.first and prefix.last <= net.last
        for net in grant.allow
    )
