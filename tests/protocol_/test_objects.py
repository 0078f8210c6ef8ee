"""Signed objects: what is not exactly as its signer made it is refused."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import objects
from protocol.address import Endpoint, Prefix
from protocol.errors import Rejected
from protocol.identity import BootKey, Identity, Mesh
from protocol.objects import (
    LEFT,
    Accusation,
    Announcement,
    Grant,
    Revocation,
    Signed,
    check_name,
)

MAKER, NEXT, A, B = (
    Identity.from_secret(hashlib.sha256(name).digest()) for name in (b"m", b"n", b"a", b"b")
)
MESH = Mesh.founded_by(MAKER.public, NEXT.public)
OTHER = Mesh.founded_by(B.public, NEXT.public)
BOOT = BootKey.generate(lambda size: hashlib.sha256(b"boot").digest()[:size])
NETS = tuple(Prefix.parse(text) for text in ("10.1.0.0/24", "fd00:1::/64"))
POOL = tuple(Prefix.parse(text) for text in ("10.0.0.0/8", "fd00::/8"))
WHERE = (Endpoint("192.0.2.1", 6179), Endpoint("2001:db8::1", 6179))


def grant(name: str = "a", serial: int = 1) -> Grant:
    return Grant.sign(
        MAKER, MESH, node=A.public, name=name, serial=serial, allow=POOL, limit=9, until=99
    )


def announcement(sequence: int = 5, prefixes: int = 2) -> Announcement:
    nets = [Prefix.parse(f"10.{n >> 8}.{n & 255}.0/24") for n in range(prefixes)]
    return Announcement.sign(
        A, MESH, sequence=sequence, boot_key=BOOT.public, endpoints=WHERE, prefixes=nets
    )


def each_kind() -> dict[str, Signed]:
    return {
        "grant": grant(),
        "revocation": Revocation.sign(MAKER, MESH, node=A.public),
        "announcement": announcement(),
        "announcement of shards": Announcement.sign(
            A,
            MESH,
            sequence=7,
            boot_key=BOOT.public,
            endpoints=WHERE,
            prefixes=(),
            shards=[bytes([n]) * 16 for n in (9, 3, 7)],
        ),
        "departure": Announcement.sign(
            A, MESH, sequence=6, boot_key=BOOT.public, endpoints=(), prefixes=(), state=LEFT
        ),
        "accusation": Accusation.sign(B, MESH, target=A.public, sequence=5, refused=True),
    }


KINDS = each_kind()


@pytest.mark.parametrize("good", KINDS.values(), ids=KINDS.keys())
def test_an_object_is_decoded_to_what_was_signed(good: Signed) -> None:
    found = objects.decode(good.raw)
    assert found == good
    assert found.raw == good.raw
    assert found.verify(MESH)


@pytest.mark.parametrize("good", KINDS.values(), ids=KINDS.keys())
def test_an_object_with_any_bit_flipped_is_refused(good: Signed) -> None:
    for bit in range(8 * len(good.raw)):
        flipped = bytearray(good.raw)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        try:
            found = objects.decode(bytes(flipped))
        except Rejected:
            continue
        assert not found.verify(MESH), f"bit {bit}"


@pytest.mark.parametrize("good", KINDS.values(), ids=KINDS.keys())
def test_an_object_is_worth_nothing_in_another_mesh(good: Signed) -> None:
    assert not good.verify(OTHER)
    # ... not even one whose authority has the same key and another successor.
    assert not good.verify(Mesh(MAKER.public, bytes(32)))


@pytest.mark.parametrize("good", KINDS.values(), ids=KINDS.keys())
def test_an_object_cut_short_or_made_longer_is_refused(good: Signed) -> None:
    for end in range(len(good.raw)):
        with pytest.raises(Rejected):
            objects.decode(good.raw[:end])
    with pytest.raises(Rejected):
        objects.decode(good.raw + b"\0")


def test_a_signature_of_one_kind_says_nothing_under_another() -> None:
    # A revocation's body is one key: the only body that two kinds could share is made here.
    revocation = Revocation.sign(MAKER, MESH, node=A.public)
    for kind in range(256):
        if kind != Revocation.KIND:
            with pytest.raises(Rejected):
                objects.decode(bytes([kind]) + revocation.raw[1:])
    body = revocation.raw[65:]
    as_grant = MAKER.sign(b"meshd/1 grant\0" + MESH.id + body)
    assert not Revocation.decode(b"\x02" + as_grant + body).verify(MESH)


def test_only_the_authority_grants_and_revokes() -> None:
    by_node = Grant.sign(A, MESH, node=A.public, name="a", serial=1, allow=POOL)
    assert not by_node.verify(MESH)
    assert not Revocation.sign(A, MESH, node=B.public).verify(MESH)


def test_nobody_announces_for_another() -> None:
    own = announcement()
    body = own.raw[65:]
    forged = B.sign(b"meshd/1 announcement\0" + MESH.id + body)
    assert not Announcement.decode(b"\x03" + forged + body).verify(MESH)


@given(st.binary(max_size=800))
def test_random_octets_are_refused(raw: bytes) -> None:
    with pytest.raises(Rejected):
        objects.decode(raw)


@given(st.sampled_from(sorted(KINDS)), st.data())
def test_a_few_random_changes_are_refused_one_way_or_the_other(
    name: str, data: st.DataObject
) -> None:
    raw = bytearray(KINDS[name].raw)
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[at] = data.draw(st.integers(0, 255))
    if bytes(raw) == KINDS[name].raw:
        return
    try:
        found = objects.decode(bytes(raw))
    except Rejected:
        return
    assert not found.verify(MESH)


@given(st.text(max_size=70))
def test_a_name_is_taken_only_if_it_is_a_lower_case_host_name(name: str) -> None:
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    good = 1 <= len(name) <= 63 and set(name) <= allowed and not {name[0], name[-1]} & {".", "-"}
    if good:
        assert check_name(name) == name
        return
    with pytest.raises(Rejected):
        check_name(name)


def test_about_140_prefixes_fit_one_announcement_and_one_more_does_not() -> None:
    low = next(n for n in range(100, 200) if not fits(n)) - 1
    assert 130 <= low <= 145
    assert len(announcement(prefixes=low).raw) <= objects.MAX_ANNOUNCEMENT
    with pytest.raises(Rejected, match="announcement longer than 720 bytes"):
        announcement(prefixes=low + 1)


def test_24_shards_and_two_endpoints_fit_one_announcement() -> None:
    found = Announcement.sign(
        A, MESH, sequence=objects.MAX_SEQUENCE, boot_key=BOOT.public, endpoints=WHERE,
        prefixes=(), shards=[bytes([n]) * 16 for n in range(objects.MAX_SHARDS)], preference=255,
        tunnel=65535,
    )  # fmt: skip
    assert len(found.raw) == 617 <= objects.MAX_ANNOUNCEMENT
    assert len(found.shards) == 24


def fits(prefixes: int) -> bool:
    try:
        announcement(prefixes=prefixes)
    except Rejected:
        return False
    return True


@pytest.mark.parametrize("sequence", [2**63, 2**64 - 1])
def test_a_sequence_that_leaves_no_room_above_it_is_refused(sequence: int) -> None:
    with pytest.raises(Rejected, match="2\\^63 or more"):
        announcement(sequence)
    with pytest.raises(Rejected, match="2\\^63 or more"):
        grant(serial=sequence)
    with pytest.raises(Rejected, match="2\\^63 or more"):
        Accusation.sign(B, MESH, target=A.public, sequence=sequence, refused=False)


def test_what_is_signed_again_is_the_same_object() -> None:
    assert grant() == grant()
    assert grant().hash == grant().hash != grant(serial=2).hash


def test_a_reason_never_holds_what_was_sent() -> None:
    with pytest.raises(Rejected) as refused:
        check_name("evil\x1b[2J\u202e")
    assert "evil" not in str(refused.value)
