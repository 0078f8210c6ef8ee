"""What is said of the tunnel: as commands, in the plan's reasons, in the log's repairs."""

from __future__ import annotations

from ipaddress import ip_address

import attrs

from meshd.dataplane import repairs
from meshd.dataplane.reasons import explained
from meshd.kernel.plan import diff
from meshd.kernel.state import KernelState, Reading
from meshd.kernel.tunnel import Device, Forward, Tunnel
from meshd.policy.decide import NOTHING

FAR = ip_address("198.51.100.2")
MINE, THEIRS = bytes([2, 0, 0, 0, 0, 1]), bytes([2, 0, 0, 0, 0, 2])
DEVICE = Device(77, 6180, ip_address("192.0.2.1"), MINE, 1450)
RIGHT = KernelState(tunnel=Tunnel(DEVICE, {FAR: THEIRS}, frozenset({Forward(THEIRS, FAR, 7000)})))


def told(actual: Tunnel | None, desired: KernelState = RIGHT) -> list[tuple[str, str, str]]:
    """The first line of each step, why the plan has it, and what a repair finds there."""
    reading = Reading(KernelState(tunnel=actual), table=True)
    plan = diff(desired, reading)
    whys = explained(plan, reading, NOTHING, desired)
    return [
        (str(step).splitlines()[0], why["why"], "; ".join(repairs.found([step], reading)))
        for step, why in zip(plan, whys, strict=True)
    ]


def test_a_device_that_is_gone() -> None:
    assert told(None) == [
        (
            "ip link add meshd0 address 02:00:00:00:00:01 mtu 1450"
            " type vxlan id 77 local 192.0.2.1 dstport 6180 nolearning",
            "there is none of ours, for members that are on no link of ours",
            "device meshd0 was gone",
        ),
        (
            "ip neigh replace 198.51.100.2 lladdr 02:00:00:00:00:02 dev meshd0 nud permanent",
            "a route leads there; the kernel has no entry for it",
            "the neighbour entry of 198.51.100.2 was gone or another",
        ),
        (
            "bridge fdb replace 02:00:00:00:00:02 dev meshd0 dst 198.51.100.2 port 7000"
            " self permanent",
            "a route leads there; the kernel sends its frames elsewhere, or nowhere",
            "the forwarding entry to 198.51.100.2 was gone or another",
        ),
    ]


def test_a_device_that_somebody_changed() -> None:
    assert RIGHT.tunnel is not None
    changed = attrs.evolve(DEVICE, mtu=1300, up=False)
    assert told(attrs.evolve(RIGHT.tunnel, device=changed)) == [
        (
            "ip link set meshd0 mtu 1450 up",
            "it had an MTU of 1300 and was down",
            "device meshd0 had an MTU of 1300; device meshd0 was down",
        )
    ]


def test_a_device_that_must_be_made_anew() -> None:
    assert RIGHT.tunnel is not None
    learning = attrs.evolve(DEVICE, flaws=("it learns from frames",))
    step, why, found = told(attrs.evolve(RIGHT.tunnel, device=learning))[0]
    assert step == "ip link del meshd0  # it learns from frames"
    assert why == "it learns from frames: it must be made anew"
    assert found == "device meshd0: it learns from frames"


def test_what_nobody_wants() -> None:
    assert told(RIGHT.tunnel, KernelState(tunnel=Tunnel(DEVICE))) == [
        (
            "ip neigh del 198.51.100.2 dev meshd0",
            "no route leads there through the tunnel",
            "a neighbour entry of 198.51.100.2 was there",
        ),
        (
            "bridge fdb del 02:00:00:00:00:02 dev meshd0 dst 198.51.100.2 port 7000 self",
            "no route leads there through the tunnel",
            "a forwarding entry to 198.51.100.2 was there",
        ),
    ]
    gone = [each for each in told(RIGHT.tunnel, KernelState()) if "link" in each[0]]
    assert gone == [("ip link del meshd0", "no tunnel is wanted", "device meshd0 was there")]
