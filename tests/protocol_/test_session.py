"""Sealed datagrams: opened once, by the one they are for, and by nobody else."""

from __future__ import annotations

import hashlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Rejected
from protocol.frames import MAX_BODY, MAX_DATAGRAM, SEALED_OVERHEAD, decode_sealed
from protocol.identity import BootKey
from protocol.session import WINDOW, Ends, Session, key_id

MESH_ID = hashlib.sha256(b"mesh").digest()[:16]
A, B = b"\xaa" * 32, b"\xbb" * 32
BOOT = {name: BootKey.generate(Random(name[0]).randbytes) for name in (A, B)}


def session(node: bytes, peer: bytes, *, now: float = 1000.0, mesh_id: bytes = MESH_ID) -> Session:
    return Session(Ends(mesh_id, node, BOOT[node], peer, BOOT[peer].public), now)


def pair() -> tuple[Session, Session]:
    return session(A, B), session(B, A)


def opened(receiver: Session, datagram: bytes) -> bytes:
    return receiver.open(datagram, decode_sealed(datagram).counter)


@given(st.lists(st.binary(min_size=1, max_size=MAX_BODY), min_size=1, max_size=5))
def test_what_one_end_seals_the_other_opens(bodies: list[bytes]) -> None:
    a, b = pair()
    for body in bodies:
        datagram = a.seal(body)
        assert len(datagram) == len(body) + SEALED_OVERHEAD <= MAX_DATAGRAM
        assert opened(b, datagram) == body
        assert opened(a, b.seal(body)) == body


def test_the_header_names_both_ends_and_counts_from_the_clock() -> None:
    a, b = pair()
    first, second = (decode_sealed(a.seal(b"x")) for _ in range(2))
    assert (first.sender, first.recipient) == (a.key_id, b.key_id)
    assert (first.counter, second.counter) == (1_000_000_001, 1_000_000_002)
    assert decode_sealed(session(A, B, now=0.0).seal(b"x")).counter == 1


@given(bit=st.integers(0, 8 * (SEALED_OVERHEAD + 5) - 1))
def test_a_datagram_with_any_bit_flipped_is_refused_and_the_genuine_one_still_opens(
    bit: int,
) -> None:
    a, b = pair()
    datagram = a.seal(b"hello")
    flipped = bytearray(datagram)
    flipped[bit >> 3] ^= 1 << (bit & 7)
    with pytest.raises(Rejected):
        opened(b, bytes(flipped))
    assert opened(b, datagram) == b"hello"


def test_a_datagram_does_not_open_for_whom_it_is_not() -> None:
    a, b = pair()
    datagram = a.seal(b"x")
    other_mesh = session(B, A, mesh_id=bytes(16))
    for wrong in (a, other_mesh, session(B, B)):
        with pytest.raises(Rejected, match="not sealed by that key"):
            opened(wrong, datagram)
    with pytest.raises(Rejected, match="not sealed by that key"):
        opened(a, datagram)  # reflected to its sender
    assert opened(b, datagram) == b"x"


def test_another_boot_key_of_the_same_node_opens_nothing() -> None:
    a, _ = pair()
    renewed = BootKey.generate(Random(99).randbytes)
    after = Session(Ends(MESH_ID, B, renewed, A, BOOT[A].public), 1000.0)
    assert after.key_id != session(B, A).key_id
    with pytest.raises(Rejected, match="not sealed by that key"):
        opened(after, a.seal(b"x"))


def test_a_session_made_again_goes_on_above_every_counter_it_may_have_used() -> None:
    before = session(A, B, now=1000.0)
    for _ in range(1000):
        last = before.seal(b"x")
    # 22 us a datagram is what sealing and sending costs at least.
    after = session(A, B, now=1000.0 + 1000 * 22e-6)
    assert decode_sealed(after.seal(b"x")).counter > decode_sealed(last).counter


@given(
    order=st.lists(st.integers(1, 3 * WINDOW), max_size=60),
    near=st.lists(st.integers(0, 40), max_size=60),
)
def test_a_counter_is_taken_once_and_only_inside_the_window(
    order: list[int], near: list[int]
) -> None:
    sender, receiver = session(A, B, now=0.0), session(B, A)
    sealed: dict[int, bytes] = {}
    taken: set[int] = set()
    for counter in [*order, *near, *order, *near]:
        if counter not in sealed:
            sender.sent = counter - 1
            sealed[counter] = sender.seal(b"x")
        highest = max(taken, default=0)
        good = counter > 0 and counter not in taken and highest - counter < WINDOW
        if good:
            assert receiver.open(sealed[counter], counter) == b"x"
            taken.add(counter)
        else:
            with pytest.raises(Rejected, match="replayed, or older"):
                receiver.open(sealed[counter], counter)


def test_a_thousand_datagrams_in_reverse_all_arrive_once() -> None:
    a, b = pair()
    datagrams = [a.seal(bytes([each & 255])) for each in range(WINDOW)]
    assert [opened(b, each)[0] for each in reversed(datagrams)] == [
        each & 255 for each in reversed(range(WINDOW))
    ]
    for each in datagrams:
        with pytest.raises(Rejected):
            opened(b, each)


def test_a_forged_counter_far_ahead_does_not_move_the_window() -> None:
    a, b = pair()
    datagram = a.seal(b"x")
    forged = datagram[:18] + b"\xff" * 8 + datagram[26:]
    with pytest.raises(Rejected):
        opened(b, forged)
    assert opened(b, datagram) == b"x"


def test_a_key_id_is_of_one_node_in_one_mesh() -> None:
    boot = BOOT[A].public
    ids = {key_id(MESH_ID, A, boot), key_id(MESH_ID, B, boot), key_id(bytes(16), A, boot)}
    assert len(ids) == 3
    assert {len(each) for each in ids} == {8}
