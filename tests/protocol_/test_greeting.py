"""Getting in: HELLOs that are repeated, through loss, in a crowd, and no longer than needed."""

from __future__ import annotations

import itertools
import statistics
from random import Random

import attrs
import pytest

from protocol import frames
from protocol.address import Endpoint, Prefix
from protocol.frames import Hello
from protocol.identity import BootKey, Identity, Mesh
from protocol.objects import Announcement, Grant, Signed
from protocol.tuning import MAX_CANDIDATES, Tuning
from protocol.wire import Wire
from simulation import Host, Network


def asked(net: Network, source: Host) -> list[float]:
    """When ``source`` said HELLO and asked."""
    return [
        at
        for at, name, _, data in net.tap
        if name == source.name and frames.frame_type(data) == frames.HELLO and len(data) == 1200
    ]


def alone(seed: int) -> tuple[Network, Host]:
    net = Network(seed)
    net.recording = True
    net.add("seed")
    host = net.add("a")
    net.start("a", "seed")
    return net, host


def test_a_seed_that_is_silent_is_asked_quickly_first_and_then_twice_a_second_for_life() -> None:
    net, a = alone(1)
    net.run(1)
    assert 4 <= len(asked(net, a)) <= 8
    net.run(599)
    assert 1000 <= len(asked(net, a)) <= 1500
    waits = [after - at for at, after in itertools.pairwise(asked(net, a))]
    assert max(waits) <= 1.5 * net.tuning.hello_max


def test_nodes_that_start_together_do_not_come_back_together() -> None:
    net = Network(2)
    net.recording = True
    net.add("seed")
    hosts = [net.add(f"x{number}") for number in range(20)]
    for host in hosts:
        net.start(host.name, "seed")
    net.run(0.3)
    second = [asked(net, host)[1] - 1000.0 for host in hosts]
    assert min(second) >= 0.05
    assert max(second) <= 0.15
    assert statistics.pstdev(second) > 0.02


def test_whoever_knows_a_live_member_asks_no_address_again() -> None:
    net, a = alone(3)
    seed = net.start("seed")
    net.run_until(lambda: net.agreed(a, seed), 3)
    before = len(asked(net, a))
    net.run(60)
    assert len(asked(net, a)) == before


def test_a_seed_that_has_answered_is_sent_probes_and_no_more_padded_hellos() -> None:
    net, a = alone(5)
    seed = net.start("seed")
    lost = [True]
    net.drop(lambda source, target, data: lost[0] and frames.frame_type(data) == frames.SEALED)
    net.run(5)
    assert len(asked(net, a)) == 1
    assert a.up.counters["sent Probe"] >= 8
    lost[0] = False
    assert net.run_until(lambda: net.together(a, seed), 2) < 1


def test_addresses_that_are_no_seeds_any_more_are_left_alone() -> None:
    net, a = alone(4)
    other = net.add("b")
    net.run(5)
    a.do(lambda node, now: node.join([other.where], now))
    before = len(net.tap)
    net.run(30)
    assert {to for _, _, to, _ in net.tap[before:]} == {"b"}


def joining(seed: int, *, loss: float) -> float:
    """Seconds until a newcomer and its seed see each other alive."""
    net = Network(seed, loss=loss)
    a, b = net.add("a"), net.add("b")
    net.start("a")
    net.start("b", "a")
    return net.run_until(lambda: net.together(a, b), 10)


def test_a_quarter_of_loss_keeps_a_newcomer_out_for_a_second_and_rarely_longer() -> None:
    took = sorted(joining(seed, loss=0.25) for seed in range(60))
    assert took[30] < 0.3
    assert took[54] < 1.5
    assert took[-1] < 5


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_that_outruns_the_signature_budget_gets_in_and_nobody_is_called_bad(
    seed: int,
) -> None:
    few = attrs.evolve(Tuning.lan(), stranger_verify_rate=15.0, stranger_verify_burst=10.0)
    net = Network(seed, tuning=few)
    hosts = [net.add("n1"), *(net.add(f"x{number}") for number in range(20))]
    net.start("n1")
    for host in hosts[1:]:
        net.start(host.name, "n1")
    net.run_until(lambda: net.together(*hosts), 10)
    counters = hosts[0].up.counters
    assert counters["refused: too many signatures to check"] > 10
    assert not [what for what in counters if "not signed" in what]


class Counting(Wire):
    """Counts the signatures it checks."""

    checked = 0

    def verify(self, claimed: Signed, mesh: Mesh) -> bool:
        self.checked += 1
        return super().verify(claimed, mesh)


class Crowd:
    """Strangers with good grants, whose HELLOs a test writes by hand to one node."""

    def __init__(self) -> None:
        self.net = Network(9)
        self.net.add("a")
        self.a = self.net.start("a")
        self.now = self.a.clock()
        self.rng = Random(9)
        self.wire = self.a.up._common.wire = Counting()

    def hello(self, number: int) -> Hello:
        identity = Identity.generate(self.rng.randbytes)
        pool = [Prefix.parse("10.0.0.0/8")]
        mesh = self.net.mesh
        grant = Grant.sign(
            self.net.authority, mesh, node=identity.public, name="x", serial=number, allow=pool
        )
        boot = BootKey.generate(self.rng.randbytes).public
        where = [Endpoint(f"198.51.{number >> 8}.{number & 255}", 6179)]
        own = Announcement.sign(
            identity, mesh, sequence=1, boot_key=boot, endpoints=where, prefixes=()
        )
        return Hello(mesh.id, True, grant, own)

    def says(self, hello: Hello, *, after: float = 0.002) -> None:
        self.now += after
        self.a.up.receive(hello.encode(), hello.announcement.endpoints[0], self.now)


def test_a_hello_that_is_repeated_costs_no_signature() -> None:
    crowd = Crowd()
    hello = crowd.hello(7)
    crowd.says(hello)
    assert crowd.wire.checked == 2
    for _ in range(10):
        crowd.says(hello)
    assert crowd.wire.checked == 2
    assert crowd.a.up.counters["sent HELLO"] == 11


def test_candidates_that_never_speak_make_room_the_oldest_first() -> None:
    crowd = Crowd()
    hellos = [crowd.hello(number) for number in range(MAX_CANDIDATES + 20)]
    for hello in hellos:
        crowd.says(hello)
    contacts = crowd.a.up._contacts
    assert len(contacts._candidates) == MAX_CANDIDATES
    assert len(contacts._keys._peers._own) == MAX_CANDIDATES
    assert hellos[19].announcement.node not in contacts._candidates
    assert hellos[20].announcement.node in contacts._candidates
    crowd.says(hellos[-1], after=Tuning.lan().candidate_lifetime)
    assert len(contacts._candidates) == MAX_CANDIDATES, "nobody new came: nobody goes"
    crowd.says(crowd.hello(5000))
    assert len(contacts._candidates) == 1, "all others had expired"


def test_a_node_that_answers_no_hello_is_greeted_ten_times_and_given_up() -> None:
    net = Network(10)
    a, b = net.mesh_of(2)
    net.run(2)
    net.kill("n2")
    net.start("n2", disk=False)  # it draws STALE, and its HELLO never comes
    net.drop(lambda source, target, data: source is b and frames.frame_type(data) == frames.HELLO)
    net.run_until(lambda: a.up.counters.get("heard STALE", 0) > 0, 2)
    net.kill("n2")
    contacts = a.up._contacts
    assert list(contacts._held) == [b.key]
    net.recording = True
    net.run(net.tuning.greeting_lifetime + 1.5 * 25.6)  # the wait that it ends in
    assert 6 <= len(asked(net, a)) <= 12
    assert contacts._held == {}
    before = len(asked(net, a))
    net.run(60)
    assert len(asked(net, a)) == before


@pytest.mark.parametrize("seed", range(5))
def test_what_drew_stale_arrives_although_hellos_crossed_and_the_answer_was_lost(
    seed: int,
) -> None:
    net = Network(seed)
    a, b = net.mesh_of(2)
    net.run(2)
    net.kill("n2")
    lost: list[int] = []

    def first_of_each(source: Host, target: Host, data: bytes) -> bool:
        if source is a or frames.frame_type(data) != frames.HELLO or data[18] in lost:
            return False
        lost.append(data[18])
        return True

    net.drop(first_of_each)
    net.start("n2", "n1")
    added = Prefix.parse("10.99.0.0/24")
    a.do(lambda node, now: node.announce(now, prefixes=[added]))
    net.run_until(lambda: net.agreed(a, b), 3)
    assert b.up.store.announcements[a.key] == a.up.announcement
    assert sorted(lost) == [0, frames.ASKS]
