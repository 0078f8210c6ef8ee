"""A machine that slept or was copied: its boot key is replaced before anything is sealed."""

from __future__ import annotations

from random import Random

import attrs
import pytest

from meshd.clocks import PARTED, WatchedClock
from protocol import frames
from protocol.address import Endpoint, Prefix
from protocol.identity import Identity, Mesh
from protocol.node import Node
from protocol.objects import Grant


@attrs.define(eq=False)
class Machine:
    """Two clocks that a test moves, and what the watched one told."""

    monotonic: float = 100.0
    wall: float = 1_700_000_000.0
    jumps: list[float] = attrs.field(factory=list)

    def watched(self) -> WatchedClock:
        return WatchedClock(
            lambda: self.monotonic, lambda: self.wall, lambda now, seconds: self.told(seconds)
        )

    def told(self, seconds: float) -> None:
        self.jumps.append(round(seconds, 3))

    def passes(self, seconds: float, *, wall: float | None = None) -> None:
        self.monotonic += seconds
        self.wall += seconds if wall is None else wall


def test_time_that_passes_on_both_clocks_is_no_jump() -> None:
    machine = Machine()
    clock = machine.watched()
    for _ in range(1000):
        machine.passes(600.0)
        assert clock() == machine.monotonic
    assert machine.jumps == []


@pytest.mark.parametrize("wall", [3600.0, PARTED + 0.6, -PARTED, -1e9])
def test_a_wall_clock_that_leaves_the_other_is_told_once(wall: float) -> None:
    machine = Machine()
    clock = machine.watched()
    machine.passes(0.5, wall=wall)
    for _ in range(3):
        clock()
        machine.passes(0.5)
    assert machine.jumps == [pytest.approx(wall - 0.5, abs=0.01)]


def test_small_steps_add_up() -> None:
    machine = Machine()
    clock = machine.watched()
    for step in range(7):
        machine.passes(0.5, wall=1.5)
        clock()
        assert bool(machine.jumps) is (step >= 5)


def test_nothing_is_sealed_under_the_old_key_after_a_jump() -> None:
    """Two nodes whose owner asks the watched clock for each ``now``, as the daemon does."""
    rng, machine = Random(1), Machine()
    maker, following = (Identity.generate(rng.randbytes) for _ in range(2))
    mesh = Mesh.founded_by(maker.public, following.public)
    where = [Endpoint(f"192.0.2.{each}", 6179) for each in (1, 2)]
    nodes = []
    for number in range(2):
        me = Identity.generate(rng.randbytes)
        pool = [Prefix.parse("10.0.0.0/8")]
        grant = Grant.sign(
            maker, mesh, node=me.public, name=f"n{number}", serial=number, allow=pool
        )
        node = Node(
            mesh, me, [grant], next_sequence=lambda above: above + 1, rng=rng, now=machine.monotonic
        )
        node.announce(machine.monotonic, prefixes=[], endpoints=[where[number]])
        node.join(where[:1], machine.monotonic)
        nodes.append(node)
    a, b = nodes
    clock = WatchedClock(
        lambda: machine.monotonic,
        lambda: machine.wall,
        lambda now, seconds: a.renew_boot_key(now, keep_old=False),
    )

    def sealed_by_a(seconds: float) -> set[bytes]:
        keys: dict[bytes, None] = {}
        end = machine.monotonic + seconds
        while machine.monotonic < end:
            machine.passes(0.01)
            a.tick(clock())
            b.tick(machine.monotonic)
            for source, target in ((0, 1), (1, 0)):
                for datagram in nodes[source].datagrams_to_send():
                    if source == 0 and frames.frame_type(datagram.data) == frames.SEALED:
                        keys[frames.decode_sealed(datagram.data).sender] = None
                    now = clock() if target == 0 else machine.monotonic
                    nodes[target].receive(datagram.data, where[source], now)
        return set(keys)

    before = sealed_by_a(5.0)
    assert len(before) == 1
    assert b.converged
    machine.passes(0.0, wall=3600.0)
    after = sealed_by_a(5.0)
    assert len(after) == 1
    assert before != after
    assert b.converged
