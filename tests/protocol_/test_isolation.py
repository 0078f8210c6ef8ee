"""Most peers lost at once: when a node calls itself isolated, whom it holds, and for how long."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from protocol.events import Isolated, Released
from protocol.identity import Identity, Mesh
from protocol.isolation import Isolation
from protocol.members import Common, State
from protocol.tuning import Tuning
from simulation import Network

RNG = Random(6179)
MESH = Mesh.founded_by(
    Identity.generate(RNG.randbytes).public, Identity.generate(RNG.randbytes).public
)


class Peers:
    """Live members that can be lost and found, and the isolation that counts them."""

    def __init__(self, number: int) -> None:
        me = Identity.generate(Random(1).randbytes)
        self.common = Common(me, MESH, Tuning.lan(), Random(1))
        self.isolation = Isolation(self.common)
        self.keys = [bytes([each]) * 32 for each in range(number)]
        for key in self.keys:
            self.common.members.live.add(key)

    def lose(self, *numbers: int, now: float, doubtful: int = 0, **more: Any) -> None:
        for number in numbers:
            self.common.members.live.discard(self.keys[number])
            self.isolation.lost(self.keys[number], now, doubtful=doubtful, **more)

    def find(self, *numbers: int, now: float) -> None:
        for number in numbers:
            self.common.members.live.add(self.keys[number])
            self.isolation.found(self.keys[number], now)

    def held(self) -> list[int]:
        return [n for n, key in enumerate(self.keys) if self.isolation.holds(key)]

    def told(self) -> list[object]:
        events, self.common.events = self.common.events, []
        return list(events)


def test_more_than_half_of_the_peers_lost_at_once_are_held_with_an_alarm() -> None:
    peers = Peers(9)
    peers.lose(0, 1, 2, 3, now=1.0)
    assert not peers.isolation.isolated
    peers.lose(4, now=5.0)
    assert peers.isolation.isolated
    assert peers.held() == [0, 1, 2, 3, 4]
    assert peers.told() == [Isolated(5, 9)]


def test_three_peers_are_too_few_to_be_isolated_from() -> None:
    peers = Peers(3)
    peers.lose(0, 1, 2, now=1.0)
    assert not peers.isolation.isolated
    assert peers.held() == []


def test_losses_further_apart_than_the_window_are_deaths() -> None:
    peers = Peers(8)
    for number in range(8):
        peers.lose(number, now=10.5 * number)
    assert peers.told() == []
    assert peers.held() == []


def test_who_waits_longer_for_answers_counts_losses_that_are_as_far_apart() -> None:
    peers = Peers(8)
    for number in range(5):
        peers.lose(number, now=15.0 * number, slowness=9)
    assert peers.isolation.isolated
    assert peers.held() == [0, 1, 2, 3, 4]


def test_who_waits_longer_for_answers_holds_the_first_of_them_as_long() -> None:
    peers = Peers(8)
    peers.lose(0, now=1.0, doubtful=2, slowness=3)
    peers.common.timers.run(15.9)
    assert peers.held() == [0]
    peers.common.timers.run(16.0)
    assert peers.held() == []


def test_a_single_loss_is_not_slowed() -> None:
    peers = Peers(4)
    peers.lose(0, now=1.0)
    assert peers.held() == []


def test_one_lost_among_many_in_doubt_is_held_until_it_shows_what_this_is() -> None:
    peers = Peers(8)
    peers.lose(0, now=1.0, doubtful=2)
    assert peers.held() == [0]
    peers.common.timers.run(6.0)
    assert peers.held() == []
    assert peers.told() == [Released((peers.keys[0],), False, 5.0)]


def test_routes_are_held_ten_minutes_and_no_longer() -> None:
    peers = Peers(4)
    peers.lose(0, 1, 2, now=1.0)
    peers.common.timers.run(600.9)
    assert peers.held() == [0, 1, 2]
    peers.common.timers.run(601.0)
    assert peers.held() == []
    assert peers.told()[-1] == Released(tuple(peers.keys[:3]), True, 600.0)


def test_it_is_over_at_once_when_all_are_back() -> None:
    peers = Peers(4)
    peers.lose(0, 1, 2, now=1.0)
    peers.find(0, 1, 2, now=60.0)
    assert not peers.isolation.isolated
    assert peers.told() == [Isolated(3, 4), Released((), True, 59.0)]
    peers.common.timers.run(1000.0)
    assert peers.told() == []


def test_those_still_missing_when_most_are_back_have_ten_seconds() -> None:
    peers = Peers(8)
    peers.lose(0, 1, 2, 3, 4, now=1.0)
    peers.find(0, 1, 2, now=60.0)
    assert peers.held() == [3, 4]
    peers.common.timers.run(70.0)
    assert peers.held() == []
    assert not peers.isolation.isolated


def test_a_second_cut_while_most_are_back_goes_on_holding() -> None:
    peers = Peers(8)
    peers.lose(0, 1, 2, 3, 4, now=1.0)
    peers.find(0, 1, now=60.0)
    peers.lose(0, 1, 5, now=65.0)
    peers.common.timers.run(80.0)
    assert peers.held() == [0, 1, 2, 3, 4, 5]


def test_one_lost_while_most_that_were_tried_are_silent_is_held() -> None:
    peers = Peers(8)
    peers.lose(0, now=1.0, self_doubt=True)
    assert peers.held() == [0]


@pytest.mark.parametrize("size", [16, 64])
def test_who_is_cut_off_from_all_lets_nobodys_routes_go(size: int) -> None:
    net = Network(7, cipher=False)
    me, *_ = net.mesh_of(size)
    net.cut("n1")
    let_go: set[str] = set()
    for _ in range(60):
        net.run(0.25)
        failed = [m for m in me.up.members.values() if m.state is State.FAILED]
        let_go |= {member.name for member in failed if not me.up.holds(member.key)}
    assert me.up.isolated, net
    assert let_go == set(), net


def test_both_halves_of_a_cut_mesh_are_isolated_until_it_heals() -> None:
    net = Network(5, cipher=False)
    hosts = net.mesh_of(10)
    cut = net.cut("n1", "n2", "n3", "n4", "n5")
    net.run(8)
    for host in hosts:
        assert host.up.isolated, net
        assert len(host.told(Isolated)) == 1, net
    net.heal(cut)
    net.run_until(lambda: not any(host.up.isolated for host in hosts), 5)
    net.run_until(lambda: net.together(*hosts), 5)
