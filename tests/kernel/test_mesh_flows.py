"""Flows that were there before a subnet came or went, and what the kernel remembers of them."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from flows import datagrams, forward_between_routers

from netlab import EchoServer, Lab, Mesh, until
from netlab.kernelview import holdings
from netlab.traffic import Address

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]


@pytest.mark.parametrize("nat", ["docker", "random"])
def test_a_flow_that_ran_translated_is_itself_within_a_second_of_the_route(
    new_lab: NewLab, new_mesh: NewMesh, nat: str
) -> None:
    lab = new_lab(2, nat=[nat])
    forward_between_routers(lab)
    near, far = lab.zones
    mesh = new_mesh(lab)
    mesh.found(1)
    with (
        EchoServer(far.private, (far.private4, far.private6)),
        datagrams(near.private, far.private4) as four,
        datagrams(near.private, far.private6) as six,
    ):
        until(lambda: four.source_seen() == near.uplink4.ip, 3, "IPv4 arrives translated")
        until(lambda: six.source_seen() == near.uplink6.ip, 3, "IPv6 arrives translated")
        mesh.join(2)
        routed = 0.0
        itself: dict[Address, float] = {}
        deadline = time.monotonic() + 20
        while len(itself) < 2 and time.monotonic() < deadline:
            for flow, source in ((four, near.private4), (six, near.private6)):
                if flow.source_seen() == source:
                    itself.setdefault(source, time.monotonic())
            if not routed and len(holdings(near.router).routes) == 2:
                routed = time.monotonic()
        assert itself.keys() == {near.private4, near.private6}
        assert max(itself.values()) - routed < 1
        assert four.source_seen() == near.private4
        assert six.source_seen() == near.private6


def test_a_flow_within_the_mesh_is_translated_again_when_the_far_subnet_leaves(
    new_lab: NewLab, new_mesh: NewMesh
) -> None:
    lab = new_lab(2, nat=["docker"])
    forward_between_routers(lab)
    near, far = lab.zones
    mesh = new_mesh(lab)
    mesh.grow()
    with (
        EchoServer(far.private, (far.private4, far.private6)),
        datagrams(near.private, far.private4) as four,
        datagrams(near.private, far.private6) as six,
    ):
        assert four.source_seen() == near.private4
        assert six.source_seen() == near.private6
        mesh[2].command("leave")
        until(lambda: not holdings(near.router).guards, 5, "it is gone from the kernel")
        # The default gateway must never see a private source.
        with lab.capture(lab.internet, f"src net {near.prefix4} or src net {near.prefix6}") as leak:
            until(lambda: four.source_seen() == near.uplink4.ip, 3, "IPv4 is translated")
            until(lambda: six.source_seen() == near.uplink6.ip, 3, "IPv6 is translated")
        assert leak.packets == []
