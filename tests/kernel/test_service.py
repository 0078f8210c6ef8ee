"""meshd as it is installed: the system's places, a user of its own, one capability, systemd.

Nothing of this machine is touched: see systemhost.py.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import attrs
import pytest
from flows import Datagrams, datagrams, forward_between_routers
from systemhost import CONFIG, NO_CAPABILITY, RUNTIME, STATE, USER, SystemHost

from netlab import EchoServer, Lab, until
from netlab.kernelview import expected, foreign, settle
from netlab.traffic import Address

NewLab = Callable[..., Lab]

CAP_NET_ADMIN = 1 << 12
"""linux/capability.h"""

STRANGER = ("--reuid=nobody", "--regid=nogroup", "--clear-groups", *NO_CAPABILITY)
COLLEAGUE = ("--reuid=nobody", "--regid=nogroup", "--groups=meshd", *NO_CAPABILITY)

NO, USAGE = 1, 2


@attrs.frozen
class Pair:
    """Two hosts whose daemons have found each other, and a flow between them from before."""

    lab: Lab
    a: SystemHost
    b: SystemHost
    before: Address
    """What the far end took for the flow's source when there was no mesh."""
    flow: Datagrams


def one_user_only() -> bool:
    """In the user namespace of scripts/as-root there is nobody else to become."""
    return Path("/proc/self/uid_map").read_text().split()[2:] == ["1"]


@pytest.fixture(scope="module")
def pair(shared_lab: NewLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    if one_user_only():
        pytest.skip("this user namespace knows one user only")
    lab = shared_lab(3, nat=["docker"])
    forward_between_routers(lab)
    home = tmp_path_factory.mktemp("hosts")
    near, far = lab.zones[:2]
    with ExitStack() as stack:
        stack.enter_context(EchoServer(far.private, (far.private4,)))
        flow = stack.enter_context(datagrams(near.private, far.private4))
        until(lambda: flow.source_seen() == near.uplink4.ip, 3, "it arrives translated")
        hosts = []
        for zone, name in ((near, "a"), (far, "b")):
            (home / name).mkdir()
            hosts.append(stack.enter_context(SystemHost(zone.router, home / name)))
        a, b = hosts
        a.meshd("init", "--name", "a", *_announce(lab, 1))
        a.start()
        a.meshd("wait", "--timeout", "30")
        _join(a, b, lab, 2)
        b.start()
        for host in hosts:
            host.meshd("wait", "--peers", "1", "--converged", "--timeout", "30")
        yield Pair(lab, a, b, near.uplink4.ip, flow)


def _announce(lab: Lab, number: int) -> list[str]:
    zone = lab.zone(number)
    return ["--announce", str(zone.prefix4), "--announce", str(zone.prefix6)]


def _join(inviter: SystemHost, host: SystemHost, lab: Lab, number: int) -> None:
    token = inviter.meshd("invite", host.directory.name).stdout
    host.meshd("join", "-", *_announce(lab, number), stdin=token)


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _runs_with_one_capability(pid: int, user: int) -> None:
    status = _status(pid)
    assert status["Uid"].split() == [str(user)] * 4
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd"):
        assert int(status[name], 16) == CAP_NET_ADMIN, name
    assert int(status["CapAmb"], 16) == 0  # what a health check starts has none
    assert status["NoNewPrivs"] == "1"


def _user(host: SystemHost) -> int:
    return int(host.run("id", "-u", "meshd").stdout)


def test_two_daemons_with_one_capability_keep_routes_table_and_connections(pair: Pair) -> None:
    zones = pair.lab.zones[:2]
    for host, zone in zip((pair.a, pair.b), zones, strict=True):
        _runs_with_one_capability(host.json("status")["pid"], _user(host))
        settle(zone.router, expected(zone, zones))
    # Translated before, and on the same ports itself now: its entry had to be deleted.
    near = zones[0]
    until(lambda: pair.flow.source_seen() == near.private4, 3, "the flow is itself")
    ports = pair.flow.client.getsockname()[1]
    entries = near.router.run(
        ["conntrack", "-L", "-p", "udp", "--orig-port-src", str(ports)]
    ).stdout.splitlines()
    assert [line.count(str(near.uplink4.ip)) for line in entries] == [0]


def test_what_root_made_belongs_to_the_daemons_user_and_keys_are_his_alone(pair: Pair) -> None:
    names = {
        pair.a: ["node.key", "authority.key", "authority-next.key"],
        pair.b: ["node.key"],
    }
    for host, keys in names.items():
        places = {
            STATE: ("meshd:meshd", 0o700, stat.S_ISDIR),
            CONFIG: ("meshd:meshd", 0o644, stat.S_ISREG),
            RUNTIME / "control.sock": ("meshd:meshd", 0o660, stat.S_ISSOCK),
            **{STATE / key: ("meshd:meshd", 0o600, stat.S_ISREG) for key in keys},
        }
        for path, (owner, mode, kind) in places.items():
            found = host.run("stat", "-c", "%U:%G %f", path).stdout.split()
            bits = int(found[1], 16)
            assert (found[0], stat.S_IMODE(bits), kind(bits)) == (owner, mode, True), path
        made = set(host.run("ls", "-A", STATE).stdout.split())
        assert {name for name in made if name.endswith(".key")} == set(keys)


def test_another_user_is_refused_at_the_control_socket_and_a_member_of_the_group_is_not(
    pair: Pair,
) -> None:
    refused = pair.a.meshd("status", privileges=STRANGER, check=False)
    assert (refused.returncode, refused.stdout) == (USAGE, "")
    (line,) = refused.stderr.splitlines()
    assert str(RUNTIME / "control.sock") in line
    # The mode keeps strangers out; were it open, the kernel's word on who they are would.
    pair.a.run("chmod", "666", RUNTIME / "control.sock")
    try:
        again = pair.a.meshd("status", privileges=STRANGER, check=False)
        assert (again.returncode, again.stdout) == (NO, "")
        (line,) = again.stderr.splitlines()
        assert "closed the connection" in line
    finally:
        pair.a.run("chmod", "660", RUNTIME / "control.sock")
    served = pair.a.meshd("status", "--json", privileges=COLLEAGUE)
    assert json.loads(served.stdout)["converged"] is True
    assert pair.a.json("status")["converged"] is True


def test_without_the_capability_the_installed_daemon_says_so_in_one_line(pair: Pair) -> None:
    lab, third = pair.lab, pair.lab.zone(3)
    directory = pair.a.directory.with_name("c")
    directory.mkdir()
    before = foreign(third.router)
    with SystemHost(third.router, directory) as host:
        _join(pair.a, host, lab, 3)
        host.run("install", "-d", "-o", "meshd", "-g", "meshd", RUNTIME)
        done = host.meshd("run", privileges=[*USER, *NO_CAPABILITY], check=False)
    assert (done.returncode, done.stdout) == (USAGE, "")
    (line,) = done.stderr.splitlines()
    assert "CAP_NET_ADMIN is missing" in line
    assert foreign(third.router) == before


def test_the_unit_runs_reloads_and_restarts_under_systemd(pair: Pair) -> None:
    lab, zones = pair.lab, pair.lab.zones
    third = zones[2]
    directory = pair.a.directory.with_name("d")
    directory.mkdir()
    with SystemHost(third.router, directory, systemd=True) as host:
        _join(pair.a, host, lab, 3)
        host.systemctl("start", "meshd.service")
        host.meshd("wait", "--peers", "2", "--converged", "--timeout", "30")
        first = host.main_process()
        _runs_with_one_capability(first, _user(host))
        assert _status(first)["Seccomp"] == "2"  # filters; proc_pid_status(5)
        for zone in zones:
            settle(zone.router, expected(zone, zones))

        # A reload waits for the daemon's answer, and has its exit code.
        good = host.run("cat", CONFIG).stdout
        (old,) = [line for line in good.splitlines() if line.startswith("announce")]
        wider = good.replace(old, old.replace("[", '["10.99.0.0/24", '))
        host.run("tee", CONFIG, stdin=wider)
        host.systemctl("reload", "meshd.service")
        pair.a.meshd("wait", "--prefix", "10.99.0.0/24", "--timeout", "5")
        host.run("tee", CONFIG, stdin=wider + "port = 0\n")
        assert host.run("systemctl", "reload", "meshd.service", check=False).returncode != 0
        assert host.systemctl("is-active", "meshd.service") == "active"
        host.run("tee", CONFIG, stdin=good)
        host.systemctl("reload", "meshd.service")

        # A crash: the kernel stays as it is, and the daemon comes back by itself.
        host.kill(first)
        until(lambda: host.main_process() not in (0, first), 10, "it is started again")
        host.meshd("wait", "--peers", "2", "--converged", "--timeout", "30")
        settle(third.router, expected(third, zones))
        assert host.systemctl("show", "-P", "NRestarts", "meshd.service") == "1"

        # A mistake in a file is not tried again and again.
        host.run("tee", CONFIG, stdin=good + "anounce = []\n")
        host.systemctl("restart", "meshd.service", check=False)
        until(
            lambda: host.systemctl("show", "-P", "ActiveState", "meshd.service") == "failed",
            10,
            "the mistake ends it",
        )
        assert host.systemctl("show", "-P", "ExecMainStatus", "meshd.service") == str(USAGE)
        assert host.systemctl("show", "-P", "NRestarts", "meshd.service") == "0"
        host.run("tee", CONFIG, stdin=good)
        host.systemctl("reset-failed", "meshd.service")
        host.systemctl("start", "meshd.service")
        host.meshd("wait", "--peers", "2", "--converged", "--timeout", "30")

        host.systemctl("stop", "meshd.service")
        assert host.systemctl("show", "-P", "Result", "meshd.service") == "success"
        settle(third.router, expected(third, zones))  # stopping leaves the data plane alone
        host.systemctl("start", "meshd.service")
        host.meshd("wait", "--timeout", "30")
        host.meshd("leave")
        until(
            lambda: host.systemctl("show", "-P", "ActiveState", "meshd.service") == "inactive",
            10,
            "who has left is not started again",
        )
    for zone in zones[:2]:
        settle(zone.router, expected(zone, zones[:2]))
