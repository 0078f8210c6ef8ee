"""Who is suspected, and how surely; what of others' routes bears on the mesh."""

from __future__ import annotations

import ipaddress
import os
import socket
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.dataplane import repairs
from meshd.dataplane.interest import Interest
from meshd.kernel.netlink import ROUTE
from meshd.kernel.port import Change
from meshd.kernel.suspects import Suspects, told
from protocol.address import Prefix


def test_the_holder_of_the_very_socket_is_named_without_perhaps() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, ROUTE) as own:
        own.bind((0, 0))
        port = own.getsockname()[0]
        said = Suspects(ROUTE).of(port)
    if port == os.getpid():  # else another test's socket has that port
        assert not said.startswith("perhaps ")
        assert f" (pid {port}: " in said


def test_a_process_without_that_socket_is_named_with_perhaps() -> None:
    assert Suspects(12345).of(os.getpid()).startswith("perhaps ")


def test_the_kernel_and_those_who_are_gone_or_unknown_are_called_so() -> None:
    suspects = Suspects(ROUTE)
    assert suspects.of(0) == "the kernel"
    assert suspects.of(4_194_303) == "a process that has ended (pid 4194303)"
    assert suspects.of(0xFFFF_F000) == "an unknown process (netlink port 4294963200)"


def test_a_name_from_nftables_is_certain_and_its_command_is_not_taken_from_another() -> None:
    assert told(os.getpid(), "nft") == f"nft (pid {os.getpid()})"
    assert told(4_194_303, "nft") == "nft (pid 4194303)"


IP = "ip (pid 7: ip route flush proto 142)"


@pytest.mark.parametrize(
    ("heard", "by"),
    [
        ([], []),
        ([Change("our route 10.2.0.0/24 deleted", IP, "ours")] * 3, [IP]),
        ([Change("our route fd02::/64 deleted", "the kernel", "ours")], ["the kernel"]),
        (
            [
                Change("our route fd02::/64 deleted", "the kernel", "ours"),
                Change("link net0 down", "the kernel", "host"),
            ],
            ["the kernel: link net0 down"],
        ),
        (
            [Change("address 192.0.2.1/24 deleted", IP, "host")],
            [f"{IP}: address 192.0.2.1/24 deleted"],
        ),
        ([Change("route of protocol 4 10.2.0.0/24 written", IP, "others")], []),
    ],
)
def test_the_suspect_is_whose_hand_was_on_ours_else_what_the_kernel_followed(
    heard: list[Change], by: list[str]
) -> None:
    assert repairs.suspected(heard) == by


def test_suspects_are_counted_by_name_and_not_without_bound() -> None:
    tally = repairs.Tally()
    for number in range(100):
        tally.count([f"p{number} (pid {number})"], 0.0)
    tally.count([], 0.0)
    assert tally.total == 101
    assert len(tally.by) == repairs.NAMES + 1
    assert tally.by["others"] == 101 - repairs.NAMES
    assert repairs.Tally().count([], 5.0) == 0


def test_what_lies_in_a_wide_prefix_does_not_end_it() -> None:
    nets = [Prefix.parse(text) for text in ("10.0.0.0/8", "10.0.0.0/24", "10.1.0.0/16")]
    interest = Interest(nets, [ipaddress.ip_address("10.1.0.1")])
    asked = Prefix.parse("10.2.0.0/16")
    assert interest.meets(4, asked.first, asked.last)
    assert not interest.meets(6, asked.first, asked.last)


prefixes = st.builds(
    lambda version, value, length: Prefix(
        version, value >> (8 - length) << (8 - length) << (24 if version == 4 else 120), length
    ),
    st.sampled_from([4, 6]),
    st.integers(0, 255),
    st.integers(0, 8),
)


@given(st.lists(prefixes, max_size=12), prefixes, st.integers())
def test_interest_is_what_overlaps(nets: list[Prefix], asked: Prefix, seed: int) -> None:
    addresses = [net.network_address for net in Random(seed).sample(nets, len(nets) // 2)]
    interest = Interest([net for net in nets if net.network_address not in addresses], addresses)
    wanted = [net for net in nets if net.network_address not in addresses]
    span = asked.first, asked.last
    assert interest.meets(asked.version, *span) == (
        any(net.overlaps(asked) for net in wanted)
        or any(each.version == asked.version and each in asked for each in addresses)
    )
