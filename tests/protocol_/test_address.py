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

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

families: st.SearchStrategy[Family] = st.sampled_from((4, 6))


def mapped(prefix: Prefix) -> bool:
    """IPv6 that stands for IPv4, which is refused."""
    return Prefix.parse("::ffff:0:0/96").covers(prefix)


@st.composite
def near(draw: st.DrawFn) -> tuple[Prefix, Network]:
    """The same prefix twice, as we have it and as ``ipaddress`` does; of few addresses and any
    length, so that two of them often have something to do with each other."""
    family = draw(families)
    bits = 32 if family == 4 else 128
    length = draw(st.integers(0, bits))
    at = draw(st.sampled_from((0, 8, bits - 8)) | st.integers(0, bits - 8))
    number = draw(st.integers(0, 255)) << at
    number = number >> (bits - length) << (bits - length)
    if family == 4:
        return Prefix(4, number, length), ipaddress.IPv4Network((number, length))
    return Prefix(6, number, length), ipaddress.IPv6Network((number, length))


@st.composite
def prefixes(draw: st.DrawFn, family: Family) -> Prefix:
    bits = 32 if family == 4 else 128
    length = draw(st.integers(0, bits))
    number = draw(st.integers(0, 2**bits - 1)) >> (bits - length) << (bits - length)
    return Prefix(family, number, length)


@given(near())
def test_a_prefix_says_of_itself_what_ipaddress_says(pair: tuple[Prefix, Network]) -> None:
    prefix, network = pair
    assert str(prefix) == str(network)
    assert Prefix.parse(str(network)) == Prefix.of(network) == prefix
    assert (prefix.version, prefix.prefixlen) == (network.version, network.prefixlen)
    assert prefix.max_prefixlen == network.max_prefixlen
    assert prefix.network_address == network.network_address
    assert prefix.octets == network.network_address.packed
    assert Prefix.from_octets(prefix.octets, prefix.prefixlen) == prefix
    assert (prefix.first, prefix.last) == (
        int(network.network_address),
        int(network.broadcast_address),
    )
    assert Prefix.single(network.network_address) == Prefix.of(
        ipaddress.ip_network(network.network_address)
    )
    if prefix.prefixlen:
        assert prefix.supernet() == Prefix.of(network.supernet())
    else:
        with pytest.raises(ValueError, match="default route"):
            prefix.supernet()


@given(near(), near())
def test_two_prefixes_are_to_each_other_what_ipaddress_says(
    one: tuple[Prefix, Network], other: tuple[Prefix, Network]
) -> None:
    (a, network), (b, another) = one, other
    assert (a == b) is (network == another)
    assert a != b or hash(a) == hash(b)
    assert a.overlaps(b) is b.overlaps(a)
    if network.version != another.version:
        assert not a.overlaps(b)
        assert not a.covers(b)
        assert (a < b) is (network.version < another.version)
        return
    assert a.overlaps(b) is network.overlaps(another)
    assert a.covers(b) is another.subnet_of(network)  # type: ignore[arg-type]
    # The address first, then the length: ``ipaddress`` compares netmasks, to the same effect.
    assert (a < b) is (network < another)  # type: ignore[operator]
    assert (b.network_address in a) is (another.network_address in network)


@given(near(), near())
def test_what_lies_in_a_prefix_stands_behind_it(
    one: tuple[Prefix, Network], other: tuple[Prefix, Network]
) -> None:
    a, b = one[0], other[0]
    assert not a.covers(b) or a <= b


def test_an_address_of_the_other_family_lies_in_no_prefix_and_a_prefix_in_none_at_all() -> None:
    everything = Prefix.parse("0.0.0.0/0")
    assert ipaddress.ip_address("::1") not in everything
    assert ipaddress.ip_address("192.0.2.1") in everything
    with pytest.raises(TypeError, match="holds addresses"):
        everything.__contains__(everything)


@given(st.text(alphabet="0123456789abcdef:./ ", max_size=24) | near().map(lambda p: str(p[1])))
def test_a_text_is_a_prefix_exactly_when_ipaddress_reads_one(text: str) -> None:
    found: list[object] = []
    for read in (ipaddress.ip_network, Prefix.parse):
        try:
            found.append(str(read(text)))
        except ValueError as error:
            found.append(repr(error))
    assert found[0] == found[1]


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
    both = [Prefix.parse("10.0.0.0/8"), Prefix.parse("fd00::/8")]
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


@pytest.mark.parametrize(
    ("octets", "family", "reason"),
    [
        ("180a", 4, "cut short"),
        ("080a 080a", 4, "ascending"),
        ("080a 0708", 4, "ascending"),
        ("21 0a00000000", 4, "longer than its family"),
        ("81" + "00" * 17, 6, "longer than its family"),
        ("0801 0a0160", 4, "host bits"),
        ("60 00000000000000000000ffff", 6, "IPv4-mapped"),
        ("80 00000000000000000000ffff0a000001", 6, "IPv4-mapped"),
    ],
)
def test_what_is_no_prefix_is_refused_by_its_reason(
    octets: str, family: Family, reason: str
) -> None:
    with pytest.raises(Rejected, match=reason):
        unpack_prefixes(bytes.fromhex(octets), family)
