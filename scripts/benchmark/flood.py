"""A member under a flood from its own switch: what it costs it, and whom it costs anything else.

A mesh of real daemons converges in a lab; then a host beside them, which is no member, sends one
of them what strangers can: noise by the ten thousand a second, or HELLOs that are right in
everything but their signatures, so that each costs a check.  Every source address is another.
What is measured comes from the kernels and from /proc; probes are counted by their senders.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import attrs

from benchmark import sender
from benchmark.report import Figure, Report
from meshd import config as configuration
from meshd import records
from netlab import Lab, Member, Mesh, Namespace
from netlab.lab import UPLINK
from protocol.objects import Announcement, Grant

NAME: Final = "flood"
HELP: Final = (
    "a member under 20,000 random datagrams a second, or 2,000 that cost a signature check"
)

RATES: Final = {"random": 20_000.0, "signatures": 2_000.0}
"""Datagrams a second, of each kind: what an ordinary host sends without effort, and twice the
checks that a node pays for (protocol/tuning.py, stranger_verify_rate)."""

SOURCES: Final = "198.18.0.0/19"
"""8,190 addresses of RFC 2544's benchmark range, beyond the default gateway: twice as many as
a node remembers buckets for (protocol/limits.py, MAX_SOURCES)."""

MEMBERS: Final = 3
"""Of the mesh: one is flooded, and the others can agree or not on what became of it."""

SIGNED: Final = (Grant.DOMAIN, Announcement.DOMAIN)

SETTLE_S: Final = 1.5
"""After the flood, until late answers are in and counted: twice the longest wait for one."""


@attrs.frozen
class Result:
    """One flood. Counts of probes and of datagrams are those of the time from its begin to
    ``SETTLE_S`` after its end."""

    kind: str
    members: int
    seconds: float
    sent: int
    """Datagrams, by the sender's count."""
    rate: float
    """... a second, while it lasted."""
    received: int
    """UDP datagrams that the flooded host's kernel handed over (/proc/net/snmp)."""
    overrun: int
    """... and those that found the receive buffer full."""
    cpu: float
    """Of the flooded daemon: processor seconds a second, while it lasted."""
    probes: int
    """Sent by the flooded member and by the others to anybody."""
    probes_lost: int
    """... of which no answer came at all."""
    suspected: int
    failed: int
    """Times that some member called another so."""
    routes_lost: int
    """Mesh routes that were deleted on any router, as `ip monitor` tells it."""
    checked: int
    """Signatures that were looked at and found wrong."""
    unchecked: int
    """HELLOs refused before that, because there were too many."""

    @property
    def share_lost(self) -> float:
        """Of all probes, those that had no answer."""
        return self.probes_lost / max(1, self.probes)

    @property
    def share_overrun(self) -> float:
        """Of all datagrams, those that found the receive buffer full: noise or probe alike."""
        return self.overrun / max(1, self.received + self.overrun)


FIGURES: Final[tuple[tuple[str, str, Callable[[Result], float]], ...]] = (
    ("sent", "/s", lambda result: result.rate),
    ("found the buffer full", "%", lambda result: 100 * result.share_overrun),
    ("processor", "%", lambda result: 100 * result.cpu),
    ("probes lost", "%", lambda result: 100 * result.share_lost),
    ("members suspected", "", lambda result: result.suspected),
    ("members called failed", "", lambda result: result.failed),
    ("routes lost", "", lambda result: result.routes_lost),
    ("signatures checked", "", lambda result: result.checked),
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is sent, and for how long."""
    add = parser.add_argument
    add(
        "--kinds", nargs="+", choices=sender.KINDS, default=list(sender.KINDS), metavar="KIND",
        help=f"of datagrams: {', '.join(sender.KINDS)} (default: each)",
    )  # fmt: skip
    add("--seconds", type=float, default=10, metavar="S", help="of each flood (default: 10)")
    add("--rate", type=float, metavar="N", help="datagrams a second (default: by kind)")


def run(options: argparse.Namespace, say: Callable[[str], None]) -> Report:
    """A mesh of its own for each flood."""
    figures = []
    for kind in options.kinds:
        results = []
        for number in range(options.runs):
            say(f"run {number + 1} of {options.runs}: {kind}")
            results.append(measure(kind, seconds=options.seconds, rate=options.rate))
        for what, unit, value in FIGURES:
            values = tuple(float(value(result)) for result in results)
            figures.append(Figure(f"{kind}: {what}", unit, values))
    settings = {"runs": options.runs, "seconds": options.seconds, "members": MEMBERS}
    return Report(NAME, tuple(figures), settings)


def measure(kind: str, *, seconds: float, rate: float | None = None) -> Result:
    """Make a lab and a mesh in it, flood one member of it, and take all of it away again."""
    lab = Lab(MEMBERS + 1, name=f"flood{os.getpid()}")
    with (
        tempfile.TemporaryDirectory() as directory,
        lab,
        Mesh(lab, Path(directory)) as mesh,
    ):
        mesh.found(1)
        for number in range(2, MEMBERS + 1):
            mesh.join(number)
        mesh.converge()
        return flood(mesh, lab.router(MEMBERS + 1), kind, seconds=seconds, rate=rate)


def flood(
    mesh: Mesh,
    attacker: Namespace,
    kind: str,
    *,
    seconds: float,
    rate: float | None = None,
    nice: int = 0,
) -> Result:
    """Flood the founder of ``mesh`` from ``attacker``, which is on the same switch.

    nice: of the daemons (setpriority(2)); below nought, neither the sender nor others who use
    this machine take the processor from them: the rate is then what is left for it.
    """
    victim = mesh.founder
    assert victim.process is not None
    for member in mesh.members.values():
        assert member.process is not None
        with contextlib.suppress(PermissionError):  # in a user namespace
            os.setpriority(os.PRIO_PROCESS, member.process.pid, nice)
    before = [len(member.events()) for member in mesh.members.values()]
    with _deletions(mesh) as deleted, _sending(mesh, attacker, kind, seconds, rate) as sending:
        counters = [_counters(member) for member in mesh.members.values()]
        received, overrun = _datagrams(victim)
        cpu, began = _cpu(victim), time.monotonic()
        assert sending.stdin is not None
        assert sending.stdout is not None
        sending.stdin.write("go\n")
        sending.stdin.flush()
        told = json.loads(sending.stdout.readline())
        cpu, passed = _cpu(victim) - cpu, time.monotonic() - began
        time.sleep(SETTLE_S)
        after = [_counters(member) for member in mesh.members.values()]
        received, overrun = (
            now - then for now, then in zip(_datagrams(victim), (received, overrun), strict=True)
        )
        routes_lost = len(deleted())
    events = [
        event["event"]
        for member, known in zip(mesh.members.values(), before, strict=True)
        for event in member.events()[known:]
    ]

    def grown(*names: str) -> int:
        return sum(
            now.get(name, 0) - then.get(name, 0)
            for then, now in zip(counters, after, strict=True)
            for name in names
        )

    return Result(
        kind=kind,
        members=len(mesh.members),
        seconds=round(told["seconds"], 2),
        sent=told["sent"],
        rate=round(told["sent"] / told["seconds"]),
        received=received,
        overrun=overrun,
        cpu=round(cpu / passed, 3),
        probes=grown("sent Probe"),
        probes_lost=max(0, grown("sent Probe") - grown("heard Ack")),
        suspected=events.count("peer-suspect"),
        failed=events.count("peer-failed"),
        routes_lost=routes_lost,
        checked=grown(*(f"refused: {what} not signed by who must sign it" for what in SIGNED)),
        unchecked=grown("refused: too many signatures to check"),
    )


@contextlib.contextmanager
def _sending(
    mesh: Mesh, attacker: Namespace, kind: str, seconds: float, rate: float | None
) -> Iterator[subprocess.Popen[Any]]:
    """The sender, with everything made and waiting for a line."""
    victim = mesh.founder
    config = configuration.load(victim.directory / "meshd.toml")
    (grant,) = records.load((victim.directory / "state/grant").read_bytes())
    options: dict[str, object] = {
        "kind": kind,
        "rate": rate or RATES[kind],
        "seconds": seconds,
        "device": UPLINK,
        "near": _mac(attacker),
        "far": _mac(victim.zone.router),
        "sources": SOURCES,
        "target": victim.zone.uplink4.ip,
        "port": config.port,
        "mesh": f"{config.authority.hex()}:{config.next_authority_hash.hex()}",
        "grant": grant.hex(),
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    process = attacker.popen(
        [sys.executable, sender.__file__, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the sender did not start")
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def _deletions(mesh: Mesh) -> Iterator[Callable[[], list[str]]]:
    """A function: the routes of the mesh that were deleted so far, on any of its routers."""
    files: list[IO[str]] = []

    def seen() -> list[str]:
        lines = []
        for file in files:
            file.seek(0)
            lines += [line for line in file if "Deleted" in line and "proto 142" in line]
        return lines

    with contextlib.ExitStack() as stack:
        for member in mesh.members.values():
            file = stack.enter_context(tempfile.TemporaryFile("w+"))
            files.append(file)
            monitor = member.zone.router.popen(["ip", "monitor", "route"], stdout=file)
            stack.callback(monitor.wait)
            stack.callback(monitor.kill)
        yield seen


def _mac(namespace: Namespace) -> str:
    (link,) = namespace.ip("link", "show", UPLINK)
    return str(link["address"]).replace(":", "")


def _counters(member: Member) -> dict[str, int]:
    counters: dict[str, int] = member.json("status")["counters"]
    return counters


def _cpu(member: Member) -> float:
    """Processor seconds of the daemon so far (proc_pid_stat(5): fields 14 and 15)."""
    assert member.process is not None
    text = Path(f"/proc/{member.process.pid}/stat").read_text(encoding="ascii")
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _datagrams(member: Member) -> tuple[int, int]:
    """Handed over by UDP on its host, and dropped because a receive buffer was full."""
    assert member.process is not None
    text = Path(f"/proc/{member.process.pid}/net/snmp").read_text(encoding="ascii")
    names, numbers = (line.split() for line in text.splitlines() if line.startswith("Udp:"))
    found = dict(zip(names, numbers, strict=True))
    return int(found["InDatagrams"]), int(found["RcvbufErrors"])
