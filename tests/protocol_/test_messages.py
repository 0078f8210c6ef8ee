"""Messages: what is written is read, and nothing else is read as if it were."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import messages
from protocol.address import Endpoint, Prefix
from protocol.errors import Rejected
from protocol.frames import MAX_BODY
from protocol.identity import Identity, Mesh
from protocol.messages import (
    Ack,
    Agree,
    AskEvidence,
    Branches,
    Indirect,
    Later,
    Message,
    Nack,
    Objects,
    Offer,
    Probe,
    Pull,
    PullShards,
    Push,
    Reached,
    Scan,
    Shards,
    Slots,
    Subtree,
    Suspect,
    Vouch,
    Walk,
)
from protocol.objects import Accusation, Grant, Record, Revocation
from protocol.store import slot_of
from protocol.tuning import MAX_MEMBERS

MAKER, NEXT = (Identity.from_secret(hashlib.sha256(name).digest()) for name in (b"m", b"n"))
MESH = Mesh.founded_by(MAKER.public, NEXT.public)
POOL = [Prefix.parse("10.0.0.0/8")]


def known(number: int) -> Record | Accusation:
    """One of a few objects, of three kinds and lengths."""
    node = Identity.from_secret(hashlib.sha256(b"node %d" % number).digest())
    if number % 3 == 0:
        return Revocation.sign(MAKER, MESH, node=node.public)
    if number % 3 == 1:
        return Accusation.sign(node, MESH, target=MAKER.public, sequence=5, refused=False)
    return Grant.sign(MAKER, MESH, node=node.public, name="x" * 63, serial=1, allow=POOL)


KNOWN = [known(number) for number in range(12)]

numbers = st.integers(0, 2**32 - 1)
slots = st.binary(min_size=12, max_size=12)
roots = st.binary(min_size=16, max_size=16)
starts = st.binary(min_size=8, max_size=8)
paths = st.lists(st.integers(0, 15), max_size=23).map(bytes)
some = st.lists(st.sampled_from(KNOWN), max_size=3).map(tuple)
places = st.sampled_from((None, Endpoint("192.0.2.1", 1), Endpoint("2001:db8::1", 65535)))
buckets = st.dictionaries(slots, roots, max_size=16).map(Slots)
branches = st.lists(roots, min_size=16, max_size=16).map(lambda found: Branches(tuple(found)))
vouched = st.lists(st.tuples(st.sampled_from(KNOWN), st.booleans()), max_size=3).map(tuple)


@st.composite
def member_sets(draw: st.DrawFn) -> tuple[int, int]:
    """Bits and size: sets of any size and of any density."""
    size = draw(st.integers(0, 40) | st.integers(0, MAX_MEMBERS))
    few = draw(st.lists(st.integers(0, max(0, size - 1)), max_size=min(size, 30), unique=True))
    bits = sum(1 << place for place in few)
    everyone = (1 << size) - 1
    return draw(st.sampled_from((bits, everyone & ~bits)) | st.integers(0, everyone)), size


@st.composite
def scans(draw: st.DrawFn) -> Scan:
    start = draw(slots)
    depth = draw(st.integers(0, 23))
    return Scan(draw(numbers), bytes(int(digit, 16) for digit in start.hex()[:depth]), start)


pieces = st.lists(st.binary(min_size=1, max_size=900), max_size=12)
vouches = st.builds(Vouch, numbers, st.just(False), roots) | st.builds(
    lambda number, root, members: Vouch(number, True, root, *members),
    numbers, roots, member_sets(),
)  # fmt: skip
every: st.SearchStrategy[Message] = st.one_of(
    st.builds(Probe, numbers, roots, starts),
    st.builds(Ack, numbers, roots, starts, places),
    st.builds(Indirect, numbers, slots),
    st.builds(Reached, numbers),
    st.builds(Nack, numbers),
    st.builds(Suspect, slots, st.integers(0, 2**64 - 1)),
    st.builds(Push, some),
    st.builds(Offer, st.lists(st.tuples(slots, starts), min_size=1, max_size=50).map(tuple)),
    st.builds(Pull, numbers, st.lists(slots, min_size=1, max_size=64).map(tuple)),
    st.builds(Objects, numbers, st.booleans(), vouched),
    st.builds(Walk, numbers, paths, roots),
    st.builds(Subtree, numbers, paths, st.none() | st.just(Later()) | buckets | branches),
    vouches,
    st.builds(AskEvidence, numbers, st.lists(starts, max_size=64).map(tuple)),
    scans(),
    st.builds(
        lambda answers, root, members: Agree(answers, root, *members),
        st.booleans(), roots, member_sets(),
    ),
    st.builds(PullShards, numbers, st.lists(roots, min_size=1, max_size=24).map(tuple)),
    st.builds(Shards, numbers, pieces.map(messages.fill_shards)),
)  # fmt: skip


@given(every)
def test_what_is_written_is_read(message: Message) -> None:
    body = messages.encode(message)
    assert messages.decode(body) == message
    assert len(body) <= MAX_BODY


@given(every, st.data())
def test_a_message_cut_short_or_changed_is_refused_or_another_message(
    message: Message, data: st.DataObject
) -> None:
    body = bytearray(messages.encode(message))
    at = data.draw(st.integers(0, len(body) - 1))
    if data.draw(st.booleans()):
        del body[at:]
    else:
        body[at] = data.draw(st.integers(0, 255))
    try:
        found = messages.decode(bytes(body))
    except Rejected:
        return
    assert len(messages.encode(found)) <= len(body)


@given(st.integers(0, 19), st.binary(max_size=MAX_BODY - 1))
def test_random_octets_raise_nothing_but_rejected(kind: int, rest: bytes) -> None:
    with contextlib.suppress(Rejected):
        messages.decode(bytes([kind]) + rest)


def test_probe_and_ack_are_as_small_as_their_traffic_was_reckoned() -> None:
    # DESIGN: "body <= 38 B: probe and ack then cost 488 B/s on IPv4", every half second.
    probe = messages.encode(Probe(1, bytes(16), bytes(8)))
    ack = messages.encode(Ack(1, bytes(16), bytes(8)))
    assert len(probe) == len(ack) == 29
    assert 2 * (len(probe) + len(ack) + 2 * (42 + 28)) <= 488


@given(st.lists(st.sampled_from(KNOWN), max_size=30))
def test_portions_hold_everything_in_order_and_each_fits_one_datagram(
    found: list[Record | Accusation],
) -> None:
    portions = list(messages.fill(found))
    assert [each for portion in portions for each in portion] == found
    for portion in portions:
        assert portion
        items = tuple((each, True) for each in portion)
        assert len(messages.encode(Objects(0, True, items))) <= MAX_BODY
        assert len(messages.encode(Push(portion))) <= MAX_BODY


@given(pieces)
def test_an_answer_holds_as_many_shards_as_fit_from_the_first_on(found: list[bytes]) -> None:
    portion = messages.fill_shards(found)
    assert list(portion) == found[: len(portion)]
    assert len(messages.encode(Shards(0, portion))) <= MAX_BODY
    if len(portion) < len(found):
        with pytest.raises(ValueError, match="Shards of"):
            messages.encode(Shards(0, tuple(found[: len(portion) + 1])))
    if found:
        assert portion


@pytest.mark.parametrize("body", [b"", b"\0", b"\x7f", b"\xff" * 100])
def test_a_message_of_unknown_type_is_refused(body: bytes) -> None:
    with pytest.raises(Rejected, match="message of unknown type"):
        messages.decode(body)


# Sets of members.

HEAD = b"\x0f\0" + bytes(16)


def packed(bits: int, size: int) -> bytes:
    return messages.encode(Agree(False, bytes(16), bits, size))[len(HEAD) :]


def unpacked(octets: bytes) -> tuple[int, int]:
    found = messages.decode(HEAD + octets)
    assert isinstance(found, Agree)
    return found.bits, found.size


@given(member_sets())
def test_a_set_of_members_is_read_as_it_was_written(members: tuple[int, int]) -> None:
    assert unpacked(packed(*members)) == members


@given(member_sets())
def test_a_set_of_members_is_as_short_as_the_shortest_form(
    members: tuple[int, int],
) -> None:
    bits, size = members
    ones = bits.bit_count()
    assert len(packed(bits, size)) == 3 + min(2 * ones, 2 * (size - ones), (size + 7) // 8)


@given(st.integers(0, 40), st.integers(0, 3), st.binary(max_size=24))
def test_a_set_of_members_has_one_encoding(size: int, form: int, rest: bytes) -> None:
    octets = size.to_bytes(2, "big") + bytes([form]) + rest
    try:
        bits, found = unpacked(octets)
    except Rejected:
        return
    assert packed(bits, found) == octets
    assert bits < 1 << size == 1 << found


@given(st.integers(0, 12), st.data())
def test_every_other_form_of_a_set_is_refused(size: int, data: st.DataObject) -> None:
    bits = data.draw(st.integers(0, (1 << size) - 1))
    inside = [place for place in range(size) if bits >> place & 1]
    outside = [place for place in range(size) if not bits >> place & 1]
    forms = [
        b"\0" + b"".join(place.to_bytes(2, "big") for place in inside),
        b"\1" + b"".join(place.to_bytes(2, "big") for place in outside),
        b"\2" + bits.to_bytes((size + 7) // 8, "little"),
    ]
    accepted = []
    for form in forms:
        with contextlib.suppress(Rejected):
            assert unpacked(size.to_bytes(2, "big") + form) == (bits, size)
            accepted.append(form)
    assert len(accepted) == 1


def test_the_largest_mesh_fits_one_datagram() -> None:
    half = sum(1 << place for place in range(0, MAX_MEMBERS, 2))
    assert len(messages.encode(Agree(False, bytes(16), half, MAX_MEMBERS))) <= MAX_BODY
    assert len(messages.encode(Vouch(0, True, bytes(16), half, MAX_MEMBERS))) <= MAX_BODY
    with pytest.raises(Rejected, match="malformed list of members"):
        unpacked((MAX_MEMBERS + 1).to_bytes(2, "big") + b"\0\0\0")


# What an answer leaves open.


@given(st.lists(st.sampled_from(KNOWN[::3] + KNOWN[2::3]), min_size=1, max_size=8, unique=True))
def test_what_stands_behind_the_last_answered_slot_is_asked_for_again(found: list[Record]) -> None:
    asked = [slot_of(each) for each in found]
    for number in range(1, len(found) + 1):
        answer = Objects(1, False, tuple((each, True) for each in found[:number]))
        assert answer.behind(asked) == asked[number:]
    assert Objects(1, False, ()).behind(asked) == []
    stranger = Revocation.sign(MAKER, MESH, node=MAKER.public)
    assert Objects(1, False, ((stranger, True),)).behind(asked) == []
