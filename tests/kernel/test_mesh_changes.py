"""What operators do to a running mesh, and what somebody else does to a kernel: both arrive."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network

from netlab import EchoServer, Lab, Mesh, Zone, ping, source_seen, until
from netlab.kernelview import Holdings, expected, foreign, holdings, settle

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]

PUSHED_S = 5
"""A change takes milliseconds to every kernel; this is for a machine that is busy with others."""

EXTRA4 = IPv4Network("10.77.0.0/24")
EXTRA6 = IPv6Network("fd00:6179:77::/64")


@contextmanager
def echoing(*zones: Zone) -> Iterator[None]:
    """Each private zone tells who speaks to it."""
    if not zones:
        yield
        return
    with EchoServer(zones[0].private, (zones[0].private4, zones[0].private6)), echoing(*zones[1:]):
        yield


def test_announcing_and_withdrawing_reach_every_kernel_and_outlive_a_restart(three: Mesh) -> None:
    zones = three.lab.zones
    first = zones[0]
    mine = (first.prefix4, first.prefix6, EXTRA4, EXTRA6)
    for place, four, six in ((first.router, EXTRA4[1], EXTRA6[1]),
                             (first.private, EXTRA4[2], EXTRA6[2])):  # fmt: skip
        device = "lan0" if place == first.router else "net0"
        place.configure([f"addr add {four}/24 dev {device}", f"addr add {six}/64 dev {device}"])

    three[1].command("announce", str(EXTRA4), str(EXTRA6))
    settle(first.router, expected(first, zones, local=mine), PUSHED_S)
    wider = {zone.number: _with_extra(zone, zones, mine) for zone in zones[1:]}
    for zone in zones[1:]:
        settle(zone.router, wider[zone.number], PUSHED_S)
    with EchoServer(first.private, (EXTRA4[2], EXTRA6[2])):
        assert source_seen(zones[1].private, EXTRA4[2]) == zones[1].private4
        assert source_seen(zones[1].private, EXTRA6[2]) == zones[1].private6

    assert three[1].stop() == 0
    three[1].start()
    three.converge()
    for zone in zones[1:]:
        settle(zone.router, wider[zone.number], PUSHED_S)

    # One that came at run time, and both of a family: the config's too.
    three[1].command("withdraw", str(EXTRA6), str(first.prefix6))
    left = (first.prefix4, EXTRA4)
    settle(first.router, expected(first, zones, local=left), PUSHED_S)
    for zone in zones[1:]:
        settle(zone.router, _with_extra(zone, zones, left), PUSHED_S)


def _with_extra(zone: Zone, zones: tuple[Zone, ...], of_first: tuple[object, ...]) -> Holdings:
    others = [other for other in zones[1:] if other is not zone]
    remote = [(prefix, zones[0]) for prefix in of_first]
    remote += [(prefix, other) for other in others for prefix in (other.prefix4, other.prefix6)]
    return expected(zone, zones, remote=remote)  # type: ignore[arg-type]


def test_one_more_address_on_a_router_takes_nobodys_routes_away(three: Mesh) -> None:
    zones = three.lab.zones
    first, second, _ = zones
    for device, address in (("lan0", EXTRA4[1]), ("lan0", EXTRA6[1])):
        first.router.configure([f"addr add {address} dev {device}"])
    # Its daemon has seen the addresses when it has answered this.
    three[1].command("announce", "10.78.0.0/24")
    three[2].wait("--prefix", "10.78.0.0/24", timeout=PUSHED_S)
    three[1].command("withdraw", "10.78.0.0/24")
    settle(second.router, expected(second, zones), PUSHED_S)
    assert three[1].events("moved") == []


def test_leaving_takes_a_node_out_of_every_kernel_and_running_brings_it_back(three: Mesh) -> None:
    zones = three.lab.zones
    first, second, third = zones
    before = {zone.number: foreign(zone.router) for zone in zones}
    sequence = three[3].json("status")["node"]["sequence"]

    done = three[3].command("leave")
    assert holdings(third.router) == Holdings()
    assert "come back" in done.stdout
    assert three[3].exit_status() == 0
    assert three[3].events("stopped")[-1]["reason"] == "leave"
    for zone in (first, second):
        settle(zone.router, expected(zone, (first, second)), PUSHED_S)
        (row,) = [peer for peer in three[zone.number].json("peers") if peer["name"] == "r3"]
        assert row["state"] == "left"
    assert not ping(first.private, third.private4, timeout=1)
    assert ping(first.private, second.private4)

    three[3].start()
    three.converge()
    assert three[3].json("status")["node"]["sequence"] > sequence
    for zone in zones:
        settle(zone.router, expected(zone, zones), PUSHED_S)
        assert foreign(zone.router) == before[zone.number]
    with echoing(first):
        assert source_seen(third.private, first.private4) == third.private4
        assert source_seen(third.private, first.private6) == third.private6


def test_without_its_seed_a_mesh_goes_on_and_a_newcomer_joins_through_any_member(
    new_lab: NewLab, new_mesh: NewMesh
) -> None:
    lab = new_lab(4)
    mesh = new_mesh(lab)
    mesh.found(1)
    mesh.join(2)
    mesh.join(3)
    mesh.converge()
    token = mesh.invite(4)
    lab.cut(1)
    mesh[1].kill()
    _, second, third, fourth = lab.zones

    mesh.join(4, token=token, run=["--seed", str(third.uplink4.ip)])
    mesh[4].wait("--peers", "2", "--prefix", str(second.prefix4), timeout=20)
    mesh[2].wait("--peers", "2", "--prefix", str(fourth.prefix6), timeout=20)
    with echoing(second, fourth):
        assert source_seen(fourth.private, second.private4) == fourth.private4
        assert source_seen(second.private, fourth.private6) == second.private6
    mesh[2].command("announce", str(EXTRA4))
    mesh[4].wait("--prefix", str(EXTRA4), timeout=PUSHED_S)
    mesh[2].command("withdraw", str(EXTRA4))

    # The seed returns: it finds the others by itself, and all are one mesh again.
    lab.heal(1)
    mesh[1].start()
    mesh.converge()
    for zone in lab.zones:
        settle(zone.router, expected(zone, lab.zones))


def test_what_somebody_deletes_of_ours_is_back_within_a_second(three: Mesh) -> None:
    zones = three.lab.zones
    first, second, _ = zones
    wanted = expected(first, zones)
    settle(first.router, wanted)

    def repaired() -> list[dict[str, object]]:
        return three[1].events("kernel-repaired")

    for number, deed in enumerate(
        (
            f"ip route del {second.prefix4} metric 142",
            f"ip -6 route del {second.prefix6} metric 142",
            f"ip route del unreachable {second.prefix4} metric 4294967294",
            f"nft delete element inet meshd mesh4 {{ {second.prefix4} }}",
            "nft flush chain inet meshd exempt",
            "nft delete table inet meshd",
            "nft flush ruleset",
            "ip -4 route flush proto 142",
        ),
        start=1,
    ):
        first.router.run(deed.split())
        took = settle(first.router, wanted, timeout=1)
        assert took < 1, deed
        until(lambda expected=number: len(repaired()) >= expected, 2, f"it is told: {deed}")  # type: ignore[misc]
    assert str(second.prefix4) in json.dumps(repaired()[0])
    assert three[1].events("kernel-error") == []
    with echoing(second):
        assert source_seen(first.private, second.private4) == first.private4
        assert source_seen(first.private, second.private6) == first.private6


def test_who_comes_second_with_a_prefix_is_refused_whatever_arrives_first(
    new_lab: NewLab, new_mesh: NewMesh
) -> None:
    lab = new_lab(3)
    mesh = new_mesh(lab)
    first, second, third = lab.zones
    mesh.found(1)
    mesh.join(2)
    within = next(first.prefix4.subnets())
    mesh.join(3, announce=[within, third.prefix6])
    mesh.converge()
    wanted = expected(
        second,
        lab.zones,
        remote=[(first.prefix4, first), (first.prefix6, first), (third.prefix6, third)],
    )
    settle(second.router, wanted)
    (row,) = [r for r in mesh[2].json("routes") if r["prefix"] == str(within)]
    assert (row["node"], row["state"]) == ("r3", "refused")
    assert str(first.prefix4) in row["reason"]
    assert "r1" in row["reason"]


def test_foreign_routes_to_the_same_subnets_are_left_alone_and_reported(
    new_lab: NewLab, new_mesh: NewMesh
) -> None:
    lab = new_lab(2)
    first, second = lab.zones
    segment = lab.segment
    first.router.configure(
        [
            # One that the kernel prefers to ours, and one in the very place where ours would go.
            f"route add {second.prefix4} via {segment.gateway4} metric 10 proto static",
            f"route add {second.prefix6} via {segment.gateway6} metric 142 proto static",
        ]
    )
    before = foreign(first.router)
    mesh = new_mesh(lab)
    mesh.found(1)
    mesh.join(2)
    mesh[2].wait("--peers", "1", "--converged")
    until(lambda: mesh[1].events("kernel-error"), PUSHED_S, "it is told")
    states = {row["prefix"]: (row["state"], row["reason"]) for row in mesh[1].json("routes")}
    assert states[str(second.prefix4)][0] == "shadowed"
    assert "metric 10" in states[str(second.prefix4)][1]
    assert states[str(second.prefix6)][0] == "shadowed"
    assert states[str(second.prefix6)][1]
    time.sleep(1)  # for a few attempts
    (error,) = mesh[1].events("kernel-error")
    assert str(second.prefix6) in error["step"]
    changed = mesh[1].events("kernel-changed", "kernel-repaired")
    assert [event.get("added") for event in changed if "added" in event] == [[str(second.prefix4)]]
    assert mesh[1].stop() == 0
    assert foreign(first.router) == before
    mesh[1].start()
    mesh[1].wait("--peers", "1")
    mesh[1].command("leave")
    assert mesh[1].exit_status() == 0
    assert foreign(first.router) == before
    assert holdings(first.router) == Holdings()


def test_a_filter_of_the_operator_takes_effect_at_reload_and_explain_says_so(three: Mesh) -> None:
    zones = three.lab.zones
    first, second, third = zones
    member = three[1]
    config = member.directory / "meshd.toml"
    before = config.read_text()
    config.write_text(f'{before}\n[import]\ndeny = ["{second.prefix4}"]\n')
    assert "import" in member.command("reload").stdout
    remote = [
        (second.prefix6, second),
        *((prefix, third) for prefix in (third.prefix4, third.prefix6)),
    ]
    settle(first.router, expected(first, zones, remote=remote), PUSHED_S)
    told = member.command("explain", str(second.prefix4)).stdout
    assert f"overlaps {second.prefix4} in import.deny of this host's config" in told
    assert "no route of ours, no guard, not excluded from NAT" in told
    (row,) = [each for each in member.json("routes") if each["prefix"] == str(second.prefix4)]
    assert (row["state"], row["rule"]) == ("refused", "denied")
    assert member.events("refused")[-1]["rule"] == "denied"

    config.write_text(before)
    member.command("reload")
    settle(first.router, expected(first, zones), PUSHED_S)
    answer = member.json("explain", str(second.prefix4))
    assert answer["kernel"][0]["route"].startswith("via ")
    assert member.json("explain", "r2")["grant"]["name"] == "r2"
    assert member.command("explain", "r9", check=False).returncode == 1
