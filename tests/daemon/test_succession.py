"""A new authority: whom it takes over, what it leaves behind, and that nothing is half done."""

from __future__ import annotations

import os
from itertools import permutations
from pathlib import Path
from typing import Any

import attrs
import pytest
from hosts import HOUR, NOW, B, Hosts, announcement, everything, start

from meshd import founding, records
from meshd.authority import bundle, ledger, office, succession
from meshd.authority.knowledge import Word
from meshd.authority.succession import Made, Plan
from meshd.errors import StateError, UsageError
from meshd.invitation import decode
from meshd.snapshot import split
from meshd.state import StateDirectory, key_file
from protocol.identity import Identity, Mesh
from protocol.objects import MAX_SEQUENCE, Grant, Record, Revocation, Successor
from protocol.objects import decode as decode_object
from protocol.store import Store


@attrs.define
class Held:
    """A mesh of a, b and c, whose snapshot host ``a`` has, and the key that was set aside."""

    hosts: Hosts
    next: Path
    nodes: dict[str, Identity]

    def plan(self, *, drop: list[str] | None = None, keep: list[str] | None = None) -> Plan:
        hosts = self.hosts
        return succession.plan(
            hosts.a, hosts.world, self.next, file=None, drop=drop or [], keep=keep or []
        )

    def succeed(self, **options: Any) -> Made:
        self.hosts.clock.now += HOUR
        return succession.carry_out(self.plan(**options), self.hosts.world, self.next)

    def tell(self, *more: Record) -> None:
        """The mesh (the snapshot of ``a``) has this too."""
        state = StateDirectory(self.hosts.a.state)
        self.hosts.snapshot(*state.read_snapshot(), *(each.raw for each in more))

    @property
    def fates(self) -> dict[str, str]:
        return {heir.name: heir.fate for heir in self.plan().heirs}

    def granted(self, whom: str, **fields: Any) -> Grant:
        """By the present authority's key, in whoever's hand."""
        node = self.nodes.setdefault(whom, Identity.generate(self.hosts.world.random_bytes))
        mesh = self.hosts.book().mesh
        given: dict[str, Any] = {"serial": int(NOW * 1000) + 10**6, "allow": [B], "name": whom}
        return Grant.sign(
            self.hosts.authority(),
            mesh,
            node=node.public,
            generation=mesh.generation,
            **(given | fields),
        )


@pytest.fixture
def held(tmp_path: Path) -> Held:
    hosts = Hosts.under(tmp_path)
    hosts.init()
    nodes = {"a": start(hosts.a, hosts.clock).identity}
    objects = [start(hosts.a, hosts.clock).grant.raw]
    for name in "bc":
        given = hosts.invited(name, allow=(B,), limit=7)
        assert given.identity is not None
        nodes[name] = given.identity
        objects.append(given.grant.raw)
    mesh = hosts.book().mesh
    hosts.snapshot(*objects, *(announcement(each, mesh).raw for each in nodes.values()))
    aside = tmp_path / "usb"
    aside.mkdir()
    next_key = (hosts.a.state / "authority-next.key").rename(aside / "next.key")
    return Held(hosts, next_key, nodes)


def objects_of(made: Made) -> tuple[Successor, list[Grant]]:
    successor, *grants = [decode_object(raw) for raw in made.objects]
    assert isinstance(successor, Successor)
    assert all(isinstance(each, Grant) for each in grants)
    return successor, grants  # type: ignore[return-value]


def test_all_members_are_taken_over_on_their_old_terms_and_in_their_old_places(held: Held) -> None:
    before = {each.node: each for each in held.hosts.book().known.store.grants.all()}
    successor, grants = objects_of(held.succeed())
    mesh = held.hosts.book().mesh
    assert (mesh.generation, mesh.id) == (1, Mesh(mesh.authority, mesh.next_hash).id)
    assert successor.verify(mesh)
    assert (successor.count, successor.made) == (3, mesh.newest)
    assert {each.node for each in grants} == set(before)
    for new in grants:
        old = before[new.node]
        assert new.verify(mesh)
        assert new.since == old.since <= successor.serial
        assert (new.name, new.allow, new.limit) == (old.name, old.allow, old.limit)
    said: list[Word] = [*before.values(), successor, *grants]
    store = Store()
    for word in said:
        store.merge(word)
    assert store.generation == 1


def test_the_new_keys_lie_where_the_old_ones_did_which_are_moved_aside(held: Held) -> None:
    old, aside = held.hosts.authority(), held.next.read_bytes()
    made = held.succeed()
    state = StateDirectory(held.hosts.a.state)
    mesh = held.hosts.book().mesh
    assert state.read_key("authority.key").public == mesh.newest.key
    after = state.read_key("authority-next.key")
    assert Mesh.founded_by(mesh.authority, after.public).next_hash == mesh.newest.next_hash
    assert state.read_key("authority-0.key").secret == old.secret
    assert held.next.read_bytes() == aside
    text = (state.path / "succession-1").read_text()
    assert tuple(bundle.load(text, "x")) == made.objects
    assert {path.stat().st_mode & 0o777 for path in state.path.iterdir()} == {0o600}


def test_the_key_that_was_set_aside_is_moved_too_where_it_was_never_taken_away(held: Held) -> None:
    held.next = held.next.rename(held.hosts.a.state / "authority-next.key")
    content = held.next.read_bytes()
    made = held.succeed()
    state = held.hosts.a.state
    assert (state / "authority-next-0.key").read_bytes() == content
    assert dict(made.aside)[state / "authority-next.key"] == state / "authority-next-0.key"
    StateDirectory.open(state)


def test_the_new_authority_goes_on_where_the_old_one_was(held: Held) -> None:
    hosts = held.hosts
    successor, _ = objects_of(held.succeed())
    invitation = hosts.invited("d")
    assert invitation.grant.generation == 1
    assert invitation.grant.since > successor.serial
    assert decode(invitation.encode(), hosts.clock.now).successor == successor
    with pytest.raises(UsageError, match="b is already the name of"):
        hosts.invite("b")
    hosts.join(invitation.encode())
    options = start(hosts.b, hosts.clock)
    assert options.mesh.generation == 1
    assert options.successors == (successor,)
    assert options.grant.name == "d"


def test_the_old_authority_gives_nothing_any_more(held: Held) -> None:
    hosts = held.hosts
    held.succeed()
    old = hosts.a.state / "authority-0.key"
    said = "authority-0.key is the authority of generation 0, which generation 1 has succeeded; use"
    with pytest.raises(UsageError, match=said):
        hosts.invited("d", file=old)


def test_one_key_makes_one_authority(held: Held) -> None:
    held.succeed()
    said = "next.key has served: generation 1 came of it; .*: meshd deliver succession-1"
    with pytest.raises(UsageError, match=said):
        held.plan()


def test_only_the_key_that_was_set_aside_makes_an_authority(held: Held) -> None:
    wrong = held.next.parent / "wrong.key"
    for key, said in (
        (held.hosts.authority(), "is an authority's own key, not the key that was set aside"),
        (held.nodes["b"], "is not the key that was set aside to end generation 0 of the mesh in"),
    ):
        wrong.write_bytes(key_file(key))
        wrong.chmod(0o600)
        held.next = wrong
        with pytest.raises(UsageError, match=said):
            held.plan()
    wrong.chmod(0o644)
    with pytest.raises(UsageError, match="has mode 0644, not 0600"):
        held.plan()


def test_successions_follow_each_other_and_a_token_names_the_last(held: Held) -> None:
    hosts = held.hosts
    for generation in (1, 2, 3):
        held.succeed()
        kept = hosts.a.state / "authority-next.key"
        held.next = kept.rename(held.next.parent / f"next-{generation}.key")
        assert hosts.book().mesh.generation == generation
    invitation = decode(hosts.invite("d"), hosts.clock.now)
    assert invitation.successor is not None
    assert (invitation.successor.generation, invitation.mesh.generation) == (3, 3)
    hosts.join(hosts.invite("e"))
    assert start(hosts.b, hosts.clock).mesh.of_generation(3) == hosts.book().mesh.newest
    names = {path.name for path in hosts.a.state.iterdir()}
    assert {"authority-0.key", "authority-1.key", "authority-2.key", "authority.key"} < names


# -- whom it takes over ------------------------------------------------------------------------


def test_who_is_in_the_mesh_and_not_in_the_ledger_is_for_the_operator_to_judge(held: Held) -> None:
    held.tell(held.granted("thief"))
    assert held.fates["thief"] == "undecided"
    (thief,) = held.plan().undecided
    assert thief.note == "not in the ledger"
    assert held.plan(keep=["thief"]).undecided == ()
    _, grants = objects_of(held.succeed(drop=["thief"]))
    assert {each.name for each in grants} == {"a", "b", "c"}


def test_what_somebody_else_granted_a_member_is_shown_and_the_ledger_stands(held: Held) -> None:
    held.tell(held.granted("b", allow=[B.supernet()]))
    (b,) = [heir for heir in held.plan().heirs if heir.name == "b"]
    assert (b.fate, b.terms.allow) == ("taken", (B,))
    assert "in the mesh: b, 10.2.0.0/23, no end" in b.note


def test_whom_somebody_else_revoked_is_taken_over(held: Held) -> None:
    mesh = held.hosts.book().mesh
    word = Revocation.sign(held.hosts.authority(), mesh, node=held.nodes["b"].public)
    held.tell(word)
    (b,) = [heir for heir in held.plan().heirs if heir.name == "b"]
    assert (b.fate, b.note) == ("taken", "revoked in the mesh, and not by the ledger")
    assert "b" in {each.name for each in objects_of(held.succeed())[1]}


def test_whom_the_authority_revoked_stays_so(held: Held) -> None:
    with office.held(held.hosts.a, held.hosts.world) as holder:
        holder.revoke("b")
    assert held.fates == {"a": "taken", "b": "out", "c": "taken"}


def test_an_invitation_that_was_not_used_is_void(held: Held) -> None:
    held.hosts.invite("d")
    assert held.fates["d"] == "out"


def test_without_a_ledger_all_that_the_mesh_has_are_taken_over(held: Held) -> None:
    held.tell(held.granted("d"))
    (held.hosts.a.state / "grants").unlink()
    (held.hosts.a.state / "authority.key").unlink()
    _, grants = objects_of(held.succeed(drop=["c"]))
    assert {each.name for each in grants} == {"a", "b", "d"}
    everybody = held.hosts.book().standings
    assert {each.name for each in everybody if each.state == "member"} == {"a", "b", "d"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"drop": ["nobody"]}, "--drop: nobody is no member's name or key"),
        ({"keep": ["nobody"]}, "--keep: nobody is no member's name or key"),
        ({"drop": ["a", "b", "c"]}, "nobody would be left; take over at least one member"),
    ],
)
def test_a_slip_in_naming_members_is_one_line(
    held: Held, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        held.plan(**options)


def test_whom_nobody_can_take_over_cannot_be_kept(held: Held) -> None:
    held.hosts.invite("d")
    said = "--keep: d cannot be taken over: its token was not used: invite it again"
    with pytest.raises(UsageError, match=said):
        held.plan(keep=["d"])
    mesh = held.hosts.book().mesh
    word = Revocation.sign(held.hosts.authority(), mesh, node=held.nodes["b"].public)
    held.tell(word)
    (held.hosts.a.state / "grants").unlink()
    key = held.nodes["b"].public.hex()
    with pytest.raises(UsageError, match=f"--keep: {key[:57]}.* revoked; its grant is lost"):
        held.plan(keep=[key])


def test_a_ledger_that_a_succession_elsewhere_has_left_behind_is_not_compared_with(
    held: Held,
) -> None:
    ledger_of_a = (held.hosts.a.state / "grants").read_bytes()
    made = held.succeed(drop=["c"])
    held.next = (held.hosts.a.state / "authority-next.key").rename(held.next.parent / "2.key")
    (held.hosts.a.state / "grants").write_bytes(ledger_of_a)
    held.tell(*split(made.objects)[0])
    plan = held.plan()
    assert plan.ledger is None
    assert {heir.name for heir in plan.taken} == {"a", "b"}
    held.succeed()
    assert len(ledger.read(held.hosts.a.state).successors) == 2


def test_a_grant_of_an_authority_before_does_not_speak_for_its_node(held: Held) -> None:
    made = held.succeed(drop=["c"])
    held.next = (held.hosts.a.state / "authority-next.key").rename(held.next.parent / "2.key")
    held.tell(*split(made.objects)[0])
    assert held.fates == {"a": "taken", "b": "taken", "c": "out"}
    held.tell(held.granted("c", serial=int(NOW * 1000) + 10**9))
    assert held.fates == {"a": "taken", "b": "taken", "c": "undecided"}


def test_two_of_one_name_are_told_apart_by_their_keys(held: Held) -> None:
    thief = held.granted("thief", name="b")
    held.tell(thief)
    with pytest.raises(UsageError, match=r"--drop: b is .*, .*; give the key instead"):
        held.plan(drop=["b"])
    assert len(held.plan(drop=[thief.node.hex()]).taken) == 3


def test_without_anything_known_of_the_members_there_is_no_succession(held: Held) -> None:
    (held.hosts.a.state / "snapshot").unlink()
    with pytest.raises(UsageError, match=r"who is a member is not known here: no daemon answers"):
        held.plan()


def test_a_claim_from_the_far_future_leaves_serials_for_others(held: Held) -> None:
    held.tell(held.granted("d", serial=MAX_SEQUENCE))
    (held.hosts.a.state / "grants").unlink()
    successor, grants = objects_of(held.succeed())
    assert {each.since <= successor.serial < 2**49 for each in grants} == {True}
    assert held.hosts.invited("e").grant.serial > successor.serial


def test_what_is_said_of_others_later_keeps_no_newcomer_from_the_succession(held: Held) -> None:
    """Whoever is not among those named must not count as one of them, in whatever order a
    newcomer hears of it."""
    hosts = held.hosts
    successor, grants = objects_of(held.succeed(drop=["c"]))
    unknown = Identity.generate(hosts.world.random_bytes).public
    with office.held(hosts.a, hosts.world) as holder:
        dropped = holder.revoke("c")[1]
    with office.held(hosts.a, hosts.world) as holder:
        never = holder.revoke(unknown.hex())[1]
    hosts.clock.now += HOUR
    with office.held(hosts.a, hosts.world) as holder:
        assert holder.revoke(unknown.hex())[1] == never
    said: list[Word] = [successor, *grants, dropped, never, hosts.invited("d").grant]
    for order in permutations(said):
        store = Store()
        for word in order:
            store.merge(word)
        assert store.generation == 1, order


def test_a_revocation_of_one_who_was_taken_over_counts_for_the_succession(held: Held) -> None:
    successor, grants = objects_of(held.succeed())
    with office.held(held.hosts.a, held.hosts.world) as holder:
        found, word = holder.revoke("b")
    said: list[Word] = [successor, word, *(each for each in grants if each.node != found.node)]
    store = Store()
    for each in said:
        store.merge(each)
    assert store.generation == 1


def test_one_who_was_dropped_can_be_granted_again_as_a_new_member(held: Held) -> None:
    hosts = held.hosts
    successor, _ = objects_of(held.succeed(drop=["c"]))
    assert hosts.state_of("c") == "lapsed"
    with (
        office.held(hosts.a, hosts.world) as holder,
        pytest.raises(UsageError, match=r"c .* has no grant of this authority; give it one: mesh"),
    ):
        holder.renew(["c"], {})
    assert hosts.grant(held.nodes["c"].public, "c").grant.since > successor.serial


# -- all or nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize("failing", range(1, 7))
def test_a_succession_that_cannot_be_written_leaves_all_as_it_was(
    held: Held, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    held.next = held.next.rename(held.hosts.a.state / "authority-next.key")
    plan = held.plan()
    before = {path.name: path.read_bytes() for path in held.hosts.a.state.iterdir()}
    calls = iter(range(1, 100))

    def failing_at(real: Any) -> Any:
        def fail(*args: Any, **options: Any) -> object:
            if next(calls) == failing:
                raise OSError(28, "No space left on device")
            return real(*args, **options)

        return fail

    monkeypatch.setattr(os, "link", failing_at(os.link))
    monkeypatch.setattr(os, "replace", failing_at(os.replace))
    with pytest.raises(StateError, match="No space left on device"):
        succession.carry_out(plan, held.hosts.world, held.next)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in held.hosts.a.state.iterdir()} == before
    held.succeed()


def test_a_key_of_something_else_is_not_moved_out_of_the_way(held: Held) -> None:
    other = held.hosts.a.state / "authority-next.key"
    other.write_bytes(key_file(held.nodes["b"]))
    other.chmod(0o600)
    before = everything(held.hosts.a.home)
    with pytest.raises(UsageError, match=r"authority-next\.key is none of this mesh's keys; move"):
        held.succeed()
    assert everything(held.hosts.a.home) == before


# -- a node's start ------------------------------------------------------------------------------


def test_a_start_takes_its_authorities_from_the_snapshot(held: Held) -> None:
    made = held.succeed()
    held.tell(*(each for each in split(made.objects)[0]))
    options = start(held.hosts.a, held.hosts.clock)
    assert options.mesh == held.hosts.book().mesh
    assert options.grant.generation == 1


def test_a_successor_that_nobody_set_aside_makes_no_authority_at_a_start(held: Held) -> None:
    hosts = held.hosts
    forger = Identity.generate(hosts.world.random_bytes)
    made = attrs.evolve(hosts.book().mesh.newest, generation=1, key=forger.public)
    forged = Successor.sign(
        forger, hosts.book().mesh, made=made, serial=1, members=[held.nodes["a"].public]
    )
    held.tell(forged)
    assert start(hosts.a, hosts.clock).mesh.generation == 0
    assert hosts.book().mesh.generation == 0


def test_the_ledger_goes_through_all_generations(held: Held) -> None:
    held.succeed()
    found = ledger.read(held.hosts.a.state)
    assert [each.generation for each in found.successors] == [1]
    assert len(found.grants) == 3
    assert found.serial == found.successors[0].serial


def test_a_ledger_with_something_else_in_it_is_damaged(held: Held) -> None:
    path = held.hosts.a.state / "grants"
    path.write_bytes(records.dump([bytes(8) + held.hosts.announced(held.nodes["a"])]))
    with pytest.raises(UsageError, match="grants is damaged; restore it from a copy"):
        held.hosts.book()


def test_founding_makes_no_mesh_over_an_authority_of_before(held: Held) -> None:
    hosts = held.hosts
    held.succeed()
    for name in ("authority.key", "authority-next.key", "node.key", "grant", "grants"):
        (hosts.a.state / name).unlink()
    hosts.a.config.unlink()
    for name in ("succession-1", "authority-0.key"):
        with pytest.raises(UsageError, match=f"{name} exists: a node lives here already"):
            founding.init(hosts.a, hosts.world, name="x")
        (hosts.a.state / name).unlink()
    founding.init(hosts.a, hosts.world, name="x")
