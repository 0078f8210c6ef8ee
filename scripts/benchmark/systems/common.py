"""What every system has to be able to do, and what they share in doing it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import attrs

from netlab import Lab, Zone, until
from netlab.lab import INSIDE

READY_S = 120.0
"""Until all daemons of a mesh are as one; babeld's default hello alone takes 4 s."""


class Daemon(Protocol):
    """One router's daemon."""

    @property
    def zone(self) -> Zone:
        """Its router's."""

    @property
    def process(self) -> subprocess.Popen[Any] | None:
        """While it runs."""

    def start(self) -> None:
        """Start it; returns at once."""

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait until it has ended."""

    def announce(self, prefixes: Sequence[IPv4Network]) -> None:
        """These too, at run time; returns when the daemon has answered on its control socket."""

    def withdraw(self, prefixes: Sequence[IPv4Network]) -> None:
        """These no more."""


class System(Protocol):
    """A kind of daemon, with its settings."""

    @property
    def name(self) -> str:
        """As `--systems` has it."""

    @property
    def packages(self) -> dict[str, str]:
        """Program to the Debian package that brings it."""

    @property
    def protocol(self) -> int:
        """rtm_protocol of its routes in the kernel."""

    def daemons(
        self, zones: Sequence[Zone], directory: Path, shared: Sequence[IPv4Network] = ()
    ) -> list[Daemon]:
        """One for each zone, configured to know each other, none announcing anything.

        shared: prefixes that more than one will announce.
        """

    def version(self) -> str:
        """As the program tells it."""

    def settings(self) -> str:
        """What is not the default, in its own words."""


@attrs.define(eq=False)
class Fleet:
    """Context manager: the daemons of one system on all routers of a lab.

    On entering they run and each reaches all others; on leaving none runs.
    """

    system: System
    lab: Lab
    directory: Path
    shared: tuple[IPv4Network, ...] = ()
    daemons: list[Daemon] = attrs.field(factory=list, init=False)

    def __enter__(self) -> Fleet:
        install(self.system.packages)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.daemons = self.system.daemons(self.lab.zones, self.directory, self.shared)
        try:
            for daemon in self.daemons:
                daemon.start()
            self.meet()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def __getitem__(self, number: int) -> Daemon:
        """The daemon of a zone, by its number."""
        return self.daemons[number - 1]

    def _end(self) -> None:
        for daemon in self.daemons:
            if daemon.process is not None:
                daemon.stop(signal.SIGKILL)

    def meet(self) -> None:
        """Each announces its zone's own subnet, and waits until every kernel has all of them."""
        for daemon in self.daemons:
            daemon.announce([daemon.zone.prefix4])
        self.whole()

    def whole(self) -> None:
        """Wait until every kernel has routes to the subnets of all other zones."""
        for daemon in self.daemons:
            others = {each.zone.prefix4 for each in self.daemons if each is not daemon}
            until(lambda who=daemon, those=others: those <= self.routed(who.zone), READY_S,  # type: ignore[misc]
                  f"{self.system.name}: {daemon.zone.router.name} has routes to all")  # fmt: skip

    def routed(self, zone: Zone) -> set[IPv4Network]:
        """The prefixes to which the system's routes lead in a router's kernel."""
        shown = zone.router.ip("-4", "route", "show", "proto", str(self.system.protocol))
        return {
            IPv4Network(route["dst"])
            for route in shown
            if route.get("type", "unicast") == "unicast" and route["dst"] != "default"
        }


@contextlib.contextmanager
def staged(
    system: System,
    zones: int,
    *,
    shared: Sequence[IPv4Network] = (),
    nat: Sequence[str] = ("none",),
) -> Iterator[Fleet]:
    """A fleet in a lab of its own, both taken away at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="meshd-bench-") as directory,
        Lab(zones, name=f"bench{os.getpid()}", nat=nat) as lab,
        Fleet(system, lab, Path(directory) / "state", tuple(shared)) as fleet,
    ):
        yield fleet


@attrs.define(eq=False)
class Running:
    """A process in a router's namespace; what the daemons of all peers have in common."""

    zone: Zone
    directory: Path
    argv: list[str]
    process: subprocess.Popen[Any] | None = attrs.field(default=None, init=False)

    def start(self) -> None:
        """Start it; what it says goes into a file beside its configuration."""
        with (self.directory / f"{self.zone.router.name}.log").open("ab") as log:
            self.process = self.zone.router.popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait until it has ended."""
        assert self.process is not None
        self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


def retried(action: Callable[[], None], timeout: float = READY_S) -> None:
    """Until the daemon's socket is there."""
    end = time.monotonic() + timeout
    while True:
        try:
            return action()
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def install(packages: dict[str, str]) -> None:
    """Programs that are missing, from apt; RuntimeError says which cannot be had.

    Their services are not started: they would run in the host's own network.
    """
    missing = sorted({name for program, name in packages.items() if not _there(program)})
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError(f"missing here: {', '.join(missing)}; as root: apt-get install ...")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        done = subprocess.run(
            ["apt-get", *words], capture_output=True, text=True, check=False, env=environment
        )
        if done.returncode != 0:
            raise RuntimeError(f"apt-get {' '.join(words)}: {done.stderr.strip()}")


def _there(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def lan_routes(zone: Zone, prefixes: Iterable[IPv4Network], verb: str) -> None:
    """`ip route add` or `del` of prefixes that lie behind a router, in one batch."""
    lines = [f"route {verb} {prefix} dev {INSIDE} proto static" for prefix in prefixes]
    zone.router.configure(lines)
