"""What it costs to do nothing: octets at the switch's ports, processor, memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import attrs

from benchmark.comparison.stage import Number, Stage

LOOK_S: Final = 1.0


@attrs.frozen
class Counts:
    """So far, of all nodes together."""

    octets: int
    """Sent by the routers, as their ports at the switch received them, Ethernet's header
    included."""
    packets: int
    cpu_s: float
    """Processor seconds of the daemons, all their threads."""


def idle(stage: Stage, seconds: float) -> dict[str, float | None]:
    """Watch the fleet for so long; figures are those of one node in a second."""
    stage.holdings.update_all()
    lost = len(stage.holdings.losses)
    before, began = counts(stage), time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0:
        time.sleep(min(left, LOOK_S))
        stage.holdings.update_all()
    after, passed = counts(stage), time.monotonic() - began
    nodes = len(stage.running)
    each = nodes * passed
    rss, pss = (sum(sizes) / nodes / 1000 for sizes in zip(*memory(stage).values(), strict=True))
    return {
        "sent per node": (after.octets - before.octets) / each,
        "packets per node": (after.packets - before.packets) / each,
        "processor per node": 1000 * (after.cpu_s - before.cpu_s) / each,
        "RSS per node": rss,
        "PSS per node": pss,
        "healthy routes withdrawn": _healthy(stage, lost),
    }


def _healthy(stage: Stage, since: int) -> int:
    """How often, from the `since`th loss on, a node lost what another still announces."""
    announced = stage.others(stage.running)
    losses = stage.holdings.losses[since:]
    return sum(number in announced and net in announced[number] for _, number, net in losses)


def counts(stage: Stage) -> Counts:
    """As kernels have counted."""
    ports = {f"{stage.lab.segment.bridge}{number}" for number in stage.running}
    links = [
        link["stats64"]["rx"]
        for link in stage.lab.switch.ip("-s", "link", "show")
        if link["ifname"] in ports
    ]
    return Counts(
        sum(link["bytes"] for link in links),
        sum(link["packets"] for link in links),
        processor(stage),
    )


def processor(stage: Stage) -> float:
    """Processor seconds of all daemons so far."""
    return sum(_cpu(pid) for pid in _pids(stage).values())


def memory(stage: Stage) -> dict[Number, tuple[int, int]]:
    """RSS and PSS of each daemon in thousands of bytes."""
    found = {}
    for number, pid in _pids(stage).items():
        sizes = {"Rss:": 0, "Pss:": 0}
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            words = line.split()
            if words[0] in sizes:
                sizes[words[0]] = int(words[1]) * 1024 // 1000
        found[number] = sizes["Rss:"], sizes["Pss:"]
    return found


def _pids(stage: Stage) -> dict[Number, int]:
    found = {}
    for number in stage.running:
        process = stage.daemons[number].process
        if process is not None:
            found[number] = process.pid
    return found


def _cpu(pid: int) -> float:
    """Processor seconds of a process so far, to the nanosecond: its clock (the kernel's
    MAKE_PROCESS_CPUCLOCK of CPUCLOCK_SCHED, include/linux/posix-timers.h)."""
    return time.clock_gettime((~pid << 3) | 2)
