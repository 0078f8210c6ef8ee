"""How a mesh begins and grows: all or nothing, names once, serials rising."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio
from hosts import ADVERTISED, HOUR, NOW, A, B, Hosts, everything, start

from meshd import config as configuration
from meshd import values
from meshd.authority.terms import GrantTerms
from meshd.daemon import Daemon
from meshd.errors import StateError, UsageError
from meshd.kernel.memory import Memory
from meshd.log import EventLog
from meshd.paths import Paths
from meshd.startup import Additions, prepare
from meshd.state import AUTHORITY_KEY, NEXT_AUTHORITY_KEY, NODE_KEY, StateDirectory
from meshd.udp import Sockets
from protocol.identity import Identity
from protocol.objects import Grant
from protocol.tuning import Tuning


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts.under(tmp_path)


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
