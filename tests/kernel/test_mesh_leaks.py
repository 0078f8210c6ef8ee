"""What must not happen when the way to a subnet is gone: packets for it through the default route.

Routers here have their default route on an interface and a switch of its own, as between two
networks: it survives when the mesh's uplink goes, and everything that leaks arrives at its gateway.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from netlab import EchoServer, Lab, Mesh, Namespace, ping, source_seen, udp_source_seen, until
from netlab.kernelview import Network, expected, holdings, settle
from netlab.lab import OUTSIDE4
from netlab.traffic import Address

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]

DETECTED_S = 20
"""A silent node is found in seconds; this is for a machine that is busy with others."""


@pytest.fixture
def wide(new_lab: NewLab, new_mesh: NewMesh) -> Mesh:
    mesh = new_mesh(new_lab(3, second_uplink=True))
    for zone in mesh.lab.zones:
        here = ["--advertise", str(zone.uplink4.ip), "--advertise", str(zone.uplink6.ip)]
        if zone.number == 1:
            mesh.found(1, options=here)
        else:
            mesh.join(zone.number, options=here)
    mesh.converge()
    for zone in mesh.lab.zones:
        settle(zone.router, expected(zone, mesh.lab.zones))
    return mesh


@contextlib.contextmanager
def sending(source: Namespace, *targets: Address) -> Iterator[None]:
    """Datagrams from `source` to each target, without end, as from hosts that know of nothing."""
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.02):
            for target in targets:
                with contextlib.suppress(OSError):
                    udp_source_seen(source, target, port=9, timeout=0.001)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_cut_link_withdraws_routes_keeps_guards_and_leaks_nothing(wide: Mesh) -> None:
    lab = wide.lab
    first, second, third = lab.zones
    gone: list[Network] = [third.prefix4, third.prefix6]
    with (
        lab.capture_leaks() as leaks,
        sending(first.private, third.private4, third.private6),
        sending(third.private, first.private4, first.private6),
    ):
        lab.cut(3)
        for zone in (first, second):
            without = expected(zone, (first, second), unreachable=gone)
            settle(zone.router, without, DETECTED_S)
        alone: list[Network] = [first.prefix4, first.prefix6, second.prefix4, second.prefix6]
        settle(third.router, expected(third, (third,), unreachable=alone), DETECTED_S)
        assert not ping(first.private, third.private4, timeout=1)
        assert not ping(first.private, third.private6, timeout=1)
        assert ping(first.private, second.private4)
        assert ping(first.private, second.private6)
    assert leaks.packets == []
    with EchoServer(lab.internet, (OUTSIDE4,)):  # the default route is there all the time
        assert source_seen(third.private, OUTSIDE4) in lab.second_segment.prefix4

    lab.heal(3)
    wide.converge()
    for zone in lab.zones:
        settle(zone.router, expected(zone, lab.zones))
    with EchoServer(third.private, (third.private4, third.private6)):
        assert source_seen(first.private, third.private4) == first.private4
        assert source_seen(first.private, third.private6) == first.private6


def test_an_uplink_that_goes_down_with_no_daemon_leaks_nothing_for_the_guard_stands(
    wide: Mesh,
) -> None:
    lab = wide.lab
    first, second, _ = lab.zones
    targets = (second.private4, second.private6)
    assert wide[1].stop() == 0
    with lab.capture_leaks() as leaks, sending(first.private, *targets):
        first.router.configure(["link set net0 down"])
        # The kernel drops the routes without a word.
        until(lambda: not holdings(first.router).routes, 5, "the routes are gone")
        for target in targets:
            assert not ping(first.private, target, timeout=1)
    assert leaks.packets == []

    # The control: without the guard the same packets do leave by the default route.
    first.router.configure(
        [
            f"route del unreachable {second.prefix4} metric 4294967294",
            f"route del unreachable {second.prefix6} metric 4294967294",
        ]
    )
    with lab.capture_leaks() as leaks:
        for target in targets:
            assert not ping(first.private, target, timeout=1)
    text = "\n".join([*leaks.packets, ""])
    assert all(f"> {target}\n" in text for target in targets)


def test_the_daemon_restores_routes_when_its_uplink_comes_back(wide: Mesh) -> None:
    lab = wide.lab
    first = lab.zone(1)
    with lab.capture_leaks() as leaks, sending(first.private, lab.zone(2).private4):
        first.router.configure(["link set net0 down"])
        until(lambda: not holdings(first.router).routes, 5, "the routes are gone")
        first.router.configure(["link set net0 up", f"addr replace {first.uplink6} dev net0 nodad"])
        wide.converge()
        settle(first.router, expected(first, lab.zones), DETECTED_S)
    assert leaks.packets == []
