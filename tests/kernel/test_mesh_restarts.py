"""Daemons stop, crash and start; the data plane goes on, and established flows do not notice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from meshd import records
from netlab import EchoServer, Flow, Lab, Mesh, PacedFlow, Zone, ping, until
from netlab.kernelview import Deletions, Network, expected, holdings, settle

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]

RESTART_WINDOW_S = 30
"""For so long a node is given to come back whose daemon is gone and whose host answers."""

FIREWALL = """\
table inet firewall {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state invalid counter drop
        ct state established,related accept
        tcp flags & (fin|syn|rst|ack) == syn ct state new accept
        udp dport 9 ct state new accept
        meta l4proto { icmp, ipv6-icmp } accept
    }
}
"""
"""A stateful firewall as operators write it: a flow whose conntrack entry is lost is dead."""


@contextmanager
def watched(*zones: Zone) -> Iterator[list[str]]:
    """What is deleted in the kernels of these routers during the block, once it has ended."""
    seen: list[str] = []
    with ExitStack() as stack:
        watches = [stack.enter_context(Deletions(zone.router)) for zone in zones]
        yield seen
    seen += [f"{watch.router.name}: {line}" for watch in watches for line in watch.seen]


def test_a_daemon_that_starts_again_deletes_nothing_anywhere(three: Mesh) -> None:
    zones = three.lab.zones
    for zone in zones:
        settle(zone.router, expected(zone, zones))
    with watched(*zones) as deleted:
        for number, end, code in ((1, three[1].stop, 0), (2, three[2].kill, -9)):
            zone, other = three.lab.zone(number), zones[2]
            assert end() == code
            assert holdings(zone.router) == expected(zone, zones)
            assert ping(other.private, zone.private4, count=2)
            three[number].start()
            three.converge()
            assert ping(other.private, zone.private6, count=2)
            for each in zones:
                assert holdings(each.router) == expected(each, zones)
    assert deleted == []


def test_a_daemon_that_has_lost_its_snapshot_deletes_nothing(three: Mesh) -> None:
    zones = three.lab.zones
    for zone in (zones[0], zones[2]):  # the founder knows no seed, the other does
        member = three[zone.number]
        settle(zone.router, expected(zone, zones))
        member.kill()
        (member.directory / "state" / "snapshot").unlink(missing_ok=True)
        with watched(zone) as deleted:
            member.start()
            three.converge()
            assert holdings(zone.router) == expected(zone, zones)
        assert deleted == []


def test_what_was_withdrawn_meanwhile_is_swept_in_sync_and_not_before_nor_on_forged_word(
    three: Mesh,
) -> None:
    zones = three.lab.zones
    first, second, third = zones
    whole = expected(first, zones)
    settle(first.router, whole)
    member = three[1]
    member.stop()
    three[3].command("withdraw", str(third.prefix4))

    # What is damaged or forged in the snapshot says nothing: not that a route is wanted, nor that
    # one is not.
    snapshot = member.directory / "state" / "snapshot"
    forged = []
    for raw in records.load(snapshot.read_bytes()):
        before = bytes([24, *third.prefix4.network_address.packed[:3]])
        assert raw.count(before) <= 1
        forged.append(raw.replace(before, bytes([24, 10, 66, 0])))
        if bytes([24, *second.prefix4.network_address.packed[:3]]) in raw:
            forged[-1] = raw[:-1] + bytes([raw[-1] ^ 1])
    assert sum(map(bytes.__ne__, forged, records.load(snapshot.read_bytes()))) >= 2
    snapshot.write_bytes(records.dump(forged))

    three.lab.cut(1)
    with watched(first) as deleted:
        member.start()
        member.wait("--peers", "0")
        until(lambda: member.json("status")["kernel"]["in_sync"], 5, "nothing is left to be done")
        time.sleep(1)  # and could have done whatever it should not
        assert holdings(first.router) == whole
    assert deleted == []
    three.lab.heal(1)
    three.converge()
    left: list[tuple[Network, Zone]] = [
        (second.prefix4, second),
        (second.prefix6, second),
        (third.prefix6, third),
    ]
    settle(first.router, expected(first, zones, remote=left))


def test_routes_to_a_killed_daemon_stay_for_the_restart_window_and_go_after_it(
    three: Mesh,
) -> None:
    zones = three.lab.zones
    first, second, third = zones
    whole = {zone.number: expected(zone, zones) for zone in zones}
    for zone in zones:
        settle(zone.router, whole[zone.number])
    three[3].kill()
    with EchoServer(third.private, (third.private4,)), Flow(first.private, third.private4) as flow:
        for member in (three[1], three[2]):
            until(lambda who=member: who.events("peer-failed"), 15, "it is seen to fail")  # type: ignore[misc]
            (failed,) = member.events("peer-failed")
            assert failed["host_answers"] is True
        failed_at = time.monotonic()
        while time.monotonic() - failed_at < RESTART_WINDOW_S - 8:
            flow.exchange(b"still here")
            assert holdings(first.router) == whole[1]
            assert holdings(second.router) == whole[2]
            time.sleep(0.25)
    assert flow.source == first.private4
    gone: list[Network] = [third.prefix4, third.prefix6]
    for zone in (first, second):
        settle(zone.router, expected(zone, (first, second), unreachable=gone), timeout=20)
    with three.lab.capture_leaks() as leaks:
        assert not ping(first.private, third.private4, timeout=1)
        assert not ping(first.private, third.private6, timeout=1)
    assert leaks.packets == []
    assert holdings(third.router) == whole[3]  # stopping or crashing leaves the data plane alone


def test_flows_lose_nothing_over_restarts_behind_a_stateful_firewall(three: Mesh) -> None:
    first, second, _ = three.lab.zones
    for zone in (first, second):
        # Or a flow would be picked up again in the middle, which no strict firewall does.
        zone.router.sysctl({"netfilter/nf_conntrack_tcp_loose": 0})
        zone.router.run(["nft", "-f", "-"], stdin=FIREWALL)
    with EchoServer(second.private, (second.private4, second.private6)):
        flows = [Flow(first.private, second.private4), Flow(first.private, second.private6)]
        assert [flow.source for flow in flows] == [first.private4, first.private6]
        stop = threading.Event()
        broken: list[OSError] = []

        def keep_talking() -> None:
            while not stop.wait(0.02):
                for flow in flows:
                    try:
                        flow.exchange(b"x" * 100)
                    except OSError as error:
                        broken.append(error)
                        return

        paced = [
            PacedFlow(first.private, second.private, second.private4),
            PacedFlow(second.private, first.private, first.private6),
        ]
        talking = threading.Thread(target=keep_talking)
        talking.start()
        try:
            with paced[0], paced[1]:
                for number in (1, 2):
                    for end in (three[number].stop, three[number].kill):
                        end()
                        three[number].start()
                        three.converge()
            for each in paced:
                told = f"{each.sent} sent, {each.lost} lost, {each.translated} translated"
                print(f"{told}, longest gap {1000 * each.outage_s:.0f} ms")
        finally:
            stop.set()
            talking.join()
        for flow in flows:
            flow.exchange(b"to the end")
            flow.close()
    assert broken == []
    assert [(each.lost, each.translated) for each in paced] == [(0, 0), (0, 0)]
    assert all(each.sent > 1000 for each in paced)
    # The control: this firewall does end a flow whose entry is deleted.
    with (
        EchoServer(second.private, (second.private4,)),
        Flow(first.private, second.private4, timeout=1) as flow,
    ):
        first.router.run(["conntrack", "-D", "-p", "tcp", "-d", str(second.private4)])
        with pytest.raises(OSError, match="timed out"):
            flow.exchange(b"no more")
