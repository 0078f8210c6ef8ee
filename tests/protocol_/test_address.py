"""One set of prefixes has one encoding, and one endpoint one text."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.address import (
    Endpoint,
    Family,
    Prefix,
    endpoint,
    pack_endpoint,
    pack_prefixes,
    unpack_endpoint,
    unpack_prefixes,
)
from protocol.errors import Rejected

families = st.sampled_from((4, 6))


@st.composite
def prefixes(draw: st.DrawFn, family: Family) -> Prefix:
    bits = 32 if family == 4 else 128
    length = draw(st.integers(0, bits))
    number = draw(st.integers(0, 2**bits - 1)) >> (bits - length) << (bits - length)
    if family == 4:
        return ipaddress.IPv4Network((number, length))
    return ipaddress.IPv6Network((number, length))


def mapped(prefix: Prefix) -> bool:
    both = ipaddress.ip_network("::ffff:0:0/96")
    return isinstance(prefix, ipaddress.IPv6Network) and prefix.subnet_of(both)  # type: ignore[arg-type]


@given(families, st.data())
def test_a_set_of_prefixes_has_one_encoding_in_whatever_order(
    family: Family, data: st.DataObject
) -> None:
    several = data.draw(st.lists(prefixes(family).filter(lambda each: not mapped(each))))
    packed = pack_prefixes(several, family)
    assert packed == pack_prefixes(reversed(several), family) == pack_prefixes(set(several), family)
    found = unpack_prefixes(packed, family)
    assert set(found) == set(several)
    assert pack_prefixes(found, family) == packed


@given(families, st.binary(max_size=40))
def test_random_octets_are_refused_or_are_the_only_encoding_of_their_prefixes(
    family: Family, data: bytes
) -> None:
    try:
        found = unpack_prefixes(data, family)
    except Rejected:
        return
    assert pack_prefixes(found, family) == data


def test_only_the_prefixes_of_one_family_are_packed() -> None:
    both = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")]
    assert pack_prefixes(both, 4) == b"\x08\x0a"
    assert pack_prefixes(both, 6) == b"\x08\xfd"


@given(st.binary(max_size=20))
def test_random_octets_are_refused_or_are_the_only_encoding_of_their_endpoint(data: bytes) -> None:
    try:
        found = unpack_endpoint(data)
    except Rejected:
        return
    assert pack_endpoint(found) == data
    assert endpoint(found.host, found.port) == found


def test_equal_addresses_are_equal_endpoints_however_they_are_written() -> None:
    assert endpoint("FD00:0:0::0007", 1) == endpoint("fd00::7", 1)
    assert endpoint("::ffff:192.0.2.1", 1) == Endpoint("192.0.2.1", 1)
    assert str(endpoint("fd00::7", 6179)) == "[fd00::7]:6179"
    assert str(endpoint("192.0.2.1", 6179)) == "192.0.2.1:6179"


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none_is_the_callers_fault(port: int) -> None:
    with pytest.raises(ValueError, match="not in 1"):
        endpoint("192.0.2.1", port)
