"""Which keys are taken for keys, and which signatures for signatures."""

from __future__ import annotations

import contextlib
import hashlib
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Rejected
from protocol.identity import BootKey, Identity, Mesh, check_boot_key, check_public_key, verify
from vectorset.keys import BOOT_SMALL_ORDER, SMALL_ORDER

L = 2**252 + 27742317777372353535851937790883648493
MAKER = Identity.from_secret(hashlib.sha256(b"maker").digest())
NEXT = Identity.from_secret(hashlib.sha256(b"next").digest())
SMALL = [bytes.fromhex(key) for _, key in SMALL_ORDER]


def test_a_key_made_from_a_seed_is_taken() -> None:
    rng = Random(1)
    for _ in range(50):
        made = Identity.generate(rng.randbytes)
        assert check_public_key(made.public) == made.public
        boot = BootKey.generate(rng.randbytes)
        assert check_boot_key(boot.public) == boot.public


@pytest.mark.parametrize("key", SMALL, ids=bytes.hex)
def test_a_signature_that_needs_no_secret_is_why_small_order_is_refused(key: bytes) -> None:
    # R = the neutral element, S = 0: under such a key some message in eight verifies so.
    forged = (1).to_bytes(32, "little") + bytes(32)
    assert any(verify(key, forged, bytes([each])) for each in range(255))
    with pytest.raises(Rejected, match="small order"):
        check_public_key(key)


@pytest.mark.parametrize("key", SMALL, ids=bytes.hex)
def test_a_mesh_of_a_small_order_authority_cannot_be_made(key: bytes) -> None:
    with pytest.raises(Rejected, match="small order"):
        Mesh(key, bytes(32))
    with pytest.raises(Rejected, match="small order"):
        Mesh.founded_by(key, NEXT.public)
    with pytest.raises(Rejected, match="small order"):
        Mesh.founded_by(MAKER.public, key)


@pytest.mark.parametrize("key", [bytes.fromhex(key) for _, key in BOOT_SMALL_ORDER], ids=bytes.hex)
def test_a_boot_key_that_every_exchange_maps_to_zero_is_refused(key: bytes) -> None:
    own = BootKey.generate(Random(2).randbytes).private
    with pytest.raises(ValueError, match="shared key"):
        own.exchange(X25519PublicKey.from_public_bytes(key))
    with pytest.raises(Rejected, match="small order"):
        check_boot_key(key)


@given(message=st.binary(max_size=200), bit=st.integers(0, 511))
def test_a_signature_verifies_until_one_bit_of_it_changes(message: bytes, bit: int) -> None:
    signature = bytearray(MAKER.sign(message))
    assert verify(MAKER.public, bytes(signature), message)
    signature[bit >> 3] ^= 1 << (bit & 7)
    assert not verify(MAKER.public, bytes(signature), message)


@given(message=st.binary(max_size=50))
def test_the_same_signature_with_s_plus_l_is_refused(message: bytes) -> None:
    signature = MAKER.sign(message)
    for times in range(1, 15):
        s = int.from_bytes(signature[32:], "little") + times * L
        assert not verify(MAKER.public, signature[:32] + s.to_bytes(32, "little"), message)


@pytest.mark.parametrize("size", [0, 1, 63, 65, 128])
def test_a_signature_of_another_length_is_refused(size: int) -> None:
    assert not verify(MAKER.public, bytes(size), b"message")


@given(key=st.binary(min_size=32, max_size=32))
def test_verifying_under_any_octets_at_all_says_false_and_raises_nothing(key: bytes) -> None:
    try:
        check_public_key(key)
    except Rejected:
        return
    assert not verify(key, MAKER.sign(b"message"), b"message")


@given(key=st.binary(max_size=40))
def test_a_key_is_taken_as_it_is_or_refused(key: bytes) -> None:
    for check in (check_public_key, check_boot_key):
        with contextlib.suppress(Rejected):
            assert check(key) == key


def test_a_mesh_is_another_when_either_key_is_another() -> None:
    one = Mesh.founded_by(MAKER.public, NEXT.public)
    assert len(one.id) == 16
    assert one == Mesh(MAKER.public, hashlib.sha256(NEXT.public).digest())
    assert len({one.id, Mesh.founded_by(NEXT.public, MAKER.public).id}) == 2
    assert one.id != Mesh.founded_by(MAKER.public, MAKER.public).id


def test_a_secret_of_another_length_is_the_callers_fault() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        Identity.from_secret(bytes(31))


def test_an_identity_does_not_show_its_secret() -> None:
    assert MAKER.secret.hex() not in repr(MAKER)
    assert str(MAKER.secret) not in repr(MAKER)
