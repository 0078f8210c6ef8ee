"""What must be true of every run is found out when it is not, and the seed is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from protocol.address import Endpoint
from protocol.contacts import Datagram
from protocol.events import Converged
from protocol.messages import Nack
from simulation import Host, InvariantBroken, Network, referee


def mesh(seed: int = 1, **given: Any) -> tuple[Network, Host, Host]:
    net = Network(seed, **given)
    one, other = net.mesh_of(2)
    return net, one, other


def spoil(host: Host, **methods: Callable[..., object]) -> None:
    """Put other methods in place of the node's."""
    for name, method in methods.items():
        setattr(host.up, name, method)


def test_a_datagram_that_is_too_long_ends_the_run_with_the_seed() -> None:
    _, one, other = mesh(3)
    spoil(one, datagrams_to_send=lambda: [Datagram(b"\1\3" + bytes(1199), other.where)])
    with pytest.raises(InvariantBroken, match=r"n1 .* 1201 bytes; Network\(seed=3\)"):
        one.drain()


def test_the_command_that_makes_the_run_again_is_named() -> None:
    net, one, _ = mesh(3, replay="scripts/simulate --seed 3")
    assert "scripts/simulate --seed 3" in str(net.referee.broken(one, "anything"))


def test_a_counter_that_comes_again_ends_the_run() -> None:
    net, one, _ = mesh()
    net.recording = True
    net.run(2)
    sealed = next(data for _, source, _, data in net.tap if source == "n1" and data[1] == 2)
    with pytest.raises(InvariantBroken, match="counter"):
        net.referee.sent(one, sealed)


def test_two_answers_to_one_message_end_the_run() -> None:
    net, one, other = mesh()
    receive: Callable[..., None] = one.up.receive

    def twice(data: bytes, source: Endpoint, now: float) -> None:
        receive(data, source, now)
        one.up._contacts.send(other.key, Nack(1), now)

    spoil(one, receive=twice)
    with pytest.raises(InvariantBroken, match="one Probe drew 2 answers in 2 datagrams"):
        net.run(5)


def test_a_node_that_is_still_due_after_a_tick_ends_the_run() -> None:
    net, one, _ = mesh()
    spoil(one, tick=lambda now: None)
    with pytest.raises(InvariantBroken, match="still due"):
        net.run(5)


def test_a_node_that_acts_when_nothing_is_due_ends_the_run() -> None:
    net, one, other = mesh()
    tick: Callable[[float], None] = one.up.tick

    def restless(now: float) -> None:
        tick(now)
        one.up._contacts.send(other.key, Nack(1), now)

    spoil(one, tick=restless)
    with pytest.raises(InvariantBroken, match="nothing was due"):
        net.run(120)


def converged(root: bytes) -> Converged:
    return Converged(root=root, peers=1, known=1, seconds=0.0)


def test_a_converged_for_a_root_that_a_live_member_never_held_ends_the_run() -> None:
    net, one, other = mesh()
    net.referee.truthful = True
    root = one.up.store.root
    for host in (one, other):
        net.referee.held(host, root)
    net.happened(one, net.now, [converged(root)])
    with pytest.raises(InvariantBroken, match="n2 has not held"):
        net.happened(one, net.now, [converged(bytes(16))])
    net.referee.truthful = False
    net.happened(one, net.now, [converged(bytes(16))])


def test_a_root_that_was_held_once_and_is_held_no_more_counts() -> None:
    net, one, other = mesh()
    net.referee.truthful = True
    for host in (one, other):
        net.referee.held(host, host.up.store.root)
    old = one.up.store.root
    other.do(lambda node, now: node.announce(now, prefixes=[]))
    net.run(1)
    assert one.up.store.root != old
    net.happened(one, net.now, [converged(old)])


def test_a_root_that_only_a_dead_member_never_held_counts() -> None:
    net, one, other = mesh()
    net.referee.truthful = True
    net.kill(other.name)
    net.run_until(lambda: net.state("n1", "n2") == "failed", 10)
    net.happened(one, net.now, [converged(bytes(16))])


def test_roots_that_somebody_holds_are_not_forgotten_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, one, other = mesh()
    monkeypatch.setattr(referee, "_HOLDINGS", len(net.referee._holders) + 8)
    present = one.up.store.root
    for number in range(100):
        net.referee.held(other, bytes([number]) * 16)
    assert len(net.referee._holders) < 20
    net.happened(one, net.now, [converged(present)])
    # One that was forgotten proves nothing any more.
    net.happened(one, net.now, [converged(bytes(16))])
    new = b"new".ljust(16)
    net.referee.held(one, new)
    with pytest.raises(InvariantBroken, match="n2 has not held"):
        net.happened(one, net.now, [converged(new)])
