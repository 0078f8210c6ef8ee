"""The three frames: their sizes, and what in a HELLO is not as it must be."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import frames
from protocol.address import Endpoint, Prefix
from protocol.errors import Rejected
from protocol.frames import MAX_DATAGRAM, Hello, Stale
from protocol.identity import Identity, Mesh
from protocol.objects import MAX_ANNOUNCEMENT, MAX_GRANT, Announcement, Grant

MAKER, NEXT, A = (
    Identity.from_secret(hashlib.sha256(name).digest()) for name in (b"m", b"n", b"a")
)
MESH = Mesh.founded_by(MAKER.public, NEXT.public)
BOOT = hashlib.sha256(b"boot").digest()[:31] + b"\x11"


def longest_grant() -> Grant:
    allow = [Prefix.parse(f"10.{n}.0.0/16") for n in range(120)]
    for count in range(120, 0, -1):
        try:
            return Grant.sign(
                MAKER, MESH, node=A.public, name="x" * 63, serial=1, allow=allow[:count]
            )
        except Rejected:
            continue
    raise AssertionError("no grant fits")


def longest_announcement() -> Announcement:
    nets = [Prefix.parse(f"10.{n >> 8}.{n & 255}.0/24") for n in range(200)]
    for count in range(200, 0, -1):
        try:
            return Announcement.sign(
                A,
                MESH,
                sequence=2**63 - 1,
                boot_key=BOOT,
                endpoints=[Endpoint("192.0.2.1", 6179)],
                prefixes=nets[:count],
            )
        except Rejected:
            continue
    raise AssertionError("no announcement fits")


GRANT, ANNOUNCEMENT = longest_grant(), longest_announcement()


@pytest.mark.parametrize("asks", [True, False])
def test_the_longest_objects_fit_one_hello(asks: bool) -> None:
    assert MAX_GRANT - 3 <= len(GRANT.raw) <= MAX_GRANT
    assert MAX_ANNOUNCEMENT - 4 <= len(ANNOUNCEMENT.raw) <= MAX_ANNOUNCEMENT
    hello = Hello(MESH.id, asks, GRANT, ANNOUNCEMENT)
    datagram = hello.encode()
    assert len(datagram) <= MAX_DATAGRAM
    assert frames.decode_hello(datagram, MESH.id) == hello


def test_an_answer_is_never_longer_than_the_hello_that_asked_for_it() -> None:
    asking = Hello(MESH.id, True, GRANT, ANNOUNCEMENT).encode()
    answer = Hello(MESH.id, False, GRANT, ANNOUNCEMENT).encode()
    assert len(answer) <= len(asking) == MAX_DATAGRAM


def test_stale_is_shorter_than_any_sealed_datagram() -> None:
    assert len(Stale(bytes(8), 1).encode()) == 20 < frames.SEALED_OVERHEAD


@given(at=st.integers(0, MAX_DATAGRAM - 1), bit=st.integers(0, 7), asks=st.booleans())
def test_a_hello_with_any_bit_flipped_is_refused_here_or_by_its_signatures(
    at: int, bit: int, asks: bool
) -> None:
    hello = Hello(MESH.id, asks, GRANT, ANNOUNCEMENT)
    datagram = bytearray(hello.encode())
    at = min(at, len(datagram) - 1)
    datagram[at] ^= 1 << bit
    try:
        if frames.frame_type(bytes(datagram)) != frames.HELLO:
            return
        found = frames.decode_hello(bytes(datagram), MESH.id)
    except Rejected:
        return
    assert not (found.grant.verify(MESH) and found.announcement.verify(MESH))


@given(st.binary(max_size=1300))
def test_random_octets_are_refused_or_of_a_known_outermost_form(data: bytes) -> None:
    try:
        kind = frames.frame_type(data)
    except Rejected:
        return
    assert 20 <= len(data) <= MAX_DATAGRAM
    assert kind == data[1]


@given(st.binary(min_size=8, max_size=8), st.integers(0, 2**64 - 1))
def test_a_stale_says_what_drew_it(recipient: bytes, counter: int) -> None:
    stale = Stale(recipient, counter)
    assert frames.decode_stale(stale.encode()) == stale
