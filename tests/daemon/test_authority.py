"""The authority: what is given, renewed, revoked, written down first; and by whom it may be."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hosts import HOUR, NOW, B, Hosts, everything, start

from meshd import founding, values
from meshd.authority import office
from meshd.authority.terms import GrantTerms
from meshd.errors import StateError, UsageError
from meshd.invitation import Invitation, decode
from meshd.kernel.memory import Memory
from meshd.kernel.state import Interface
from meshd.paths import Paths
from meshd.state import AUTHORITY_KEY, NEXT_AUTHORITY_KEY
from meshd.values import Seed
from protocol.identity import Identity
from protocol.objects import MAX_SEQUENCE, Announcement, Grant, Revocation


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
    monkeypatch.setattr(office, "backend", lambda *_, **__: Memory())
    with pytest.raises(UsageError, match="start the daemon first, set advertise in"):
        hosts.invite()


def test_without_a_daemon_the_invitation_names_the_address_it_would_announce(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.init(advertise=())
    inside, outside = map(ipaddress.ip_interface, ("10.1.0.1/24", "192.0.2.7/24"))
    kernel = Memory([Interface("net0", 2, True, (inside, outside))])
    monkeypatch.setattr(office, "backend", lambda *_, **__: kernel)
    assert list(map(str, decode(hosts.invite(), NOW).seeds)) == ["192.0.2.7:6179"]


def test_a_host_that_may_not_be_looked_at_needs_advertise(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Memory:
        raise PermissionError(1, "Operation not permitted")

    hosts.init(advertise=())
    monkeypatch.setattr(office, "backend", fail)
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


def test_nothing_is_given_beside_a_ledger_of_another_mesh(hosts: Hosts, tmp_path: Path) -> None:
    hosts.init()
    other = Hosts.under(tmp_path / "other")
    other.world.random_bytes(1)  # or it would make the same keys
    other.init()
    (hosts.a.state / "grants").write_bytes((other.a.state / "grants").read_bytes())
    with pytest.raises(UsageError, match="grants is the ledger of another mesh than"):
        hosts.invite()


def test_what_is_given_is_above_what_another_copy_of_the_key_gave(hosts: Hosts) -> None:
    hosts.init()
    first = hosts.invited("b")
    another = Grant.sign(
        hosts.authority(), first.mesh, node=first.grant.node, name="b", since=first.grant.since,
        serial=first.grant.serial + 10**9, allow=[B],
    )  # fmt: skip
    hosts.snapshot(another.raw, hosts.announced(key_of(first)))
    (renewed,) = renew(hosts, "b")
    assert renewed.serial == another.serial + 1
    assert renewed.allow == first.grant.allow  # by the ledger, not by somebody else's word
    top = Grant.sign(
        hosts.authority(), first.mesh, node=first.grant.node, name="b", serial=MAX_SEQUENCE,
        allow=[B],
    )  # fmt: skip
    hosts.snapshot(top.raw)
    with pytest.raises(UsageError, match=r"no serial is left for .*: somebody else has used"):
        renew(hosts, "b")


# -- key, grant ---------------------------------------------------------------------------------


def test_a_host_has_one_key_which_is_made_once(hosts: Hosts) -> None:
    made = founding.key(hosts.b, hosts.world)
    assert founding.key(hosts.b, hosts.world).public == made.public
    assert everything(hosts.b.home) == ["state", "state/node.key"]
    assert (hosts.b.state / "node.key").stat().st_mode & 0o777 == 0o600
    assert hosts.b.state.stat().st_mode & 0o777 == 0o700
    (hosts.b.state / "node.key").chmod(0o644)
    with pytest.raises(UsageError, match=r"node\.key has mode 0644, not 0600; run: chmod 600"):
        founding.key(hosts.b, hosts.world)


def test_no_key_is_made_where_others_can_write(hosts: Hosts) -> None:
    hosts.b.state.mkdir(parents=True)
    hosts.b.state.chmod(0o777)
    with pytest.raises(UsageError, match=r"can be written by others \(mode 0777\)"):
        founding.key(hosts.b, hosts.world)
    assert everything(hosts.b.home) == ["state"]


def test_a_member_can_join_with_a_key_that_never_left_its_host(hosts: Hosts) -> None:
    hosts.init()
    own = founding.key(hosts.b, hosts.world)
    given = hosts.grant(own.public, limit=3)
    assert own.secret not in given.encode().encode()
    hosts.join(given.encode())
    b = start(hosts.b, hosts.clock)
    assert (b.identity.secret, b.grant, b.grant.limit) == (own.secret, given.grant, 3)


def test_a_token_for_another_key_is_refused_and_changes_nothing(hosts: Hosts) -> None:
    hosts.init()
    other = Identity.generate(hosts.world.random_bytes)
    token = hosts.grant(other.public).encode()
    with pytest.raises(UsageError, match=r"holds no key, and .*node\.key does not exist"):
        hosts.join(token)
    assert not hosts.b.home.exists()
    own = founding.key(hosts.b, hosts.world).public.hex()
    said = f"is for the key {other.public.hex()[:8]}.* ask for another: meshd grant {own} --name b"
    with pytest.raises(UsageError, match=said):
        hosts.join(token)
    assert everything(hosts.b.home) == ["state", "state/node.key"]


def test_a_token_with_a_key_is_not_taken_over_a_key_that_is_here(hosts: Hosts) -> None:
    hosts.init()
    founding.key(hosts.b, hosts.world)
    with pytest.raises(UsageError, match=r"node\.key exists: a node lives here already"):
        hosts.join(hosts.invite())


def test_a_key_that_has_a_grant_is_given_it_anew_in_its_old_place(hosts: Hosts) -> None:
    hosts.init()
    node = Identity.generate(hosts.world.random_bytes).public
    first = hosts.grant(node).grant
    hosts.clock.now += 60
    again = hosts.grant(node, allow=(B,)).grant
    assert (again.since, again.allow) == (first.since, (B,))
    assert again.serial > first.serial
    assert hosts.grant(node, name="c").grant.name == "c"
    assert hosts.invite("b")  # the name it had is free


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "is no key of 64 hex digits; copy what `meshd key` printed"),
        ("ab" * 31, "is no key of 64 hex digits"),
        ("AB" * 32, "is no key of 64 hex digits"),
        ("00" * 32, "is no key: public key of small order; run `meshd key` again"),
        ("ff" * 32, "is no key: public key not canonical"),
    ],
)
def test_what_is_no_key_is_given_no_grant(key: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        office.public_key(key)


# -- renew, revoke --------------------------------------------------------------------------------


def renew(hosts: Hosts, *nodes: str, **changes: Any) -> list[Grant]:
    with office.held(hosts.a, hosts.world) as holder:
        return holder.renew(nodes, changes)


def revoke(hosts: Hosts, node: str) -> Revocation:
    with office.held(hosts.a, hosts.world) as holder:
        return holder.revoke(node)[1]


def test_a_renewal_changes_what_is_said_and_nothing_else(hosts: Hosts) -> None:
    hosts.init()
    old = hosts.invited("b", limit=3, at=(B,), until=int(NOW) + 90).grant
    hosts.clock.now += 60
    (new,) = renew(hosts, "b", until=int(NOW) + 900)
    assert (new.allow, new.at, new.limit, new.since) == (old.allow, old.at, old.limit, old.since)
    assert (new.until, new.name, new.node) == (int(NOW) + 900, "b", old.node)
    assert new.serial > old.serial
    assert renew(hosts, old.node.hex(), until=0)[0].until == 0
    assert renew(hosts, old.node.hex()[:8], allow=(B,))[0].allow == (B,)


def test_renewing_many_at_once_gives_each_a_serial_of_its_own(hosts: Hosts) -> None:
    hosts.init()
    names = ["b", "c", "d"]
    for name in names:
        hosts.invite(name)
    renewed = renew(hosts, *names, "b")
    assert len({each.serial for each in renewed}) == len(renewed) == 3
    assert hosts.invited("e").grant.serial > max(each.serial for each in renewed)


def test_a_renewal_leaves_a_token_usable_for_as_long_as_before(hosts: Hosts) -> None:
    hosts.init()
    hosts.invite("b")
    hosts.snapshot()
    renew(hosts, "b", until=int(NOW) + 10 * HOUR)
    assert hosts.state_of("b") == "invited"
    hosts.clock.now += HOUR + 1
    assert hosts.state_of("b") == "unused"
    with pytest.raises(UsageError, match=r"b .* never joined, and its token has ended; invite it"):
        renew(hosts, "b")


def test_one_whose_grant_has_ended_is_a_member_again_when_it_is_renewed(hosts: Hosts) -> None:
    hosts.init()
    given = hosts.invited("b", until=int(NOW) + 60)
    hosts.snapshot(hosts.announced(key_of(given)))
    hosts.clock.now += 61
    assert hosts.state_of("b") == "ended"
    with pytest.raises(UsageError, match="--until 2027-01-15 08:01 UTC is past; give a later"):
        renew(hosts, "b")
    renew(hosts, "b", until=int(NOW) + HOUR)
    assert hosts.state_of("b") == "member"


def test_who_is_renewed_must_be_somebody(hosts: Hosts) -> None:
    hosts.init()
    for name in ("b", "12345678", "a" * 8):
        with pytest.raises(UsageError, match=f"{name} is no member's name or key here; see: mesh"):
            renew(hosts, name)
    stranger = Identity.generate(hosts.world.random_bytes).public.hex()
    with pytest.raises(UsageError, match=f"no grant of this authority; .* meshd grant {stranger}"):
        renew(hosts, stranger)
    revoke(hosts, "a")
    with pytest.raises(UsageError, match=r"a .* is revoked, for as long as this authority lasts"):
        renew(hosts, "a")


def test_a_revoked_name_is_free_and_its_key_is_not(hosts: Hosts) -> None:
    hosts.init()
    old = hosts.invited("b")
    word = revoke(hosts, "b")
    assert (word.node, word.since) == (old.grant.node, old.grant.since)
    assert word.verify(old.mesh)
    assert hosts.state_of("b") == "revoked"
    new = hosts.invited("b")
    assert new.grant.node != old.grant.node
    with pytest.raises(
        UsageError, match=r"b .* is revoked, for as long as this authority lasts; m"
    ):
        hosts.grant(old.grant.node, "x")


def test_to_revoke_twice_is_to_say_the_same(hosts: Hosts) -> None:
    hosts.init()
    hosts.invite("b")
    assert revoke(hosts, "b") == revoke(hosts, "b")
    before = (hosts.a.state / "grants").read_bytes()
    revoke(hosts, "b")
    assert (hosts.a.state / "grants").read_bytes() == before


def test_of_two_that_had_a_name_the_newest_holder_is_meant(hosts: Hosts) -> None:
    hosts.init()
    first = hosts.invited("b").grant
    revoke(hosts, "b")
    second = hosts.invited("b").grant
    assert revoke(hosts, "b").node == second.node
    assert first.node != second.node


def test_of_two_that_were_never_used_the_newest_is_meant(hosts: Hosts) -> None:
    hosts.init()
    hosts.snapshot()
    old = hosts.invited("b").grant
    hosts.clock.now += HOUR + 1
    new = hosts.invited("b").grant
    hosts.clock.now += HOUR + 1
    assert old.since < new.since
    assert hosts.book().find("b").node == new.node
    revoke(hosts, "b")
    assert hosts.book().find("b").node == old.node
    revoke(hosts, "b")
    assert hosts.book().find("b").node == new.node  # said again, it is the same word


def test_of_two_members_with_one_name_the_key_must_be_given(hosts: Hosts) -> None:
    hosts.init()
    ours = hosts.invited("b")
    stolen = Identity.generate(hosts.world.random_bytes)
    theirs = Grant.sign(
        hosts.authority(), ours.mesh, node=stolen.public, name="b", serial=1, allow=[B]
    )
    hosts.snapshot(theirs.raw, hosts.announced(stolen), hosts.announced(key_of(ours)))
    keys = sorted(each.hex()[:8] for each in (stolen.public, ours.grant.node))
    with pytest.raises(UsageError, match=f"b is the name of {', '.join(keys)}; give the key inst"):
        revoke(hosts, "b")
    assert revoke(hosts, stolen.public.hex()).node == stolen.public


def test_a_key_that_nobody_knows_can_be_revoked_before_it_comes(hosts: Hosts) -> None:
    hosts.init()
    stranger = Identity.generate(hosts.world.random_bytes).public
    assert revoke(hosts, stranger.hex()).node == stranger
    with pytest.raises(UsageError, match="is revoked"):
        hosts.grant(stranger)


def test_what_cannot_be_written_down_is_not_signed(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.init()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    for deed in (lambda: revoke(hosts, "a"), lambda: renew(hosts, "a")):
        with pytest.raises(StateError, match=r"cannot write .*grants: No space left on device"):
            deed()


# -- a key that lies elsewhere --------------------------------------------------------------------


@pytest.fixture
def offline(hosts: Hosts, tmp_path: Path) -> Path:
    """The key and the ledger were moved to another machine, where there is no node; the mesh's
    config was copied there."""
    hosts.init()
    safe = tmp_path / "safe"
    safe.mkdir(0o700)
    for name in (AUTHORITY_KEY, "grants"):
        (hosts.a.state / name).rename(safe / name)
    text = hosts.a.config.read_text()
    hosts.a = Paths.under(tmp_path / "copy")
    hosts.a.home.mkdir()
    hosts.a.config.write_text(text)
    return safe / AUTHORITY_KEY


def test_the_authority_needs_no_node_and_no_daemon(hosts: Hosts, offline: Path) -> None:
    token = hosts.invited("b", file=offline).encode()
    assert everything(hosts.a.home) == ["meshd.toml"]
    hosts.join(token)
    b = start(hosts.b, hosts.clock)
    assert list(map(str, b.config.seeds)) == ["192.0.2.1:6179"]  # as the config advertises
    with office.held(hosts.a, hosts.world, offline) as holder:
        assert holder.revoke("b")[1].node == b.identity.public


def test_without_a_node_of_its_own_it_names_members_that_its_snapshot_knows(
    hosts: Hosts, offline: Path
) -> None:
    text = hosts.a.config.read_text().replace('advertise = ["192.0.2.1:6179"]', "")
    hosts.a.config.write_text(text)
    with pytest.raises(UsageError, match="or name a member with --seed"):
        hosts.invited("b", file=offline)
    hosts.a.state.mkdir()
    where = [values.advertised("192.0.2.7")]
    with office.held(hosts.a, hosts.world, offline) as holder:
        member = holder.invite(name="c", valid=HOUR, terms=GrantTerms(), seeds=[Seed("x", 1)])
    boot = bytes([3]) + bytes(31)
    own = Announcement.sign(
        key_of(member), member.mesh, sequence=1, boot_key=boot, endpoints=where, prefixes=()
    )
    hosts.snapshot(member.grant.raw, own.raw)
    assert list(map(str, hosts.invited("b", file=offline).seeds)) == ["192.0.2.7:6179"]


def fifo(key: Path) -> None:
    key.unlink()
    os.mkfifo(key, 0o600)


def symlink(key: Path) -> None:
    key.rename(key.with_suffix(".real"))
    key.symlink_to(key.with_suffix(".real"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda key: key.chmod(0o644), "has mode 0644, not 0600; run: chmod 600"),
        (lambda key: key.unlink(), "does not exist; restore it from where you keep it"),
        (lambda key: key.write_bytes(b"x"), "holds no key .65 bytes: 64 hex digits and a newline"),
        (fifo, "is not a regular file"),
        (symlink, "is a symbolic link; put the key file"),
        (lambda key: key.write_bytes(b"0" * 64 + b"\n"), "is not the key of the authority of"),
        (lambda key: (key.parent / "grants").unlink(), "grants is missing, which says what names"),
    ],
)
def test_the_rules_for_key_files_hold_wherever_the_key_is(
    hosts: Hosts, offline: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(offline)
    with pytest.raises(UsageError, match=said) as caught:
        hosts.invited("b", file=offline)
    assert str(offline.parent) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_nobody_signed_is_not_believed_of_a_snapshot_that_came_from_elsewhere(
    hosts: Hosts,
) -> None:
    hosts.init()
    forger = Identity.generate(hosts.world.random_bytes)
    mesh, me = hosts.book().mesh, hosts.book().find("a").node
    forged = Grant.sign(forger, mesh, node=forger.public, name="x", serial=1, allow=[B])
    revocation = Revocation.sign(forger, mesh, node=me)
    hosts.snapshot(forged.raw, revocation.raw)
    assert [(each.name, each.state) for each in hosts.book().standings] == [("a", "member")]
