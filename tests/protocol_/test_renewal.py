"""Boot keys that are replaced while the mesh runs: nobody notices.

That no counter repeats under one key, the network's referee sees to in every run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import attrs
import pytest

from protocol import frames
from protocol.errors import SequenceUnavailable
from protocol.events import BootKeyRenewed, CannotAnnounce, Event, PeerChanged, Superseded
from protocol.tuning import Tuning
from simulation import Host, Network

SEEDS = range(3)


def boot_key(host: Host) -> bytes:
    own = host.up.announcement
    assert own is not None
    return own.boot_key


def renew(host: Host, *, keep_old: bool) -> None:
    host.do(lambda node, now: node.renew_boot_key(now, keep_old=keep_old))


def blinks(hosts: list[Host]) -> list[Event]:
    return [event for host in hosts for event in host.told(PeerChanged)]


def stales(net: Network) -> int:
    return sum(frames.frame_type(data) == frames.STALE for _, _, _, data in net.tap)


def watched(seed: int, number: int, *, loss: float = 0.0) -> tuple[Network, list[Host]]:
    """A mesh that has settled, of which everything is recorded from now on."""
    net = Network(seed, loss=loss)
    hosts = net.mesh_of(number)
    net.run(2)
    for host in hosts:
        host.events.clear()
    net.recording = True
    return net, hosts


def knows(hosts: list[Host], of: Host) -> Callable[[], bool]:
    return lambda: all(
        host.up.store.announcements[of.key].boot_key == boot_key(of) for host in hosts
    )


@pytest.mark.parametrize("number", [2, 9])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_renewal_is_known_within_a_round_trip_and_draws_no_stale(seed: int, number: int) -> None:
    net, hosts = watched(seed, number)
    for host in hosts[:2]:
        old = boot_key(host)
        renew(host, keep_old=True)
        assert boot_key(host) != old
        assert net.run_until(knows(hosts, host)) < 0.01, net
    net.run(65)  # beyond the grace
    assert net.agreed(*hosts), net
    assert stales(net) == 0, net
    assert blinks(hosts) == [], net
    assert len(hosts[0].told(BootKeyRenewed)) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_two_that_renew_at_the_same_time_go_on_talking(seed: int) -> None:
    net, hosts = watched(seed, 5)
    for host in hosts[:2]:
        renew(host, keep_old=True)
    net.run(65)
    assert net.agreed(*hosts), net
    assert stales(net) == 0, net
    assert blinks(hosts) == [], net


@pytest.mark.parametrize("seed", SEEDS)
def test_a_renewal_under_loss_lets_nobody_blink(seed: int) -> None:
    net, hosts = watched(seed, 8, loss=0.05)
    for host in hosts[:3]:
        renew(host, keep_old=True)
        net.run(20)
    net.run(60)
    assert net.together(*hosts), net
    assert blinks(hosts) == [], net
    assert stales(net) == 0, net


@pytest.mark.parametrize("seed", SEEDS)
def test_a_new_key_that_is_learned_by_a_walk_alone_makes_nobody_unseen(seed: int) -> None:
    net, hosts = watched(seed, 5)
    deaf = net.cut("n1")
    renew(hosts[0], keep_old=True)  # its push is lost
    net.run(0.01)
    net.heal(deaf)
    net.run_until(knows(hosts, hosts[0]), 3)
    net.run(5)
    assert blinks(hosts) == [], net
    assert net.agreed(*hosts), net


@pytest.mark.parametrize("number", [2, 9])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_key_that_may_not_seal_again_is_replaced_by_one_exchange_with_each(
    seed: int, number: int
) -> None:
    net, hosts = watched(seed, number)
    host = hosts[0]
    old = host.up._contacts._keys.key_id
    renew(host, keep_old=False)
    net.run_until(lambda: net.together(*hosts) and knows(hosts, host)(), 2)
    net.run(65)
    assert net.agreed(*hosts), net
    assert blinks(hosts) == [], net
    under_old = [data for _, _, _, data in net.tap if data[2:10] == old]
    assert under_old == [], "sealed with a key that a copy may hold"
    # A STALE for our push to each, one for what each had under way to the old key.
    assert stales(net) <= 2 * (number - 1), net


def test_a_datagram_in_flight_to_a_key_that_is_gone_is_sealed_anew_not_lost() -> None:
    net, (a, b) = watched(3, 2)
    net.run_until(lambda: any(to == "n2" for _, _, to, _ in net.tap))
    late = next(data for _, _, to, data in net.tap if to == "n2")
    renew(b, keep_old=False)
    net.run_until(knows([a], b), 2)
    sent = a.up.counters["sent HELLO"]
    # The last that was sealed for the old key reaches b only now.
    a.up._contacts._last[b.key] = (
        frames.decode_sealed(late).counter,
        *a.up._contacts._last[b.key][1:],
    )
    heard = a.up.counters.get("heard STALE", 0)
    net.deliver(b, late, a.where)
    net.run(0.01)
    assert a.up.counters["heard STALE"] == heard + 1
    assert a.up.counters["sent HELLO"] == sent, "it need not be greeted"


def test_the_old_key_opens_for_the_grace_and_no_longer() -> None:
    net, (a, b) = watched(4, 2)
    to_old = b.up._contacts._keys.key_id
    session = a.up._contacts._keys._present.sessions[to_old]
    renew(b, keep_old=True)
    net.run(50)
    before = dict(b.up.counters)
    net.deliver(b, session.seal(b"\x05\0\0\0\0"), a.where)
    net.run(0.01)
    assert b.up.counters.get("sent STALE", 0) == before.get("sent STALE", 0)
    net.run(11)
    net.deliver(b, session.seal(b"\x05\0\0\0\0"), a.where)
    net.run(0.01)
    assert b.up.counters["sent STALE"] == before.get("sent STALE", 0) + 1


def test_what_a_peer_seals_with_its_key_of_before_opens_for_the_grace_and_no_longer() -> None:
    net, (a, b) = watched(4, 2)
    keys = b.up._contacts._keys
    session = keys._present.sessions[a.up._contacts._keys.key_id]
    renew(b, keep_old=True)
    net.run(50)
    before = a.up.counters.get("sent STALE", 0)
    net.deliver(a, session.seal(b"\x05\0\0\0\0"), b.where)
    net.run(0.01)
    assert a.up.counters.get("sent STALE", 0) == before
    net.run(11)
    net.deliver(a, session.seal(b"\x05\0\0\0\0"), b.where)
    net.run(0.01)
    assert a.up.counters["sent STALE"] == before + 1
    renew(b, keep_old=True)
    net.run(70)
    renew(b, keep_old=True)
    net.run(1)
    assert len(a.up._contacts._keys._peers._own) == 2, "the present one and the one before"


def test_keys_are_renewed_weekly_each_at_its_own_time() -> None:
    brief = attrs.evolve(Tuning.lan(), boot_key_lifetime=200.0)
    net = Network(5, tuning=brief)
    hosts = net.mesh_of(4)
    first = {host.name: boot_key(host) for host in hosts}
    for host in hosts:
        host.events.clear()
    net.recording = True
    net.run(200 * 3.5)
    for host in hosts:
        assert boot_key(host) != first[host.name]
        times = [at for at, event in host.events if isinstance(event, BootKeyRenewed)]
        assert len(times) == 3
        assert all(180 <= after - at <= 220 for at, after in itertools.pairwise(times))
    assert stales(net) == 0
    assert blinks(hosts) == []
    assert net.agreed(*hosts)


def test_a_peer_that_was_cut_off_over_the_renewal_is_met_again_by_hello() -> None:
    net, hosts = watched(6, 3)
    cut = net.cut("n3")
    net.run(1)
    renew(hosts[0], keep_old=True)
    net.run(300)
    net.heal(cut)
    net.run_until(lambda: net.agreed(*hosts), 10)


def test_without_a_sequence_the_key_is_replaced_and_announced_when_there_is_one() -> None:
    net, hosts = watched(7, 3)
    host = hosts[0]
    originator, old = host.up._originator, boot_key(host)
    reserve = originator._next_sequence

    def full(above: int) -> int:
        raise SequenceUnavailable("disk full")

    originator._next_sequence = full
    renew(host, keep_old=True)
    assert boot_key(host) == old
    assert host.told(CannotAnnounce)
    net.run(3)
    assert blinks(hosts) == [], "it goes on under the old key"
    originator._next_sequence = reserve
    net.run_until(lambda: boot_key(host) != old and knows(hosts, host)(), 2)
    net.run(5)
    assert net.agreed(*hosts)
    assert blinks(hosts) == []


def test_a_copy_that_announces_under_our_very_boot_key_makes_us_replace_it() -> None:
    net, hosts = watched(8, 3)
    host, old = hosts[0], boot_key(hosts[0])
    originator = host.up._originator
    draft = originator._draft(originator.content, (), originator._floor + 5)
    copied = draft.signed(host.identity, net.mesh)
    node = hosts[1].up
    node._learn([(copied, True)], hosts[2].key, hosts[1].clock(), pass_on=True)
    hosts[1].drain()
    net.run_until(lambda: boot_key(host) != old, 3)
    net.run(3)
    assert net.together(*hosts)
    assert host.up.store.announcements[host.key].sequence > copied.sequence
    assert host.told(Superseded) == []
