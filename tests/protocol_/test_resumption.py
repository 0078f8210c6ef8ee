"""What is shared by all who begin with one store, and what each of them changes for itself."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from parts import MESH, announcement, mesh_resumption, mesh_store, node

from protocol.identity import BootKey
from protocol.keyring import Keyring
from protocol.members import Common, Roster
from protocol.resumption import Overlay, Resumption
from protocol.session import key_id
from protocol.store import Store
from protocol.tuning import Tuning

keys = st.integers(0, 6).map(lambda number: bytes([number]))
puts = st.tuples(keys, st.none() | st.integers(0, 9))


@given(st.dictionaries(keys, st.integers(0, 9)), st.lists(puts))
def test_an_overlay_is_a_copy_that_leaves_what_is_under_it_alone(
    under: dict[bytes, int], changes: list[tuple[bytes, int | None]]
) -> None:
    before, overlay, model = dict(under), Overlay(under), dict(under)
    for key, value in changes:
        if value is None:
            assert overlay.pop(key) == model.pop(key, None)
        else:
            overlay[key] = model[key] = value
    for number in range(7):
        key = bytes([number])
        assert (overlay.get(key), key in overlay) == (model.get(key), key in model)
    assert under == before


def keyring(me: int) -> Keyring:
    common = Common(node(me), MESH, Tuning.lan(), Random(me))
    return Keyring(common, BootKey.generate(common.rng.randbytes))


def test_one_who_resumes_knows_the_key_of_everyone_but_itself() -> None:
    one = keyring(1)
    one.resume(mesh_resumption(3))
    assert one.stored(node(1).public) is None
    for each in (0, 2):
        held = announcement(each)
        named = key_id(MESH.id, held.node, held.boot_key)
        assert (one.stored(held.node), one.node(named, 0.0)) == (named, held.node)


def test_what_one_of_two_forgets_the_other_still_knows() -> None:
    one, other, gone = keyring(0), keyring(1), node(2).public
    for each in (one, other):
        each.resume(mesh_resumption(3))
    named = other.stored(gone)
    assert named is not None
    one.forget(gone)
    assert (one.stored(gone), one.node(named, 0.0)) == (None, None)
    assert (other.stored(gone), other.node(named, 0.0)) == (named, gone)


def test_rosters_filled_alike_go_their_own_ways() -> None:
    resumption = mesh_resumption(9)
    one, other = Roster(), Roster()
    for each in (one, other):
        each.fill(resumption.live, resumption.places)
    for key in resumption.live[:4]:
        one.discard(key)
    one.next(Random(1))
    assert sorted(one) == sorted(resumption.live[4:])
    assert list(other) == list(resumption.live)


def test_who_left_before_is_no_live_member_of_a_resumption() -> None:
    store = Store(mesh_store(3).tree)
    store.merge(announcement(1, 2, left=True))
    resumption = Resumption.of(store, MESH.id)
    assert resumption.left == (node(1).public,)
    assert (
        sorted(resumption.live)
        == sorted(resumption.places)
        == sorted(node(each).public for each in (0, 2))
    )
