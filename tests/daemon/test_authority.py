"""The authority: what is given, renewed, revoked, written down first; and by whom it may be."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest
from hosts import HOUR, NOW, B, Hosts, everything, start

from meshd import authority, values
from meshd.errors import StateError, UsageError
from meshd.invitation import Invitation, decode
from meshd.kernel.memory import Memory
from meshd.kernel.state import Interface
from meshd.state import AUTHORITY_KEY, NEXT_AUTHORITY_KEY
from protocol.identity import Identity
from protocol.objects import Revocation


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    return Hosts.under(tmp_path)


def key_of(invitation: Invitation) -> Identity:
    assert invitation.identity is not None
    return invitation.identity


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
    monkeypatch.setattr(authority, "backend", lambda *_, **__: Memory())
    with pytest.raises(UsageError, match="start the daemon first, set advertise in"):
        hosts.invite()


def test_without_a_daemon_the_invitation_names_the_address_it_would_announce(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.init(advertise=())
    inside, outside = map(ipaddress.ip_interface, ("10.1.0.1/24", "192.0.2.7/24"))
    kernel = Memory([Interface("net0", 2, True, (inside, outside))])
    monkeypatch.setattr(authority, "backend", lambda *_, **__: kernel)
    assert list(map(str, decode(hosts.invite(), NOW).seeds)) == ["192.0.2.7:6179"]


def test_a_host_that_may_not_be_looked_at_needs_advertise(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Memory:
        raise PermissionError(1, "Operation not permitted")

    hosts.init(advertise=())
    monkeypatch.setattr(authority, "backend", fail)
    with pytest.raises(UsageError, match="set advertise in the config, or name a member"):
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
    with pytest.raises(UsageError, match="whether that one joined is not known here: there is"):
        hosts.invite("b")
    hosts.snapshot()
    assert hosts.invite("b")


def test_a_name_whose_token_was_used_stays_taken(hosts: Hosts) -> None:
    hosts.init()
    used = hosts.invited("b")
    hosts.clock.now += HOUR + 1
    hosts.snapshot(hosts.announced(key_of(used)))
    with pytest.raises(UsageError, match="a member; choose another name"):
        hosts.invite("b")


def test_a_name_is_free_again_when_its_key_is_revoked_or_its_grant_ended(hosts: Hosts) -> None:
    hosts.init()
    first = hosts.invited("b")
    revocation = Revocation.sign(hosts.authority(), first.mesh, node=first.grant.node)
    hosts.snapshot(hosts.announced(key_of(first)), revocation.raw)
    second = hosts.invited("b", until=int(NOW) + 60)
    hosts.snapshot(hosts.announced(key_of(second)), revocation.raw)
    with pytest.raises(UsageError, match="already the name"):
        hosts.invite("b")
    hosts.clock.now += 61
    assert hosts.invite("b")


def test_only_the_host_with_the_authoritys_key_can_invite(hosts: Hosts) -> None:
    hosts.init()
    hosts.join(hosts.invite())
    hosts.a, hosts.b = hosts.b, hosts.a
    with pytest.raises(UsageError, match=r"authority\.key is not here; do this where"):
        hosts.invite("c")


def test_the_authoritys_key_must_be_that_of_the_config(hosts: Hosts) -> None:
    hosts.init()
    state = hosts.a.state
    (state / AUTHORITY_KEY).write_bytes((state / NEXT_AUTHORITY_KEY).read_bytes())
    with pytest.raises(UsageError, match="is not the key of the authority of"):
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
