"""Floods that cost signatures: whoever makes one has its share, and what others need stays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from random import Random

import attrs
import pytest
from parts import Parts, announcement, node

from protocol import limits
from protocol.address import Endpoint, endpoint
from protocol.admission import MAX_BAD, MAX_BAD_EACH, Admission
from protocol.errors import Rejected
from protocol.frames import Hello
from protocol.identity import Identity, Mesh
from protocol.limits import Buckets, TokenBucket, network, take_from_all
from protocol.messages import Push
from protocol.objects import Announcement, Grant, Signed
from protocol.tuning import Tuning
from protocol.wire import Wire
from simulation import Disk, Host, Network
from simulation.warm import warm_mesh

LAN = Tuning.lan()
KNOWN = 8
"""Nodes in the store: 0 is ours."""


@attrs.frozen
class Claim(Signed):
    """An object of which nothing matters but its bytes and whether its signature is right."""

    DOMAIN = "claim"
    good: bool = True


class Judge(Wire):
    """Believes what a claim says of itself, and counts how often it was asked."""

    checked = 0

    def verify(self, claimed: Signed, mesh: Mesh) -> bool:
        self.checked += 1
        return isinstance(claimed, Claim) and claimed.good


class Gate:
    """The admission of a node of eight, and the claims that reach it."""

    def __init__(self) -> None:
        parts = Parts(KNOWN)
        self.judge = parts.common.wire = Judge()
        self.admission = Admission(parts.common)
        self.store = parts.common.store
        self.now = parts.now
        self._made = 0

    def claim(self, *, good: bool = True) -> Claim:
        self._made += 1
        return Claim(self._made.to_bytes(8, "big"), good)

    def hello(self, who: bytes, source: Endpoint, *, good: bool = True, number: int = 1) -> bool:
        """Whether a HELLO with so many new objects passes."""
        claims = [self.claim(good=good) for _ in range(number)]
        try:
            self.admission.check_hello(claims, who, source, self.now)
        except Rejected:
            return False
        return True

    def member(self, who: bytes, *, good: bool = True) -> bool:
        try:
            return self.admission.check_member(self.claim(good=good), who, self.now)
        except Rejected:
            return False

    def settle(self, number: int) -> None:
        """Node ``number`` announces an endpoint."""
        own = Announcement.sign(
            node(number), Parts(1).common.mesh, sequence=9, boot_key=announcement(number).boot_key,
            endpoints=[home(number)], prefixes=(),
        )  # fmt: skip
        self.store.merge(own)


def home(number: int) -> Endpoint:
    return endpoint(f"192.0.2.{number}", 6179)


def away(number: int) -> Endpoint:
    return endpoint(f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", 4000)


def stranger(number: int) -> bytes:
    return hashlib.sha256(b"stranger %d" % number).digest()


def flood(gate: Gate, hellos: Iterable[tuple[bytes, Endpoint]], rate: float) -> int:
    """Bad HELLOs of two objects each at ``rate`` a second; how many signatures they cost."""
    before = gate.judge.checked
    for who, source in hellos:
        gate.now += 1 / rate
        gate.hello(who, source, good=False, number=2)
    return gate.judge.checked - before


@pytest.mark.parametrize(
    "sources",
    [
        [endpoint("198.51.100.7", 4000 + each) for each in range(500)],
        [endpoint(f"2001:db8:1:2::{each:x}", 4000) for each in range(1, 500)],
    ],
    ids=["an address and its ports", "a /64"],
)
def test_one_source_that_floods_costs_no_more_than_its_bucket_and_all_others_are_heard(
    sources: list[Endpoint],
) -> None:
    gate = Gate()
    for each in range(100):
        numbers = range(100 * each, 100 * each + 100)
        one = ((stranger(n), sources[n % len(sources)]) for n in numbers)
        flood(gate, one, 2000)
        assert gate.hello(stranger(10**6 + each), away(each), number=2), each
    assert gate.judge.checked - 200 <= LAN.source_verify_burst + 5 * LAN.source_verify_rate


def test_two_networks_beside_each_other_are_two_sources() -> None:
    assert network(endpoint("2001:db8:1:2::1", 1)) == network(endpoint("2001:db8:1:2:ffff::", 2))
    assert network(endpoint("2001:db8:1:2::1", 1)) != network(endpoint("2001:db8:1:3::1", 1))
    assert network(endpoint("192.0.2.1", 1)) != network(endpoint("192.0.2.2", 1))


@pytest.mark.parametrize("known", [False, True])
def test_one_key_from_many_sources_costs_no_more_than_its_bucket_and_all_others_are_heard(
    known: bool,
) -> None:
    gate = Gate()
    for number in range(1, KNOWN):
        gate.settle(number)
    victim = node(3).public if known else stranger(3)
    for each in range(40):
        many = ((victim, away(n)) for n in range(250 * each, 250 * each + 250))
        flood(gate, many, 2000)
        assert gate.hello(stranger(10**6 + each), away(10**6 + each), number=2), each
    assert gate.judge.checked - 80 <= LAN.key_verify_burst + 5 * LAN.key_verify_rate
    for number in range(1, KNOWN):
        assert gate.hello(node(number).public, home(number)), "also whose key it was, from home"


def test_many_keys_from_many_sources_leave_half_to_keys_that_are_known() -> None:
    gate = Gate()
    cost = flood(gate, ((stranger(n), away(n)) for n in range(20_000)), 4000)
    assert cost <= LAN.stranger_verify_burst / 2 + 5 * LAN.stranger_verify_rate
    assert not gate.hello(stranger(10**6), away(10**6), number=2), "a newcomer has to wait"
    for number in range(1, KNOWN):
        assert gate.hello(node(number).public, away(10**6 + number), number=2)


def test_many_known_keys_from_many_sources_leave_a_quarter_to_those_at_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()
    keys = [hashlib.sha256(b"member %d" % each).digest() for each in range(1000)]
    grants = {**gate.store.grants, **dict.fromkeys(keys)}
    monkeypatch.setattr(gate.store, "grants", grants)
    gate.settle(3)
    flood(gate, ((keys[n % 1000], away(n)) for n in range(20_000)), 4000)
    assert not gate.hello(node(2).public, away(10**6), number=2), "known, and from anywhere"
    assert gate.hello(node(3).public, home(3), number=2)


def test_a_known_key_from_home_is_heard_while_others_use_up_what_it_may_from_elsewhere() -> None:
    gate = Gate()
    gate.settle(3)
    flood(gate, ((node(3).public, away(n)) for n in range(100)), 2000)
    assert not gate.hello(node(3).public, away(10**6))
    assert gate.hello(node(3).public, home(3))


def test_what_one_bucket_refuses_is_not_lost_in_the_others() -> None:
    full, empty = TokenBucket(1, 10), TokenBucket(1, 0)
    assert not take_from_all([(full, 0), (empty, 0)], 10, 0.0)
    assert take_from_all([(full, 0)], 10, 0.0)
    assert not take_from_all([(full, 0)], 1, 0.0)


def test_any_number_of_sources_leaves_every_table_at_its_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_SOURCES", 50)
    gate = Gate()
    for each in range(2000):
        gate.now += 0.01
        gate.hello(stranger(each), away(each), good=False)
        gate.admission.may_answer(away(each), gate.now)
    admission = gate.admission
    tables = (admission._answers, admission._sources, admission._keys)
    assert [len(table) for table in tables] == [50, 50, 50]
    assert len(admission._bad) <= MAX_BAD


def test_any_octets_from_many_sources_draw_few_stales_and_no_table_grows_for_the_others() -> None:
    gate = Gate()
    said = 0
    for each in range(20_000):  # in a second
        gate.now += 1 / 20_000
        said += gate.admission.may_say_stale(away(each), gate.now)
    assert LAN.stale_burst <= said <= LAN.stale_burst + LAN.stale_rate + 1
    assert len(gate.admission._answers) == said


def test_of_many_who_ask_the_one_longest_silent_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_SOURCES", 3)
    buckets = Buckets(1, 1)
    for who in (b"a", b"b", b"a", b"c", b"d"):
        buckets.of(who).take(0.0)
    assert not buckets.of(b"a").holds(0.0)
    assert buckets.of(b"b").holds(0.0), "it comes back as a newcomer"


def test_what_was_refused_once_is_refused_unseen_from_anybody() -> None:
    gate = Gate()
    bad = gate.claim(good=False)
    for each in range(20):
        with pytest.raises(Rejected, match="not signed"):
            gate.admission.check_hello([bad], stranger(each), away(each), gate.now)
        assert not gate.admission.check_member(bad, node(1).public, gate.now)
    assert gate.judge.checked == 1


@pytest.mark.parametrize("sealed", [False, True])
def test_one_sender_of_bad_objects_does_not_push_out_what_others_sent(sealed: bool) -> None:
    gate = Gate()
    bad = gate.claim(good=False)
    with pytest.raises(Rejected, match="not signed"):
        gate.admission.check_hello([bad], stranger(0), away(0), gate.now)
    for each in range(3 * MAX_BAD):
        gate.now += 10.0
        if sealed:
            assert not gate.member(node(1).public, good=False)
        else:
            assert not gate.hello(stranger(each), away(1), good=False)
    assert gate.judge.checked == 1 + 3 * MAX_BAD
    assert len(gate.admission._bad) == 1 + MAX_BAD_EACH
    with pytest.raises(Rejected, match="not signed"):
        gate.admission.check_hello([bad], stranger(2), away(2), gate.now)
    assert gate.judge.checked == 1 + 3 * MAX_BAD


def test_a_member_whose_signatures_are_wrong_is_soon_not_listened_to_and_no_other_suffers() -> None:
    gate = Gate()
    liar = node(1).public
    for each in range(10_000):
        gate.now += 1 / 5000
        assert not gate.member(liar, good=False)
        if each % 100 == 0:
            assert gate.member(node(2 + each // 100 % 6).public)
    assert gate.judge.checked - 100 <= LAN.fault_burst + 2 * LAN.fault_rate
    assert not gate.member(liar)
    gate.now += 2 / LAN.fault_rate
    assert gate.member(liar), "but not for ever"


def test_a_members_flood_of_good_signatures_keeps_no_other_members_news_away() -> None:
    gate = Gate()
    taken = 0
    for each in range(60_000):  # as many as it likes, for twelve seconds
        gate.now += 1 / 5000
        taken += gate.member(node(1).public)
        if each % 25 == 0:  # the others say 200 a second
            assert gate.member(node(2 + each // 25 % 6).public), each
    assert taken <= LAN.member_verify_burst + 12 * LAN.member_verify_rate
    assert not gate.member(node(1).public)


def test_a_newcomer_takes_a_full_store_from_one_peer_as_fast_as_it_can_check() -> None:
    gate = Gate()
    for each in range(int(LAN.member_verify_burst)):
        gate.now += 170e-6
        assert gate.member(node(1).public), each


def test_a_source_that_has_used_up_its_checks_is_refused_unread_and_costs_no_bucket() -> None:
    gate = Gate()
    gate.admission.look(away(1), True, gate.now)
    assert len(gate.admission._sources) == 0
    flood(gate, ((stranger(n), away(1)) for n in range(100)), 10**6)
    for asks in (True, False):
        with pytest.raises(Rejected, match="too many signatures"):
            gate.admission.look(away(1), asks, gate.now)
        gate.admission.look(away(2), asks, gate.now)
    gate.now += 1.0
    gate.admission.look(away(1), True, gate.now)


def test_a_source_that_has_used_up_its_answers_is_refused_unread_when_it_asks() -> None:
    gate = Gate()
    while gate.admission.may_answer(away(1), gate.now):
        pass
    with pytest.raises(Rejected, match="asks more often"):
        gate.admission.look(away(1), True, gate.now)
    gate.admission.look(away(1), False, gate.now)  # an answer to us needs none
    gate.now += 1.0
    gate.admission.look(away(1), True, gate.now)


# The same, of whole nodes.


def _bad_hello(net: Network, rng: Random, like: Hello, key: Identity | None) -> bytes:
    """A HELLO whose signatures are wrong; of ``key``, else of one that nobody knows."""
    owner = key.public if key is not None else Identity.generate(rng.randbytes).public
    grant = Grant.decode(b"\x01" + rng.randbytes(63) + b"\0" + _with(like.grant, owner))
    own = like.announcement
    forged = Announcement.decode(b"\x03" + rng.randbytes(63) + b"\0" + _with(own, owner))
    return Hello(net.mesh.id, True, grant, forged).encode()


def _with(signed: Grant | Announcement, owner: bytes) -> bytes:
    return signed.body.replace(signed.node, owner)


@pytest.mark.parametrize("keys", ["one", "many"])
def test_known_peers_restart_and_newcomers_join_under_a_flood_of_bad_hellos(keys: str) -> None:
    net = Network(3)
    a, *peers = hosts = net.mesh_of(6)
    rng, victim = Random(3), peers[-1]
    held = a.up.store.announcements[victim.key]
    ahead = attrs.evolve(held, sequence=held.sequence + 1)  # an older one is not looked at
    like = Hello(net.mesh.id, True, a.up.store.grants[victim.key], ahead)
    left = [6000]

    def storm() -> None:
        target = victim.identity if keys == "one" else None
        net.deliver(a, _bad_hello(net, rng, like, target), away(left[0]))
        left[0] -= 1
        if left[0]:
            net.push(net.now + 1 / 3000, storm)

    storm()
    net.run(1.2)
    for host in peers:  # n1 is all that they know: without its answer they are lost
        net.kill(host.name)
        net.start(host.name, "n1", disk=Disk((net.grant(host, serial=100),)))
    took = net.run_until(lambda: net.together(*hosts), 0.7)
    assert left[0] > 0, "the flood went on all the while"
    assert took < 0.1, net
    assert a.up.counters["refused: too many signatures to check"] > 200, "and was one"
    if keys == "one":  # else a newcomer waits until it is over, which no bound can spare it
        newcomer = net.add("n99")
        net.start("n99", "n1")
        assert net.run_until(lambda: net.together(*hosts, newcomer), 0.6) < 0.1, net
        assert left[0] > 0


@pytest.mark.parametrize("size", [12, 80])
def test_a_member_that_announces_a_thousand_times_a_second_is_relayed_twenty_and_the_newest_wins(
    size: int,
) -> None:
    net = Network(5, cipher=False)
    hosts = warm_mesh(net, size)
    net.run(1)
    mad, others, rng = hosts[0], hosts[1:], Random(5)
    held = others[0].up.store.announcements[mad.key]
    seconds = 2
    before = {host.name: _told(host) for host in others}
    for each in range(1000 * seconds):
        last = Announcement.sign(
            mad.identity, net.mesh, sequence=held.sequence + 1 + each, boot_key=held.boot_key,
            endpoints=held.endpoints, prefixes=held.prefixes,
        )  # fmt: skip
        net.trust(last)
        for other in rng.sample(others, 3):  # past its own pace: it keeps to no rule
            mad.up._contacts.send(other.key, Push((last,)), mad.clock())
        mad.drain()
        net.run(0.001)
    partners = LAN.relay_full + 4  # above 64 members, of 80
    tellings = LAN.relay_burst + LAN.relay_rate * seconds + 1
    for host in others:
        assert _told(host) - before[host.name] <= partners * tellings, host.name
    relayed = sum(_told(host) - before[host.name] for host in others)
    assert relayed > len(others), "they do tell one another"
    # Its own node hears what was said in its name, and goes above it.
    net.run_until(lambda: net.together(*hosts), 2.0)
    assert others[0].up.store.announcements[mad.key].sequence >= last.sequence, net


def _told(host: Host) -> int:
    counters = host.up.counters
    return counters.get("sent Push", 0) + counters.get("sent Offer", 0)
