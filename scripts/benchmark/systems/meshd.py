"""meshd, as an operator runs it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

import attrs

from benchmark.holdings import Watch
from benchmark.systems.common import Daemon, kernels, retried
from netlab import CommandError, Zone
from netlab.mesh import MESHD, Member

ANSWER_S: Final = 60.0
"""For an answer on the control socket; `leave` waits until the others know of it."""


@attrs.define(eq=False)
class MeshdDaemon:
    """One member; its control socket speaks JSON-RPC."""

    zone: Zone
    member: Member

    @property
    def process(self) -> subprocess.Popen[Any] | None:
        return self.member.process if self.member.running else None

    def start(self) -> None:
        self.member.start()

    def ready(self) -> bool:
        try:
            self._tell("grants")
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self.member.process is not None
        self.member.process.send_signal(how)
        self.member.exit_status()

    def announce(self, prefixes: Sequence[IPv4Network]) -> float:
        return retried(lambda: self._tell("announce", prefixes=[str(net) for net in prefixes]))

    def withdraw(self, prefixes: Sequence[IPv4Network]) -> float:
        return self._tell("withdraw", prefixes=[str(prefix) for prefix in prefixes])

    def leave(self) -> float:
        began = self._tell("leave")
        self.member.exit_status()
        return began

    def tool(self, prefix: IPv4Network) -> list[str]:
        return [str(word) for word in self.member.argv("announce", str(prefix))]

    def _tell(self, method: str, **params: object) -> float:
        """When the request went out; returns when it has been answered."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(ANSWER_S)
            asking.connect(str(self.member.directory / "control.sock"))
            text = json.dumps(request).encode() + b"\n"
            began = time.monotonic()
            asking.sendall(text)
            with asking.makefile("rb") as lines:
                answer = json.loads(lines.readline() or b'{"error": {"message": "hung up"}}')
        if "error" in answer:
            raise CommandError(f"{self.member.name}: {method}: {answer['error'].get('message')}")
        return began


@attrs.frozen
class Meshd:
    """See ``common.System``."""

    name: str
    packages: dict[str, str] = attrs.field(factory=dict)
    protocol: int = 142
    most: int = 1000
    """DESIGN 3"""

    def daemons(
        self, zones: Sequence[Zone], directory: Path, shared: Sequence[IPv4Network] = ()
    ) -> list[Daemon]:
        """shared: prefixes that several may announce; their grants name them."""
        members = [Member(zone, directory / f"r{zone.number}", f"r{zone.number}") for zone in zones]
        if not all(member.directory.exists() for member in members):
            _found(members, shared)
        return [MeshdDaemon(member.zone, member) for member in members]

    def watch(self, daemons: Mapping[int, Daemon]) -> Watch:
        return kernels(self.protocol, daemons)

    def version(self) -> str:
        done = subprocess.run(
            [str(MESHD), "--version"], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    def settings(self) -> str:
        return "defaults"


def _found(members: Sequence[Member], shared: Sequence[IPv4Network]) -> None:
    """Keys, grants and configurations of a mesh, whose daemons have not met yet."""
    allow = [word for prefix in shared for word in ("--allow", str(prefix))]
    if allow:
        allow += ["--allow", "10.0.0.0/8"]
    first = members[0]
    first.command("init", "--name", first.name, *_options(first.zone), *allow)
    first.start()
    first.wait("--peers", "0")
    try:

        def join(member: Member) -> None:
            token = first.command("invite", member.name, *allow).stdout.strip()
            member.command("join", "-", *_options(member.zone), stdin=token)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(join, members[1:]))
    finally:
        first.stop()


def _options(zone: Zone) -> list[str]:
    found = ["--announce", str(zone.prefix4)]
    for uplink in (zone.uplink4, zone.uplink6):
        found += ["--advertise", str(uplink.ip)]
    return found
