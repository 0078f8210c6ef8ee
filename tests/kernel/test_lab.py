"""The lab keeps its own promises; what it shows of meshd is worth no more than these."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

import pytest

from netlab import (
    NAT_KINDS,
    Capture,
    CommandError,
    EchoServer,
    Flow,
    Lab,
    PacedFlow,
    ping,
    source_seen,
    udp_source_seen,
    until,
)
from netlab.lab import OUTSIDE4, OUTSIDE6, labs

NewLab = Callable[..., Lab]


@pytest.mark.parametrize("kind", NAT_KINDS)
def test_every_kind_of_masquerade_translates_both_families(new_lab: NewLab, kind: str) -> None:
    lab = new_lab(1, nat=[kind])
    zone, private = lab.zone(1), lab.private(1)
    with EchoServer(lab.internet, (OUTSIDE4, OUTSIDE6)):
        for outside, uplink in ((OUTSIDE4, zone.uplink4), (OUTSIDE6, zone.uplink6)):
            assert source_seen(private, outside) == uplink.ip
            assert udp_source_seen(private, outside) == uplink.ip
            assert ping(private, outside)


def test_the_random_kind_rewrites_the_ports_of_the_router_itself(new_lab: NewLab) -> None:
    lab = new_lab(1, nat=["random"])
    with EchoServer(lab.internet, (OUTSIDE4,)), lab.capture(lab.internet, "udp port 7") as seen:
        udp_source_seen(lab.router(1), OUTSIDE4, source_port=6179)
    assert len(seen.packets) == 1
    assert f"{lab.zone(1).uplink4.ip}.6179 >" not in seen.packets[0]


def test_kinds_are_given_to_the_zones_in_turn(new_lab: NewLab) -> None:
    lab = new_lab(3, nat=["docker", "none"])
    assert [zone.nat for zone in lab.zones] == ["docker", "none", "docker"]
    assert lab.router(1).nft("list", "tables") != []
    assert lab.router(2).nft("list", "tables") == []


@pytest.mark.parametrize("second_uplink", [False, True])
def test_the_halves_of_a_routed_lab_meet_in_a_plain_router_only(
    new_lab: NewLab, second_uplink: bool
) -> None:
    lab = new_lab(3, routed=True, second_uplink=second_uplink)
    first, second, third = lab.zones
    assert first.segment is second.segment is not third.segment
    with lab.capture(lab.internet, "icmp[0] == 8 or icmp6[0] == 128") as passed:
        assert ping(first.router, second.uplink4.ip)
        assert passed.packets == []
        assert ping(first.router, third.uplink4.ip)
        assert ping(third.router, first.uplink6.ip)
    assert passed.packets == [
        f"ICMP {first.uplink4.ip} > {third.uplink4.ip}",
        f"ICMPv6 {third.uplink6.ip} > {first.uplink6.ip}",
    ]


def test_a_private_subnet_is_known_to_nobody_else(new_lab: NewLab) -> None:
    lab = new_lab(2, nat=["docker"])
    far = lab.zone(2)
    with lab.capture_leaks() as leaks:
        assert not ping(lab.private(1), far.private4, timeout=1)
        assert not ping(lab.private(1), far.private6, timeout=1)
    assert [str(far.private4) in packet for packet in leaks.packets] == [True, False]
    assert str(far.private6) in leaks.packets[1]


def test_a_cut_zone_is_alone_until_it_is_healed(new_lab: NewLab) -> None:
    lab = new_lab(2)
    first, second = lab.zone(1), lab.zone(2)
    assert ping(first.router, second.uplink4.ip)
    lab.cut(1)
    assert not ping(first.router, second.uplink4.ip, timeout=1)
    assert ping(first.private, first.router4)
    assert ping(second.router, lab.segment.gateway4)
    lab.heal(1)
    until(lambda: ping(first.router, second.uplink4.ip, timeout=1), 10, "answers again")


def test_a_second_uplink_keeps_the_default_route_when_the_first_is_cut(new_lab: NewLab) -> None:
    lab = new_lab(1, second_uplink=True)
    lab.router(1).configure(["link set net0 down"])
    with EchoServer(lab.internet, (OUTSIDE4, OUTSIDE6)):
        assert source_seen(lab.private(1), OUTSIDE4) in lab.second_segment.prefix4
        assert source_seen(lab.private(1), OUTSIDE6) in lab.second_segment.prefix6


def test_loss_is_what_was_asked_for(new_lab: NewLab) -> None:
    lab = new_lab(2)
    assert ping(lab.router(1), lab.zone(2).uplink4.ip)  # or the first datagrams wait for ARP
    assert _arriving(lab, 200) == 200
    lab.set_loss(50)
    assert 50 <= _arriving(lab, 200) <= 150  # seven standard deviations each way
    lab.set_loss(0)
    assert _arriving(lab, 200) == 200


def _arriving(lab: Lab, count: int) -> int:
    """How many of so many datagrams (no more than a receive buffer holds) cross the switch."""
    near, far = lab.zone(1), lab.zone(2)
    with (
        near.router.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        far.router.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind((str(far.uplink4.ip), 9))
        receiver.setblocking(False)
        for _ in range(count):
            sender.sendto(b"?", (str(far.uplink4.ip), 9))
        arrived = 0
        with contextlib.suppress(BlockingIOError):
            while receiver.recv(16):
                arrived += 1
    return arrived


def test_a_flow_carries_data_and_tells_its_source(new_lab: NewLab) -> None:
    lab = new_lab(1)
    zone = lab.zone(1)
    with EchoServer(zone.router, (zone.router6,)), Flow(zone.private, zone.router6) as flow:
        assert flow.source == zone.private6
        flow.exchange(b"x" * 65_536)
    with pytest.raises(OSError, match="refused"):
        source_seen(zone.private, zone.router6)


def test_a_paced_flow_counts_what_was_sent_came_was_lost_and_was_translated(
    new_lab: NewLab,
) -> None:
    lab = new_lab(1, nat=["docker"])
    zone, inside = lab.zone(1), lab.router(1)
    with PacedFlow(lab.private(1), inside, zone.router4) as steady:
        until(lambda: steady.received > 200, 5, "it runs")
    assert (steady.lost, steady.translated) == (0, 0)
    assert steady.sent == steady.received
    with PacedFlow(lab.private(1), lab.internet, OUTSIDE6, rate=200) as broken:
        until(lambda: broken.received > 20, 5, "it runs")
        lab.set_loss(99)  # a cut link would be waited for: packets for a neighbour are queued
        cut, before = broken.sent, broken.received
        until(lambda: broken.sent > cut + 50, 5, "it is sent in vain")
        lab.set_loss(0)
        until(lambda: broken.received > before + 20, 5, "it runs again")
    assert broken.translated == broken.received
    assert broken.lost > 20
    assert broken.outage_s > 0.02


def test_a_capture_holds_all_that_came_and_matched(new_lab: NewLab) -> None:
    lab = new_lab(1)
    with lab.capture(lab.private(1), "icmp") as seen:
        assert ping(lab.router(1), lab.zone(1).private4, count=3)
        assert ping(lab.router(1), lab.zone(1).private6)
    assert len(seen.packets) == 3
    with pytest.raises(CommandError, match="syntax error"), Capture(lab.private(1), "no such"):
        pytest.fail("it must not begin")


def test_a_frame_that_the_switch_floods_is_no_leak(new_lab: NewLab) -> None:
    lab = new_lab(2, nat=["none"])
    far = lab.zone(2)
    lab.router(1).configure([f"route add {far.prefix4} via {far.uplink4.ip}"])
    assert ping(lab.router(1), far.private4)
    with lab.capture_leaks() as leaks:
        lab.cut(2)  # and the switch forgets where router 2 is
        assert not ping(lab.private(1), far.private4, timeout=1)
    assert leaks.packets == []


def test_a_lab_leaves_nothing_behind(new_lab: NewLab) -> None:
    lab = new_lab(2, loss=1)
    other = new_lab(1)
    process = lab.router(1).popen(["sleep", "600"])
    lab.down()
    assert process.wait(10) == -9
    assert lab.name not in labs()
    assert labs()[other.name] == sorted(other.namespaces(), key=lambda place: place.name)
    lab.down()


def test_a_lab_that_fails_to_come_up_leaves_nothing_behind(
    new_lab: NewLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(lab: Lab, percent: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Lab, "set_loss", interrupted)
    before = set(labs())
    with pytest.raises(KeyboardInterrupt):
        new_lab(2, loss=1)
    assert set(labs()) == before


def test_a_second_lab_of_the_same_name_is_refused_and_the_first_stays(new_lab: NewLab) -> None:
    lab = new_lab(1)
    with pytest.raises(ValueError, match="up already"):
        Lab(2, name=lab.name).up()
    assert lab.router(1).exists


def test_a_command_that_fails_says_where_and_why(new_lab: NewLab) -> None:
    lab = new_lab(1)
    with pytest.raises(CommandError, match=rf"{lab.router(1).name}: ip link .* exit 1: .*nothing"):
        lab.router(1).run(["ip", "link", "show", "nothing"])


def test_a_zone_has_the_addresses_that_people_expect() -> None:
    zone = Lab(2).zone(2)
    assert (str(zone.prefix4), str(zone.prefix6)) == ("10.2.0.0/24", "fd00:6179:2::/64")
    assert (str(zone.uplink4), str(zone.uplink6)) == ("192.0.2.2/24", "2001:db8:6179::2/64")


def test_numbers_past_255_still_have_a_subnet_of_their_own() -> None:
    lab = Lab(1000)
    for attribute in ("prefix4", "prefix6", "uplink4", "uplink6"):
        assert len({getattr(zone, attribute) for zone in lab.zones}) == 1000
    assert all(zone.uplink4.ip in lab.segment.prefix4 for zone in lab.zones)
    assert lab.segment.gateway4 not in {zone.uplink4.ip for zone in lab.zones}


@pytest.mark.parametrize(
    "options", [{"zones": 0}, {"zones": 1001}, {"nat": ["dokcer"]}, {"nat": []}, {"name": "a/b"}]
)
def test_what_makes_no_lab_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"zones|masquerade|name"):
        Lab(**options)  # type: ignore[arg-type]


def test_sixteen_zones_are_up_within_three_seconds(new_lab: NewLab) -> None:
    start = time.monotonic()
    new_lab(16)
    assert time.monotonic() - start < 3  # measured: 0.2
