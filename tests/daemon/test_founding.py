"""How a mesh begins and grows: all or nothing, names once, serials rising."""

from __future__ import annotations

import ipaddress
import os
import pwd
from pathlib import Path
from random import Random
from typing import Any, cast

import attrs
import pytest
import trio

from meshd import config as configuration
from meshd import founding, values
from meshd.daemon import Daemon
from meshd.errors import StateError, UsageError
from meshd.founding import GrantTerms, World
from meshd.invitation import decode
from meshd.kernel.memory import Memory
from meshd.kernel.state import Interface
from meshd.log import EventLog
from meshd.paths import Paths
from meshd.startup import Additions, RunOptions, prepare
from meshd.state import AUTHORITY_KEY, NEXT_AUTHORITY_KEY, NODE_KEY, StateDirectory
from meshd.udp import Sockets
from protocol.identity import Identity
from protocol.objects import Announcement, Grant, Revocation
from protocol.tuning import Tuning

NOW = 1_800_000_000.0
HOUR = 3600
A, B = map(values.prefix, ("10.1.0.0/24", "10.2.0.0/24"))
ADVERTISED = (values.advertised("192.0.2.1"),)


@attrs.define
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@attrs.define
class Hosts:
    """Two hosts and a clock."""

    a: Paths
    b: Paths
    clock: Clock
    world: World

    def init(self, **options: Any) -> None:
        given = {"name": "a", "announce": [A], "advertise": ADVERTISED} | options
        founding.init(self.a, self.world, **given)

    def invite(self, name: str = "b", valid: int = HOUR, **terms: Any) -> str:
        token, _ = founding.invite(
            self.a,
            self.world,
            name=name,
            valid=valid,
            terms=GrantTerms(**terms),
            endpoints=lambda config: founding.own_endpoints(self.a, config),
        )
        return token

    def join(self, token: str, **options: Any) -> None:
        founding.join(self.b, self.world, token, **({"announce": [B]} | options))

    def authority(self) -> Identity:
        return StateDirectory(self.a.state).read_key(AUTHORITY_KEY)

    def snapshot(self, *objects: bytes) -> None:
        StateDirectory(self.a.state).write_snapshot(objects)


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    clock = Clock()
    world = World(clock, Random(1).randbytes)
    return Hosts(Paths.under(tmp_path / "a"), Paths.under(tmp_path / "b"), clock, world)


def start(paths: Paths, clock: Clock, **additions: Any) -> RunOptions:
    options = prepare(paths, Additions(**additions), "text", clock)
    options.lock.release()
    return options


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# -- init -----------------------------------------------------------------------------------


def test_init_makes_all_that_run_needs(hosts: Hosts) -> None:
    hosts.init()
    options = start(hosts.a, hosts.clock)
    state = StateDirectory(hosts.a.state)
    assert options.config.announce == (A,)
    assert options.config.advertise == ADVERTISED
    assert options.mesh.authority == state.read_key(AUTHORITY_KEY).public
    assert options.identity.secret == state.read_key(NODE_KEY).secret
    assert options.grant.name == "a"
    assert options.grant.serial == NOW * 1000
    assert options.grant.allow == configuration.POOL
    following = state.read_key(NEXT_AUTHORITY_KEY)
    assert options.mesh == type(options.mesh).founded_by(options.mesh.authority, following.public)
    modes = {path.name: path.stat().st_mode & 0o777 for path in hosts.a.state.iterdir()}
    assert set(modes.values()) == {0o600}
    assert hosts.a.state.stat().st_mode & 0o777 == 0o700


def test_a_pool_of_ones_own_is_kept_and_given(hosts: Hosts) -> None:
    hosts.init(pool=[values.prefix("10.0.0.0/8")])
    hosts.join(hosts.invite())
    assert start(hosts.b, hosts.clock).grant.allow == (values.prefix("10.0.0.0/8"),)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "A b"}, "A b is no node name; use 1 to 63 of a-z"),
        ({"announce": [values.prefix("198.51.100.0/24")]}, "outside the grant of a, which allows"),
        ({"announce": [A, values.prefix("10.0.0.0/8")]}, "lies inside"),
        ({"terms": GrantTerms(until=int(NOW))}, "--until 2027-01-15 08:00 UTC is past"),
        ({"terms": GrantTerms(limit=1), "announce": [A, B]}, "2 prefixes, but the grant of a"),
        (
            {"terms": GrantTerms(allow=tuple(values.prefix(f"10.{n}.0.0/24") for n in range(99)))},
            "grant longer than 440 bytes; use fewer or larger --allow",
        ),
    ],
)
def test_init_with_a_mistake_writes_nothing(hosts: Hosts, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        hosts.init(**wrong)
    assert not hosts.a.home.exists()


@pytest.mark.parametrize("failing", range(1, 8))
def test_init_that_cannot_write_takes_back_what_it_wrote(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    hosts.a.home.mkdir()
    (hosts.a.home / "mine").touch()
    link, calls = os.link, iter(range(1, 100))

    def fail(old: str, new: Path) -> None:
        if next(calls) == failing:
            raise OSError(28, "No space left on device")
        link(old, new)

    monkeypatch.setattr(os, "link", fail)
    if failing > 6:  # There are six files: this one shows that the others were needed.
        hosts.init()
        assert len(everything(hosts.a.home)) == 2 + 6
        return
    with pytest.raises(StateError, match="No space left on device"):
        hosts.init()
    assert everything(hosts.a.home) == ["mine"]


@pytest.mark.parametrize("there", ["meshd.toml", "state/node.key", "state/authority.key"])
def test_init_does_not_move_into_an_inhabited_directory(hosts: Hosts, there: str) -> None:
    path = hosts.a.home / there
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UsageError, match=f"{there} exists: a node lives here already"):
        hosts.init()
    assert path.read_text() == "mine"
    assert [name for name in everything(hosts.a.home) if name != "state"] == [there]


# -- invite ---------------------------------------------------------------------------------


def test_an_invited_member_starts_with_its_grant_and_the_inviters_endpoint(hosts: Hosts) -> None:
    hosts.init()
    hosts.join(hosts.invite(allow=(values.prefix("10.2.0.0/16"),), limit=3))
    a, b = start(hosts.a, hosts.clock), start(hosts.b, hosts.clock)
    assert b.mesh == a.mesh
    assert (b.grant.name, b.grant.limit) == ("b", 3)
    assert list(map(str, b.config.seeds)) == ["192.0.2.1:6179"]
    assert b.config.announce == (B,)
    made = {"meshd.toml", "state", "state/grant", "state/node.key", "state/lock"}
    assert set(everything(hosts.b.home)) == made


def test_serials_rise_also_when_the_clock_does_not(hosts: Hosts) -> None:
    hosts.init()
    serials = []
    for name in ("b", "c", "d"):
        serials.append(decode(hosts.invite(name), hosts.clock.now).grant.serial)
        hosts.clock.now -= HOUR / 2
    first = int(NOW * 1000)
    assert serials == [first + 1, first + 2, first + 3]


def test_without_any_address_there_is_nothing_to_join_through(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.init(advertise=())
    monkeypatch.setattr(founding, "backend", lambda *_, **__: Memory())
    with pytest.raises(UsageError, match="start the daemon first, or set advertise in"):
        hosts.invite()


def test_without_a_daemon_the_invitation_names_the_address_it_would_announce(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.init(advertise=())
    inside, outside = map(ipaddress.ip_interface, ("10.1.0.1/24", "192.0.2.7/24"))
    kernel = Memory([Interface("net0", 2, True, (inside, outside))])
    monkeypatch.setattr(founding, "backend", lambda *_, **__: kernel)
    assert list(map(str, decode(hosts.invite(), NOW).seeds)) == ["192.0.2.7:6179"]


def test_a_host_that_may_not_be_looked_at_needs_advertise(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Memory:
        raise PermissionError(1, "Operation not permitted")

    hosts.init(advertise=())
    monkeypatch.setattr(founding, "backend", fail)
    with pytest.raises(UsageError, match="or set advertise in"):
        hosts.invite()


def test_a_name_is_given_once(hosts: Hosts) -> None:
    hosts.init()
    hosts.invite("b")
    with pytest.raises(UsageError, match=r"b is already the name of .*, invited until 2027-01-15"):
        hosts.invite("b")
    with pytest.raises(UsageError, match=r"a is already the name of .*, a member; choose another"):
        hosts.invite("a")


def test_a_name_is_free_again_when_its_token_ended_unused(hosts: Hosts) -> None:
    hosts.init()
    hosts.invite("b")
    hosts.clock.now += HOUR + 1
    assert hosts.invite("b")


def test_a_name_whose_token_was_used_stays_taken(hosts: Hosts) -> None:
    hosts.init()
    used = decode(hosts.invite("b"), hosts.clock.now)
    hosts.clock.now += HOUR + 1
    hosts.snapshot(announced(used.identity, hosts))
    with pytest.raises(UsageError, match="a member; choose another name"):
        hosts.invite("b")


def announced(node: Identity, hosts: Hosts) -> bytes:
    mesh = start(hosts.a, hosts.clock).mesh
    boot = bytes([3]) + bytes(31)
    return Announcement.sign(node, mesh, sequence=1, boot_key=boot, endpoints=(), prefixes=()).raw


def test_a_name_is_free_again_when_its_key_is_revoked_or_its_grant_ended(hosts: Hosts) -> None:
    hosts.init()
    first = decode(hosts.invite("b"), hosts.clock.now)
    revocation = Revocation.sign(hosts.authority(), first.mesh, node=first.grant.node)
    hosts.snapshot(announced(first.identity, hosts), revocation.raw)
    second = decode(hosts.invite("b", until=int(NOW) + 60), hosts.clock.now)
    hosts.snapshot(announced(second.identity, hosts), revocation.raw)
    with pytest.raises(UsageError, match="already the name"):
        hosts.invite("b")
    hosts.clock.now += 61
    assert hosts.invite("b")


def test_only_the_host_with_the_authoritys_key_can_invite(hosts: Hosts) -> None:
    hosts.init()
    hosts.join(hosts.invite())
    hosts.a, hosts.b = hosts.b, hosts.a
    with pytest.raises(UsageError, match=r"authority\.key is not here; invite on the host where"):
        hosts.invite("c")


def test_the_authoritys_key_must_be_that_of_the_config(hosts: Hosts) -> None:
    hosts.init()
    state = hosts.a.state
    (state / AUTHORITY_KEY).write_bytes((state / NEXT_AUTHORITY_KEY).read_bytes())
    with pytest.raises(UsageError, match="is not the key of the authority in"):
        hosts.invite()


@pytest.mark.parametrize(("content", "said"), [(None, "is missing"), (b"x", "is damaged")])
def test_without_the_list_of_what_was_given_nothing_is_given(
    hosts: Hosts, content: bytes | None, said: str
) -> None:
    hosts.init()
    grants = hosts.a.state / "grants"
    grants.unlink() if content is None else grants.write_bytes(content)
    with pytest.raises(UsageError, match=f"grants {said}"):
        hosts.invite()


def test_a_grant_that_cannot_be_kept_is_not_given(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.init()

    def fail(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StateError, match=r"cannot write .*grants: Read-only file system"):
        hosts.invite()


# -- join -----------------------------------------------------------------------------------


def test_join_refuses_a_prefix_outside_the_grant_and_names_what_is_allowed(hosts: Hosts) -> None:
    hosts.init()
    token = hosts.invite(allow=(values.prefix("10.2.0.0/16"), values.prefix("fd00:2::/48")))
    said = "10.3.0.0/24 is outside the grant of b, which allows 10.2.0.0/16, fd00:2::/48; ask"
    with pytest.raises(UsageError, match=said):
        hosts.join(token, announce=[values.prefix("10.3.0.0/24")])
    with pytest.raises(UsageError, match=r"10\.0\.0\.0/8 is outside the grant"):
        hosts.join(token, announce=[values.prefix("10.0.0.0/8")])
    assert not hosts.b.home.exists()


def test_join_refuses_a_token_after_its_time(hosts: Hosts) -> None:
    hosts.init()
    token = hosts.invite()
    hosts.clock.now += HOUR + 1
    with pytest.raises(UsageError, match="the token ended on"):
        hosts.join(token)
    assert not hosts.b.home.exists()


def test_join_does_not_move_into_an_inhabited_directory(hosts: Hosts) -> None:
    hosts.init()
    token = hosts.invite()
    hosts.join(token)
    with pytest.raises(UsageError, match="a node lives here already"):
        hosts.join(token)


# -- before run ------------------------------------------------------------------------------


def test_run_refuses_without_a_node(hosts: Hosts) -> None:
    with pytest.raises(UsageError, match=r"meshd\.toml does not exist; make a node with"):
        start(hosts.a, hosts.clock)


def test_run_refuses_a_second_daemon_and_then_holds_no_lock(hosts: Hosts) -> None:
    hosts.init()
    first = prepare(hosts.a, Additions(), "text", hosts.clock)
    with pytest.raises(UsageError, match=rf"another meshd \(pid {os.getpid()}\) runs on"):
        start(hosts.a, hosts.clock)
    first.lock.release()
    (hosts.a.state / "sequence").write_text("x")
    for _ in range(2):
        with pytest.raises(UsageError, match="holds no sequence"):
            start(hosts.a, hosts.clock)


@pytest.mark.parametrize("name", ["grant", "announced", "sequence", NODE_KEY])
def test_run_says_in_one_line_which_file_is_damaged(hosts: Hosts, name: str) -> None:
    hosts.init()
    (hosts.a.state / name).write_bytes(b"\xff\n")
    (hosts.a.state / name).chmod(0o600)
    with pytest.raises(UsageError, match=f"{hosts.a.state / name} ") as caught:
        start(hosts.a, hosts.clock)
    assert "\n" not in str(caught.value)


def test_run_starts_without_its_snapshot_and_says_so(hosts: Hosts) -> None:
    hosts.init()
    hosts.snapshot(b"x")
    (hosts.a.state / "snapshot").write_bytes(b"x")
    options = start(hosts.a, hosts.clock)
    assert options.snapshot == ()
    (warning,) = options.warnings
    assert "snapshot is damaged" in warning


def test_run_takes_the_newest_genuine_grant_of_its_own(hosts: Hosts) -> None:
    hosts.init()
    old = start(hosts.a, hosts.clock)

    def grant(by: Identity, node: bytes, serial: int) -> Grant:
        return Grant.sign(by, old.mesh, node=node, name="a", serial=serial, allow=[A])

    node = old.identity.public
    mine = [grant(hosts.authority(), node, serial) for serial in (old.grant.serial + 1, 1)]
    forged = grant(old.identity, node, old.grant.serial + 9)
    hosts.snapshot(b"garbage", forged.raw, *(item.raw for item in mine))
    assert start(hosts.a, hosts.clock).grant == mine[0]


def test_run_refuses_a_grant_of_another_key_or_mesh(hosts: Hosts) -> None:
    hosts.init()
    hosts.join(hosts.invite())
    grant = hosts.b.state / "grant"
    kept = grant.read_bytes()
    grant.write_bytes((hosts.a.state / "grant").read_bytes())
    with pytest.raises(UsageError, match="grant is for another key"):
        start(hosts.b, hosts.clock)
    grant.write_bytes(kept)
    another = start(hosts.b, hosts.clock).config
    another = attrs.evolve(another, next_authority_hash=bytes(32))
    hosts.b.config.write_text(configuration.render(another, "join"))
    with pytest.raises(UsageError, match="grant is not signed by the authority in the config"):
        start(hosts.b, hosts.clock)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change a file's owner")
def test_under_the_systems_layout_root_gives_what_it_writes_to_the_user_meshd(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = pwd.struct_passwd(("meshd", "x", 1234, 1235, "", "/", "/bin/false"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: user)
    hosts.init()
    assert {path.stat().st_uid for path in hosts.a.home.rglob("*")} == {0}
    hosts.b = Paths(hosts.b.home / "etc/meshd.toml", hosts.b.socket, hosts.b.home / "lib", None)
    hosts.join(hosts.invite())
    (hosts.b.state / "lock").touch()
    start(hosts.b, hosts.clock)
    owners = {path.name: path.stat().st_uid for path in hosts.b.state.iterdir()}
    assert owners.pop("lock") == 0  # Made by hand above.
    assert set(owners.values()) == {1234}
    assert hosts.b.state.stat().st_uid == hosts.b.config.stat().st_uid == 1234
    assert hosts.b.config.parent.stat().st_uid == 0


def test_what_the_command_line_adds_counts_again_at_each_reload(hosts: Hosts) -> None:
    hosts.init()
    options = start(hosts.a, hosts.clock, announce=(B,), seeds=(values.seed("x"),))
    assert options.config.announce == (A, B)
    text = hosts.a.config.read_text()
    hosts.a.config.write_text(text.replace("10.1.0.0/24", "10.7.0.0/24"))
    assert options.reload().announce == (values.prefix("10.7.0.0/24"), B)
    hosts.a.config.write_text(text + "port = 7000\n")
    with pytest.raises(UsageError, match="port cannot change while the daemon runs; restart it"):
        options.reload()
    hosts.a.config.write_text(text + 'network = "wan"\n')
    with pytest.raises(UsageError, match="network cannot change while the daemon runs"):
        options.reload()
    hosts.a.config.write_text(text.replace("10.1.0.0/24", "198.51.100.0/24"))
    with pytest.raises(UsageError, match="outside the grant"):
        options.reload()


@pytest.mark.parametrize("network", configuration.NETWORK)
def test_the_daemon_keeps_the_timers_of_its_network(hosts: Hosts, network: str) -> None:
    hosts.init()
    with hosts.a.config.open("a") as file:
        file.write(f'network = "{network}"\n')
    options = start(hosts.a, hosts.clock)

    async def made() -> Daemon:
        return Daemon(options, EventLog(), Memory(), cast(Sockets, None))

    daemon = trio.run(made)
    assert daemon._node._common.tuning == getattr(Tuning, network)()
