"""The simulated machines: what a server costs, what its buffer drops, what links do to whom."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshd.sequence import AHEAD
from protocol.address import Endpoint
from protocol.events import PrefixesChanged
from protocol.messages import Ack, Probe
from protocol.objects import Announcement, Grant
from simulation import Costs, Delay, Disk, Host, Network, between, dead_links, one_way
from simulation.host import truesize
from simulation.links import Links
from simulation.traffic import HEADERS, HELLO, Traffic
from simulation.warm import warm_mesh

ROOT = Path(__file__).parents[2]
JUNK = bytes(1200)


def pair(costs: Costs | None = None, **given: object) -> tuple[Network, Host, Host]:
    """Two nodes that know one another, 1 ms apart to the microsecond."""
    net = Network(1, delay=Delay.constant(0.001), costs=costs, **given)  # type: ignore[arg-type]
    one, other = warm_mesh(net, 2)
    return net, one, other


def probed(net: Network, one: Host, other: Host) -> float:
    """``one`` probes ``other`` now; seconds until the ack is taken from the buffer."""
    member = one.up.members[other.key]
    began, before = net.now, member.acked
    one.do(lambda node, now: node._detector.prober.probe(member, now))
    net.run_until(lambda: member.acked > before)
    return net.now - began


def test_a_free_server_answers_in_two_trips() -> None:
    assert probed(*pair(Costs.free())) == pytest.approx(0.002)


def test_a_server_pays_for_each_datagram_in_and_out() -> None:
    took = probed(*pair(Costs(receive=50e-6, send=20e-6)))
    assert took == pytest.approx(0.002 + 20e-6 + 50e-6 + 20e-6)


def test_what_comes_while_a_server_is_busy_waits_its_turn() -> None:
    net, one, other = pair()
    for _ in range(10):
        net.deliver(other, JUNK, one.where)
    took = probed(net, one, other)
    assert took == pytest.approx(0.002 + 10 * 50e-6 + 50e-6 + 20e-6, abs=21e-6)


def test_a_signature_is_paid_for_whether_it_was_checked_elsewhere_or_not() -> None:
    for cipher in (True, False):
        net, one, other = pair(cipher=cipher)
        before = one.busy, other.busy, other.sent.count()
        one.do(lambda node, now: node.announce(now, prefixes=[]))
        # It signs more than once: also to see whether it fits. The other checks once.
        signed = (one.busy - before[0] - 20e-6) / 60e-6
        assert signed == pytest.approx(max(1, round(signed)), abs=1e-3)
        net.run(0.002)
        sent = other.sent.count() - before[2]
        assert other.busy - before[1] == pytest.approx(50e-6 + 170e-6 + sent * 20e-6)


def test_a_full_buffer_drops_what_comes_and_keeps_what_it_has() -> None:
    net, one, other = pair()
    net.kill(one.name)
    other.stall(1.0)
    for _ in range(200):
        net.deliver(other, JUNK, one.where)
    net.run(0.5)
    fit = 212_992 // truesize(1200) + 1
    assert other.dropped == 200 - fit
    before = other.up.counters.get("refused: another protocol version", 0)
    net.run(1.0)
    assert other.up.counters["refused: another protocol version"] - before == fit


def test_small_datagrams_fill_a_buffer_more_slowly_than_large_ones() -> None:
    assert truesize(71) == 768
    assert truesize(71) < truesize(500) < truesize(1200)


def test_after_a_stall_the_first_tick_is_late_and_comes_before_the_buffer() -> None:
    net, _, other = pair()
    other.stall(20.0)
    net.run(19.9)
    assert "late ticks" not in other.up.counters
    net.run(0.2)
    assert other.up.counters["late ticks"] == 1


def test_nothing_passes_a_cut_until_it_is_healed() -> None:
    net, one, other = pair()
    cut = net.cut(one.name)
    acked = one.up.members[other.key].acked
    net.run(1.0)
    assert one.up.members[other.key].acked == acked
    net.heal(cut)
    net.run(1.0)
    assert one.up.members[other.key].acked > acked


def test_filters_know_directions() -> None:
    net, one, other = pair()
    forth = one_way(one.name, other.name)
    dead = dead_links({(one.name, other.name): None})
    for fault in (forth, dead):
        assert fault(one, other, b"")
        assert not fault(other, one, b"")
    assert between(one.name, other.name)(other, one, b"")
    assert net.links.drops == []


def test_links_lose_double_and_hold_back_the_share_they_are_told() -> None:
    net, one, other = pair()
    links = Links(Delay.constant(0.001), loss=0.2, duplicate=0.1, reorder=0.3)
    found = [links.trips(one, other, b"", net._links) for _ in range(20_000)]
    assert sum(not trips for trips in found) == pytest.approx(4000, rel=0.05)
    arrived = [trips for trips in found if trips]
    assert sum(len(trips) == 2 for trips in arrived) == pytest.approx(1600, rel=0.1)
    assert sum(trips[0] > 0.001 for trips in arrived) == pytest.approx(4800, rel=0.05)


def test_delays_have_the_median_they_say() -> None:
    jitter = sorted(Delay.lan().jitter())
    assert jitter[len(jitter) // 2] == pytest.approx(0.001, rel=0.01)
    assert 0.0003 < jitter[0] < jitter[-1] < 0.004


def test_a_wide_network_keeps_two_hosts_equally_far_apart() -> None:
    net = Network(1, delay=Delay.wan(), costs=Costs.free())
    hosts = warm_mesh(net, 9)
    times = sorted(probed(net, hosts[0], hosts[1]) for _ in range(5))
    assert times[-1] - times[0] < 0.05
    assert len({round(host.distance, 3) for host in hosts}) > 5
    assert 0.01 < hosts[0].distance + hosts[1].distance < 0.3


def test_only_a_host_that_refuses_answers_for_a_node_that_is_gone() -> None:
    for refuses in (False, True):
        net, one, other = pair()
        net.kill(other.name, refuses=refuses)
        net.run_until(lambda one=one, other=other: one.up.members[other.key].silent, 5)  # type: ignore[misc]
        assert one.up.members[other.key].silent_refused == refuses


def test_sequences_follow_the_wall_clock_and_never_go_back() -> None:
    net, one, _ = pair()

    preferences = iter(range(9))

    def announced() -> int:
        one.do(lambda node, now: node.announce(now, preference=next(preferences)))
        assert one.up.announcement is not None
        return one.up.announcement.sequence

    net.run(10)
    one.set_wall(one.wall() + AHEAD / 1000)  # its start went above what was reserved before it
    assert announced() == int(one.wall() * 1000)
    one.set_wall(4_070_908_800.0)
    assert announced() == 4_070_908_800_000
    one.set_wall(0.0)
    assert announced() == 4_070_908_800_001
    net.kill(one.name)
    net.start(one.name)
    assert one.up.announcement is not None
    assert one.up.announcement.sequence > 4_070_908_800_001


def test_a_disk_that_is_put_back_holds_what_it_held() -> None:
    net, one, other = pair()
    copy = one.disk.copy()
    net.kill(one.name)
    assert len(one.disk.records) == 4
    net.start(one.name, other.name, disk=copy)
    assert list(copy.records) == [each for each in one.up.store if isinstance(each, Grant)]
    net.kill(one.name)
    net.start(one.name, disk=False)
    own = [each for each in one.up.store if isinstance(each, Announcement)]
    assert [each.node for each in own] == [one.key]
    assert isinstance(copy, Disk)


def test_traffic_is_counted_by_kind_on_both_ends_with_its_headers() -> None:
    for cipher in (True, False):
        net = Network(1, cipher=cipher)
        net.mesh_of(2)
        one, other = net.hosts.values()
        sent, received = Traffic.of([one.sent]), Traffic.of([other.received])
        net.run(10)
        sent, received = one.sent - sent, other.received - received
        assert sent.datagrams[Probe.TYPE] == 20
        assert sent.datagrams[Ack.TYPE] == 20
        assert sent.datagrams == received.datagrams
        assert one.sent.datagrams[HELLO] >= 1
        assert sent.payload("probes") == 40 * 71
        assert sent.wire() == 40 * (71 + HEADERS)
        assert sent.bodies("probes") == 40 * 29


def test_both_wires_send_the_same_lengths_and_decide_the_same() -> None:
    def sizes(*, cipher: bool) -> list[tuple[float, str, str, int]]:
        net = Network(3, loss=0.1, cipher=cipher)
        net.recording = True
        net.mesh_of(5)
        net.run(10)
        return [(when, source, target, len(data)) for when, source, target, data in net.tap]

    assert sizes(cipher=True) == sizes(cipher=False)


def test_a_masquerade_rewrites_the_source_and_lets_answers_through() -> None:
    net, one, other = pair()
    seen = Endpoint(other.where.host, 40000)
    net.masquerade(other, seen)
    assert probed(net, one, other) < 0.01
    probed(net, other, one)
    assert other.up.members[one.key].observed == seen


def test_a_warm_mesh_is_whole_and_stays_so() -> None:
    net = Network(5, cipher=False)
    hosts = warm_mesh(net, 20)
    assert len(net.roots) == 1
    before = Traffic.of(host.sent for host in hosts)
    net.run_until(lambda: net.agreed(*hosts), 20)
    sent = Traffic.of(host.sent for host in hosts) - before
    assert sent.count() == sent.count("probes") + sent.count("agreement")
    own = hosts[3].up.announcement
    assert own is not None
    hosts[3].do(lambda node, now: node.announce(now, preference=7))
    after = hosts[3].up.announcement
    assert after is not None
    assert after.prefixes == own.prefixes
    assert after.sequence > own.sequence


HISTORY = """
from random import Random
from simulation import Churn, Network
net = Network(7, loss=0.1, cipher=False)
net.digest_history()
net.links.duplicate = net.links.reorder = 0.05
hosts = net.mesh_of(5)
churn = Churn(net, hosts, Random(7))
for _ in range(25):
    churn.step()
print(net.history)
"""


def test_the_same_seed_makes_the_same_history_whatever_the_hash_seed() -> None:
    def history(hash_seed: str) -> str:
        environment = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}",
        }
        command = [sys.executable, "-c", HISTORY]
        run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return run.stdout

    first = history("1")
    assert len(first.strip()) == 64
    assert history("2") == first


def test_another_seed_makes_another_history() -> None:
    def history(seed: int) -> str:
        net = Network(seed, cipher=False)
        net.digest_history()
        net.mesh_of(3)
        return net.history

    assert history(1) == history(1)
    assert history(1) != history(2)


def test_a_change_is_told_by_one_who_had_noted_nothing_of_that_member_yet() -> None:
    net = Network(1, cipher=False)
    one, _, other = warm_mesh(net, 3)
    net.drop(between(one.name, other.name))
    one.do(lambda node, now: node.announce(now, prefixes=[]))
    net.run(0.05)
    assert [event.node for event in other.told(PrefixesChanged)] == [one.key]
