"""The strict msgpack subset: one body for a value, and nothing else gets as far as msgpack."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocol import codec
from protocol.errors import Rejected

scalars = st.integers(0, 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=60)
values = st.lists(scalars | st.lists(scalars, max_size=20), max_size=20)


@given(values)
def test_what_is_packed_is_unpacked_to_the_same_value(value: list[Any]) -> None:
    body = codec.pack(value)
    if len(body) <= codec.MAX_BODY:
        assert codec.unpack(body) == value


@given(st.binary(max_size=60))
@example(b"\x91\xc3")
@example(b"\x91\xcc\x01")
def test_random_octets_are_refused_or_are_the_only_encoding_of_their_value(body: bytes) -> None:
    try:
        value = codec.unpack(body)
    except Rejected:
        return
    assert codec.pack(value) == body


@given(values, st.data())
def test_a_changed_body_is_refused_or_is_the_only_encoding_of_its_value(
    value: list[Any], data: st.DataObject
) -> None:
    body = bytearray(codec.pack(value)[: codec.MAX_BODY])
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))
    try:
        found = codec.unpack(bytes(body))
    except Rejected:
        return
    assert codec.pack(found) == bytes(body)


@given(values, st.binary(min_size=1, max_size=3))
def test_anything_behind_the_body_is_refused(value: list[Any], more: bytes) -> None:
    with pytest.raises(Rejected):
        codec.unpack(codec.pack(value) + more)


@given(values)
def test_a_body_cut_short_anywhere_is_refused(value: list[Any]) -> None:
    body = codec.pack(value)[: codec.MAX_BODY]
    for end in range(max(0, len(body) - 40), len(body)):
        with pytest.raises(Rejected):
            codec.unpack(body[:end])


HOSTILE = {
    "1,023 nested arrays": b"\x91" * 1023,
    "1,025 nested arrays": b"\x91" * 1025,
    "390 nested array16(1168)": b"\xdc\x04\x90" * 390,
    "340 nested array16(16)": b"\xdc\x00\x10" * 340,
    "array32 of 2^32 - 1": b"\xdd\xff\xff\xff\xff" + bytes(1000),
    "map32 of 2^32 - 1": b"\x91\xdf\xff\xff\xff\xff" + bytes(1000),
    "bin32 of 2^32 - 1": b"\x91\xc6\xff\xff\xff\xff" + bytes(1000),
    "array16 of 65,535": b"\xdc\xff\xff" + bytes(1000),
    "bin16 of 65,535": b"\x91\xc5\xff\xff" + bytes(1000),
    "ext32 of 2^32 - 1": b"\x91\xc9\xff\xff\xff\xff\x01" + bytes(1000),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_body_is_refused_before_msgpack_sees_it_and_costs_no_memory(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(*args: object, **options: object) -> None:
        raise AssertionError("msgpack saw it")

    monkeypatch.setattr(msgpack, "unpackb", seen)
    tracemalloc.start()
    try:
        with pytest.raises(Rejected) as refused:
            codec.unpack(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024
    assert len(repr(refused.value)) < 100  # it can be logged


def test_the_most_that_a_body_can_hold_costs_less_than_128_kib() -> None:
    body = b"\xdc\x03\xfd" + b"\x90" * 1021
    tracemalloc.start()
    try:
        assert len(codec.unpack(body)) == 1021
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 128 * 1024


@pytest.mark.parametrize("head", [*range(0x80, 0x90), *range(0xC0, 0xC4), *range(0xC6, 0xCC),
                                  *range(0xD0, 0xD9), 0xDB, 0xDD, 0xDE, 0xDF,
                                  *range(0xE0, 0x100)])  # fmt: skip
def test_every_head_of_another_type_is_refused(head: int) -> None:
    with pytest.raises(Rejected, match="type not allowed in a body"):
        codec.unpack(b"\x91" + bytes([head]) + bytes(20))
