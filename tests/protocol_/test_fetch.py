"""Fetching shards: a set takes effect whole or not at all, whatever is lost or withheld."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from random import Random

import pytest
from prefixsets import four, ordered, six, some

from protocol import originate
from protocol.address import Prefix, pack_prefixes
from protocol.answering import Question
from protocol.events import Converged, PrefixesChanged, Refused, ShardsMissing
from protocol.fetch import MAX_ASKED
from protocol.messages import PullShards, Shards
from protocol.node import Node
from protocol.objects import HASH_SIZE
from protocol.shards import MAX_PREFIXES, Shard, cut, shard_hash
from simulation import Host, Network
from simulation.traffic import Traffic

Give = Callable[[bytes, PullShards, float], None]


def answers_pulls(host: Host, give: Give) -> Give:
    """From now on ``host`` answers requests for shards as ``give`` does; how it did before."""
    answerer = host.up._answerer
    before = answerer.answer

    def answer(peer: bytes, question: Question, now: float) -> None:
        if isinstance(question, PullShards):
            give(peer, question, now)
        else:
            before(peer, question, now)

    answerer.answer = answer  # type: ignore[method-assign]
    return before


def everywhere(hosts: list[Host], of: Host, wanted: Iterable[Prefix]) -> bool:
    whole = ordered(wanted)
    return all(host.up.prefixes_of(of.key) == whole for host in hosts)


def announce(net: Network, host: Host, wanted: Iterable[Prefix]) -> None:
    host.prefixes = tuple(wanted)
    host.up.announce(host.clock(), prefixes=host.prefixes)
    host.drain()


@pytest.mark.parametrize("make", [four, six])
def test_a_thousand_prefixes_reach_all_and_are_told_once(make: Callable[[int], Prefix]) -> None:
    net = Network(3)
    hosts = net.mesh_of(8)
    wanted = [make(number) for number in range(1000, 2000)]
    for host in hosts:
        host.events.clear()
    announce(net, hosts[0], wanted)
    assert net.run_until(lambda: everywhere(hosts, hosts[0], wanted)) < 0.1, net
    net.run_until(lambda: net.agreed(*hosts))
    for host in hosts:
        (told,) = host.told(PrefixesChanged)
        assert isinstance(told, PrefixesChanged)
        assert told.added == ordered(wanted)
        assert host.told(Converged)


def test_one_changed_prefix_costs_few_octets() -> None:
    net = Network(5)
    hosts = net.mesh_of(5)
    announce(net, hosts[0], map(four, range(1000)))
    net.run_until(lambda: everywhere(hosts, hosts[0], hosts[0].prefixes))
    net.run(2.0)
    before = Traffic.of(host.sent for host in hosts).payload()
    announce(net, hosts[0], [*hosts[0].prefixes[1:], four(2000)])
    net.run_until(lambda: everywhere(hosts, hosts[0], hosts[0].prefixes))
    sent = Traffic.of(host.sent for host in hosts).payload() - before
    # To each of four: an announcement of 600 octets, a request, one or two shards of 250,
    # and its offers to the others; all of the set would be 4,000.
    assert sent < 4 * 1600, net


def test_the_whole_set_goes_when_its_node_leaves_or_announces_few_again() -> None:
    net = Network(6)
    a, b, c = net.mesh_of(3)
    for host in (a, b):
        announce(net, host, map(four, range(500)))
    net.run_until(lambda: everywhere([a, b, c], a, a.prefixes) and everywhere([c], b, b.prefixes))
    assert len(c.up.shards) == len(cut(a.prefixes)), "the same shards of two nodes, once"
    announce(net, a, [four(1)])
    net.run_until(lambda: everywhere([a, b, c], a, [four(1)]))
    assert len(c.up.shards) > 0
    b.up.leave(b.clock())
    b.drain()
    net.run_until(lambda: everywhere([a, c], b, []))
    assert [len(host.up.shards) for host in (a, b, c)] == [0, 0, 0]


@pytest.mark.parametrize("seed", range(2))
def test_with_loss_a_set_is_one_that_was_announced_at_every_step(seed: int) -> None:
    net = Network(100 + seed, loss=0.2)
    hosts = net.mesh_of(6, timeout=120)
    origin, rng = hosts[0], Random(seed)
    ever = {origin.up.prefixes_of(origin.key)}
    for _ in range(6):
        wanted = some("mixed", rng.choice((3, 200, 400)), rng)
        ever.add(ordered(wanted))
        announce(net, origin, wanted)
        end = net.now + rng.choice((0.01, 0.05, 3.0))
        while net.step(end):
            for host in hosts:
                assert host.up.prefixes_of(origin.key) in ever, net
    net.run_until(lambda: everywhere(hosts, origin, origin.prefixes), timeout=60)
    assert not any(host.told(ShardsMissing) for host in hosts)


def test_answers_that_hold_other_shards_are_dropped_and_others_are_asked() -> None:
    net = Network(7)
    a, b, c = net.mesh_of(3)
    false = [piece.raw for piece in cut(map(four, range(5000, 5100)))]
    asked = []

    def lie(peer: bytes, pull: PullShards, now: float) -> None:
        asked.append(peer)
        a.up._contacts.send(peer, Shards(pull.request, tuple(false[:3])), now)

    answers_pulls(a, lie)
    before = b.prefixes
    announce(net, b, map(four, range(400)))
    net.run_until(lambda: everywhere([a, b, c], b, b.prefixes))
    answers_pulls(c, lambda peer, pull, now: None)
    announce(net, a, map(four, range(1000, 1500)))
    while net.step(net.now + 5):
        assert b.up.prefixes_of(a.key) == ordered([four(1)]) != before
        if len(asked) > 6:
            break
    assert len(asked) > 6
    for host in (b, c):
        assert not {*false} & {*host.up.shards}
        assert host.up.counters["shards not wanted"] > 0


def test_an_answer_nobody_asked_for_is_dropped() -> None:
    net = Network(8)
    a, b, c = net.mesh_of(3)
    first = cut(map(four, range(300)))[0].raw
    for host in (b, c):
        answers_pulls(host, lambda peer, pull, now: None)
    announce(net, b, map(four, range(300)))
    net.run_until(lambda: a.up._fetcher._out > 0)
    number = next(iter(a.up._requests._out))
    for sender, request in ((b, number ^ 1), (c, number)):  # another request, another's answer
        sender.up._contacts.send(a.key, Shards(request, (first,)), sender.clock())
        sender.drain()
    net.run(0.01)
    assert len(a.up.shards) == 0
    b.up._contacts.send(a.key, Shards(number, (first,)), b.clock())
    b.drain()
    net.run(0.01)
    assert list(a.up.shards) == [first]
    assert a.up.prefixes_of(b.key) == ordered([four(2)])


def test_who_has_them_a_moment_later_is_asked_again_soon() -> None:
    net = Network(18)
    a, b = net.mesh_of(2)

    def not_yet(peer: bytes, pull: PullShards, now: float) -> None:
        b.up._contacts.send(peer, Shards(pull.request, ()), now)
        answers_pulls(b, give)

    give = answers_pulls(b, not_yet)
    announce(net, b, map(four, range(1000)))
    assert net.run_until(lambda: everywhere([a], b, b.prefixes)) < 0.06, net


def test_an_answer_that_is_lost_holds_up_only_what_it_would_have_brought() -> None:
    net = Network(19)
    a, b = net.mesh_of(2)
    lost: list[PullShards] = []

    def lose_one(peer: bytes, pull: PullShards, now: float) -> None:
        if lost:
            give(peer, pull, now)
        else:
            lost.append(pull)

    give = answers_pulls(b, lose_one)
    announce(net, b, map(four, range(1000)))
    net.run(net.tuning.fetch_retry - 0.02)
    held = {shard_hash(raw) for raw in a.up.shards}
    assert {*b.up.store.announcements[b.key].shards} - held == {*lost[0].hashes}
    assert net.run_until(lambda: everywhere([a], b, b.prefixes)) < 0.07, net


def test_two_requests_are_out_for_one_announcement_and_one_while_they_are_in_vain() -> None:
    net = Network(20)
    a, b = net.mesh_of(2)
    asked: list[float] = []
    answers_pulls(b, lambda peer, pull, now: asked.append(now))
    announce(net, b, map(four, range(1000)))
    net.run(10.0)
    assert len(asked) > 4
    first, second, *again = asked
    assert second - first < 0.001
    assert all(later - before > net.tuning.fetch_retry for before, later in pairwise(again))


def broken(net: Network, host: Host, pieces: tuple[Shard, ...]) -> None:
    """Announce these shards, whatever they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(originate, "cut", lambda prefixes: pieces)
        host.do(lambda node, now: node.announce(now, prefixes=map(four, range(900))))


def too_many() -> tuple[Shard, ...]:
    nets = [four(number) for number in range(MAX_PREFIXES + 1)]
    return tuple(
        Shard.decode(b"\x04" + pack_prefixes(nets[at : at + 200], 4))
        for at in range(0, len(nets), 200)
    )


def out_of_order() -> tuple[Shard, ...]:
    first, *others = cut(map(four, range(500)))
    return (*others, first)


def no_shard() -> tuple[Shard, ...]:
    raw = b"\x04\x18\x0a\x01"
    return (*cut(map(four, range(500))), Shard(raw, shard_hash(raw), ()))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (too_many, "more than 1000 prefixes of one node"),
        (out_of_order, "shards not strictly ascending"),
        (no_shard, "prefix cut short"),
    ],
)
def test_what_is_no_set_leaves_the_last_one_in_force(
    make: Callable[[], tuple[Shard, ...]], reason: str
) -> None:
    net = Network(9)
    a, b, c = net.mesh_of(3)
    announce(net, a, map(four, range(300)))
    net.run_until(lambda: everywhere([b, c], a, a.prefixes))
    broken(net, a, make())
    net.run(1.0)
    for host in (b, c):
        assert host.up.prefixes_of(a.key) == ordered(a.prefixes)
        refused = host.told(Refused)
        assert [(each.peer, each.reason) for each in refused if isinstance(each, Refused)] == [
            (a.key, reason)
        ]
    net.run_until(lambda: net.agreed(a, b, c))  # it is no reason to wait for ever
    announce(net, a, map(four, range(10)))
    net.run_until(lambda: everywhere([b, c], a, map(four, range(10))))


def test_what_another_announcement_brings_of_it_meanwhile_is_no_reason_to_stop_asking() -> None:
    net = Network(21)
    a, b, c = net.mesh_of(3)
    pieces = cut(map(four, range(1000)))
    silent = [answers_pulls(host, lambda peer, pull, now: None) for host in (b, c)]
    broken(net, b, pieces)
    net.run(net.tuning.fetch_retry + 2 * net.tuning.fetch_first)  # asks c, for the first half
    answers_pulls(c, silent[1])
    broken(net, c, pieces[:MAX_ASKED])
    net.run(net.tuning.fetch_first)
    assert {*a.up.shards} == {piece.raw for piece in pieces[:MAX_ASKED]}
    answers_pulls(b, silent[0])
    net.run_until(lambda: everywhere([a], b, map(four, range(1000))), timeout=1)


def test_shards_are_had_from_others_when_their_origin_gives_none() -> None:
    net = Network(10)
    hosts = net.mesh_of(5)
    a, b = hosts[:2]
    pulse = 42 + 29  # of a PROBE or ACK: the others hear that it lives, and nothing else
    net.drop(lambda source, to, data: source is a and to is not b and len(data) != pulse)
    asked = set[bytes]()

    def once_deaf(peer: bytes, pull: PullShards, now: float) -> None:
        if peer in asked:
            give(peer, pull, now)
        asked.add(peer)

    give = answers_pulls(b, once_deaf)
    announce(net, a, map(four, range(700)))
    net.run_until(lambda: everywhere([b], a, a.prefixes))
    net.run_until(lambda: everywhere(hosts[1:], a, a.prefixes), timeout=10)


def test_what_nobody_has_is_reported_once_and_asked_for_until_it_comes() -> None:
    net = Network(11)
    hosts = net.mesh_of(4)
    a, others = hosts[0], hosts[1:]
    before = a.up.prefixes_of(a.key)
    answers_pulls(a, lambda peer, pull, now: None)
    announce(net, a, map(four, range(700)))
    net.run(1.0)
    net.kill("n1")
    net.run(20.0)
    assert not any(host.up.converged for host in others)
    net.run(60.0)
    for host in others:
        told = host.told(ShardsMissing)
        assert [(each.node, each.name) for each in told if isinstance(each, ShardsMissing)] == [
            (a.key, "n1")
        ]
        assert host.up.prefixes_of(a.key) == before
        assert host.up.converged
    earlier = Traffic.of(host.sent for host in others).datagrams[PullShards.TYPE]
    net.run(60)
    asked = Traffic.of(host.sent for host in others).datagrams[PullShards.TYPE] - earlier
    assert 0 < asked <= 3 * 2 * 60 / net.tuning.fetch_max, "asking for it is slow"
    net.start("n1", "n2")
    net.run_until(lambda: everywhere(others, a, a.prefixes), timeout=30)


def test_a_restarted_node_has_its_sets_from_its_disk_and_asks_nobody() -> None:
    net = Network(12)
    a, b, c = net.mesh_of(3)
    announce(net, a, map(four, range(800)))
    net.run_until(lambda: everywhere([b, c], a, a.prefixes))
    shards = list(c.up.shards)
    assert all(len(shard_hash(raw)) == HASH_SIZE for raw in shards)
    net.kill("n3")

    def again(shards: Iterable[bytes]) -> Node:
        return Node(
            net.mesh, c.identity, c.disk.records, next_sequence=lambda above: above + 1,
            rng=Random(1), now=0.0, shards=shards,
        )  # fmt: skip

    assert again(shards).prefixes_of(a.key) == ordered(a.prefixes)
    assert again(shards[:-1]).prefixes_of(a.key) == ()
    strange = [b"\x04" + bytes([16, 10, 9]), b"", b"\xff" * 901]
    assert list(again([*strange, *shards]).shards) == shards
    assert again(shards).events() == []


def test_a_restarted_origin_names_the_same_shards() -> None:
    net = Network(13)
    a, b = net.mesh_of(2)
    announce(net, a, map(six, range(800)))
    net.run_until(lambda: everywhere([b], a, a.prefixes))
    named = b.up.store.announcements[a.key].shards
    net.kill("n1")
    net.recording = True
    net.start("n1", "n2", disk=False)
    net.run_until(lambda: net.agreed(a, b))
    assert b.up.store.announcements[a.key].shards == named
    assert everywhere([b], a, a.prefixes)
    assert not any(len(data) > 800 for _, source, _, data in net.tap if source == "n1" and
                   data[1] == 2), "b needed none of them"  # fmt: skip


def test_a_newcomer_fetches_the_sets_of_all_a_few_at_a_time() -> None:
    net = Network(14)
    hosts = net.mesh_of(6)
    for number, host in enumerate(hosts):
        announce(net, host, [four(1000 * number + each) for each in range(500)])
    net.run_until(lambda: all(everywhere(hosts, host, host.prefixes) for host in hosts))
    late = net.add("late")
    net.start("late", "n1")
    most = 0
    while not all(everywhere([late], host, host.prefixes) for host in hosts):
        assert net.step(net.now + 10), net
        most = max(most, late.up._fetcher._out)
    assert 1 < most <= 4
    net.run_until(lambda: net.agreed(*hosts, late))
