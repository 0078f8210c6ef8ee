"""One program behind all names: finds the state, runs the tool, prints what it says."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from illumosfakes import filter, nat, pool, routing  # noqa: A004
from illumosfakes.machine import Machine, events_of, opened

POLL = 0.02
"""Seconds between two looks of ``route monitor`` at the file of events."""


def main(tool: str, state: str, argv: list[str]) -> int:
    """Be ``tool`` once, over the machine that is kept in the file ``state``; its exit code."""
    if tool == "route" and "monitor" in argv:
        return monitor(events_of(Path(state)))
    standard = sys.stdin.read() if "-" in argv else ""
    with opened(Path(state), [tool, *argv]) as machine:
        code, out, err = execute(machine, tool, argv, standard)
    sys.stdout.write(out)
    sys.stderr.write(err)
    return code


def execute(
    machine: Machine, tool: str, argv: list[str], standard: str = ""
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    read = {"-": standard}
    for word in argv:
        if not word.startswith("-") and os.path.isfile(word):
            read[word] = Path(word).read_text(encoding="utf-8")
    match tool:
        case "route":
            return routing.route(machine, argv)
        case "netstat":
            return routing.netstat(machine, argv)
        case "ifconfig":
            return routing.ifconfig(machine, argv)
        case "ippool":
            return pool.ippool(machine, argv, read)
        case "ipnat":
            return nat.ipnat(machine, argv, read)
        case "ipf":
            return filter.ipf(machine, argv, read)
        case "ipfstat":
            return filter.ipfstat(machine, argv, read)
    raise ValueError(tool)


def monitor(events: Path) -> int:
    """Print what comes from now on, until killed or until nobody reads."""
    events.touch()
    with events.open(encoding="utf-8") as file:
        file.seek(0, os.SEEK_END)
        while os.getppid() != 1:
            more = file.read()
            if not more:
                time.sleep(POLL)
                continue
            sys.stdout.write(more)
            sys.stdout.flush()
    return 0
