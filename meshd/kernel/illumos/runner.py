"""The one place of the daemon that starts programs: the system's own tools, by fixed names.

No shell, nothing of the caller's environment, a time limit; what they read on standard input or as
arguments are addresses, prefixes and numbers that were parsed before, and interface names of this
host.  What a peer sent is never among it as text.
"""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import attrs
import trio

LIMIT: Final = 20.0
"""Seconds for one command. They take milliseconds; one that hangs shall not hang us."""

PLACES: Final = ("/usr/sbin", "/usr/bin", "/sbin")

_REMEMBERED: Final = 4096
"""Processes of ours whose routing messages are not news."""


@attrs.frozen
class Done:
    """What a command answered. Exit 0 does not mean that all went well: see ``complaint``."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """What it says against it: the last line on standard error, or the exit code."""
        said = self.err.strip().rpartition("\n")[2]
        if said or self.code:
            return f"{self.argv[0]}: {said or f'exit code {self.code}'}"
        return ""


class Runner(Protocol):
    """How commands are run."""

    def run(self, argv: Sequence[str], stdin: str = "") -> Done:
        """``OSError`` when it could not be started or did not end."""

    def is_ours(self, pid: int) -> bool:
        """Whether that process was one of these commands."""

    async def follow(
        self, argv: Sequence[str], line: Callable[[str], None], started: Callable[[], None]
    ) -> None:
        """Run it until cancelled, and give away each line that it prints; returns if it ends."""

    def missing(self) -> list[str]:
        """Those of the tools that are not there."""


class Tools:
    """A ``Runner``. ``directory``: where the tools are; empty: where the system has them."""

    def __init__(self, directory: str, names: Sequence[str]) -> None:
        places = [directory] if directory else list(PLACES)
        self._environment = {"PATH": ":".join(places), "LC_ALL": "C"}
        found = {
            name: [path for place in places if os.access(path := Path(place) / name, os.X_OK)]
            for name in names
        }
        self._missing = [name for name, paths in found.items() if not paths]
        self._paths = {name: str(paths[0]) for name, paths in found.items() if paths}
        self._pids: deque[int] = deque(maxlen=_REMEMBERED)

    def missing(self) -> list[str]:
        return self._missing

    def is_ours(self, pid: int) -> bool:
        return pid in self._pids

    def run(self, argv: Sequence[str], stdin: str = "") -> Done:
        with self._start(argv) as process:
            self._pids.append(process.pid)
            try:
                out, err = process.communicate(stdin, timeout=LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise TimeoutError(f"{argv[0]} did not end within {LIMIT:.0f} s") from None
        return Done(tuple(argv), process.returncode, out, err)

    async def follow(
        self, argv: Sequence[str], line: Callable[[str], None], started: Callable[[], None]
    ) -> None:
        with self._start(argv, listening=True) as process:
            started()
            try:
                assert process.stdout is not None
                handle = process.stdout.fileno()
                os.set_blocking(handle, False)
                rest = b""
                while True:
                    await trio.lowlevel.wait_readable(handle)
                    try:
                        data = os.read(handle, 1 << 16)
                    except BlockingIOError:
                        continue
                    if not data:
                        return
                    *whole, rest = (rest + data).split(b"\n")
                    for each in whole:
                        line(each.decode(errors="replace"))
            finally:
                process.kill()

    def _start(self, argv: Sequence[str], *, listening: bool = False) -> subprocess.Popen[str]:
        """``listening``: only what it prints is of interest."""
        path = self._paths.get(argv[0])
        if path is None:
            raise FileNotFoundError(2, f"there is no {argv[0]}")
        return subprocess.Popen(
            [path, *argv[1:]],
            stdin=subprocess.DEVNULL if listening else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if listening else subprocess.PIPE,
            env=self._environment,
            cwd="/",
            text=True,
            errors="replace",
        )
