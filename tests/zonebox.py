"""A zone of fakes without a process: what tests of the tools and of the backend stand on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import illumosfakes
from illumosfakes.command import execute
from illumosfakes.machine import Machine
from illumosfakes.packet import source_after

RECORDED: Final = Path(illumosfakes.__file__).with_name("RECORDED.md")


def recorded() -> Iterator[str]:
    """Every line of a list, a table's body or a block."""
    block = False
    for line in RECORDED.read_text(encoding="utf-8").splitlines():
        if line == "```":
            block = not block
        elif block or line.startswith("- ") or (line.startswith("| `") and not block):
            yield line.removeprefix("- ").removeprefix("| ")


LINES: Final = tuple(recorded())


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


class Zone:
    """A router zone: 10.1.0.0/24 behind it, 192.0.2.9 towards the others."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.machine.add_interface("pnic0", "192.0.2.9/24", "2001:db8::9/64")
        self.machine.add_interface("int0", "10.1.0.1/24", "fd01::1/64")

    def run(self, command: str, stdin: str = "") -> Said:
        """One command line, with what it reads from standard input."""
        tool, *argv = shlex.split(command)
        return Said(*execute(self.machine, tool, argv, stdin))

    def do(self, command: str, stdin: str = "") -> str:
        """One that works, without a word on standard error; what it printed."""
        said = self.run(command, stdin)
        assert (said.code, said.err) == (0, ""), (command, said)
        return said.out

    def source(self, destination: str, source: str = "10.1.0.5", proto: str = "tcp") -> str:
        """What a packet to ``destination`` leaves pnic0 with as its source."""
        return source_after(self.machine, source, destination, "pnic0", proto)
