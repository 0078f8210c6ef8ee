"""`scripts/demo`: three router zones join their subnets, lose one, and get it back.

Each step does what it says with real traffic, and records what it saw as checks; the last word is
the list of them. Every claim is measured at the far end or in the kernel, none is taken from
meshd's own commands.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import NoReturn

import attrs

from netlab.lab import OUTSIDE4, OUTSIDE6, Lab, Zone
from netlab.logview import LogView
from netlab.mesh import Member, Mesh
from netlab.namespace import CommandError, Namespace
from netlab.traffic import Address, EchoServer, Flow, ping, source_seen

CONVERGE_S = 15
"""Far beyond what joining takes; a demo that waits longer has failed."""

DETECT_S = 20
"""The same for noticing that a router is gone, and that it is back."""

TRANSFER = 8 * 1024 * 1024
"""Bytes sent each way over TCP: enough for a rate, too little to wait for."""

CHUNK = 65_536


@attrs.define(eq=False)
class Demo:
    """What the steps share: the network, the daemons, the terminal, and what was seen so far."""

    lab: Lab
    mesh: Mesh
    logs: LogView
    colour: bool
    checks: list[tuple[bool, str]] = attrs.field(factory=list)

    def title(self, text: str) -> None:
        print(f"\n{self._paint('1', text)}", flush=True)

    def say(self, text: str) -> None:
        print(f"  {text}", flush=True)

    def check(self, true: bool, text: str) -> None:
        """Record and show one fact that must hold."""
        self.checks.append((true, text))
        print(f"  {self._mark(true)} {text}", flush=True)

    def watch(self, condition: Callable[[], object], timeout: float) -> float | None:
        """Show logs until `condition`; the seconds that took, or None if it was not in time."""
        start = time.monotonic()
        while time.monotonic() - start < timeout:
            true = condition()
            self.logs.show()
            if true:
                return time.monotonic() - start
            time.sleep(0.05)
        return None

    def summary(self) -> int:
        """The exit status, after the list of all that was seen."""
        failed = sum(not true for true, _ in self.checks)
        self.title("Summary")
        for true, text in self.checks:
            print(f"  {self._mark(true)} {text}")
        print(
            f"\n  {failed} of {len(self.checks)} things were not as they should be."
            if failed
            else "\n  All as it should be: plain routes, no tunnel, no NAT inside the mesh, and "
            "nobody's rules touched."
        )
        return 1 if failed else 0

    def _mark(self, true: bool) -> str:
        return self._paint("32", "ok") if true else self._paint("31", "NO")

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text


# The steps


def show_network(demo: Demo) -> None:
    demo.title("Three routers on one switch, each with a private subnet behind it")
    for zone in demo.lab.zones:
        demo.say(
            f"r{zone.number}  {zone.uplink4.ip}  {zone.uplink6.ip}   in front of p{zone.number} "
            f"in {zone.prefix4}  {zone.prefix6};  NAT as by {zone.nat}"
        )
    demo.say(f"and their default gateway, with a host beyond it: {OUTSIDE4}  {OUTSIDE6}")


def before(demo: Demo) -> None:
    """Without meshd: no way, and a route by hand is not enough."""
    near, far = demo.lab.zone(1), demo.lab.zone(2)
    demo.title("Before: p1 talks to p2")
    demo.check(
        not ping(near.private, far.private4, timeout=1), f"ping {far.private4}: no answer, no route"
    )
    with serving(far.private, far.private4, far.private6):
        for prefix, via, target, uplink in (
            (far.prefix4, far.uplink4.ip, far.private4, near.uplink4.ip),
            (far.prefix6, far.uplink6.ip, far.private6, near.uplink6.ip),
        ):
            near.router.configure([f"route add {prefix} via {via}"])
            seen = seen_by(near.private, target)
            near.router.configure([f"route del {prefix} via {via}"])
            demo.check(
                seen == uplink,
                f"with only a route by hand, {target} sees {seen}: the router, not p1",
            )


def build(demo: Demo) -> None:
    """init, invite, join and run, and wait until all agree."""
    demo.title("meshd: one command makes the mesh, one invites, one joins")
    demo.logs.head()
    start = time.monotonic()
    for zone in demo.lab.zones:
        announce = f"--announce {zone.prefix4} --announce {zone.prefix6}"
        if zone.number == 1:
            demo.say(f"r1# meshd init --name r1 {announce} && meshd run")
            demo.mesh.found()
        else:
            name = f"r{zone.number}"
            demo.say(f"r1# meshd invite {name} >token    {name}# meshd join - {announce} <token")
            demo.say(f"{name}# meshd run")
            demo.mesh.join(zone.number)
        demo.logs.show()
    members = list(demo.mesh.members.values())
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(converging(member, len(members))) for member in members]
        took = demo.watch(
            lambda: all(process.poll() is not None for process in waiting), CONVERGE_S + 5
        )
        agreed = took is not None and all(process.returncode == 0 for process in waiting)
    total = time.monotonic() - start
    demo.check(agreed, f"three routers made a mesh and converged, {total:.1f} s in all")


def after(demo: Demo) -> None:
    """Every private zone reaches every other, as itself."""
    demo.title("After: the same traffic")
    near, far = demo.lab.zone(1), demo.lab.zone(2)
    command = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", str(far.private4)]
    answer = near.private.run(command, check=False).stdout.strip()
    for line in answer.splitlines()[:4]:
        demo.say(f"p1# {line}" if line.startswith("PING") else f"    {line}")
    demo.check(" 3 received" in answer, f"p1 pings {far.private4}: answered")

    pairs = [(a, b) for a in demo.lab.zones for b in demo.lab.zones if a is not b]
    seen: dict[tuple[Address, Address], Address | None] = {}
    with contextlib.ExitStack() as stack:
        for zone in demo.lab.zones:
            stack.enter_context(serving(zone.private, zone.private4, zone.private6))
        for a, b in pairs:
            seen[a.private4, b.private4] = seen_by(a.private, b.private4)
            seen[a.private6, b.private6] = seen_by(a.private, b.private6)
        for source, target in (
            (near.private4, far.private4),
            (near.private6, far.private6),
        ):
            what = f"TCP from p1: {target} sees {seen[source, target]}: p1 itself"
            demo.check(seen[source, target] == source, what)
        right = sum(source == who for (source, _), who in seen.items())
        demo.check(right == len(seen), f"in {right} of {len(seen)} directions between all zones")
        demo.check(*transfer(near.private, far.private4))


def elsewhere(demo: Demo) -> None:
    """The foreign rules still do their work for everything else."""
    demo.title("Elsewhere: NAT as before")
    with serving(demo.lab.internet, OUTSIDE4, OUTSIDE6):
        for zone in demo.lab.zones:
            seen = [seen_by(zone.private, OUTSIDE4), seen_by(zone.private, OUTSIDE6)]
            demo.check(
                seen == [zone.uplink4.ip, zone.uplink6.ip],
                f"p{zone.number} to the outside: {OUTSIDE4} sees {seen[0]}, the router",
            )


def cut(demo: Demo) -> None:
    """A router disappears: its routes go, nothing leaks, the others do not notice."""
    demo.title("The cable of r3 is pulled")
    demo.logs.head()
    first, second, third = demo.lab.zones
    targets = (third.private4, third.private6)
    with demo.lab.capture_leaks() as leaks, pinging(first.private, *targets):
        demo.lab.cut(third.number)
        took = demo.watch(lambda: not any(routes_to(demo, third)), DETECT_S)
        for target in targets:
            ping(first.private, target, count=3, timeout=1)
        there = ping(first.private, second.private4) and ping(second.private, first.private6)
    demo.check(
        took is not None,
        f"r1 and r2 have no route to p3 any more, {took:.1f} s after the cut"
        if took is not None
        else f"r1 and r2 still have a route to p3, {DETECT_S} s after the cut",
    )
    demo.check(
        not leaks.packets,
        f"packets for p3 that leaked to the default gateway meanwhile: {len(leaks.packets)}",
    )
    for packet in leaks.packets[:3]:
        demo.say(packet)
    demo.check(there, "p1 and p2 reach each other as before")


def heal(demo: Demo) -> None:
    """It comes back by itself."""
    demo.title("The cable is plugged in again")
    demo.logs.head()
    first, _, third = demo.lab.zones
    demo.lab.heal(third.number)
    took = demo.watch(
        lambda: (
            all(routes_to(demo, third))
            and ping(first.private, third.private4, timeout=1)
            and ping(third.private, first.private6, timeout=1)
        ),
        DETECT_S,
    )
    demo.check(
        took is not None,
        f"p1 and p3 reach each other again, {took:.1f} s after"
        if took is not None
        else f"p1 and p3 do not reach each other, {DETECT_S} s after",
    )
    with serving(third.private, third.private4):
        seen = seen_by(first.private, third.private4)
        demo.check(seen == first.private4, f"and {third.private4} sees {seen}: p1 itself")


STEPS = (show_network, before, build, after, elsewhere, cut, heal)


# What the steps look through


def serving(namespace: Namespace, *addresses: Address) -> EchoServer:
    return EchoServer(namespace, addresses)


def seen_by(namespace: Namespace, target: Address) -> Address | None:
    """The source that `target` sees, or None without an answer."""
    try:
        return source_seen(namespace, target, timeout=2)
    except OSError:
        return None


def transfer(namespace: Namespace, target: Address) -> tuple[bool, str]:
    """Send TRANSFER bytes there and back over one connection: whether, and how fast."""
    start = time.monotonic()
    payload = os.urandom(CHUNK)
    try:
        with Flow(namespace, target) as flow:
            for _ in range(TRANSFER // CHUNK):
                flow.exchange(payload)
    except OSError as error:
        return False, f"TCP transfer to {target}: {error}"
    rate = 2 * TRANSFER / (time.monotonic() - start) / 1e6
    return True, f"TCP: {TRANSFER >> 20} MiB to {target} and back, {rate:.0f} MB/s"


def routes_to(demo: Demo, zone: Zone) -> list[bool]:
    """For each other router and each subnet of `zone`: whether its kernel has a route there."""
    others = (other.router for other in demo.lab.zones if other is not zone)
    return [
        has_route(router, prefix) for router in others for prefix in (zone.prefix4, zone.prefix6)
    ]


def has_route(router: Namespace, prefix: IPv4Network | IPv6Network) -> bool:
    routes = router.ip(f"-{prefix.version}", "route", "show", str(prefix))
    return any("gateway" in route for route in routes)


@contextlib.contextmanager
def pinging(namespace: Namespace, *targets: Address) -> Iterator[None]:
    """Ten echo requests a second to each target, whether they are answered or not."""
    with contextlib.ExitStack() as stack:
        for target in targets:
            command = ["ping", "-n", "-q", "-i", "0.1", str(target)]
            stack.enter_context(ended(namespace.popen(command, stdout=subprocess.DEVNULL)))
        yield


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """`process`, killed at the end of the block if it still runs."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def converging(
    member: Member, count: int
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """`meshd wait` for a member to see the others and agree with them."""
    conditions = ["--peers", str(count - 1), "--converged", "--timeout", str(CONVERGE_S)]
    command = member.argv("wait", *conditions)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return ended(member.zone.router.popen(command, **quiet))


def main() -> int:
    """Exit codes: 0 all as it should be, 1 not, 130 interrupted; nothing is left in any case."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    start = time.monotonic()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="meshd-demo-") as directory,
            Lab(3, name=f"demo{os.getpid()}") as lab,
            Mesh(lab, Path(directory), log_format="text") as mesh,
        ):
            # Members that do not exist yet will have their logs here.
            logs = [(f"r{n}", Path(directory, f"r{n}.log")) for n in (1, 2, 3)]
            width = shutil.get_terminal_size((100, 24)).columns
            demo = Demo(lab, mesh, LogView(logs, sys.stdout, width, colour), colour)
            try:
                for step in STEPS:
                    step(demo)
            except CommandError as error:
                demo.logs.show()
                demo.check(False, f"a command failed: {error}")
            status = demo.summary()
    except KeyboardInterrupt:
        print("\ndemo: interrupted; everything it made is gone again", file=sys.stderr)
        return 130  # 128 + SIGINT, as a shell reports it
    print(f"  {time.monotonic() - start:.0f} s; everything it made is gone again.")
    return status


def _interrupted(number: int, frame: object) -> NoReturn:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # a second one must not cut the tidying short
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
