"""What `meshd doctor` concludes from facts; how they are seen on a kernel is in tests/kernel."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest
from shells import PEERS, STATUS, Shell

from meshd.config import Config
from meshd.doctor import gather, programs, services
from meshd.doctor.checks import (
    CHECKS,
    examine,
    filtering,
    kernel,
    membership,
    translation,
    underlay,
)
from meshd.doctor.command import layout
from meshd.doctor.facts import Clock, Daemon, Facts, Hop, Link, Networkd, Translation
from meshd.doctor.facts import Path as Way
from meshd.doctor.finding import Finding
from meshd.doctor.iptables import parse
from meshd.doctor.ruleset import Chain, Condition, Rule, Ruleset
from meshd.kernel.state import ForeignRoute
from meshd.values import seed
from protocol.address import Prefix

Json = dict[str, Any]
address, net = ipaddress.ip_address, Prefix.parse

NEAR, NEAR6, FAR = net("10.1.0.0/24"), net("fd00:1::/64"), net("10.2.0.0/24")
GATEWAY = ForeignRoute(net("0.0.0.0/0"), address("192.0.2.254"), "net0", 3, 0)
SYSCTLS = {
    "ipv4/conf/all/forwarding": "1",
    "ipv6/conf/all/forwarding": "1",
    "ipv4/conf/all/rp_filter": "0",
}
LINKS = {
    "net0": Link("net0", 1500, True, (address("192.0.2.1"),)),
    "lan0": Link("lan0", 1500, True, (address("10.1.0.1"),)),
}
PATHS = {
    address("10.2.0.1"): Way("net0", address("192.0.2.2")),
    address("192.0.2.2"): Way("net0", None, address("192.0.2.1")),
}


def status(**fields: Any) -> Json:
    standing = {"state": "member", "reason": "", "until": None, "ends_in_days": None}
    return {**STATUS, "membership": standing, "clock_off_s": None, "counters": {}, **fields}


def daemon(*, peers: list[Json] = PEERS, routes: Iterable[Json] = (), **fields: Any) -> Daemon:
    return Daemon(status(**fields), peers, list(routes))


SOUND = Facts(
    config=Config(announce=(NEAR,)),
    daemon=daemon(),
    sysctls=SYSCTLS,
    links=LINKS,
    routes={FAR: (Hop(address("192.0.2.2"), "net0"),)},
    local=(NEAR,),
    foreign=(GATEWAY,),
    paths=PATHS,
    table=True,
    rules=Ruleset(),
    programs=frozenset({"nft", "iptables"}),
    translations=(),
    clock=Clock(True),
)


def but(**changes: Any) -> Facts:
    """A sound router, but for something."""
    return attrs.evolve(SOUND, **changes)


def sysctls(**changes: str) -> Facts:
    return but(sysctls={**SYSCTLS, **{key.replace("__", "/"): v for key, v in changes.items()}})


def only(check: Callable[[Facts], Iterable[Finding]], facts: Facts) -> Finding:
    """What a check finds, where that is one thing."""
    (finding,) = check(facts)
    return finding


def levels(check: Callable[[Facts], Iterable[Finding]], facts: Facts) -> set[str]:
    return {finding.level for finding in check(facts)}


def iptables(*lines: str) -> Ruleset:
    return Ruleset.of(*parse("\n".join(lines), "ip", "iptables"))


def test_all_is_well_on_a_sound_router() -> None:
    findings = examine(SOUND)
    assert {finding.level for finding in findings} == {"ok"}
    assert {finding.check for finding in findings} >= {"forwarding", "forward", "port", "mtu"}


def test_a_host_of_which_nothing_is_known_gets_no_error_and_no_silence() -> None:
    for check in CHECKS:
        for finding in check(Facts()):
            assert finding.level in ("ok", "unchecked"), finding
    assert {finding.level for finding in examine(Facts())} == {"ok", "unchecked"}


def test_whatever_is_wrong_has_its_reason_and_its_remedy() -> None:
    worst = Facts(
        config=Config(announce=(NEAR,), seeds=(seed("192.0.2.9"),)),
        daemon=daemon(
            peers=[],
            node={"endpoints": []},
            counters={"sent HELLO": 50},
            clock_off_s=1e6,
            membership={"reason": "the authority has revoked this node's key"},
            kernel={"backend": "linux", "in_sync": False, "error": "no"},
        ),
        sysctls=dict.fromkeys(SYSCTLS, "0"),
        local=(NEAR,),
        table=False,
        rules=Ruleset(),
        networkd=Networkd(True, True, True),
        translations=(Translation(address("10.1.0.2"), address("10.2.0.2"), address("192.0.2.1")),),
    )
    wrong = [finding for finding in examine(worst) if finding.level in ("error", "warning")]
    assert len(wrong) >= 7
    for finding in wrong:
        assert finding.why, finding
        assert finding.fix, finding
    assert [finding.level for finding in wrong] == sorted(finding.level for finding in wrong)


# -- daemon, grant, clock ------------------------------------------------------------------------


def test_without_a_daemon_that_is_said_and_the_reason() -> None:
    finding = only(membership.daemon, but(daemon=None, unseen={"daemon": "no daemon answers on x"}))
    assert finding.level == "unchecked"
    assert finding.finding.startswith("no daemon answers on x: what only the daemon knows")


def test_a_kernel_that_the_daemon_cannot_make_right_is_an_error() -> None:
    broken = {"backend": "linux", "in_sync": False, "error": "10.2.0.0/24: no such device"}
    finding = only(membership.daemon, but(daemon=daemon(kernel=broken)))
    assert (finding.level, "no such device" in finding.finding) == ("error", True)


@pytest.mark.parametrize(
    ("standing", "level"),
    [
        ({"reason": "", "ends_in_days": None}, "ok"),
        ({"reason": "", "ends_in_days": 8}, "ok"),
        ({"reason": "", "ends_in_days": 7}, "warning"),
        ({"reason": "", "ends_in_days": 0}, "error"),
        ({"reason": "the authority has revoked this node's key"}, "error"),
    ],
)
def test_a_node_that_is_no_member_or_soon_none_is_told(standing: Json, level: str) -> None:
    assert only(membership.grant, but(daemon=daemon(membership=standing))).level == level


def test_a_clock_far_from_the_members_is_told_and_one_that_nobody_keeps_only_without_them() -> None:
    off = only(membership.clock, but(daemon=daemon(clock_off_s=-10 * 86_400)))
    assert (off.level, off.finding) == (
        "warning",
        "this host's clock is 10 days behind the members'",
    )
    assert only(membership.clock, but(clock=Clock(False))).level == "ok"
    assert only(membership.clock, but(clock=Clock(False), daemon=None)).level == "warning"
    assert only(membership.clock, but(clock=None, daemon=None)).level == "unchecked"


# -- forwarding, rp_filter, shadows, table, managers -----------------------------------------------


def test_forwarding_is_judged_for_the_families_that_the_mesh_has_here() -> None:
    six = sysctls(ipv6__conf__all__forwarding="0")
    assert levels(kernel.forwarding, six) == {"ok"}  # nobody announces IPv6
    finding = list(kernel.forwarding(attrs.evolve(six, local=(NEAR6,))))[-1]
    assert (finding.level, finding.where) == ("error", "net.ipv6.conf.all.forwarding")
    assert finding.fix.splitlines()[0] == "sysctl -w net.ipv6.conf.all.forwarding=1"


def test_forwarding_that_is_off_is_a_warning_while_no_subnet_is_known() -> None:
    bare = Facts(sysctls=dict.fromkeys(SYSCTLS, "0"))
    assert [finding.level for finding in kernel.forwarding(bare)] == ["warning", "warning"]


def test_ipv6_is_forwarded_by_the_switch_of_all_whatever_an_interfaces_says() -> None:
    facts = attrs.evolve(
        sysctls(ipv6__conf__lan0__forwarding="0"),
        local=(NEAR6,),
        links={"lan0": Link("lan0", 1500, True, (address("fd00:1::1"),))},
    )
    assert levels(kernel.forwarding, facts) == {"ok"}


def test_ipv6_forwarding_keeps_a_default_route_that_a_router_advertised() -> None:
    advertised = ForeignRoute(net("::/0"), address("fe80::1"), "net0", 9, 1024)
    facts = attrs.evolve(
        sysctls(ipv6__conf__all__forwarding="0", ipv6__conf__net0__accept_ra="1"),
        local=(NEAR6,),
        routes={},
        foreign=(advertised,),
    )
    assert only(kernel.forwarding, facts).fix.splitlines()[:2] == [
        "sysctl -w net/ipv6/conf/net0/accept_ra=2",
        "sysctl -w net.ipv6.conf.all.forwarding=1",
    ]


def test_forwarding_of_an_interface_that_the_mesh_does_not_use_is_none_of_its_business() -> None:
    assert levels(kernel.forwarding, sysctls(ipv4__conf__eth9__forwarding="0")) == {"ok"}
    finding = only(kernel.forwarding, sysctls(ipv4__conf__net0__forwarding="0"))
    assert (finding.level, finding.where) == ("error", "net0")


def test_an_interfaces_name_cannot_be_taken_for_a_command() -> None:
    odd = "a;reboot"
    facts = but(
        sysctls={**SYSCTLS, f"ipv4/conf/{odd}/forwarding": "0"},
        links={odd: Link(odd, 1500, True, (address("10.1.0.1"),))},
    )
    assert "'net/ipv4/conf/a;reboot/forwarding=1'" in only(kernel.forwarding, facts).fix


def test_what_is_announced_must_lie_behind_this_router() -> None:
    assert only(kernel.announced, SOUND).level == "ok"
    elsewhere = but(local=(NEAR, net("10.9.0.0/24")))
    assert (only(kernel.announced, elsewhere).level, only(kernel.announced, elsewhere).where) == (
        "error",
        "10.9.0.0/24",
    )
    routed = ForeignRoute(net("10.9.0.0/16"), address("10.1.0.9"), "lan0", 3, 0)
    assert only(kernel.announced, attrs.evolve(elsewhere, foreign=(GATEWAY, routed))).level == "ok"
    down = but(links={**LINKS, "lan0": attrs.evolve(LINKS["lan0"], up=False)})
    assert only(kernel.announced, down).fix.splitlines()[0] == "ip link set dev lan0 up"


TWO_WAYS = {**LINKS, "net1": Link("net1", 1500, True, (address("203.0.113.1"),))}


@pytest.mark.parametrize(
    ("whole", "device", "dropped"),
    [("0", "0", False), ("0", "1", True), ("1", "0", True), ("1", "2", False), ("2", "1", False)],
)
def test_the_filter_in_force_is_the_greater_of_all_and_the_interfaces(
    whole: str, device: str, dropped: bool
) -> None:
    facts = attrs.evolve(
        sysctls(ipv4__conf__all__rp_filter=whole, ipv4__conf__net0__rp_filter=device),
        links=TWO_WAYS,
        paths={address("10.2.0.1"): Way("net1", address("203.0.113.2"))},
    )
    assert (only(kernel.reverse_path, facts).level == "error") == dropped


def test_a_strict_filter_on_the_way_back_drops_nothing() -> None:
    assert only(kernel.reverse_path, sysctls(ipv4__conf__all__rp_filter="1")).level == "ok"


def test_a_strict_filter_with_two_uplinks_is_a_warning() -> None:
    facts = attrs.evolve(
        sysctls(ipv4__conf__all__rp_filter="1"),
        links=TWO_WAYS,
        routes={
            **SOUND.routes,
            net("10.3.0.0/24"): (Hop(address("203.0.113.3"), "net1"),),
        },
        daemon=None,
    )
    assert only(kernel.reverse_path, facts).level == "warning"


def test_what_goes_elsewhere_than_our_route_says_is_shadowed() -> None:
    elsewhere = Way("wg0", None, None, 51820)
    finding = only(kernel.shadows, but(paths={address("10.2.0.1"): elsewhere}))
    assert finding.level == "error"
    assert finding.finding.startswith(
        "traffic for 10.2.0.0/24 goes to on-link dev wg0 (table 51820)"
    )
    assert "ip rule" in finding.fix


def test_a_route_with_several_next_hops_leads_through_any_of_them() -> None:
    hops = (Hop(address("192.0.2.2"), "net0"), Hop(address("203.0.113.2"), "net1"))
    second = Way("net1", address("203.0.113.2"))
    facts = but(routes={FAR: hops}, paths={address("10.2.0.1"): second})
    assert only(kernel.shadows, facts).level == "ok"
    assert set(facts.uplinks()) == {"net0", "net1"}


def test_a_more_specific_foreign_route_takes_part_of_a_subnet() -> None:
    part = ForeignRoute(net("10.2.0.128/25"), address("192.0.2.254"), "net0", 3, 0)
    finding = only(kernel.shadows, but(foreign=(GATEWAY, part)))
    assert (finding.level, finding.where) == ("warning", "10.2.0.0/24")
    assert "ip route del 10.2.0.128/25 dev net0" in finding.fix


def test_a_missing_table_is_an_error_unless_nobody_wants_it() -> None:
    assert only(kernel.table, but(table=False)).level == "error"
    assert only(kernel.table, but(table=False, config=Config(nat="off"))).level == "ok"
    observing = daemon(kernel={"backend": "linux", "observing": True})
    assert only(kernel.table, but(table=False, daemon=observing)).level == "ok"
    assert only(kernel.table, but(table=None)).level == "unchecked"
    assert list(kernel.table(but(table=False, daemon=None))) == []


def test_networkd_that_takes_foreign_routes_is_a_warning_with_its_drop_in() -> None:
    takes = only(kernel.managers, but(networkd=Networkd(True, True, True)))
    assert takes.level == "warning"
    assert "ManageForeignRoutes=no" in takes.fix
    assert only(kernel.managers, but(networkd=Networkd(False, True, True))).level == "ok"
    assert [each.level for each in kernel.managers(but(network_manager=True))] == ["ok", "ok"]


# -- filters ---------------------------------------------------------------------------------------

DOCKER = iptables(
    "*filter",
    ":FORWARD DROP [0:0]",
    ":DOCKER-USER - [0:0]",
    "-A FORWARD -j DOCKER-USER",
    "-A FORWARD -i lan0 ! -o lan0 -j ACCEPT",
    "COMMIT",
)


def test_the_policy_that_docker_sets_is_docker_s_and_mended_in_its_users_chain() -> None:
    finding = only(filtering.forward, but(rules=DOCKER))
    assert finding.level == "error"
    assert finding.finding == (
        "Docker: stops connections from the mesh to 10.1.0.0/24 (lan0):"
        " FORWARD: policy of FORWARD: drop"
    )
    command, *lasting = finding.fix.splitlines()
    assert command == "iptables -I DOCKER-USER -s 10.2.0.0/24 -d 10.1.0.0/24 -j ACCEPT"
    assert all(line.startswith("#") for line in lasting)


def test_where_iptables_is_the_old_program_the_new_one_is_named() -> None:
    finding = only(filtering.forward, but(rules=DOCKER, programs=frozenset()))
    assert finding.fix.startswith("iptables-nft -I DOCKER-USER ")


def test_before_there_are_members_the_default_route_and_the_pool_are_judged_by() -> None:
    finding = only(filtering.forward, but(rules=DOCKER, routes={}, daemon=None))
    assert finding.level == "error"
    assert "-s 10.0.0.0/8,172.16.0.0/12,192.168.0.0/16 -d 10.1.0.0/24" in finding.fix


def test_many_subnets_are_named_by_the_pool_that_they_come_from() -> None:
    routes = {net(f"10.{n}.0.0/24"): (Hop(address("192.0.2.2"), "net0"),) for n in range(2, 200)}
    finding = only(filtering.forward, but(rules=DOCKER, routes=routes))
    assert " -s 10.0.0.0/8 -d 10.1.0.0/24 " in finding.fix


def test_rules_that_could_not_be_listed_are_said_to_be() -> None:
    facts = but(rules=None, unseen={"nftables": "nft is not installed: rules are not seen"})
    for check in (filtering.forward, filtering.port, translation.masquerade):
        finding = only(check, facts)
        assert (finding.level, finding.finding) == (
            "unchecked",
            "nft is not installed: rules are not seen",
        )


CLOSED = iptables("*filter", ":INPUT DROP [0:0]", "-A INPUT -i lo -j ACCEPT", "COMMIT")


def test_a_closed_port_is_an_error_until_members_answer_all_the_same() -> None:
    found = only(filtering.port, but(rules=CLOSED))
    assert found.level == "warning"
    alone = only(filtering.port, but(rules=CLOSED, daemon=None))
    assert alone.level == "error"
    assert alone.fix.splitlines()[0] == "iptables -I INPUT -p udp --dport 6179 -j ACCEPT"


def test_another_port_is_judged_where_the_config_has_one() -> None:
    opened = iptables(
        "*filter", ":INPUT DROP [0:0]", "-A INPUT -p udp --dport 7000 -j ACCEPT", "COMMIT"
    )
    assert only(filtering.port, but(rules=opened, config=Config(port=7000))).level == "ok"
    assert only(filtering.port, but(rules=opened)).level == "warning"


def test_what_we_send_may_be_stopped_too() -> None:
    out = iptables("*filter", ":OUTPUT ACCEPT [0:0]", "-A OUTPUT -p udp -j DROP", "COMMIT")
    finding = only(filtering.port, but(rules=out))
    assert finding.level == "error"
    assert "to net0" in finding.finding


def test_frames_within_a_bridge_are_judged_only_where_they_pass_the_filter() -> None:
    bridge = {**LINKS, "lan0": attrs.evolve(LINKS["lan0"], bridge=True, ports=("a", "b"))}
    within = iptables("*filter", ":FORWARD DROP [0:0]", "-A FORWARD -i lan0 ! -o lan0 -j ACCEPT",
                      "COMMIT")  # fmt: skip
    off = but(rules=within, links=bridge)
    on = attrs.evolve(off, sysctls={**SYSCTLS, "bridge/bridge-nf-call-iptables": "1"})
    assert only(filtering.bridged, off).level == "ok"
    finding = only(filtering.bridged, on)
    assert (finding.level, finding.where) == ("warning", "lan0")
    assert finding.fix.startswith("sysctl -w net.bridge.bridge-nf-call-iptables=0")


# -- translation -----------------------------------------------------------------------------------


def nat(priority: int, *conditions: Condition) -> Ruleset:
    rule = Rule(conditions, "translate", "", "masquerade")
    return Ruleset.of(Chain("nft", "ip", "other", "post", (rule,), "postrouting", "nat", priority))


def test_a_masquerade_behind_ours_does_no_harm_and_one_before_it_does() -> None:
    elsewhere = Condition("oif", ("net0",))
    assert only(translation.masquerade, but(rules=nat(100, elsewhere))).level == "ok"
    assert only(translation.masquerade, but(rules=nat(50, elsewhere))).level == "error"
    not_ours = Condition("source", (net("10.9.0.0/24"),))
    assert only(translation.masquerade, but(rules=nat(50, not_ours))).level == "ok"


def test_a_masquerade_that_our_table_would_exempt_from_is_a_warning_without_it() -> None:
    facts = but(rules=nat(100, Condition("oif", ("net0",))), table=False, daemon=None)
    assert only(translation.masquerade, facts).level == "warning"


def test_what_comes_in_translated_is_a_warning() -> None:
    finding = only(translation.masquerade, but(rules=nat(100, Condition("oif", ("lan0",)))))
    assert (finding.level, "on its way to lan0" in finding.finding) == ("warning", True)


def test_a_translated_connection_within_the_mesh_is_proof() -> None:
    seen = (Translation(address("10.1.0.2"), address("10.2.0.2"), address("192.0.2.1")),) * 3
    finding = only(translation.masquerade, but(translations=seen))
    assert finding.level == "error"
    assert "10.1.0.2 to 10.2.0.2 is seen as 192.0.2.1, and 2 more" in finding.finding


# -- underlay --------------------------------------------------------------------------------------


def test_silence_is_an_error_only_when_somebody_was_asked_often_enough() -> None:
    nobody = {"alive": 0, "suspect": 0, "failed": 1, "left": 0}

    def silent(sent: int, peers: list[Json], **counters: int) -> str:
        asked = daemon(peers=[]).status | {
            "peers": nobody,
            "counters": {"sent Probe": sent, **counters},
        }
        return only(underlay.silence, but(daemon=Daemon(asked, peers, []))).level

    assert silent(10, PEERS) == "error"
    assert silent(9, PEERS) == "ok"
    assert silent(50, []) == "ok"  # the first member of a mesh
    assert only(underlay.silence, but(daemon=daemon(counters={"sent Probe": 50}))).level == "ok"


def seen_at(observed: str | None) -> Facts:
    return but(daemon=daemon(peers=[{**PEERS[0], "observed": observed}]))


def test_an_address_that_members_do_not_see_is_a_warning_and_another_port_is_none() -> None:
    assert only(underlay.advertised, seen_at(None)).level == "ok"
    port = only(underlay.advertised, seen_at("192.0.2.1:40000"))
    assert (port.level, "another port" in port.finding) == ("ok", True)
    elsewhere = only(underlay.advertised, seen_at("198.51.100.7:6179"))
    assert (elsewhere.level, elsewhere.where) == ("warning", "198.51.100.7")


def test_an_address_that_is_not_this_hosts_or_none_at_all_is_told() -> None:
    absent = but(links={"net0": attrs.evolve(LINKS["net0"], addresses=())})
    assert only(underlay.advertised, absent).level == "warning"
    none = but(daemon=daemon(node={"endpoints": []}))
    assert only(underlay.advertised, none).level == "error"


@pytest.mark.parametrize(
    ("size", "endpoint", "level"),
    [
        (1228, "192.0.2.2:6179", "ok"),
        (1227, "192.0.2.2:6179", "error"),
        (1280, "[2001:db8::2]:6179", "ok"),
        (1247, "[2001:db8::2]:6179", "error"),
    ],
)
def test_an_interface_must_take_the_largest_datagram(size: int, endpoint: str, level: str) -> None:
    there = address(endpoint.rpartition(":")[0].strip("[]"))
    facts = but(
        daemon=daemon(peers=[{**PEERS[0], "endpoint": endpoint}]),
        links={"net0": Link("net0", size)},
        paths={there: Way("net0")},
        routes={},
    )
    assert only(underlay.mtu, facts).level == level


def test_uplinks_of_different_mtu_are_a_warning() -> None:
    facts = but(
        links={**LINKS, "net1": Link("net1", 1420)},
        routes={**SOUND.routes, net("10.3.0.0/24"): (Hop(address("203.0.113.3"), "net1"),)},
    )
    assert only(underlay.mtu, facts).level == "warning"


# -- services --------------------------------------------------------------------------------------


def conf(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")


def test_networkds_files_are_read_as_it_reads_them(tmp_path: Path) -> None:
    running = {"systemd-network"}
    assert services.networkd(tmp_path, {"sshd"}) is None
    assert services.networkd(tmp_path, running) == Networkd(True, True, True)
    conf(tmp_path, "usr/lib/systemd/networkd.conf", "[Network]\nManageForeignRoutes=no\n")
    found = services.networkd(tmp_path, running)
    assert found is not None
    assert (found.manages_routes, found.manages_rules) == (False, True)
    # The file in /etc takes the place of the one in /usr; of drop-ins the last word counts.
    conf(tmp_path, "etc/systemd/networkd.conf", "[Network]\n#ManageForeignRoutes=no\n")
    assert services.networkd(tmp_path, running) == Networkd(True, True, True)
    conf(
        tmp_path, "usr/lib/systemd/networkd.conf.d/90-x.conf", "[Network]\nManageForeignRoutes=1\n"
    )
    conf(tmp_path, "etc/systemd/networkd.conf.d/10-y.conf", "[Network]\nManageForeignRoutes=off\n")
    found = services.networkd(tmp_path, running)
    assert found is not None
    assert found.manages_routes
    conf(
        tmp_path, "etc/systemd/networkd.conf.d/90-x.conf", "[Network]\nManageForeignRoutes=false\n"
    )
    found = services.networkd(tmp_path, running)
    assert found is not None
    assert not found.manages_routes


def test_our_drop_in_is_what_the_doctor_asks_for(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    shipped = (root / "config/networkd.conf.d/meshd.conf").read_text("utf-8")
    conf(tmp_path, "etc/systemd/networkd.conf.d/meshd.conf", shipped)
    found = services.networkd(tmp_path, {"systemd-network"})
    assert found is not None
    assert found == Networkd(False, False, False, found.file)
    told = kernel.NETWORKD.replace("/etc", f"{tmp_path}/other/etc").rpartition("\n")[0]
    subprocess.run(["sh", "-ec", told], check=True)
    found = services.networkd(tmp_path / "other", {"systemd-network"})
    assert found is not None
    assert found == Networkd(False, False, False, found.file)


def test_what_is_no_config_at_all_is_passed_over(tmp_path: Path) -> None:
    conf(tmp_path, "etc/systemd/networkd.conf", "ManageForeignRoutes=no\n\0")
    assert services.networkd(tmp_path, {"systemd-network"}) == Networkd(True, True, True)


@pytest.mark.parametrize(
    ("modules", "built_in", "there"),
    [
        (None, "", True),  # a kernel without modules loads none
        ("nf_tables 1 0 - Live 0x0\n", "", True),
        ("nf_tables_set 1 0 - Live 0x0\n", "", False),
        ("", "kernel/net/netfilter/nf_tables.ko\n", True),
        ("", "", False),
    ],
)
def test_a_part_of_the_kernel_is_asked_only_where_that_loads_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    modules: str | None,
    built_in: str,
    there: bool,
) -> None:
    monkeypatch.setattr(gather, "PROC", tmp_path)
    monkeypatch.setattr(gather, "SYS_MODULES", tmp_path / "nowhere")
    monkeypatch.setattr(gather, "BUILT_IN", tmp_path / "modules.builtin")
    if modules is not None:
        (tmp_path / "modules").write_text(modules, "ascii")
    (tmp_path / "modules.builtin").write_text(built_in, "ascii")
    assert gather.loaded("nf_tables") == there


def test_without_nft_that_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(programs, "_PATH", str(tmp_path))
    monkeypatch.setattr(gather, "PROC", tmp_path)  # no old tables, and no modules
    unseen: dict[str, str] = {}
    assert gather._rules(unseen) is None
    said = "nft is not installed: rules of nftables and iptables-nft are not seen"
    assert unseen == {"nftables": said}
    assert programs.installed() == frozenset()


def test_a_program_that_fails_is_told_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nft = tmp_path / "nft"
    nft.write_text("#!/bin/sh\necho Operation not permitted >&2\nexit 1\n", "ascii")
    nft.chmod(0o755)
    monkeypatch.setattr(programs, "_PATH", str(tmp_path))
    with pytest.raises(programs.Unavailable, match="nft: Operation not permitted"):
        programs.listing(programs.LIST_NFTABLES)


# -- the command -----------------------------------------------------------------------------------


def test_a_finding_is_laid_out_with_its_reason_and_commands_and_escaped() -> None:
    text = layout(
        [
            Finding("forward", "error", "evil\x1b[31m", "why", "first\nsecond"),
            Finding("mtu", "ok", "fine"),
        ]
    )
    assert text.splitlines() == [
        "error      forward  evil\\x1b[31m",
        "           why: why",
        "             first",
        "             second",
        "",
        "ok         mtu      fine",
    ]


def test_the_command_ends_with_1_when_something_would_break_the_mesh_and_0_else(
    meshd: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Facts] = [SOUND]
    monkeypatch.setattr("meshd.doctor.command.gather", lambda paths: found[0])
    assert meshd("doctor")[0] == 0
    found[0] = but(networkd=Networkd(True, True, True))  # a warning
    assert meshd("doctor")[0] == 0
    found[0] = sysctls(ipv4__conf__all__forwarding="0")
    code, out, _ = meshd("doctor", "--json")
    assert code == 1
    assert json.loads(out)[0]["check"] == "forwarding"
    assert meshd("doctor", "--bogus")[0] == 2
