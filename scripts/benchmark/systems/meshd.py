"""meshd, as an operator runs it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import attrs

from benchmark.systems.common import Daemon, retried
from netlab import Zone
from netlab.mesh import MESHD, Member


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

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self.member.process is not None
        self.member.process.send_signal(how)
        self.member.exit_status()

    def announce(self, prefixes: Sequence[IPv4Network]) -> None:
        words = [str(prefix) for prefix in prefixes]
        retried(lambda: self.member.ask("announce", 60, prefixes=words) and None)

    def withdraw(self, prefixes: Sequence[IPv4Network]) -> None:
        self.member.ask("withdraw", 60, prefixes=[str(prefix) for prefix in prefixes])


@attrs.frozen
class Meshd:
    """See ``common.System``."""

    name: str
    packages: dict[str, str] = attrs.field(factory=dict)
    protocol: int = 142

    def daemons(
        self, zones: Sequence[Zone], directory: Path, shared: Sequence[IPv4Network] = ()
    ) -> list[Daemon]:
        """shared: prefixes that several may announce; their grants name them."""
        members = [Member(zone, directory / f"r{zone.number}", f"r{zone.number}") for zone in zones]
        allow = [word for prefix in shared for word in ("--allow", str(prefix))]
        if allow:
            allow += ["--allow", "10.0.0.0/8"]
        first = members[0]
        first.command("init", "--name", first.name, *_advertise(first.zone), *allow)
        first.start()
        first.wait("--peers", "0")
        try:

            def join(member: Member) -> None:
                token = first.command("invite", member.name, *allow).stdout.strip()
                member.command("join", "-", *_advertise(member.zone), stdin=token)

            with ThreadPoolExecutor(2) as pool:
                list(pool.map(join, members[1:]))
        finally:
            first.stop()
        return [MeshdDaemon(member.zone, member) for member in members]

    def version(self) -> str:
        done = subprocess.run(
            [str(MESHD), "--version"], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    def settings(self) -> str:
        return "defaults"


def _advertise(zone: Zone) -> list[str]:
    return ["--advertise", str(zone.uplink4.ip), "--advertise", str(zone.uplink6.ip)]
