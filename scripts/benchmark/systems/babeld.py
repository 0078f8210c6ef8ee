"""babeld: redistributes the routes that the kernel has to what lies behind the router.

A change is such a route, of which babeld hears from the kernel itself.  Its own local socket takes
no such thing: once it runs, `redistribute` is refused there (configuration.c, config_finalised),
and there is no word for one prefix.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path

import attrs

from benchmark.holdings import Watch
from benchmark.kernelroutes import change
from benchmark.systems.common import Daemon, Running, greeted, kernels
from netlab import Zone
from netlab.lab import INSIDE, UPLINK


@attrs.define(eq=False)
class BabelDaemon(Running):
    """One router's babeld."""

    def start(self) -> None:
        # It does not start beside the file that a killed one left.
        (self.directory / f"{self.zone.router.name}.pid").unlink(missing_ok=True)
        self._socket.unlink(missing_ok=True)
        change(self.zone.router, [self.zone.prefix4], INSIDE, gone=False)
        super().start()

    @property
    def _socket(self) -> Path:
        return self.directory / f"{self.zone.router.name}.ctl"

    def ready(self) -> bool:
        return greeted(self._socket, b"BABEL ")

    def announce(self, prefixes: Sequence[IPv4Network]) -> float:
        return change(self.zone.router, prefixes, INSIDE, gone=False)

    def withdraw(self, prefixes: Sequence[IPv4Network]) -> float:
        return change(self.zone.router, prefixes, INSIDE, gone=True)

    def tool(self, prefix: IPv4Network) -> list[str]:
        return ["ip", "route", "replace", str(prefix), "dev", INSIDE, "proto", "static"]


@attrs.frozen
class Babeld:
    """See ``common.System``."""

    name: str
    hello: int = 0
    """Seconds; 0: babeld's default, 4."""
    update: int = 0
    """Seconds; 0: babeld's default, 16."""
    packages: dict[str, str] = attrs.field(factory=lambda: {"babeld": "babeld"})
    protocol: int = 42
    """RTPROT_BABEL, linux/rtnetlink.h"""
    most: int = 1_000_000

    def daemons(
        self, zones: Sequence[Zone], directory: Path, shared: Sequence[IPv4Network] = ()
    ) -> list[Daemon]:
        found: list[Daemon] = []
        for zone in zones:
            base = directory / zone.router.name
            config = base.with_suffix(".conf")
            config.write_text(self._config(), encoding="ascii")
            argv = ["babeld", "-c", str(config), "-I", f"{base}.pid", "-S", f"{base}.state"]
            argv += ["-g", f"{base}.ctl", UPLINK]
            found.append(BabelDaemon(zone, directory, argv))
        return found

    def watch(self, daemons: Mapping[int, Daemon]) -> Watch:
        return kernels(self.protocol, daemons)

    def version(self) -> str:
        done = subprocess.run(["babeld", "-V"], capture_output=True, text=True, check=False)
        return (done.stderr or done.stdout).strip()

    def settings(self) -> str:
        told = "wired"
        if self.hello:
            told += f", hello {self.hello} s, update {self.update} s"
        else:
            told = "defaults, " + told
        return told + "; a change is a kernel route, for its socket takes none"

    def _config(self) -> str:
        fast = f" hello-interval {self.hello} update-interval {self.update}" if self.hello else ""
        return f"""\
interface {UPLINK} type wired{fast}
redistribute ip 10.0.0.0/8 proto 4 allow
redistribute local deny
redistribute deny
"""
