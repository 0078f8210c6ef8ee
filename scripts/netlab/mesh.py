"""A mesh of real daemons in a lab, driven by meshd's own commands as an operator would."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs

from netlab.lab import Lab, Zone
from netlab.namespace import CommandError

MESHD = Path(sys.executable).with_name("meshd")
"""The command that scripts/setup installs beside this interpreter."""

STOP_S = 10.0
"""A daemon that has not ended so long after SIGTERM hangs: ten times what it may ever need."""

Prefixes = Iterable[IPv4Network | IPv6Network | str]


@attrs.define(eq=False)
class Member:
    """One host of the mesh: a zone's router, a directory, and the daemon while it runs."""

    zone: Zone
    directory: Path
    name: str
    process: subprocess.Popen[Any] | None = attrs.field(default=None, init=False)

    @property
    def log(self) -> Path:
        """What its daemons wrote, all starts in one file."""
        return self.directory.with_suffix(".log")

    def argv(self, *arguments: str) -> list[str | Path]:
        """The command line `meshd --dir DIRECTORY ARGUMENTS`."""
        return [MESHD, "--dir", self.directory, *arguments]

    def command(
        self, *arguments: str, stdin: str = "", check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a meshd command on this host to its end; CommandError if it fails and `check`."""
        return self.zone.router.run(
            self.argv(*arguments), stdin=stdin, check=check, timeout=timeout
        )

    def json(self, *arguments: str) -> Any:
        """What a command prints with `--json`."""
        return json.loads(self.command(*arguments, "--json").stdout)

    def ask(self, method: str, timeout: float = 10, **params: object) -> Any:
        """The daemon's answer on its control socket, without the start of a command.

        Raises OSError when nobody answers within `timeout` seconds, CommandError when it refuses.
        """
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(timeout)
            asking.connect(str(self.directory / "control.sock"))
            asking.sendall(json.dumps(request).encode() + b"\n")
            with asking.makefile("rb") as lines:
                line = lines.readline()
        if not line:
            raise ConnectionError(f"{self.name}: hung up")
        answer = json.loads(line)
        if "error" in answer:
            raise CommandError(f"{self.name}: {method}: {answer['error'].get('message')}")
        return answer["result"]

    def configure(self, lines: str) -> None:
        """Add `lines` to its config, for its next start or reload."""
        with (self.directory / "meshd.toml").open("a", encoding="ascii") as config:
            config.write(lines)

    def start(self, *options: str, log_format: str = "json", under: Sequence[str] = ()) -> None:
        """Start the daemon and return at once; `wait` tells when it is where it should be.

        under: a command that is to run it, such as `setpriv --bounding-set=-all`.
        """
        if self.running:
            raise ValueError(f"{self.name} runs already")
        command = [*under, *self.argv("run", "--log-format", log_format, *options)]
        with self.log.open("ab") as log:
            self.process = self.zone.router.popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def wait(self, *conditions: str, timeout: float = 30) -> None:
        """`meshd wait CONDITIONS`; CommandError, with the end of the log, if it is not in time."""
        try:
            self.command("wait", *conditions, "--timeout", str(timeout), timeout=timeout + 30)
        except CommandError as error:
            raise CommandError(f"{error}\n{self.tail()}") from None

    def stop(self) -> int:
        """SIGTERM, and the exit status; CommandError if the daemon does not end by that."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL: the host answers, but its daemon is gone."""
        return self._end(signal.SIGKILL)

    def exit_status(self, timeout: float = STOP_S) -> int:
        """The exit status of a daemon that ends by itself, or that `meshd leave` ended."""
        assert self.process is not None
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise CommandError(f"{self.name}: did not end\n{self.tail()}") from None

    def events(self, *names: str) -> list[dict[str, Any]]:
        """What the daemon logged as JSON, oldest first; only events of these names, if any."""
        events = []
        for line in self._log_lines():
            with contextlib.suppress(json.JSONDecodeError):  # words on stderr are no events
                event = json.loads(line)
                if not names or event["event"] in names:
                    events.append(event)
        return events

    def tail(self, count: int = 20) -> str:
        """The last lines of its log, for the message of a failure."""
        return f"--- {self.log.name}\n" + "\n".join(self._log_lines()[-count:])

    def _log_lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []

    def _end(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.exit_status()


class Mesh:
    """Context manager: one mesh over zones of `lab`, its files in `directory`.

    At the end every daemon still running is killed. `found` makes the mesh, `join` adds a zone;
    `grow` does both and waits until all agree. Commands that fail raise CommandError.
    """

    def __init__(self, lab: Lab, directory: Path, *, log_format: str = "json") -> None:
        self.lab = lab
        self.directory = directory
        self.log_format = log_format
        self.config = ""
        """Lines for the config of every member that comes from now on."""
        self.members: dict[int, Member] = {}
        """By the number of their zone, in the order in which they came."""

    def __enter__(self) -> Mesh:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for member in self.members.values():
            if member.running:
                member.kill()

    def __getitem__(self, number: int) -> Member:
        return self.members[number]

    @property
    def founder(self) -> Member:
        """The member that holds the authority's key."""
        return next(iter(self.members.values()))

    def found(
        self, number: int = 1, *, announce: Prefixes | None = None, options: Sequence[str] = ()
    ) -> Member:
        """`meshd init OPTIONS` in a zone, and its daemon.

        It announces its own subnets if not told what.
        """
        member = self._member(number)
        announced = self._announce(member.zone, announce)
        member.command("init", "--name", member.name, *announced, *options)
        member.configure(self.config)
        self.members[number] = member
        member.start(log_format=self.log_format)
        member.wait("--peers", "0")
        return member

    def invite(self, number: int, *options: str) -> str:
        """A join token for a zone, from the founder."""
        name = self._member(number).name
        return self.founder.command("invite", name, *options).stdout.strip()

    def join(
        self,
        number: int,
        *,
        announce: Prefixes | None = None,
        token: str | None = None,
        options: Sequence[str] = (),
        run: Sequence[str] | None = (),
    ) -> Member:
        """`meshd join OPTIONS` in a zone, by a token of the founder's unless one is given.

        run: options of the daemon, which is started at once; None leaves it to the caller.
        """
        member = self._member(number)
        announced = self._announce(member.zone, announce)
        member.command("join", "-", *announced, *options, stdin=token or self.invite(number))
        member.configure(self.config)
        self.members[number] = member
        if run is not None:
            member.start(*run, log_format=self.log_format)
        return member

    def grow(self, timeout: float = 30) -> None:
        """All zones of the lab that are not in the mesh yet; returns when all have converged."""
        missing = [zone.number for zone in self.lab.zones if zone.number not in self.members]
        if not self.members:
            self.found(missing.pop(0))
        # Nearly all of it is interpreters starting: as many at a time as there are processors.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self.join, missing))
        self.converge(timeout)

    def converge(self, timeout: float = 30) -> None:
        """Wait until every running member sees all the others alive and calls it converged."""
        running = [member for member in self.members.values() if member.running]
        for member in running:
            member.wait("--peers", str(len(running) - 1), "--converged", timeout=timeout)

    def _member(self, number: int) -> Member:
        name = f"r{number}"
        return Member(self.lab.zone(number), self.directory / name, name)

    def _announce(self, zone: Zone, prefixes: Prefixes | None) -> list[str]:
        wanted = (zone.prefix4, zone.prefix6) if prefixes is None else prefixes
        return [word for prefix in wanted for word in ("--announce", str(prefix))]
