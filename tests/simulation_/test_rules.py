"""What the nodes of every small mesh must hold is found out when they do not."""

from __future__ import annotations

import attrs
import pytest

from meshd.policy.decide import Decision
from protocol.address import Prefix
from protocol.objects import Announcement
from protocol.store import Store
from simulation import Host, InvariantBroken, Network, Rules, between, decision, rules

OUTSIDE = Prefix.parse("172.16.7.0/24")
"""No grant of the simulation allows it."""


def mesh(number: int = 3) -> tuple[Network, list[Host], Rules]:
    net = Network(1, cipher=False)
    return net, net.mesh_of(number), Rules(net)


def hold(host: Host, *changed: Announcement) -> None:
    """Put a store into the node's hands that holds these in place of what it heard."""
    store = Store()
    instead = {each.node: each for each in changed}
    for each in host.up.store:
        store.merge(instead.get(each.node, each) if isinstance(each, Announcement) else each)
    host.up._common.store.tree = store.tree


def test_a_mesh_without_fault_keeps_the_rules() -> None:
    net, hosts, kept = mesh()
    kept.keep()
    net.run(10)
    assert len(decision(hosts[0]).desired.routes) == 2
    kept.settle()


def test_a_stored_sequence_that_goes_down_ends_the_run() -> None:
    _, (one, other, _), kept = mesh()
    kept.check()
    held = one.up.store.announcements[other.key]
    hold(one, attrs.evolve(held, sequence=held.sequence - 1, raw=b"older"))
    with pytest.raises(InvariantBroken, match=r"n1 .* lower sequence of"):
        kept.check()


def test_a_root_that_does_not_follow_what_is_held_ends_the_run() -> None:
    _, (one, other, _), kept = mesh()
    held = one.up.store.announcements[other.key]
    before = one.up.store.root
    hold(one, attrs.evolve(held, raw=b"another"))
    assert one.up.store.root != before
    one.up.store.tree.top._hash = before
    with pytest.raises(InvariantBroken, match="another content under one root"):
        kept.check()


def test_a_second_root_of_the_same_content_ends_the_run() -> None:
    _, (one, _, _), kept = mesh()
    hold(one)
    kept.check()
    one.up.store.tree.top._hash = bytes(16)
    with pytest.raises(InvariantBroken, match="another root of what another holds"):
        kept.check()


def test_a_plan_with_a_prefix_that_no_grant_allows_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, (one, _, _), kept = mesh()
    one.do(lambda node, now: node.announce(now, prefixes=[OUTSIDE]))
    net.run(1)
    kept.check()

    def careless(host: Host) -> Decision:
        made = decision(host)
        guards = made.desired.guards | {OUTSIDE}
        return attrs.evolve(made, desired=attrs.evolve(made.desired, guards=guards))

    monkeypatch.setattr(rules, "decision", careless)
    with pytest.raises(InvariantBroken, match=r"plans 172.16.7.0/24, which no grant allows"):
        kept.check()


def test_a_plan_that_leads_to_another_node_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    net, hosts, kept = mesh(4)

    def crossed(host: Host) -> Decision:
        made = decision(host)
        hops = list(made.desired.routes.values())
        routes = dict(zip(made.desired.routes, [*hops[1:], hops[0]], strict=True))
        return attrs.evolve(made, desired=attrs.evolve(made.desired, routes=routes))

    monkeypatch.setattr(rules, "decision", crossed)
    with pytest.raises(InvariantBroken, match="where nobody may announce it"):
        kept.check()


def test_a_live_node_that_stays_failed_ends_the_run() -> None:
    net, hosts, kept = mesh(2)
    net.drop(between("n1", "n2"))
    net.run_until(lambda: net.state("n1", "n2") == "failed", 10)
    with pytest.raises(InvariantBroken, match="n1 shows n2 failed"):
        kept.settle(5)
    net.heal()
    kept.settle(5)
