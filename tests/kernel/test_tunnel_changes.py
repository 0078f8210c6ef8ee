"""A tunnel that others, failures and restarts disturb: it is put right, and nothing leaks."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest
from tunnelview import DEVICE, expected, hardware, identifier, inject, tunnel

from netlab import EchoServer, Lab, Mesh, Namespace, PacedFlow, ping, source_seen, until
from netlab.kernelview import Holdings, foreign, holdings

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]

REPAIRED_S = 1.0
DETECTED_S = 20
"""A silent node is found in seconds; this is for a machine that is busy with others."""


def apart(new_lab: NewLab, new_mesh: NewMesh, **options: object) -> Mesh:
    """Two zones with a plain router between, joined."""
    lab = new_lab(2, routed=True, **options)
    mesh = new_mesh(lab)
    mesh.config = 'tunnel = "vxlan"\n'
    for zone in lab.zones:
        here = ["--advertise", str(zone.uplink4.ip), "--advertise", str(zone.uplink6.ip)]
        if zone.number == 1:
            mesh.found(1, options=here)
        else:
            mesh.join(zone.number, options=here)
    mesh.converge()
    for one, other in ((1, 2), (2, 1)):
        assert tunnel(lab.router(one)) == expected(mesh[one], [mesh[other]])
    return mesh


@pytest.fixture(scope="module")
def two(shared_lab: NewLab, shared_mesh: NewMesh) -> Mesh:
    """For tests that leave it as they found it."""
    return apart(shared_lab, shared_mesh)


@contextlib.contextmanager
def echoing(mesh: Mesh) -> Iterator[None]:
    """Both private zones answer."""
    near, far = mesh.lab.zones
    with (
        EchoServer(near.private, (near.private4, near.private6)),
        EchoServer(far.private, (far.private4, far.private6)),
    ):
        yield


def joined(mesh: Mesh) -> bool:
    """Whether each private zone reaches the other, as itself, in both families."""
    near, far = mesh.lab.zones
    return all(
        source_seen(here.private, target) == source
        for here, there in ((near, far), (far, near))
        for source, target in ((here.private4, there.private4), (here.private6, there.private6))
    )


def test_what_somebody_deletes_or_changes_is_back_within_a_second(two: Mesh) -> None:
    router, far = two.lab.router(1), two.lab.zone(2)
    right = expected(two[1], [two[2]])
    there = hardware(two[2])
    hands = {
        "a neighbour": f"ip neigh del {far.uplink4.ip} dev meshd0",
        "whose it is": f"ip neigh replace {far.uplink4.ip} lladdr 02:00:00:00:00:99 dev meshd0",
        "a forwarding entry": f"bridge fdb del {there} dev meshd0 dst {far.uplink4.ip} self",
        "a flooding entry": "bridge fdb append 00:00:00:00:00:00 dev meshd0 dst 192.0.2.77 self",
        "the link down": "ip link set meshd0 down",
        "the hardware address": "ip link set meshd0 address 02:00:00:00:00:99",
        "the MTU": "ip link set meshd0 mtu 1300",
        "learning": "ip link set meshd0 type vxlan learning",
        "the device": "ip link del meshd0",
    }
    with echoing(two), two.lab.capture_leaks() as leaks:
        for what, hand in hands.items():
            router.run(hand.split())
            until(lambda: tunnel(router) == right, REPAIRED_S, what)
            assert joined(two), what
    assert leaks.packets == []
    assert len(two[1].events("kernel-repaired")) >= len(hands)


def test_entries_of_other_devices_do_not_even_come_to_the_daemon(two: Mesh) -> None:
    router = two.lab.router(1)
    process = two[1].process
    assert process is not None

    def waiting() -> int:
        """Octets that wait at its socket for neighbours (group 3), as the kernel tells."""
        with open(f"/proc/{process.pid}/net/netlink", encoding="ascii") as sockets:
            rows = [line.split() for line in sockets]
        (row,) = [row for row in rows[1:] if row[1] == "0" and int(row[3], 16) == 1 << 2]
        return int(row[4])

    process.send_signal(signal.SIGSTOP)
    try:
        router.configure(
            [f"neigh replace 10.1.0.{n} lladdr 02:00:00:00:01:01 dev lan0" for n in range(3, 99)]
        )
        others = waiting()
        router.configure(["neigh replace 198.51.100.99 lladdr 02:00:00:00:01:01 dev meshd0"])
        ours = waiting()
    finally:
        process.send_signal(signal.SIGCONT)
    assert others == 0
    assert ours > 0  # the control


def test_the_mtu_of_the_underlay_is_followed(two: Mesh) -> None:
    router = two.lab.router(1)
    router.configure(["link set net0 mtu 1400"])
    smaller = expected(two[1], [two[2]], mtu=1350)
    until(lambda: tunnel(router) == smaller, REPAIRED_S, "the tunnel is 50 octets smaller")
    router.configure(["link set net0 mtu 1500"])
    until(lambda: tunnel(router) == expected(two[1], [two[2]]), REPAIRED_S, "it is as before")


def test_a_restart_of_either_daemon_loses_no_packet_and_leaves_the_device_alone(two: Mesh) -> None:
    near, far = two.lab.zones
    indices = [_index(zone.router) for zone in (near, far)]
    with (
        PacedFlow(near.private, far.private, far.private4) as four,
        PacedFlow(far.private, near.private, near.private6) as six,
    ):
        until(lambda: four.received > 20 and six.received > 20, 5, "both flow")
        for number, end in ((1, "stop"), (2, "kill")):
            getattr(two[number], end)()
            assert tunnel(two.lab.router(number)) is not None
            two[number].start()
            two.converge()
    assert (four.lost, six.lost) == (0, 0)
    assert (four.translated, six.translated) == (0, 0)
    assert [_index(zone.router) for zone in (near, far)] == indices


def _index(router: Namespace) -> int:
    return int(router.ip("link", "show", DEVICE)[0]["ifindex"])


def test_what_a_stranger_sends_into_the_tunnel_reaches_nobody_but_for_the_filter(
    two: Mesh,
) -> None:
    lab = two.lab
    near, far = lab.zones
    target, source = near.private4, IPv4Address(int(far.private4) + 1)
    assert isinstance(target, IPv4Address)
    vni, frame_to = identifier(near.router), hardware(two[1])

    def injected() -> list[str]:
        with lab.capture(near.private, f"udp and src host {source}") as arrived:
            inject(lab.internet, near.uplink4.ip, vni, frame_to, source, target)
            assert ping(far.private, near.private4)  # it has come by now, if it came
        return list(arrived.packets)

    assert injected() == []
    # The control: the datagram is right, for without the filter it does arrive.
    assert two[1].stop() == 0
    near.router.run(["nft", "delete", "chain", "inet", "meshd", "tunnel"])
    assert injected() == [f"UDP {source}.9 > {target}.9"]
    two[1].start()
    two.converge()
    until(lambda: "tunnel4" in holdings(near.router).sets, 5, "the filter is back")
    assert injected() == []


def test_an_endpoint_that_changes_takes_the_tunnel_along(
    new_lab: NewLab, new_mesh: NewMesh
) -> None:
    lab = new_lab(2, routed=True)
    mesh = new_mesh(lab)
    mesh.config = 'tunnel = "vxlan"\n'
    mesh.grow()
    near, far = lab.zones
    with echoing(mesh), lab.capture_leaks() as leaks:
        assert joined(mesh)
        moved = IPv4Address(int(far.uplink4.ip) + 40)
        far.router.configure(
            [
                f"addr del {far.uplink4} dev net0",
                f"addr add {moved}/24 dev net0",
                f"route add default via {far.segment.gateway4}",
            ]
        )

        def followed() -> bool:
            here, there = tunnel(near.router), tunnel(far.router)
            return (
                here is not None
                and there is not None
                and there.device["local"] == str(moved)
                and [entry[1] for entry in here.forwarding] == [str(moved)]
                and len(there.routes) == 2
            )

        until(followed, 10, "both ends have the new address")
        until(lambda: joined(mesh), 5, "traffic crosses")
    assert leaks.packets == []


@pytest.fixture
def wide(new_lab: NewLab, new_mesh: NewMesh) -> Mesh:
    """The same with a second uplink, whose default route would take whatever leaks."""
    return apart(new_lab, new_mesh, second_uplink=True)


def test_a_far_node_that_dies_leaves_the_guard_and_nothing_leaks(wide: Mesh) -> None:
    lab = wide.lab
    near, far = lab.zones
    targets = (far.private4, far.private6)
    with lab.capture_leaks() as leaks:
        lab.cut(2)
        wide[2].kill()
        until(lambda: not holdings(near.router).routes, DETECTED_S, "its routes are gone")
        until(lambda: not tunnel(near.router).forwarding, 5, "its entries are gone")  # type: ignore[union-attr]
        for target in targets:
            assert not ping(near.private, target, timeout=1)
        # Nor when the device goes with no daemon to put it back.
        assert wide[1].stop() == 0
        near.router.run(["ip", "link", "del", DEVICE])
        for target in targets:
            assert not ping(near.private, target, timeout=1)
    assert leaks.packets == []
    # The control: without the guard the same packets do leave by the default route.
    near.router.configure(
        [f"route del unreachable {p} metric 4294967294" for p in (far.prefix4, far.prefix6)]
    )
    with lab.capture_leaks() as leaks:
        for target in targets:
            assert not ping(near.private, target, timeout=1)
    assert all(any(f"> {t}" in packet for packet in leaks.packets) for t in targets)


def test_leave_and_purge_leave_nothing_behind(new_lab: NewLab, new_mesh: NewMesh) -> None:
    lab = new_lab(2, routed=True)
    before = {zone.number: (foreign(zone.router), _links(zone.router)) for zone in lab.zones}
    mesh = new_mesh(lab)
    mesh.config = 'tunnel = "vxlan"\n'
    mesh.grow()
    mesh[2].command("leave")
    mesh[2].exit_status()
    until(lambda: not tunnel(lab.router(1)).forwarding, 5, "its entries are gone")  # type: ignore[union-attr]
    assert mesh[1].stop() == 0
    assert tunnel(lab.router(1)) is not None
    assert "ip link del meshd0" in mesh[1].command("purge").stdout
    for zone in lab.zones:
        assert holdings(zone.router) == Holdings()
        assert (foreign(zone.router), _links(zone.router)) == before[zone.number]


def _links(router: Namespace) -> tuple[list[str], str, str]:
    """Every link, forwarding entry and neighbour that is not of an uplink's own making."""
    links = [link["ifname"] for link in router.ip("link", "show")]
    entries = router.run(["bridge", "fdb", "show"]).stdout
    kept = router.run(["ip", "neigh", "show", "nud", "permanent"]).stdout
    return links, entries, kept


def test_a_foreign_device_of_that_name_is_told_of_and_left_alone(
    new_lab: NewLab, new_mesh: NewMesh
) -> None:
    lab = new_lab(2, routed=True)
    router = lab.router(1)
    router.configure(["link add meshd0 type bridge"])
    theirs = _facts(router)
    mesh = new_mesh(lab)
    mesh.config = 'tunnel = "vxlan"\n'
    mesh.found(1)
    mesh.join(2)
    mesh[1].wait("--peers", "1")
    until(lambda: mesh[1].events("kernel-error"), 5, "it is told")
    with lab.capture_leaks() as leaks:
        rows = mesh[1].json("routes")
        assert {row["state"] for row in rows} == {"refused"}
        error = mesh[1].json("status")["kernel"]["error"]
        assert "a bridge device that is not ours is called meshd0" in error
        assert "ip link set meshd0 name OTHER" in error
        assert not ping(lab.private(1), lab.zone(2).private4, timeout=1)
    assert leaks.packets == []
    assert _facts(router) == theirs
    told = [each["step"] for each in mesh[1].events("kernel-error")]
    assert len(told) == len(set(told))
    # Renamed as it is told to, it gives way at once.
    router.configure(["link set meshd0 name other0"])
    until(lambda: tunnel(router) == expected(mesh[1], [mesh[2]]), 5, "the tunnel is there")


def _facts(router: Namespace) -> list[object]:
    """What one could change of a link; a bridge has timers besides."""
    link = router.ip("-d", "link", "show", DEVICE)[0]
    named = ("ifindex", "address", "flags", "mtu", "ifalias")
    return [*(link.get(each) for each in named), link["linkinfo"]["info_kind"]]
