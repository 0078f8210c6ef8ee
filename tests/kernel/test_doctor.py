"""`meshd doctor` on a real kernel: what it finds, that its command mends it, that it only looks.

Rules of other programs are in test_coexistence.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from shapes import mend

from netlab import EchoServer, Lab, Mesh, Namespace, ping, source_seen, until
from netlab.kernelview import foreign

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def mesh(shared_lab: NewLab, shared_mesh: NewMesh) -> Mesh:
    mesh = shared_mesh(shared_lab(2, nat=["docker", "none"], second_uplink=True))
    near, far = (
        ["--advertise", str(zone.uplink4.ip), "--advertise", str(zone.uplink6.ip)]
        for zone in mesh.lab.zones
    )
    mesh.found(1, options=near)
    mesh.join(2, options=far)
    mesh.converge()
    return mesh


def examined(mesh: Mesh, *options: str) -> tuple[int, list[Json]]:
    """The exit code and the findings on router 1."""
    done = mesh[1].command("doctor", "--json", *options, check=False)
    return done.returncode, json.loads(done.stdout)


def wrong(findings: list[Json]) -> list[Json]:
    return [each for each in findings if each["level"] in ("error", "warning")]


def the_one(findings: list[Json]) -> Json:
    """What is wrong, where that is one thing."""
    (found,) = wrong(findings)
    return found


@contextmanager
def set_to(router: Namespace, path: str, value: int) -> Iterator[None]:
    """A setting below /proc/sys/net meanwhile; then what it was."""
    with router.entered():
        before = int(Path("/proc/sys/net", path).read_text("ascii"))
    router.sysctl({path: value})
    try:
        yield
    finally:
        router.sysctl({path: before})


@contextmanager
def rules(router: Namespace, text: str) -> Iterator[None]:
    """A table `inet host` of an operator's own meanwhile."""
    router.run(["nft", "-f", "-"], stdin=text)
    try:
        yield
    finally:
        router.run(["nft", "delete table inet host"])


def test_a_sound_router_gets_no_warning_and_exit_code_0(mesh: Mesh) -> None:
    code, findings = examined(mesh)
    assert code == 0
    assert wrong(findings) == []
    assert {each["level"] for each in findings} == {"ok"}
    for each in findings:
        assert list(each) == ["check", "level", "finding", "why", "fix", "where"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("ipv4/ip_forward", "IPv4 forwarding is off"),
        ("ipv6/conf/all/forwarding", "IPv6 forwarding is off"),
        ("ipv4/conf/lan0/forwarding", "IPv4 forwarding is off for what comes in through lan0"),
    ],
)
def test_forwarding_that_is_off_is_found_and_its_command_turns_it_on(
    mesh: Mesh, path: str, said: str
) -> None:
    near, far = mesh.lab.zones
    targets = (far.private4, far.private6)
    with set_to(near.router, path, 0):
        assert not all(ping(near.private, target, timeout=1) for target in targets)
        code, findings = examined(mesh)
        found = the_one(findings)
        assert (code, found["check"], found["level"]) == (1, "forwarding", "error")
        assert found["finding"] == said
        mend(near.router, found["fix"])
        assert all(ping(near.private, target) for target in targets)
        assert examined(mesh)[0] == 0


def test_the_drop_in_for_sysctl_is_what_the_doctor_asks_for(mesh: Mesh) -> None:
    router = mesh.lab.router(1)
    drop_in = Path(__file__).parents[2] / "config/sysctl.d/60-meshd.conf"
    with set_to(router, "ipv4/ip_forward", 0), set_to(router, "ipv6/conf/all/forwarding", 0):
        assert len(wrong(examined(mesh)[1])) == 2
        router.run(["sysctl", "-p", drop_in])
        assert wrong(examined(mesh)[1]) == []


def test_a_policy_that_drops_what_is_forwarded_is_found_and_its_command_lets_the_mesh_pass(
    mesh: Mesh,
) -> None:
    near, far = mesh.lab.zones
    ruleset = """
table inet host {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "lan0" oifname != "net0" accept
        meta l4proto icmp accept
        tcp dport 22 accept
    }
}
"""
    with (
        EchoServer(far.private, (far.private4,)),
        EchoServer(near.private, (near.private4,)),
        rules(near.router, ruleset),
    ):
        code, findings = examined(mesh)
        found = wrong(findings)
        assert code == 0  # who lets ssh and ping pass seems to have meant it
        assert {(each["check"], each["level"]) for each in found} == {("forward", "warning")}
        assert len(found) == 4  # each way, each family
        assert all("tcp dport 22 accept" in each["finding"] for each in found)
        with pytest.raises(OSError, match="timed out"):
            source_seen(near.private, far.private4, timeout=0.5)
        for each in found:
            mend(near.router, each["fix"])
        assert source_seen(near.private, far.private4) == near.private4
        assert source_seen(far.private, near.private4) == far.private4
        assert wrong(examined(mesh)[1]) == []


def test_rules_of_the_old_iptables_are_seen_too(mesh: Mesh) -> None:
    near, far = mesh.lab.zones
    old = ["iptables-legacy-restore"]
    near.router.run(old, stdin="*filter\n:FORWARD DROP [0:0]\nCOMMIT\n")
    try:
        code, findings = examined(mesh)
        assert code == 1
        found = wrong(findings)
        assert [each["where"] for each in found] == ["iptables-legacy ip filter FORWARD"] * 2
        assert not ping(near.private, far.private4, timeout=1)
        for each in found:
            mend(near.router, each["fix"])
        assert ping(near.private, far.private4)
        assert examined(mesh)[0] == 0
    finally:
        near.router.run(old, stdin="*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n")


def test_an_input_rule_that_drops_our_port_is_found_and_its_command_opens_it(mesh: Mesh) -> None:
    router = mesh.lab.router(1)
    ruleset = """
table inet host {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iif "lo" accept
        tcp dport 22 accept
        meta l4proto { icmp, ipv6-icmp } accept
    }
}
"""
    with rules(router, ruleset):
        found = the_one(examined(mesh)[1])
        assert (found["check"], found["level"]) == ("port", "warning")
        assert found["finding"].startswith("stops UDP port 6179 from net0")
        mend(router, found["fix"])
        assert wrong(examined(mesh)[1]) == []


def test_a_masquerade_that_comes_before_ours_is_foreseen_and_then_proved(mesh: Mesh) -> None:
    near, far = mesh.lab.zones
    ruleset = """
table inet host {
    chain post {
        type nat hook postrouting priority 0;
        oifname "net0" ip saddr 10.1.0.0/24 masquerade
    }
}
"""
    with EchoServer(far.private, (far.private4,)), rules(near.router, ruleset):
        code, findings = examined(mesh)
        found = the_one(findings)
        assert (code, found["check"], found["where"]) == (1, "masquerade", "nft inet host post")
        assert "its priority is 0" in found["why"] or "priority is 0" in found["why"]
        assert source_seen(near.private, far.private4) == near.uplink4.ip
        proved = wrong(examined(mesh)[1])[0]
        assert (
            f"{near.private4} to {far.private4} is seen as {near.uplink4.ip}" in proved["finding"]
        )
    near.router.run(["conntrack", "-F"])
    assert examined(mesh)[0] == 0


def test_what_the_host_translates_elsewhere_is_no_finding(mesh: Mesh) -> None:
    near = mesh.lab.zone(1)
    with EchoServer(mesh.lab.internet, (mesh.lab.segment.gateway4,)):
        assert source_seen(near.private, mesh.lab.segment.gateway4) == near.uplink4.ip
        assert wrong(examined(mesh)[1]) == []


def test_a_strict_filter_on_the_wrong_way_in_is_found_and_its_command_lets_replies_in(
    mesh: Mesh,
) -> None:
    near, far = mesh.lab.zones
    # What we send to the far subnet goes through the second uplink, by a rule of somebody's.
    hop = mesh.lab.second_segment.host4(far.number).ip
    near.router.configure(
        [f"route add {far.prefix4} via {hop} table 77", "rule add priority 77 lookup 77"]
    )
    try:
        with set_to(near.router, "ipv4/conf/net0/rp_filter", 1):
            code, findings = examined(mesh)
            found = {each["check"]: each for each in wrong(findings)}
            assert code == 1
            assert "table 77" in found["shadowed"]["finding"]
            assert found["rp_filter"]["where"] == "net0"
            mend(near.router, found["rp_filter"]["fix"])
            assert "rp_filter" not in {each["check"] for each in wrong(examined(mesh)[1])}
    finally:
        near.router.configure(["rule del priority 77", "route flush table 77"])
    assert wrong(examined(mesh)[1]) == []


def test_a_more_specific_route_of_somebody_else_is_found(mesh: Mesh) -> None:
    near, far = mesh.lab.zones
    part = f"{far.prefix4[128]}/25"
    near.router.configure([f"route add {part} via {mesh.lab.segment.gateway4}"])
    try:
        found = the_one(examined(mesh)[1])
        assert (found["check"], found["level"]) == ("shadowed", "warning")
        assert part in found["finding"]
    finally:
        near.router.configure([f"route del {part}"])


def test_a_small_mtu_is_found_and_its_command_mends_it(mesh: Mesh) -> None:
    router = mesh.lab.router(1)
    router.configure(["link set net0 mtu 1220"])
    try:
        found = {each["level"]: each for each in wrong(examined(mesh)[1])}["error"]
        assert (found["check"], found["where"]) == ("mtu", "net0")
        assert "1220" in found["finding"]
        assert "1228" in found["finding"]
        mend(router, found["fix"])
        # The kernel took IPv6 away below 1,280: that is not told here.
        assert "mtu" not in {each["check"] for each in wrong(examined(mesh)[1])}
    finally:
        near = mesh.lab.zone(1)
        router.configure(["link set net0 mtu 1500", f"addr replace {near.uplink6} dev net0"])
    until(lambda: ping(near.private, mesh.lab.zone(2).private6), 10, "IPv6 is back")


def test_without_a_daemon_it_says_what_it_did_not_check_and_judges_the_rest(
    mesh: Mesh, tmp_path: Path
) -> None:
    shutil.copy(mesh[1].directory / "meshd.toml", tmp_path)
    router = mesh.lab.router(1)
    done = router.run([mesh[1].argv()[0], "--dir", tmp_path, "doctor", "--json"], check=False)
    assert done.returncode == 0
    findings = json.loads(done.stdout)
    missing = [each for each in findings if each["level"] == "unchecked"]
    assert [each["check"] for each in missing] == ["daemon"]
    assert "start it: meshd --dir" in missing[0]["finding"]
    with set_to(router, "ipv4/ip_forward", 0):
        done = router.run([mesh[1].argv()[0], "--dir", tmp_path, "doctor"], check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("error      forwarding  IPv4 forwarding is off\n")


def test_a_user_learns_what_only_root_may_look_at(mesh: Mesh) -> None:
    router = mesh.lab.router(1)
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = router.run(
        [*as_nobody, *mesh[1].argv()[:1], "--dir", "/nonexistent", "doctor", "--json"], check=False
    )
    findings = {each["check"]: each for each in json.loads(done.stdout)}
    assert findings["forward"]["level"] == "unchecked"
    assert "Operation not permitted" in findings["forward"]["finding"]
    assert findings["shadowed"]["level"] == "ok"  # routes are everybody's to read


def test_looking_makes_no_old_tables_and_changes_no_setting(mesh: Mesh, new_lab: NewLab) -> None:
    router = new_lab(1, nat=["none"]).router(1)

    def everything() -> list[str]:
        with router.entered():
            names = ("ip_tables_names", "ip6_tables_names", "modules")
            proc = [Path("/proc/net", name) for name in names[:2]] + [Path("/proc", names[2])]
            files = [path.read_text("ascii") if path.exists() else "" for path in proc]
        settings = router.run(["sysctl", "-a", "--pattern", r"^net\."]).stdout.splitlines()
        return [foreign(router), *files, *(line for line in settings if "_count =" not in line)]

    before = everything()
    assert before[1:3] == ["", ""]
    router.run([mesh[1].argv()[0], "--dir", "/nonexistent", "doctor"], check=False)
    assert everything() == before
