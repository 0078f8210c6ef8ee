"""What a mesh must survive, in virtual time: old words, wrong clocks, crowds, stalls, dead links.

Each test is a line of what must be survived; the rest of those lines are tested where their
part is: test_mesh (returns, lost disks, restarts), test_clones, test_failure, test_accusing,
test_isolation, and tests/daemon/test_isolation for what becomes of routes.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from meshd.sequence import AHEAD
from protocol import contacts as contacts_module
from protocol import greeting, limits
from protocol import store as store_module
from protocol.address import Endpoint, Prefix, endpoint
from protocol.events import PeerChanged, PrefixesChanged, ReachabilityChanged
from protocol.frames import HELLO, Hello
from protocol.identity import BootKey, Identity
from protocol.messages import Message, Push
from protocol.objects import Accusation, Announcement, Grant
from protocol.store import slot_id
from protocol.tuning import MAX_ACCUSERS
from simulation import Disk, Host, Network, dead_links, decision
from simulation.network import EPOCH, POOL
from simulation.warm import warm_mesh

WALLS = {"1970": 0.0, "2099": 4_070_908_800.0}
"""Unix seconds that a wrong clock shows."""

YEAR = 365 * 86_400.0


def say(host: Host, to: Host, message: Message) -> None:
    """A member that keeps to no rule sends ``message``."""
    host.up._contacts.send(to.key, message, host.clock())
    host.drain()


def routes(host: Host) -> dict[str, str]:
    """Prefix to next hop: what the daemon on ``host`` would have in its kernel."""
    found = decision(host).desired.routes
    return {str(each): str(hops.hops[0].address) for each, hops in found.items()}


def refusals(host: Host) -> list[str]:
    return [f"{row.prefix} {row.reason}" for row in decision(host).routes if row.state == "refused"]


def fell(*hosts: Host) -> list[str]:
    """Who was shown failed, by anybody, ever."""
    return [
        event.name for host in hosts for event in host.told(PeerChanged) if event.state == "failed"
    ]


# -- Sequence, time, state ----------------------------------------------------------------------


def aged_mesh(seed: int) -> tuple[Network, list[Host], list[bytes], list[str]]:
    """Ten nodes with a past: each announced often, three left, two died, one came back. With
    every datagram that was ever sent in the clear, and the names of those who are gone."""
    net = Network(seed, cipher=False)
    net.recording = True
    hosts = net.mesh_of(10)
    for number in range(3):
        for host in hosts:
            net.kill(host.name)
            net.start(host.name, "n2" if host.name == "n1" else "n1")
            host.do(lambda node, now, number=number: node.announce(now, preference=number))  # type: ignore[misc]
        net.run_until(lambda: net.together(*hosts), 20)
    for host in hosts[5:8]:
        host.do(lambda node, now: node.leave(now))
        net.run_until(lambda host=host: host.up.departed, 5)  # type: ignore[misc]
        net.kill(host.name)
    for host in hosts[8:]:
        net.kill(host.name)
    net.run_until(lambda: net.together(*hosts[:5]), 10)
    net.run(5)
    hellos = [data for _, _, _, data in net.tap if data[1] == HELLO]
    return net, hosts, hellos, [host.name for host in hosts[5:]]


@pytest.mark.parametrize("seed", range(2))
def test_every_old_announcement_replayed_to_a_node_without_its_disk_ends_like_the_live_state(
    seed: int,
) -> None:
    net, hosts, hellos, gone = aged_mesh(seed)
    victim, others = hosts[2], hosts[:2] + hosts[3:5]
    wanted = {name: net.state("n1", name) for name in gone}
    net.kill("n3")
    victim.events.clear()
    net.start("n3", "n1", disk=False)
    # From where they were announced, from elsewhere, before it knows anybody and ever after.
    sources = [host.where for host in hosts] + [Endpoint("203.0.113.9", 6179)]
    rng = Random(seed)
    for _ in range(2):
        for data in rng.sample(hellos, len(hellos)):
            net.deliver(victim, data, rng.choice(sources))
            net.run(0.001)
    net.run_until(lambda: net.together(victim, *others), 10)
    net.run_until(lambda: {name: net.state("n3", name) for name in gone} == wanted, 10)
    live = {host.key for host in (victim, *others)}
    assert {key for key, member in victim.up.members.items() if member.live} == live - {victim.key}
    told = {e.name for e in victim.told(PeerChanged) if e.state == "alive"}
    assert not told & set(gone), net
    assert routes(victim) == {
        str(prefix): str(host.where.address) for host in others for prefix in host.prefixes
    }
    assert victim.up.store.root == others[0].up.store.root


@pytest.mark.parametrize("seed", range(2))
def test_old_announcements_that_an_innocent_peer_walks_to_a_node_make_no_route(seed: int) -> None:
    net, hosts, hellos, gone = aged_mesh(seed)
    # All restart without a disk but one, who was away, remembers everybody as they were and
    # has seen nobody since: what it tells is old, and true as far as it knows.
    for host in hosts[:5]:
        net.kill(host.name)
    net.run(5)
    innocent, victim = hosts[8], hosts[2]
    assert len(innocent.disk.records) == 20
    net.start(innocent.name)
    net.start("n3", innocent.name, disk=False)
    for data in hellos:
        net.deliver(innocent, data, victim.where)
        net.run(0.001)
    net.run(20)
    assert net.together(innocent, victim), net
    assert len(victim.up.store.announcements) == 10, "it holds what it was told"
    seen = [net.hosts[n].key for n in net.hosts if net.hosts[n].key in victim.up.members.live]
    assert seen == [innocent.key], net
    assert routes(victim) == {"10.0.9.0/24": innocent.where.host}, net


def dated(net: Network, number: int, until: float) -> list[Host]:
    """A converged mesh of nodes whose grants all end at ``until``."""
    hosts = [net.add(f"n{each}") for each in range(1, number + 1)]
    for place, host in enumerate(hosts):
        grant = Grant.sign(
            net.authority,
            net.mesh,
            node=host.key,
            name=host.name,
            serial=100 + place,
            allow=POOL,
            until=int(until),
        )
        net.trust(grant)
        host.disk = Disk((grant,))
        net.start(host.name, *(["n1"] if place else []))
    net.run_until(lambda: net.agreed(*hosts))
    return hosts


@pytest.mark.parametrize("first", WALLS)
def test_a_receiver_whose_clock_is_wrong_or_jumps_withdraws_and_refuses_nothing(
    first: str,
) -> None:
    net = Network(1)
    hosts = dated(net, 5, EPOCH + YEAR)
    me, origin = hosts[0], hosts[1]
    for host in hosts:
        host.events.clear()
    before = routes(me)
    assert len(before) == 4
    last = next(wall for name, wall in WALLS.items() if name != first)
    right = me.unix
    added: list[str] = []
    for wall in (WALLS[first], last, None, last, WALLS[first], None):
        if wall is None:
            me.unix = right
        else:
            me.set_wall(wall)
        made = f"10.99.{len(added)}.0/24"
        added.append(made)
        origin.prefixes = (*origin.prefixes, Prefix.parse(made))
        origin.do(lambda node, now: node.announce(now, prefixes=origin.prefixes))
        for _ in range(30):
            net.run(0.1)
            assert before.items() <= routes(me).items(), net
            assert refusals(me) == [], net
        assert made in routes(me), net
        off = decision(me).clock_off
        assert (off is None) == (wall is None), "and it says so"
    net.kill("n1")  # also to one that starts so
    me.set_wall(last)
    net.start("n1", "n2")
    net.run_until(lambda: net.together(*hosts), 10)
    assert len(routes(me)) == len(before) + len(added)
    assert refusals(me) == []
    assert [e for host in hosts[1:] for e in host.told(PrefixesChanged) if e.removed] == []
    assert fell(*hosts) == []


def test_a_grant_that_has_ended_withdraws_its_routes_where_the_clock_is_right() -> None:
    net = Network(1)
    hosts = dated(net, 3, EPOCH + 1010)
    assert len(routes(hosts[0])) == 2
    hosts[0].set_wall(EPOCH + 1010 + 86_400 + 60)
    assert routes(hosts[0]) == {}
    assert "its grant has ended" in refusals(hosts[0])[0]


@pytest.mark.parametrize("disk", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_node_whose_clock_was_in_2099_and_is_mended_goes_on_from_its_own_sequence(
    seed: int, disk: bool
) -> None:
    net = Network(seed)
    hosts = net.mesh_of(5)
    host = hosts[1]
    right = host.unix
    host.set_wall(WALLS["2099"])
    host.do(lambda node, now: node.announce(now, preference=1))
    net.run(1)
    ahead = hosts[0].up.store.announcements[host.key].sequence
    assert ahead >= WALLS["2099"] * 1000
    host.unix = right
    host.do(lambda node, now: node.announce(now, preference=2))
    net.run(1)
    assert hosts[0].up.store.announcements[host.key].sequence == ahead + 1
    net.kill(host.name)
    net.start(host.name, "n1", disk=disk)
    net.run_until(lambda: net.agreed(*hosts), 10)
    after = hosts[0].up.store.announcements[host.key].sequence
    assert ahead + 1 < after < ahead + 2 * AHEAD, net  # what it had persisted ahead of use
    assert decision(hosts[0]).clock_off is None, "one wrong sequence moves no median"
    assert len(routes(hosts[0])) == 4


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lost", ["its disk", "what it wrote since a copy"])
def test_an_origin_that_lost_what_it_knew_supersedes_itself_within_a_round(
    seed: int, lost: str
) -> None:
    net = Network(seed, cipher=False)
    hosts = warm_mesh(net, 20)
    net.run_until(lambda: net.agreed(*hosts))
    host = hosts[4]
    old = Disk(tuple(host.up.store), dict(host.disk.files))
    host.set_wall(WALLS["2099"])
    host.do(lambda node, now: node.announce(now, preference=1))
    net.run(1)
    newest = hosts[0].up.store.announcements[host.key].sequence
    net.kill(host.name)
    host.set_wall(WALLS["1970"])
    net.start(host.name, "n1", disk=False if lost == "its disk" else old)
    took = net.run_until(
        lambda: all(
            other.up.store.announcements[host.key] == host.up.announcement
            and host.up.announcement.sequence > newest
            for other in hosts
        ),
        10,
    )
    assert took < 2 * net.tuning.probe_period, net
    net.run_until(lambda: net.together(*hosts), 5)
    assert {h.up.store.announcements[host.key].preference for h in hosts} == {100}


def test_an_old_departure_that_a_member_pushes_after_the_return_is_ignored() -> None:
    net = Network(7, cipher=False)
    hosts = net.mesh_of(6)
    host, liar = hosts[2], hosts[1]
    host.do(lambda node, now: node.leave(now))
    net.run_until(lambda: host.up.departed, 2)
    departure = hosts[0].up.store.announcements[host.key]
    assert departure.has_left
    net.kill(host.name)
    net.start(host.name, "n1")
    net.run_until(lambda: net.agreed(*hosts), 10)
    for each in hosts:
        each.events.clear()
    for _ in range(20):
        for other in hosts:
            if other is not liar:
                say(liar, other, Push((departure,)))
        net.run(0.1)
        assert net.together(*hosts), net
    assert [event for each in hosts for event in each.told(PeerChanged)] == []
    assert host.up.announcement is not None
    assert not host.up.announcement.has_left


def test_nothing_recorded_before_a_receiver_restarted_counts_after_it() -> None:
    net = Network(9)
    net.recording = True
    hosts = net.mesh_of(4)
    net.run(5)
    old = [(net.hosts[source], data) for _, source, to, data in net.tap if to == "n2"]
    host = hosts[1]
    net.kill("n2")
    for other in hosts[2:]:
        net.kill(other.name)
    net.start("n2", "n1")
    net.run(5)
    acked = {key: member.acked for key, member in host.up.members.items() if key != hosts[0].key}
    for source, data in old:
        if source is not hosts[0]:
            net.deliver(host, data, source.where)
    net.run(0.1)
    assert len(old) >= 20
    assert net.state("n2", "n1") == "alive"
    for other in hosts[2:]:
        assert not host.up.members[other.key].live, net
        assert host.up.members[other.key].acked == acked[other.key]


# -- Failure detector ---------------------------------------------------------------------------


def test_four_of_a_hundred_that_stall_for_twenty_seconds_withdraw_no_healthy_one() -> None:
    net = Network(12, cipher=False)
    hosts = warm_mesh(net, 100)
    net.run(2)
    ill = hosts[3:7]
    for host in ill:
        host.stall(20)
    net.run(24)
    assert set(fell(*hosts)) <= {host.name for host in ill}, net
    net.run_until(lambda: net.together(*hosts), 5)


@pytest.mark.parametrize("seed", range(2))
def test_one_direction_in_a_hundred_is_dead_each_is_shown_once_and_nobody_flaps(seed: int) -> None:
    net = Network(seed, cipher=False)
    hosts = warm_mesh(net, 24)
    net.run(2)
    rng = Random(seed)
    names = [host.name for host in hosts]
    dead: dict[tuple[str, str], None] = {}
    for _ in range(6):
        one, other = rng.sample(names, 2)
        dead[one, other] = None
    net.drop(dead_links(dead))
    for host in hosts:
        host.events.clear()
    net.run(120)
    assert fell(*hosts) == [], net
    shown = [(host.name, e.name) for host in hosts for e in host.told(ReachabilityChanged)]
    assert sorted(shown) == sorted({*dead, *((b, a) for a, b in dead)}), net
    assert sum(len(host.events) for host in hosts) == len(shown), net
    for host in hosts:
        assert len(routes(host)) == len(hosts) - 1, "others reach it: its route stays"


# -- Load ---------------------------------------------------------------------------------------

BOUND, WAITING = 12, 5
"""In place of thousands: what is shown is that a table ends where its bound says."""


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it once the mesh stands: members, those that wait, candidates, sources."""

    def bound() -> None:
        monkeypatch.setattr(store_module, "MAX_MEMBERS", BOUND)
        monkeypatch.setattr(store_module, "MAX_WAITING", WAITING)
        monkeypatch.setattr(contacts_module, "MAX_CANDIDATES", 6)
        monkeypatch.setattr(greeting, "MAX_CANDIDATES", 6)
        monkeypatch.setattr(limits, "MAX_SOURCES", 7)

    return bound


def stranger(
    net: Network, identity: Identity, number: int, *, left: bool = False
) -> tuple[Grant, Announcement]:
    """A node of this mesh that nobody has heard of: its grant and its announcement."""
    grant = Grant.sign(
        net.authority,
        net.mesh,
        node=identity.public,
        name=f"x{number}",
        serial=1000 + number,
        allow=POOL,
    )
    announcement = Announcement.sign(
        identity,
        net.mesh,
        sequence=1 + number,
        boot_key=BootKey.generate(Random(number).randbytes).public,
        state=int(left),
        endpoints=[endpoint(f"198.51.{number >> 8}.{number & 255}", 6179)],
        prefixes=(),
    )
    for each in (grant, announcement):
        net.trust(each)
    return grant, announcement


def crowd(net: Network, rng: Random, number: int) -> list[tuple[Grant, Announcement]]:
    """Strangers, half of them departed, of whom as many have room as the hosts leave of BOUND:
    the hosts' own slots are among the first."""
    room = BOUND - len(net.hosts)
    last = max(slot_id(Grant.KIND, host.key) for host in net.hosts.values())
    found: list[tuple[Grant, Announcement]] = []
    while len(found) < number:
        identity = Identity.generate(rng.randbytes)
        fits = slot_id(Grant.KIND, identity.public) < last
        if not fits or room:
            room -= fits
            found.append(stranger(net, identity, len(found), left=len(found) % 2 == 0))
    return rng.sample(found, number)


@pytest.mark.parametrize("seed", range(2))
def test_any_number_of_departed_and_unknown_nodes_leave_every_table_at_its_bound_and_roots_equal(
    seed: int, bounded: Callable[[], None]
) -> None:
    net = Network(seed, cipher=False)
    hosts = net.mesh_of(5)
    bounded()
    rng = Random(seed)
    heard = [slot_id(Grant.KIND, host.key) for host in hosts]
    for grant, announcement in crowd(net, rng, 300):
        teller, *told = rng.sample(hosts, rng.randrange(2, 6))
        # Now and then the announcement comes alone: it waits for a grant.
        alone = rng.random() < 0.2
        for host in told:
            say(teller, host, Push((announcement,) if alone else (grant, announcement)))
        if not alone:
            heard.append(slot_id(Grant.KIND, grant.node))
        net.run(0.01)
        for host in hosts:
            assert len(host.up.store.grants) <= BOUND, net
            assert len(host.up.members) < BOUND, net
            assert len(host.up.store._waiting) <= WAITING, net
    net.run_until(lambda: len(net.roots) == 1, 20)
    for host in hosts:
        held = [slot_id(Grant.KIND, node) for node in host.up.store.grants]
        assert held == sorted(heard)[:BOUND], net
    net.run(20)
    assert net.together(*hosts), net


@pytest.mark.parametrize("asks", [True, False])
def test_hellos_of_any_number_of_unknown_keys_fill_no_table_and_change_no_root(
    asks: bool, bounded: Callable[[], None]
) -> None:
    net = Network(4, cipher=False)
    hosts = net.mesh_of(4)
    bounded()
    root, rng = hosts[0].up.store.root, Random(4)
    for number in range(400):
        grant, announcement = stranger(net, Identity.generate(rng.randbytes), number)
        data = Hello(net.mesh.id, asks, grant, announcement).encode()
        net.deliver(hosts[0], data, Endpoint(f"198.51.{number >> 8}.{number & 255}", 6179))
        net.run(0.005)
        contacts = hosts[0].up._contacts
        assert len(contacts._candidates) <= 6
        admission = contacts._admission
        for table in (admission._answers, admission._sources, admission._keys):
            assert len(table) <= 7
    assert len(hosts[0].up._contacts._candidates) == 6
    net.run(net.tuning.candidate_lifetime + 1)
    assert hosts[0].up.store.root == root
    assert net.agreed(*hosts)


def test_any_number_of_accusers_leaves_eight_against_each_and_the_same_digest_everywhere() -> None:
    net = Network(5, cipher=False)
    hosts = warm_mesh(net, 30)
    net.run_until(lambda: net.agreed(*hosts))
    dead = hosts[24:]
    for host in dead:
        net.kill(host.name)
    living = hosts[:24]
    rng = Random(5)
    # Every one of 24 accuses every one of six, at the sequence stored and at others.
    for liar in living:
        for target in dead:
            stored = living[0].up.store.announcements[target.key].sequence
            for ahead in (0, 0, 1, -1):
                false = Accusation.sign(
                    liar.identity,
                    net.mesh,
                    target=target.key,
                    sequence=stored + ahead,
                    refused=rng.random() < 0.5,
                )
                net.trust(false)
                for other in rng.sample(living, 4):
                    if other is not liar:
                        say(liar, other, Push((false,)))
        net.run(0.02)
    net.run_until(lambda: len({host.up.evidence.digest for host in living}) == 1, 60)
    for host in living:
        for target in dead:
            assert len(host.up.evidence.against(target.key)) == MAX_ACCUSERS, net
        assert len(host.up.evidence) == 6 * MAX_ACCUSERS
    net.run_until(lambda: net.together(*living), 10)
    assert set(fell(*living)) <= {host.name for host in dead}, net
