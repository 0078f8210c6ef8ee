"""A zone of fakes without a process: what tests of the tools and of the backend stand on."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import trio

import illumosfakes
from illumosfakes.command import execute
from illumosfakes.machine import Machine
from illumosfakes.packet import source_after
from meshd.kernel.illumos.runner import Done

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


ROUTER: Final = {
    "pnic0": ("192.0.2.9/24", "2001:db8::9/64"),
    "int0": ("10.1.0.1/24", "fd01::1/64"),
}


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


class Zone:
    """A router zone: 10.1.0.0/24 behind it, 192.0.2.9 towards the others, unless other
    interfaces are given: their names to their addresses."""

    def __init__(self, interfaces: Mapping[str, Iterable[str]] = ROUTER) -> None:
        self.machine = Machine()
        for name, addresses in interfaces.items():
            self.machine.add_interface(name, *addresses)

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


class Killed(BaseException):
    """The process has died between two commands."""


class ZoneRunner:
    """A ``Runner`` that runs the fakes in this process. ``fuel``: commands until it is killed."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.fuel: int | None = None
        self.ran: list[tuple[str, ...]] = []
        self._ours: set[int] = set()

    def run(self, argv: Sequence[str], stdin: str = "") -> Done:
        if self.fuel is not None:
            if self.fuel == 0:
                raise Killed
            self.fuel -= 1
        self.ran.append(tuple(argv))
        self.zone.machine.pid += 1
        self._ours.add(self.zone.machine.pid)
        code, out, err = execute(self.zone.machine, argv[0], list(argv[1:]), stdin)
        self.zone.machine.pid += 1
        return Done(tuple(argv), code, out, err)

    def is_ours(self, pid: int) -> bool:
        return pid in self._ours

    def missing(self) -> list[str]:
        return []

    async def follow(
        self, argv: Sequence[str], line: Callable[[str], None], started: Callable[[], None]
    ) -> None:
        del argv
        events = self.zone.machine.events
        told = len(events)
        started()
        while True:
            await trio.sleep(0.001)
            for event in events[told:]:
                for each in event.splitlines():
                    line(each)
            told = len(events)
