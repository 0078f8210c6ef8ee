"""babeld: redistributes the routes that the kernel has to what lies behind the router.

A change is such a route, which babeld hears of from the kernel itself; it has no command for it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path

import attrs

from benchmark.systems.common import Daemon, Running, lan_routes
from netlab import Zone
from netlab.lab import UPLINK


@attrs.define(eq=False)
class BabelDaemon(Running):
    """One router's babeld."""

    def start(self) -> None:
        # It does not start beside the file that a killed one left.
        (self.directory / f"{self.zone.router.name}.pid").unlink(missing_ok=True)
        super().start()

    def announce(self, prefixes: Sequence[IPv4Network]) -> None:
        lan_routes(self.zone, prefixes, "replace")

    def withdraw(self, prefixes: Sequence[IPv4Network]) -> None:
        lan_routes(self.zone, prefixes, "del")


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

    def daemons(
        self, zones: Sequence[Zone], directory: Path, shared: Sequence[IPv4Network] = ()
    ) -> list[Daemon]:
        found: list[Daemon] = []
        for zone in zones:
            base = directory / zone.router.name
            config = base.with_suffix(".conf")
            config.write_text(self._config(), encoding="ascii")
            argv = ["babeld", "-c", str(config), "-I", f"{base}.pid", "-S", f"{base}.state", UPLINK]
            found.append(BabelDaemon(zone, directory, argv))
        return found

    def version(self) -> str:
        done = subprocess.run(["babeld", "-V"], capture_output=True, text=True, check=False)
        return (done.stderr or done.stdout).strip()

    def settings(self) -> str:
        if not self.hello:
            return "defaults, wired"
        return f"wired, hello {self.hello} s, update {self.update} s"

    def _config(self) -> str:
        fast = f" hello-interval {self.hello} update-interval {self.update}" if self.hello else ""
        return f"""\
interface {UPLINK} type wired{fast}
redistribute ip 10.0.0.0/8 proto 4 allow
redistribute local deny
redistribute deny
"""
