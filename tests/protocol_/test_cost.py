"""What one change costs, as counts and not as time: datagrams, signatures, memory."""

from __future__ import annotations

import sys
import tracemalloc

import pytest

from protocol.identity import Mesh
from protocol.node import Node
from protocol.objects import Signed
from protocol.tuning import FANOUT_ALL
from simulation import Network
from simulation.host import Host
from simulation.traffic import Traffic
from simulation.warm import warm_mesh
from simulation.wire import MeteredIdentity, RealWire

SIZE = 16


def idle_mesh(seed: int, size: int = SIZE, *, loss: float = 0.0) -> tuple[Network, list[Host]]:
    net = Network(seed)
    hosts = warm_mesh(net, size)
    net.run_until(lambda: all(host.up.converged for host in hosts))
    net.run(1)
    net.links.loss = loss
    return net, hosts


def update(net: Network, hosts: list[Host]) -> None:
    """The first host announces something else; until everyone has agreed on it."""
    origin = hosts[0]
    origin.do(lambda node, now: node.announce(now, prefixes=()))
    own = origin.up.announcement
    net.run_until(lambda: all(h.up.store.announcements[origin.key] == own for h in hosts))


def test_while_an_update_is_on_its_way_nothing_else_is_and_then_one_offer_a_member() -> None:
    net, hosts = idle_mesh(1)
    before = [Traffic.of([host.sent]) for host in hosts]
    update(net, hosts)
    told = [
        (host.sent - earlier).count("news") for host, earlier in zip(hosts, before, strict=True)
    ]
    assert told == [SIZE - 1, *[0] * (SIZE - 1)], net
    net.run(2)
    told = [
        (host.sent - earlier).count("news") for host, earlier in zip(hosts, before, strict=True)
    ]
    assert told == [SIZE - 1, *[1] * (SIZE - 1)], net
    agreement = Traffic.of(host.sent - e for host, e in zip(hosts, before, strict=True))
    assert agreement.count("agreement") <= 14 * SIZE, net


def test_while_a_departure_is_on_its_way_nothing_else_is() -> None:
    net, hosts = idle_mesh(9)
    before = [Traffic.of([host.sent]) for host in hosts]
    hosts[0].do(lambda node, now: node.leave(now))
    net.run_until(lambda: all(net.state(h.name, hosts[0].name) == "left" for h in hosts[1:]))
    sent = [host.sent - earlier for host, earlier in zip(hosts, before, strict=True)]
    assert [each.count("news") for each in sent] == [SIZE - 1, *[0] * (SIZE - 1)], net
    assert sent[0].count("probes") == 0, net


def test_an_update_is_signed_once_and_checked_once_by_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, hosts = idle_mesh(2)
    signed: list[bytes] = []
    checked: list[RealWire] = []
    sign, verify = MeteredIdentity.sign, RealWire.verify

    def signing(identity: MeteredIdentity, message: bytes) -> bytes:
        signed.append(identity.public)
        return sign(identity, message)

    def checking(wire: RealWire, claimed: Signed, mesh: Mesh) -> bool:
        checked.append(wire)
        return verify(wire, claimed, mesh)

    monkeypatch.setattr(MeteredIdentity, "sign", signing)
    monkeypatch.setattr(RealWire, "verify", checking)
    update(net, hosts)
    net.run(2)
    assert signed == [hosts[0].key], net
    assert [checked.count(host.wire) for host in hosts if host.wire] == [0, *[1] * (SIZE - 1)], net


def test_several_updates_within_the_patience_are_offered_together() -> None:
    net, hosts = idle_mesh(3)
    before = [Traffic.of([host.sent]) for host in hosts]
    for _ in range(4):
        update(net, hosts)
    net.run(1)
    for host, earlier in zip(hosts[1:], before[1:], strict=True):
        assert (host.sent - earlier).count("news") <= 2 * net.tuning.relay_full, net


def test_who_missed_an_update_has_it_from_an_offer_before_the_rounds_of_agreement() -> None:
    net, hosts = idle_mesh(4)
    missed = hosts[5]
    fault = net.drop(lambda source, to, data: source is hosts[0] and to is missed)
    began = net.now
    update(net, hosts)
    assert net.now - began < net.tuning.relay_patience + 0.03 < net.tuning.agree_period, net
    net.heal(fault)


def test_a_newcomer_of_whom_one_member_knows_is_offered_without_patience() -> None:
    net, hosts = idle_mesh(5)
    net.add("new")
    host = net.start("new", "n1")
    began = None
    while not all(host.key in each.up.members for each in hosts):
        if began is None and any(host.key in each.up.members for each in hosts):
            began = net.now
        net.run(0.001)
    assert began is not None
    # Three tellings, each fetched after the patience of who is offered something.
    assert net.now - began < 2.5 * net.tuning.relay_patience, net


def test_idle_members_send_no_more_in_a_minute_where_there_are_more_of_them() -> None:
    sent = []
    for size in (8, FANOUT_ALL):
        net, hosts = idle_mesh(6, size)
        before = Traffic.of(host.sent for host in hosts)
        net.run(60)
        sent.append((Traffic.of(host.sent for host in hosts) - before).wire() / size / 60)
    assert max(sent) < 500
    assert max(sent) < 1.05 * min(sent)


def received(times: int) -> int:
    """Blocks that are allocated more after so many probes to one node than before them."""
    net, hosts = idle_mesh(7, 2)
    one, other = (host.up for host in hosts)
    now = hosts[0].clock() + 1

    def probe(node: Node, at: float) -> None:
        node._contact(hosts[1].key, at)
        for datagram in node.datagrams_to_send():
            other.receive(datagram.data, hosts[0].where, at)
        other.datagrams_to_send()
        other.events()
        for host in hosts:
            host.meter.sealed.clear()  # what the simulator notes for itself

    probe(one, now)
    before = sys.getallocatedblocks()
    for number in range(times):
        probe(one, now + number / 1e4)
    return sys.getallocatedblocks() - before


def test_datagrams_leave_nothing_behind_in_memory() -> None:
    received(100)
    assert received(2000) < received(1000) + 100


def test_a_datagram_takes_a_few_kilobytes_while_it_is_looked_at() -> None:
    net, hosts = idle_mesh(8, 2)
    sender, node = (host.up for host in hosts)
    now = hosts[0].clock() + 1
    datagrams = []
    for number in range(50):
        sender._contact(hosts[1].key, now + number / 1e4)
        datagrams += [each.data for each in sender.datagrams_to_send()]
    node.receive(datagrams.pop(), hosts[0].where, now)
    tracemalloc.start()
    try:
        held, _ = tracemalloc.get_traced_memory()
        for data in datagrams:
            tracemalloc.reset_peak()
            node.receive(data, hosts[0].where, now)
            node.datagrams_to_send()
            _, peak = tracemalloc.get_traced_memory()
            assert peak - held < 16_384, net
    finally:
        tracemalloc.stop()
