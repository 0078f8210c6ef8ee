"""What a host does to the daemon on it, and the network to both: it goes on, and puts things right.

The tests share a mesh of three, whose routers had routes, rules, tables and sets before it came; a
fourth router is a stranger's.  Each leaves it as it was: converged, with nothing amiss.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

import attrs
import pytest

from meshd import config as configuration
from meshd import records
from meshd.control import MAX_FRAME
from netlab import Lab, Member, Mesh, Namespace, until
from netlab.kernelview import expected, foreign, holdings, settle
from netlab.lab import UPLINK, Zone
from protocol.codec import pack, unpack
from protocol.frames import Hello
from protocol.identity import SIGNATURE_SIZE, Identity
from protocol.objects import Announcement, Grant

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]

PORT = 6179

SOON_S = 10
"""What takes tens of milliseconds; this is for a machine that is busy with others."""

FURNITURE = """\
table inet firewall {
    set trusted { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.0/24 } }
    set seen { type ipv6_addr; flags timeout; }
    map verdicts { type ipv4_addr : verdict; elements = { 198.51.100.7 : drop } }
    chain forward {
        type filter hook forward priority filter; policy accept;
        ip saddr @trusted accept
        ip daddr vmap @verdicts
    }
}
table ip mesh4 {
    set mesh4 { type ipv4_addr; flags interval; elements = { 10.1.0.0/16 } }
    chain exempt {
        type nat hook postrouting priority srcnat - 1;
        ip daddr @mesh4 return
    }
}
"""
"""A firewall, and a table with names like ours that is not ours. 10.1.0.0/16 is in no lab but as
r1's subnet, whose source nobody translates on the way to itself."""


def furnish(zone: Zone) -> None:
    """What operators and other daemons have on a router: none of it is ours to touch."""
    router = zone.router
    router.run(["nft", "-f", "-"], stdin=FURNITURE)
    router.configure(
        [
            f"route add 172.30.0.0/24 via {zone.private4} proto static metric 142",
            "route add blackhole 172.31.0.0/16 proto bird metric 4294967294",
            f"route add 172.30.1.0/24 via {zone.private4} proto bird table 100",
            "rule add from 172.30.2.0/24 lookup 100 priority 142",
            f"route add fd00:dead::/48 via {zone.private6} proto static metric 143",
        ]
    )


def furniture(zone: Zone) -> list[str]:
    """All that is not meshd's in this kernel, in an order that does not tell what came first."""
    return sorted(foreign(zone.router).splitlines())


@attrs.frozen
class Shared:
    """The mesh, and what was foreign on its routers before there was one."""

    mesh: Mesh
    before: dict[int, list[str]]

    @property
    def zones(self) -> tuple[Zone, ...]:
        return self.mesh.lab.zones[:3]

    @property
    def stranger(self) -> Namespace:
        return self.mesh.lab.router(4)

    def settled(self) -> None:
        """All three agree, in every kernel is what should be, and all that was foreign."""
        self.mesh[1].wait("--peers", "2", "--converged")  # which it is only if the others are
        for zone in self.zones:
            settle(zone.router, expected(zone, self.zones), SOON_S)
            assert furniture(zone) == self.before[zone.number], zone.router.name


@pytest.fixture(scope="module")
def whole(shared_lab: NewLab, shared_mesh: NewMesh) -> Shared:
    lab = shared_lab(4)
    for zone in lab.zones[:3]:
        furnish(zone)
    before = {zone.number: furniture(zone) for zone in lab.zones[:3]}
    mesh = shared_mesh(lab)
    mesh.found(1)
    mesh.join(2)
    mesh.join(3)
    shared = Shared(mesh, before)
    shared.settled()
    return shared


@pytest.fixture
def shared(whole: Shared) -> Iterator[Shared]:
    """The same, which each test leaves as it should be."""
    pids = {number: _pid(member) for number, member in whole.mesh.members.items()}
    yield whole
    whole.settled()
    for number, member in whole.mesh.members.items():
        if _pid(member) == pids[number]:  # no test that ended it
            assert "Traceback" not in member.tail(200)


def _pid(member: Member) -> int:
    assert member.process is not None
    return member.process.pid


def counters(member: Member) -> dict[str, int]:
    found: dict[str, int] = member.json("status")["counters"]
    return found


# -- what is not ours ---------------------------------------------------------------------------


def test_foreign_routes_tables_and_sets_outlive_start_churn_stop_kill_and_restart(
    shared: Shared,
) -> None:
    mesh, (first, second, third) = shared.mesh, shared.zones

    def untouched() -> None:
        for zone in shared.zones:
            assert furniture(zone) == shared.before[zone.number], zone.router.name

    for _ in range(2):
        mesh[2].command("announce", "10.77.0.0/24", "fd00:6179:77::/64")
        mesh[1].wait("--prefix", "10.77.0.0/24", timeout=SOON_S)
        mesh[2].command("withdraw", "10.77.0.0/24", "fd00:6179:77::/64")
        settle(first.router, expected(first, shared.zones), SOON_S)
        untouched()
    mesh[3].command("leave")
    assert mesh[3].exit_status() == 0
    settle(second.router, expected(second, (first, second)), SOON_S)
    untouched()
    mesh[3].start()
    mesh.converge()
    untouched()
    for end in (mesh[2].stop, mesh[2].kill):
        end()
        untouched()
        mesh[2].start()
        mesh.converge()
        untouched()
    settle(third.router, expected(third, shared.zones), SOON_S)


# -- the network --------------------------------------------------------------------------------


def test_datagrams_of_no_byte_of_one_and_of_65507_cost_a_counter(shared: Shared) -> None:
    member, zone = shared.mesh[1], shared.zones[0]
    before = counters(member)
    for family, address in (
        (socket.AF_INET, zone.uplink4.ip),
        (socket.AF_INET6, zone.uplink6.ip),
    ):
        with shared.stranger.socket(family, socket.SOCK_DGRAM) as out:
            for size in (0, 1, 65_507):
                out.sendto(bytes(size), (str(address), PORT))

    def counted() -> bool:
        now = counters(member)
        grown = {name: now.get(name, 0) - before.get(name, 0) for name in now}
        short, long = "refused: datagram cut short", "refused: datagram over 1,200 bytes"
        return (grown.get(short), grown.get(long)) == (4, 2)

    until(counted, SOON_S, "each is counted as what it is")


@attrs.frozen
class Trouble:
    """Something that makes sending fail: on which router, by what, and how it ends."""

    error: str
    router: int
    begin: str
    end: str
    rules: str = ""


TROUBLES = [
    Trouble(
        "EPERM",
        1,
        "nft -f -",
        "nft delete table inet gag",
        f"table inet gag {{ chain out {{ type filter hook output priority 0;"
        f" udp sport {PORT} drop\n}}\n}}\n",
    ),
    Trouble(
        "EHOSTUNREACH",  # ICMP type 3 code 10, and its like in IPv6
        2,
        "nft -f -",
        "nft delete table inet gag",
        f"table inet gag {{ chain in {{ type filter hook input priority 0;"
        f" meta nfproto ipv4 udp dport {PORT} reject with icmp type host-prohibited;"
        f" meta nfproto ipv6 udp dport {PORT} reject with icmpv6 type addr-unreachable\n}}\n}}\n",
    ),
    Trouble(
        "ENOBUFS",  # a queue in which nothing has room: tc-bfifo(8)
        1,
        f"tc qdisc add dev {UPLINK} root bfifo limit 1",
        f"tc qdisc del dev {UPLINK} root",
    ),
]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.error)
def test_what_prevents_sending_is_counted_and_forgotten(shared: Shared, trouble: Trouble) -> None:
    member, place = shared.mesh[1], shared.mesh.lab.router(trouble.router)
    names = (f"send {trouble.error}", f"receive {trouble.error}")
    before, pid = counters(member), _pid(member)
    place.run(trouble.begin.split(), stdin=trouble.rules)
    try:
        until(
            lambda: any(counters(member).get(name, 0) > before.get(name, 0) for name in names),
            SOON_S,
            f"it is met with {trouble.error}",
        )
    finally:
        place.run(trouble.end.split())
    shared.mesh.converge()
    assert _pid(member) == pid
    assert member.running
    # None of these says that a daemon is gone whose host is there.
    gone = "port unreachable"
    assert counters(member).get(gone, 0) == before.get(gone, 0)


# -- the kernel ---------------------------------------------------------------------------------

BOMB = """\
import os, signal
from meshd.kernel.linux import Linux
from meshd.kernel.plan import AddRoute
write = Linux.write_routes
def bomb(self, steps):
    if any(isinstance(step, AddRoute) for step in steps):
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, steps)
Linux.write_routes = bomb
from meshd.cli import main
main()
"""
"""The daemon, which dies when guard and exclusion are written and the first route is not."""


def test_a_daemon_killed_between_its_table_and_its_routes_is_repaired_by_the_next_start(
    shared: Shared,
) -> None:
    member, zone = shared.mesh[1], shared.zones[0]
    wanted = expected(zone, shared.zones)
    member.stop()
    member.command("purge")
    with member.log.open("ab") as log:
        dying = zone.router.popen(
            [sys.executable, "-c", BOMB, "--dir", member.directory, "run"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        assert dying.wait(20) == -signal.SIGKILL
    finally:
        dying.kill()
        dying.wait()
    half = holdings(zone.router)
    assert half.routes == ()
    assert half.guards
    assert half.sets["mesh4"] or half.sets["mesh6"]
    assert half != wanted
    member.start()
    settle(zone.router, wanted, 20)


def test_an_uplink_that_goes_down_and_comes_back_is_followed_and_logged(shared: Shared) -> None:
    mesh, (first, second, _) = shared.mesh, shared.zones
    known = len(mesh[1].events())
    segment = mesh.lab.segment
    first.router.configure([f"link set {UPLINK} down"])
    try:
        until(lambda: not holdings(first.router).routes, SOON_S, "the kernel drops the routes")
        assert set(holdings(first.router).guards) >= {str(second.prefix4), str(second.prefix6)}
    finally:
        first.router.configure(
            [
                f"link set {UPLINK} up",
                f"addr replace {first.uplink6} dev {UPLINK} nodad",
                f"route add default via {segment.gateway4}",
                f"route add default via {segment.gateway6}",
            ]
        )
    settle(first.router, expected(first, shared.zones), SOON_S)
    told = mesh[1].events()[known:]
    changes = [event for event in told if event["event"].startswith("kernel-")]
    assert str(second.prefix4) in json.dumps(changes)


def test_an_address_that_changes_is_announced_logged_and_routed_to(shared: Shared) -> None:
    mesh, (first, _, third) = shared.mesh, shared.zones
    known = len(mesh[3].events("moved"))
    new = IPv4Address("192.0.2.77")
    change = [f"addr del {third.uplink4} dev {UPLINK}", f"addr add {new}/24 dev {UPLINK}"]
    third.router.configure(change)
    try:

        def gateway() -> str:
            routes = holdings(first.router).routes
            return next((r.gateway for r in routes if r.prefix == str(third.prefix4)), "")

        until(lambda: gateway() == str(new), SOON_S, "r1 routes to the new address")
        # It may have looked between the two commands, and have told that too.
        *_, moved = mesh[3].events("moved")[known:]
        assert f"{new}:{PORT}" in moved["endpoints"]
    finally:
        third.router.configure(
            [
                f"addr del {new}/24 dev {UPLINK}",
                f"addr add {third.uplink4} dev {UPLINK}",
                f"route add default via {mesh.lab.segment.gateway4}",  # it went with the first
            ]
        )


# -- the control socket -------------------------------------------------------------------------

GARBAGE = [
    b"\0" * 100 + b"\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x1b[2J\xff\xfe\n",
    b"[" * 60_000 + b"\n",
    b'{"jsonrpc":"2.0","id":1,"method":"leave","params":[]}\n',
    b'{"jsonrpc":"2.0","id":1,"method":"\x1b]0;x\x07"}\n',
    b"x" * (MAX_FRAME + 2),
    b'{"jsonrpc":"2.0","id":1,"method":"status","params":{"x":"' + b"x" * MAX_FRAME + b'"}}\n',
]


def test_bad_clients_of_the_control_socket_cost_the_daemon_nothing(shared: Shared) -> None:
    member, pid = shared.mesh[1], _pid(shared.mesh[1])
    path = str(member.directory / "control.sock")
    with contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(SOON_S)
            client.connect(path)
            return client

        slow = [connect() for _ in range(20)]
        for client in slow:
            client.send(b'{"jsonrpc":')  # and no more
        deaf = connect()
        deaf.send(b'{"jsonrpc":"2.0","id":1,"method":"watch"}\n' + b"more " * 10_000)
        for garbage in GARBAGE:
            client = connect()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(garbage)
            with contextlib.suppress(ConnectionResetError):
                answer = b"".join(iter(lambda c=client: c.recv(65536), b""))  # type: ignore[misc]
                assert json.loads(answer)["error"]["code"] < 0, garbage[:40]
                assert b"\x1b" not in answer
        began = time.monotonic()
        assert member.json("status")["converged"] is True
        assert time.monotonic() - began < 5
        for client in slow:
            client.send(b" ")  # still there: they have their ten seconds
    assert _pid(member) == pid
    assert member.running


# -- what is written where people look ----------------------------------------------------------

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\n\u202ednal\x00\x9b31m"
"""A title, a cleared screen, a line of its own, a text that runs backwards."""


def hostile_hellos(mesh: Mesh) -> Iterator[bytes]:
    """HELLOs of our mesh whose grants are to names like that, and noise full of them."""
    (grant,) = records.load((mesh[1].directory / "state/grant").read_bytes())
    known = Grant.decode(grant)
    config = configuration.load(mesh[1].directory / "meshd.toml")
    node = Identity.generate(os.urandom)
    announced = Announcement.draft(
        node.public, sequence=1, boot_key=os.urandom(31) + b"\x11", endpoints=(), prefixes=()
    )
    for name in (HOSTILE, HOSTILE[:20], "a\nb", "\x7f", "x\u2028"):
        told: list[Any] = unpack(known.body)
        told[told.index(known.node)], told[told.index(known.name)] = node.public, name
        raw = bytes([Grant.KIND]) + bytes(SIGNATURE_SIZE) + pack(told)
        genuine = attrs.evolve(known, raw=raw)  # its own checks are for those who are honest
        hello = Hello(configuration.mesh(config, mesh.directory).id, True, genuine, announced)
        yield hello.encode()
    yield HOSTILE.encode() * 20
    yield bytes([1, 2]) + HOSTILE.encode() * 20


def test_nothing_from_the_network_reaches_a_log_or_a_terminal_unescaped(shared: Shared) -> None:
    mesh, member, zone = shared.mesh, shared.mesh[3], shared.zones[2]
    member.stop()
    begins = member.log.stat().st_size
    member.start(log_format="text")
    member.wait("--peers", "2", "--converged", timeout=20)
    with shared.stranger.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for hello in hostile_hellos(mesh):
            out.sendto(hello, (str(zone.uplink4.ip), PORT))
    refused = "name is not a lower-case host name"
    until(lambda: any(refused in name for name in counters(member)), SOON_S, "they are looked at")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(member.directory / "control.sock"))
        for method, params in ((HOSTILE, {}), ("announce", {"prefixes": [HOSTILE]})):
            request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            client.sendall(json.dumps(request).encode() + b"\n")
            assert client.recv(65536).rstrip(b"\n").decode("ascii").isprintable()
    shown = [member.command(*words, check=False) for words in (
        ("status",), ("peers",), ("routes",), ("plan",), ("announce", HOSTILE.replace("\0", "")),
    )]  # fmt: skip
    member.stop()
    written = member.log.read_bytes()[begins:]
    member.start()
    assert b"refused" in written
    for text in (written, *(done.stdout.encode() + done.stderr.encode() for done in shown)):
        assert [line for line in text.decode().split("\n") if not line.isprintable()] == []
