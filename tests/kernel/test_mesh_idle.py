"""What a mesh costs the link while nothing happens."""

from __future__ import annotations

import time
from collections.abc import Callable

from meshd.neighbours import LATER, Neighbours
from meshd.udp import Sockets
from netlab import Lab, Mesh, Namespace
from protocol.address import Endpoint

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]

ASKED = """
table arp watch {
    chain asked {
        type filter hook output priority 0
        arp operation request counter
    }
}
"""

IMPATIENT = {"base_reachable_time_ms": 1000, "delay_first_probe_time": 1}
"""Of a neighbour, where the defaults are 30 s and 5: the kernel asks after a second or two."""

LONG_S = 8.0
"""Some five times as long as it takes until it asks."""


def asked(router: Namespace) -> int:
    """How often a kernel has asked for the hardware address of a neighbour."""
    listed = router.nft("list", "table", "arp", "watch")
    (rule,) = (item["rule"] for item in listed if "rule" in item)
    return int(rule["expr"][-1]["counter"]["packets"])


def test_the_kernel_does_not_ask_for_neighbours_that_have_answered_a_probe(
    new_lab: NewLab, new_mesh: NewMesh
) -> None:
    lab = new_lab(2)
    for zone in lab.zones:
        settings = [f"net.ipv4.neigh.net0.{name}={value}" for name, value in IMPATIENT.items()]
        zone.router.run(["sysctl", "-qw", *settings])
    new_mesh(lab).grow()
    time.sleep(LONG_S / 4)  # the last of what came before them
    for zone in lab.zones:
        zone.router.run(["nft", "-f", "-"], stdin=ASKED)
    time.sleep(LONG_S)
    assert [asked(zone.router) for zone in lab.zones] == [0, 0]


def test_an_answer_after_a_long_silence_is_told_when_the_kernel_takes_notice_of_it(
    new_lab: NewLab,
) -> None:
    lab = new_lab(2)
    here, there = lab.zones
    (uplink,) = there.router.ip("link", "show", "net0")
    where = Endpoint(str(there.uplink4.ip), 6179)
    entry = [where.host, "dev", "net0"]
    here.router.run(["nft", "-f", "-"], stdin=ASKED)
    here.router.run(["sysctl", "-qw", "net.ipv4.neigh.net0.delay_first_probe_time=2"])
    here.router.run(["ip", "neigh", "replace", *entry, "lladdr", uplink["address"], "nud", "stale"])
    with here.router.entered():
        sockets = Sockets(where.port)
    with there.router.entered():
        listening = Sockets(where.port)
    try:
        neighbours = Neighbours()
        sockets.send(b"", where, lambda _: None)
        assert not neighbours.answered([where], time.monotonic())
        time.sleep(LATER)
        for answered in neighbours.answered([], time.monotonic()):
            sockets.confirm(answered)
        time.sleep(2)  # as long as it waits before it asks
    finally:
        sockets.close()
        listening.close()
    (known,) = here.router.ip("neigh", "show", *entry)
    assert (known["state"], asked(here.router)) == (["REACHABLE"], 0)
