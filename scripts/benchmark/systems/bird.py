"""BIRD 2: an iBGP full mesh, with BFD where asked for.

What a router announces is a static route to its inside interface, exported to all neighbours with
itself as the next hop; what it learns goes into the kernel.  A change is a new file of routes and
``configure`` on BIRD's control socket, which is what ``birdc configure`` says there.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

import attrs

from benchmark.holdings import Watch
from benchmark.systems.common import Daemon, Running, greeted, kernels, retried
from netlab import Zone
from netlab.lab import INSIDE

AS: Final = 64_512
"""Private (RFC 6996)."""

DONE: Final = ("0003", "0004", "0007", "0013", "0025")
"""Replies after which a new configuration is in force or under way, an end, and a graceful restart
(doc/reply_codes of BIRD)."""


@attrs.define(eq=False)
class BirdDaemon(Running):
    """One router's BIRD."""

    routes: dict[IPv4Network, None] = attrs.field(factory=dict)
    graceful: bool = False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.graceful and how is signal.SIGTERM:
            # What its manual has for a planned restart; SIGTERM itself would say goodbye.
            self.tell("graceful restart", DONE)
            assert self.process is not None
            self.process.wait(10)
            self.process = None
        else:
            super().stop(how)

    @property
    def _routes_file(self) -> Path:
        return self.directory / f"{self.zone.router.name}.routes"

    @property
    def _socket(self) -> Path:
        return self.directory / f"{self.zone.router.name}.ctl"

    def ready(self) -> bool:
        return greeted(self._socket, b"0001 ")

    def announce(self, prefixes: Sequence[IPv4Network]) -> float:
        self.routes |= dict.fromkeys(prefixes)
        return self.configure()

    def withdraw(self, prefixes: Sequence[IPv4Network]) -> float:
        for prefix in prefixes:
            self.routes.pop(prefix)
        return self.configure()

    def leave(self) -> float:
        """`down`, after which it takes its routes out of the kernel and ends."""
        began = self.tell("down", DONE)
        self._ended()
        return began

    def tool(self, prefix: IPv4Network) -> list[str]:
        self.routes[prefix] = None
        self.write()
        return ["birdc", "-s", str(self._socket), "configure"]

    def configure(self) -> float:
        """Write the routes and make BIRD read its configuration; when it was told."""
        self.write()
        return retried(lambda: self.tell("configure", DONE))

    def write(self) -> None:
        """The file of static routes alone."""
        lines = (f'route {prefix} via "{INSIDE}";\n' for prefix in self.routes)
        self._routes_file.write_text("".join(lines), encoding="ascii")

    def tell(self, command: str, answers: tuple[str, ...]) -> float:
        """A command on the control socket, and when it went out; RuntimeError unless it is
        answered by one of these."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(60)
            asking.connect(str(self._socket))
            with asking.makefile("r", encoding="utf-8") as lines:
                lines.readline()  # 0001 BIRD ... ready.
                began = time.monotonic()
                asking.sendall(command.encode() + b"\n")
                for line in lines:
                    if line[4:5] == " ":
                        if line[:4] not in answers:
                            raise RuntimeError(f"bird: {command}: {line.strip()}")
                        return began
        raise RuntimeError(f"bird: {command}: no answer")


@attrs.frozen
class Bird:
    """See ``common.System``."""

    name: str
    fast: bool = False
    """Timers at the least that its manual allows in whole seconds."""
    scan: int = 0
    """Seconds between scans of the kernel's table; 0: BIRD's default, 60."""
    graceful: bool = False
    """Kernel routes persist, and BGP restarts gracefully (RFC 4724)."""
    bfd: tuple[int, int, int] | None = None
    """min rx interval and min tx interval in ms, multiplier."""
    packages: dict[str, str] = attrs.field(factory=lambda: {"bird": "bird2"})
    protocol: int = 12
    """RTPROT_BIRD, linux/rtnetlink.h"""
    most: int = 1_000_000

    def daemons(
        self, zones: Sequence[Zone], directory: Path, shared: Sequence[IPv4Network] = ()
    ) -> list[Daemon]:
        found: list[Daemon] = []
        for zone in zones:
            base = directory / zone.router.name
            config = base.with_suffix(".conf")
            argv = ["bird", "-f", "-c", str(config), "-s", f"{base}.ctl", "-P", f"{base}.pid"]
            argv += ["-R"] if self.graceful else []
            own = dict.fromkeys([zone.prefix4])
            daemon = BirdDaemon(zone, directory, argv, own, self.graceful)
            daemon.write()
            config.write_text(self._config(zone, zones, f"{base}.routes"), encoding="ascii")
            found.append(daemon)
        return found

    def watch(self, daemons: Mapping[int, Daemon]) -> Watch:
        return kernels(self.protocol, daemons)

    def version(self) -> str:
        done = subprocess.run(["bird", "--version"], capture_output=True, text=True, check=False)
        return (done.stderr or done.stdout).strip()

    def settings(self) -> str:
        told = ["iBGP full mesh"]
        if self.fast:
            told.append("connect delay 1, connect retry 1, error wait 1 to 2, hold 3, keepalive 1")
        if self.scan:
            told.append(f"kernel scan time {self.scan}")
        if self.graceful:
            told.append("kernel persist; graceful restart; started with -R")
        if self.bfd:
            rx, tx, multiplier = self.bfd
            told.append(f"BFD rx {rx} ms, tx {tx} ms, multiplier {multiplier}")
        return "; ".join(told)

    def _config(self, zone: Zone, zones: Sequence[Zone], routes: str) -> str:
        timers = (
            "connect delay time 1; connect retry time 1; error wait time 1, 2; "
            "hold time 3; keepalive time 1;"
            if self.fast
            else ""
        )
        scan = f"scan time {self.scan};" if self.scan else ""
        if self.graceful:
            scan += " persist; graceful restart;"
            timers += " graceful restart on;"
        bfd = ""
        if self.bfd:
            rx, tx, multiplier = self.bfd
            bfd = (
                'protocol bfd { interface "net0" { '
                f"min rx interval {rx} ms; min tx interval {tx} ms; multiplier {multiplier}; "
                "}; }\n"
            )
        peers = "".join(
            f"protocol bgp r{other.number} from mesh {{ neighbor {other.uplink4.ip} as {AS}; }}\n"
            for other in zones
            if other is not zone
        )
        return f"""\
log stderr {{ warning, error, fatal, bug }};
router id {zone.uplink4.ip};
protocol device {{ }}
protocol kernel {{ {scan} ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol static {{
    ipv4;
    include "{routes}";
}}
{bfd}\
template bgp mesh {{
    local {zone.uplink4.ip} as {AS};
    direct;
    {timers}
    {"bfd on;" if self.bfd else ""}
    ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
}}
{peers}"""
