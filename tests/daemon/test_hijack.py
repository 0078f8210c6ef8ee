"""Who would take what is not its own: a mesh in virtual time, each node with a kernel in memory."""

from __future__ import annotations

import ipaddress
from random import Random

import attrs
import pytest

from meshd.importer import Importer
from meshd.kernel.memory import Memory
from meshd.kernel.plan import diff
from meshd.kernel.state import ForeignRoute, Interface
from meshd.policy.decide import NOTHING, Decision
from meshd.policy.filters import OPEN
from protocol.address import Address, Prefix
from protocol.objects import Grant
from simulation import Disk, Host, Network

LAN = ipaddress.ip_interface("10.200.0.1/24")
FAR_GATEWAY = ipaddress.ip_address("198.51.100.1")
RESOLVER = ipaddress.ip_address("203.0.113.53")


def net(text: str) -> Prefix:
    return Prefix.parse(text)


@attrs.define
class Router:
    """A node of the mesh with what lies around it and a kernel that is kept as policy decides."""

    host: Host
    importer: Importer
    kernel: Memory
    steps: int = 0
    decision: Decision = NOTHING

    @classmethod
    def of(cls, host: Host) -> Router:
        uplink = Interface("net0", 2, True, (ipaddress.ip_interface(f"{host.where.address}/16"),))
        inside = Interface("lan0", 3, True, (LAN,))
        gateway = ForeignRoute(net("0.0.0.0/0"), FAR_GATEWAY, "net0", 3, 0)
        servers: tuple[Address, ...] = (RESOLVER,)
        importer = Importer(host.up, OPEN, unix_clock=host.wall, resolvers=lambda: servers)
        return cls(host, importer, Memory([uplink, inside], [gateway]))

    def look(self) -> None:
        reading = self.kernel.read()
        now = self.host.clock()
        self.decision = self.importer.decide(reading.host, self.decision, now)
        plan = diff(self.decision.desired, reading)
        assert self.kernel.apply(plan) == []
        self.steps += len(plan)

    @property
    def holds(self) -> dict[str, str]:
        """Prefix to next hop, as the kernel has them; nothing else of them may be there."""
        self.look()
        state = self.kernel.read().state
        assert state.guards == state.routes.keys()
        return {str(prefix): str(hops.hops[0].address) for prefix, hops in state.routes.items()}

    def rules(self, node: Host) -> dict[str, str]:
        self.look()
        return {str(row.prefix): row.rule for row in self.decision.routes if row.node == node.key}


def mesh(seed: int, **members: tuple[str, str]) -> tuple[Network, dict[str, Host]]:
    """Nodes by name: what each announces and what its grant allows, the oldest grant first. They
    start in an order of the seed's."""
    network = Network(seed, cipher=False)
    for serial, (name, (announced, allowed)) in enumerate(members.items(), 1):
        host = network.add(name, prefixes=announced.split())
        allow = map(net, allowed.split())
        grant = Grant.sign(
            network.authority, network.mesh, node=host.key, name=name, serial=serial, allow=allow
        )
        network.trust(grant)
        host.disk = Disk((grant,))
    names = Random(seed).sample(list(members), len(members))
    for name in names:
        network.start(name, *([] if name == names[0] else names[:1]))
    network.run_until(lambda: network.agreed(*network.hosts.values()))
    return network, network.hosts


HALVES = "0.0.0.0/1 128.0.0.0/1 10.0.0.0/7 ::/1 8000::/1 fc00::/7"


def test_no_piece_of_a_default_route_reaches_a_kernel_even_granted() -> None:
    _, hosts = mesh(1, a=("", "10.1.0.0/16"), b=(f"{HALVES} 10.2.0.0/24", "0.0.0.0/0 ::/0"))
    router = Router.of(hosts["a"])
    assert router.holds == {"10.2.0.0/24": str(hosts["b"].where.address)}
    others = dict.fromkeys(HALVES.split(), "too-short")
    assert router.rules(hosts["b"]) == {"10.2.0.0/24": "", **others}


@pytest.mark.parametrize("whole", ["0.0.0.0/0", "::/0"])
def test_a_default_route_cannot_even_be_announced(whole: str) -> None:
    network, hosts = mesh(1, a=("", "10.1.0.0/16"), b=("10.2.0.0/24", "0.0.0.0/0 ::/0"))
    with pytest.raises(ValueError, match="default route announced"):
        hosts["b"].do(lambda node, now: node.announce(now, prefixes=[net(whole)]))
    network.run(1)
    assert Router.of(hosts["a"]).holds == {"10.2.0.0/24": str(hosts["b"].where.address)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("theirs", ["10.2.0.0/24", "10.2.0.128/25", "10.2.0.0/20"])
def test_anothers_subnet_its_more_specific_and_its_aggregate_are_decided_by_grants_in_any_order(
    theirs: str, seed: int
) -> None:
    _, hosts = mesh(
        seed,
        a=("", "10.1.0.0/16"),
        # The thief's grant is the oldest of all, and wide.
        thief=(theirs, "10.0.0.0/8"),
        owner=("10.2.0.0/24", "10.2.0.0/24"),
        younger=("10.3.0.0/24", "10.0.0.0/8"),
        rival=("10.3.0.0/25", "10.0.0.0/8"),
    )
    for viewer in (hosts["a"], hosts["younger"]):
        router = Router.of(viewer)
        assert router.holds.get("10.2.0.0/24") == str(hosts["owner"].where.address)
        assert router.rules(hosts["thief"]) == {theirs: "conflict"}
    router = Router.of(hosts["a"])
    assert router.holds["10.3.0.0/24"] == str(hosts["younger"].where.address)
    (row,) = [each for each in router.decision.routes if each.name == "rival"]
    assert (
        row.reason
        == "10.3.0.0/24 belongs to younger, whose grant is older (first serial 4 against 5)"
    )


@pytest.mark.parametrize("seed", range(3))
def test_two_are_origins_of_one_prefix_only_where_both_grants_name_it(seed: int) -> None:
    _, hosts = mesh(
        seed,
        a=("", "10.1.0.0/16"),
        one=("10.2.0.0/24", "10.2.0.0/24 10.3.0.0/24"),
        two=("10.2.0.0/24", "10.2.0.0/24"),
    )
    router = Router.of(hosts["a"])
    found = [router.rules(hosts[name])["10.2.0.0/24"] for name in ("one", "two")]
    assert sorted(found) == ["", "standby"]


@pytest.mark.parametrize(
    ("prefix", "rule"),
    [
        ("10.200.0.0/24", "local"),
        ("10.200.0.0/16", "local"),
        ("10.200.0.128/25", "local"),
        ("10.200.0.1/32", "local"),
        ("198.51.100.0/24", "gateway"),
        ("198.51.100.1/32", "gateway"),
        ("203.0.113.0/24", "resolver"),
        ("203.0.113.53/32", "resolver"),
    ],
)
def test_what_covers_our_lan_our_address_our_gateway_or_our_resolver_is_refused(
    prefix: str, rule: str
) -> None:
    _, hosts = mesh(1, a=("", "10.1.0.0/16"), b=(prefix, "0.0.0.0/0"))
    router = Router.of(hosts["a"])
    assert router.holds == {}
    assert router.rules(hosts["b"]) == {prefix: rule}


def test_what_covers_a_peers_endpoint_is_refused() -> None:
    network, hosts = mesh(
        1, a=("", "10.1.0.0/16"), b=("172.16.9.0/24", "0.0.0.0/0"), c=("", "10.3.0.0/16")
    )
    assert set(Router.of(hosts["a"]).holds) == {"172.16.9.0/24"}
    hosts["c"].do(
        lambda node, now: node.announce(
            now, endpoints=[hosts["c"].where._replace(host="172.16.9.7")]
        )
    )
    network.run(1)
    router = Router.of(hosts["a"])
    assert router.holds == {}
    assert router.rules(hosts["b"]) == {"172.16.9.0/24": "endpoint"}
    assert router.decision.routes[0].reason == "covers 172.16.9.7, where c is reached"


def test_a_hundred_announcements_and_withdrawals_through_the_mesh_cost_few_kernel_writes() -> None:
    network, hosts = mesh(1, a=("", "10.1.0.0/16"), b=("10.2.0.0/24", "10.2.0.0/16"))
    router, flapping = Router.of(hosts["a"]), net("10.2.7.0/24")
    steady = (net("10.2.0.0/24"),)
    router.look()
    before = router.steps
    for _ in range(100):
        for prefixes in ((*steady, flapping), steady):
            hosts["b"].do(lambda node, now, p=prefixes: node.announce(now, prefixes=p))  # type: ignore[misc]
            network.run(0.3)
            router.look()
    assert router.steps - before <= 4 * 8, "guard, set, route and connections, there and back"
    hosts["b"].do(lambda node, now: node.announce(now, prefixes=(*steady, flapping)))
    network.run(0.3)
    assert router.rules(hosts["b"])["10.2.7.0/24"] == "damped"
    assert set(router.decision.desired.routes) == set(steady)
    network.run(router.decision.look_again)
    assert set(router.holds) == {"10.2.0.0/24", "10.2.7.0/24"}
