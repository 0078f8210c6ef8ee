"""What every system has to be able to do, and what they share in doing it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import attrs

from benchmark.holdings import KernelWatch, Watch
from netlab import Lab, Zone, until

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
        """Start it; returns at once. It announces its zone's subnet from the first moment."""

    def ready(self) -> bool:
        """Whether it answers on its control socket."""

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait until it has ended."""

    def announce(self, prefixes: Sequence[IPv4Network]) -> float:
        """These too, at run time; when the command went out (time.monotonic()).

        Returns when the daemon has answered on its control socket.
        """

    def withdraw(self, prefixes: Sequence[IPv4Network]) -> float:
        """These no more."""

    def leave(self) -> float:
        """Take leave of the others in its own way, and end; when the command went out."""

    def tool(self, prefix: IPv4Network) -> list[str]:
        """The command line that announces, as an operator types it."""


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
        """rtm_protocol of its routes in the kernel; 0 if it makes none."""

    @property
    def most(self) -> int:
        """Prefixes that one node may announce."""

    def daemons(
        self, zones: Sequence[Zone], directory: Path, shared: Sequence[IPv4Network] = ()
    ) -> list[Daemon]:
        """One for each zone, configured to know each other and to announce its zone's subnet.

        shared: prefixes that more than one will announce.
        directory: theirs; what is in it from an earlier call for as many zones is used again.
        """

    def watch(self, daemons: Mapping[int, Daemon]) -> Watch:
        """What all of them hold, by the numbers of their zones."""

    def version(self) -> str:
        """As the program tells it."""

    def settings(self) -> str:
        """What is not the default, in its own words."""


def kernels(protocol: int, daemons: Mapping[int, Daemon]) -> KernelWatch:
    """The watch of a system that makes routes."""
    return KernelWatch({n: each.zone.router for n, each in daemons.items()}, protocol)


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
            self.whole()
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
        self._ended()

    def leave(self) -> float:
        """SIGTERM, of which both BIRD and babeld say that they take leave by it."""
        began = time.monotonic()
        self.stop()
        return began

    def _ended(self) -> None:
        assert self.process is not None
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


def greeted(path: Path, greeting: bytes) -> bool:
    """Whether somebody answers on a socket of the file system who says `greeting` first."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(5)
        try:
            asking.connect(str(path))
            return asking.recv(4096).startswith(greeting)
        except (FileNotFoundError, ConnectionRefusedError, TimeoutError):
            return False


def retried(action: Callable[[], float], timeout: float = READY_S) -> float:
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
