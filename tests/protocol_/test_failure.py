"""The failure detector in virtual time: who is believed dead, when, and by whose word."""

from __future__ import annotations

import pytest

from protocol.address import Endpoint, endpoint
from protocol.events import Accused, PeerChanged, ReachabilityChanged
from protocol.members import State
from protocol.messages import Ack, Probe
from protocol.objects import Accusation
from simulation import Host, Network, one_way

SEEDS = range(8)


def failures(host: Host) -> list[PeerChanged]:
    return [e for e in host.told(PeerChanged) if isinstance(e, PeerChanged) and e.state == "failed"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("number", [3, 16])
def test_a_cut_link_is_seen_by_all_others_within_four_seconds(seed: int, number: int) -> None:
    net = Network(seed)
    hosts = net.mesh_of(number)
    net.cut("n2")
    others = [host for host in hosts if host.name != "n2"]
    took = net.run_until(lambda: all(net.state(h.name, "n2") == "failed" for h in others))
    assert took < 4, net
    assert not any(h.up.members[hosts[1].key].refused for h in others), net
    net.run(10)
    assert {e.name for h in others for e in failures(h)} == {"n2"}, net


def test_endpoints_that_have_answered_a_probe_are_told_once_and_those_that_only_ask_never() -> None:
    net = Network(1)
    a, b, c = net.mesh_of(3)
    net.run(10)
    assert sorted(a.up.reached()) == sorted([b.where, c.where])
    assert a.up.reached() == []
    net.drop(one_way("n1", "n2"))  # b's probes come, its answers do not
    net.run(1)
    a.up.reached()
    net.run(20)
    assert net.state("n1", "n2") == "alive", net
    assert a.up.reached() == [c.where]


def test_who_asks_not_long_after_it_has_answered_is_reached_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = Network(1)
    first, *_ = net.mesh_of(24)
    net.run(20)
    told = {}
    for fresh in (60.0, 2.0):
        monkeypatch.setattr("protocol.probing._FRESH", fresh)
        first.up.reached()
        told[fresh] = 0
        for _ in range(6):  # a round: 24 probes of its own, and 24 of others
            net.run(2)
            told[fresh] += len(first.up.reached())
    assert told[60.0] > 36, told
    assert told[2.0] < 32, told


@pytest.mark.parametrize("seed", SEEDS)
def test_a_host_that_sends_few_errors_is_taken_at_its_word_by_all(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Network(seed, cipher=False)
    hosts = net.mesh_of(16)
    # As Linux does: six to each destination at once, then one a second (icmp_ratelimit and
    # XRLIM_BURST_FACTOR); three are taken by others on the same host.
    refuse, saved = net.refuse, {host.where: (3.0, net.now) for host in hosts}

    def limited(host: Host, source: Endpoint) -> None:
        tokens, when = saved[source]
        tokens = min(3.0, tokens + net.now - when)
        if tokens >= 1:
            refuse(host, source)
            tokens -= 1
        saved[source] = (tokens, net.now)

    monkeypatch.setattr(net, "refuse", limited)
    net.kill("n2", refuses=True)
    others = [host for host in hosts if host.name != "n2"]
    net.run_until(lambda: all(net.state(h.name, "n2") == "failed" for h in others), 5)
    key = hosts[1].key
    assert [h.name for h in others if not h.up.members[key].refused] == [], net


@pytest.mark.parametrize("seed", SEEDS)
def test_a_daemon_that_is_gone_from_a_host_that_answers_is_told_as_refused(seed: int) -> None:
    net = Network(seed)
    a, b, c = net.mesh_of(3)
    net.kill("n2", refuses=True)
    net.run_until(lambda: {net.state("n1", "n2"), net.state("n3", "n2")} == {"failed"}, 4)
    assert a.up.members[b.key].refused, net
    assert c.up.members[b.key].refused, net


@pytest.mark.parametrize("seed", SEEDS)
def test_the_cut_off_side_fails_its_peers_without_accusing_them(seed: int) -> None:
    net = Network(seed)
    a, b, c = net.mesh_of(3)
    net.cut("n3")
    net.run(10)
    assert [net.state("n3", "n1"), net.state("n3", "n2")] == ["failed", "failed"], net
    assert not [each for each in c.up.evidence if each.accuser == c.key], net


@pytest.mark.parametrize("seed", SEEDS)
def test_a_healed_partition_is_whole_again_within_four_seconds(seed: int) -> None:
    net = Network(seed, cipher=False)
    hosts = net.mesh_of(8)
    split = net.cut("n1", "n2", "n3", "n4")
    net.run(120)
    assert net.state("n1", "n8") == "failed", net
    net.heal(split)
    took = net.run_until(lambda: net.together(*hosts), 20)
    assert took < 4, net


@pytest.mark.parametrize("seed", range(3))
def test_nobody_fails_at_a_tenth_of_loss_in_ten_minutes(seed: int) -> None:
    net = Network(seed, loss=0.1, cipher=False)
    hosts = net.mesh_of(8)
    net.run(600)
    assert [e for host in hosts for e in failures(host)] == [], net


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_stalls_for_twenty_seconds_withdraws_no_healthy_node(seed: int) -> None:
    net = Network(seed)
    hosts = net.mesh_of(8)
    hosts[2].stall(20)
    net.run(20)
    net.run_until(lambda: net.agreed(*hosts), 10)
    gone = {e.name for host in hosts for e in failures(host)}
    assert gone <= {"n3"}, net


@pytest.mark.parametrize("seed", SEEDS)
def test_a_member_that_only_others_reach_is_alive_and_unreachable_from_here(seed: int) -> None:
    net = Network(seed)
    a, b, c = net.mesh_of(3)
    net.drop(one_way("n1", "n2"))
    net.run(60)
    assert failures(a) == [], net
    assert failures(c) == [], net
    assert net.state("n1", "n2") == "alive", net
    assert not a.up.members[b.key].reachable, net
    assert c.up.members[b.key].reachable, net
    told = [e for e in a.told(ReachabilityChanged) if isinstance(e, ReachabilityChanged)]
    assert [(e.name, e.reachable) for e in told] == [("n2", False)], net
    net.heal()
    net.run_until(lambda: a.up.members[b.key].reachable, 5)
    assert len(a.told(ReachabilityChanged)) == 2, net


@pytest.mark.parametrize("seed", SEEDS)
def test_an_accused_node_refutes_and_stays(seed: int) -> None:
    net = Network(seed)
    a, b, c = net.mesh_of(3)
    own = b.up.announcement
    assert own is not None
    false = Accusation.sign(
        a.identity, net.mesh, target=b.key, sequence=own.sequence, refused=False
    )
    a.up._own_accusation(false, a.clock())
    a.drain()
    net.run_until(lambda: bool(b.told(Accused)), 2)
    net.run_until(lambda: net.agreed(a, b, c), 5)
    assert failures(a) == failures(c) == [], net
    assert list(a.up.evidence) == [], net
    assert c.up.store.announcements[b.key].sequence > own.sequence, net


def test_an_accusation_at_another_sequence_changes_nothing() -> None:
    net = Network(1)
    a, b, c = net.mesh_of(3)
    own = b.up.announcement
    assert own is not None
    for sequence in (own.sequence - 1, own.sequence + 1000):
        false = Accusation.sign(
            a.identity, net.mesh, target=b.key, sequence=sequence, refused=False
        )
        assert not c.up._learn_accusation(false, {}, a.key, c.clock())
    assert c.up.store.announcements[b.key].sequence == own.sequence
    assert list(c.up.evidence) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_one_member_that_accuses_all_removes_nobody(seed: int) -> None:
    net = Network(seed)
    hosts = net.mesh_of(8)
    liar = hosts[0]
    for host in hosts[1:]:
        own = host.up.announcement
        assert own is not None
        liar.up._own_accusation(
            Accusation.sign(
                liar.identity, net.mesh, target=host.key, sequence=own.sequence, refused=False
            ),
            liar.clock(),
        )
    liar.drain()
    net.run(10)
    assert [e for host in hosts[1:] for e in failures(host)] == [], net


def test_evidence_that_was_missed_is_repaired_from_the_digest() -> None:
    net = Network(2)
    a, b, c = net.mesh_of(3)
    net.cut("n3")
    net.run_until(lambda: net.state("n1", "n3") == "failed", 5)
    d = net.add("d")
    net.start("d", "n1")
    net.run_until(lambda: net.state("d", "n3") == "failed", 10)
    assert {each.target for each in d.up.evidence} == {c.key}
    assert net.state("d", "n2") == "alive"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_failed_node_that_answers_again_is_alive_in_every_table(seed: int) -> None:
    net = Network(seed)
    a, b, c = net.mesh_of(3)
    cut = net.cut("n3")
    net.run(60)
    net.heal(cut)
    took = net.run_until(lambda: net.together(a, b, c), 20)
    assert took < 3, net


def test_whom_only_one_that_stood_still_suspects_has_time_to_answer_it() -> None:
    net = Network(3)
    a, b, c = net.mesh_of(3)
    cut = net.cut("n1")
    net.run_until(lambda: net.state("n1", "n2") == "suspect", 5)
    net.heal(cut)
    a.stall(5)
    net.run(5)
    net.run_until(lambda: net.state("n1", "n2") == "alive", 2)
    assert failures(a) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_who_is_cut_off_finds_all_others_silent_however_often_it_stands_still(seed: int) -> None:
    net = Network(seed, cipher=False)
    a, *others = net.mesh_of(6)
    net.cut("n1")
    for _ in range(20):
        a.stall(0.3)
        net.run(1.0)
    assert [net.state("n1", host.name) for host in others] == ["failed"] * 5, net


@pytest.mark.parametrize("seed", SEEDS)
def test_who_stood_still_reads_what_came_before_it_believes_a_member_dead(seed: int) -> None:
    net = Network(seed, cipher=False)
    a, b, _ = net.mesh_of(3)
    cut = net.cut("n2")
    net.run_until(lambda: net.state("n1", "n2") == "suspect", 5)
    net.run(net.tuning.suspicion_min - 0.05)
    a.stall(0.2)
    net.heal(cut)
    net.run(0.01)
    b.do(lambda node, now: node.announce(now, preference=7))  # it waits in the buffer
    net.run(0.5)
    assert failures(a) == [], net
    assert net.state("n1", "n2") == "alive", net


def test_a_suspicion_lasts_longer_where_answers_take_long() -> None:
    net = Network(5, cipher=False)
    a, b, _ = net.mesh_of(3)
    detector, least = a.up._detector, net.tuning.suspicion_min
    assert detector._patience(3) == least
    for trip, lasts in ((0.12, 5 * 0.12), (2.0, 2.5 * least), (0.002, least)):
        for _ in range(100):
            detector.prober._trips.add(trip)
        assert detector._patience(3) == pytest.approx(lasts, rel=0.01)


def test_an_ack_that_lay_in_a_queue_is_no_round_trip() -> None:
    net = Network(6, cipher=False)
    a, b, _ = net.mesh_of(3)
    net.run(5)
    prober, member = a.up._detector.prober, a.up.members[b.key]
    before = prober.timeout(member)
    waited = [prober._send_probe(member, a.clock() - 3.0 + after / 10) for after in range(12)]
    for nonce in waited:
        prober.acked(b.key, Ack(nonce, bytes(16), bytes(8)), a.clock())
    assert member.acked == a.clock()
    assert prober.timeout(member) < 1.4 * before
    for _ in range(5):  # nor is it that of others, where this one's was long before
        member.rtt = 0.06
        nonce = prober._send_probe(member, 0.0)
        prober.acked(b.key, Ack(nonce, bytes(16), bytes(8)), a.clock())
    assert a.up._detector._patience(3) == net.tuning.suspicion_min


def test_who_speaks_again_is_probed_by_the_way_that_it_came() -> None:
    net = Network(7, cipher=False)
    a, b, _ = net.mesh_of(3)
    second = endpoint("2001:db8::2", 6179)
    net.masquerade(b, second)
    b.do(lambda node, now: node.announce(now, endpoints=[b.where, second]))
    net.run(5)
    a.up.members[b.key].state = State.FAILED
    a.up.members.place(a.up.members[b.key])
    a.up.members[b.key].knocked = -1.0
    a.up._contacts.families = frozenset((4, 6))
    probe = Probe(7, bytes(16), bytes(8))
    for way in (second, b.where):
        a.up.members[b.key].knocked = -1.0
        a.up.datagrams_to_send()
        a.up._opened(b.key, probe, way, a.clock())
        assert [each.to for each in a.up.datagrams_to_send()] == [way, way]


def test_an_indirect_probe_of_a_stranger_is_refused() -> None:
    from protocol.messages import Indirect  # noqa: PLC0415

    net = Network(4)
    a, b, _ = net.mesh_of(3)
    before = a.up.counters.get("relay refused", 0)
    b.up._contacts.send(a.key, Indirect(7, bytes(12)), b.clock())
    b.drain()
    net.run(0.1)
    assert a.up.counters["relay refused"] == before + 1
