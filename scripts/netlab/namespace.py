"""One named network namespace: running commands and opening sockets in it.

A namespace belongs to a thread, not to a process: the calling thread steps in, makes a process or
a socket there, and steps out again. So nothing has to be started through `ip netns exec`, and a
test can hold sockets of many hosts at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

NAMES = Path("/run/netns")
"""Where iproute2 keeps the names of namespaces (ip-netns(8))."""

CLONE_NEWNET = 0x40000000
"""linux/sched.h"""

_libc = ctypes.CDLL(None, use_errno=True)


class CommandError(Exception):
    """A command in a namespace exited with another status than 0; says what it printed."""


def _setns(descriptor: int) -> None:
    # os.setns came with Python 3.12.
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


@attrs.frozen
class Namespace:
    """A network namespace by its name, as `ip netns list` shows it."""

    name: str

    @property
    def exists(self) -> bool:
        return (NAMES / self.name).exists()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in the namespace; what it makes stays there afterwards."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(NAMES / self.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def popen(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start `command` here; `options` are those of `subprocess.Popen`."""
        with self.entered():
            return subprocess.Popen([str(part) for part in command], **options)

    def run(
        self,
        command: Sequence[str | Path],
        *,
        stdin: str = "",
        check: bool = True,
        timeout: float = 60,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` here to its end, at most `timeout` seconds.

        Raises `CommandError` when it fails, unless `check` is off.
        """
        argv = [str(part) for part in command]
        with self.entered():
            done = subprocess.run(
                argv,
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
                env=env,
            )
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise CommandError(f"{self.name}: {' '.join(argv)}: exit {done.returncode}: {said}")
        return done

    def ip(self, *arguments: str) -> list[dict[str, Any]]:
        """What `ip -j ARGUMENTS` answers."""
        answer = json.loads(self.run(["ip", "-j", *arguments]).stdout or "[]")
        return [entry for entry in answer if entry]  # it prints {} for what a filter left out

    def nft(self, *arguments: str) -> list[dict[str, Any]]:
        """What `nft -j ARGUMENTS` answers, without its line about itself."""
        answer = json.loads(self.run(["nft", "-j", *arguments]).stdout or '{"nftables": []}')
        return [entry for entry in answer["nftables"] if "metainfo" not in entry]

    def configure(self, lines: Sequence[str]) -> None:
        """Carry out lines of iproute2, in one process; stops at the first that fails."""
        self.run(["ip", "-batch", "-"], stdin="".join(line + "\n" for line in lines))

    def sysctl(self, settings: dict[str, int]) -> None:
        """Set values below /proc/sys/net; keys are paths, such as `ipv4/ip_forward`."""
        with self.entered():
            for key, value in settings.items():
                Path("/proc/sys/net", key).write_text(str(value), encoding="ascii")

    def socket(
        self, family: socket.AddressFamily, kind: socket.SocketKind, protocol: int = 0
    ) -> socket.socket:
        """A socket of this namespace's network, for whoever holds it."""
        with self.entered():
            return socket.socket(family, kind, protocol)


def processes_in(namespaces: Sequence[Namespace]) -> list[int]:
    """The processes whose network is one of `namespaces`, but never the calling one."""
    wanted = {os.stat(NAMES / namespace.name).st_ino for namespace in namespaces}
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if (entry / "ns/net").stat().st_ino in wanted:
                    found.append(int(entry.name))
    return found
