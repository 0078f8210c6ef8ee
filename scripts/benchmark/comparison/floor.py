"""What the kernel itself takes: `ip -batch` and `nft -f` on as many kernels, and nobody to tell.

The work of an announcement with everything free that a daemon does: the routes, and the same
prefixes in an interval set, as an exclusion from translation has them.  Processes run as many at a
time as there are processors; their start is in the time, for there is no other way to use them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from typing import Final

from benchmark.comparison.job import Job, Sample
from benchmark.holdings import Holdings, KernelWatch, key
from netlab import Lab, Zone

PROTOCOL: Final = 99
"""Nobody's."""

COUNTS: Final = {"announce": 1, "announce-1000": 1000}

_SET: Final = """\
table inet bench {
    set mesh { type ipv4_addr; flags interval; }
}
"""


def version() -> str:
    """Of both programs."""
    return "iproute2 and nftables of this machine"


def settings() -> str:
    return "ip -batch and nft -f alone: a route and an element of an interval set for each prefix"


def floor(job: Job) -> Iterator[Sample]:
    """On all kernels but the first, which is whose prefixes they would be."""
    with Lab(job.nodes, name=f"bench{os.getpid()}", nat=("none",)) as lab:
        others = lab.zones[1:]
        watch = KernelWatch({zone.number: zone.router for zone in others}, PROTOCOL)
        with watch:
            holdings = Holdings(watch, [zone.number for zone in others])
            for zone in others:
                zone.router.run(["nft", "-f", "-"], stdin=_SET)
            for scenario, runs in job.todo.items():
                for run in runs:
                    prefixes = job.supply.take(COUNTS[scenario])
                    took = _written(holdings, lab.zone(1), others, prefixes, job.patience)
                    yield job.sample(scenario, run, {"": took})


def _written(
    holdings: Holdings,
    first: Zone,
    others: Sequence[Zone],
    prefixes: Sequence[IPv4Network],
    patience: float,
) -> float:
    lines = "".join(
        f"route add {net} via {first.uplink4.ip} proto {PROTOCOL}\n" for net in prefixes
    )
    elements = ", ".join(map(str, prefixes))
    rules = f"add element inet bench mesh {{ {elements} }}\n"

    def write(zone: Zone) -> None:
        zone.router.run(["ip", "-batch", "-"], stdin=lines)
        zone.router.run(["nft", "-f", "-"], stdin=rules)

    nets = set(map(key, prefixes))
    expected = holdings.expect(dict.fromkeys(holdings.numbers, nets))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        began = time.monotonic()
        list(pool.map(write, others))
        done = time.monotonic()
    outcome = expected.wait(patience)
    if not outcome.done:
        raise TimeoutError("the floor's routes are missing")
    for zone in others:
        zone.router.run(["ip", "route", "flush", "proto", str(PROTOCOL)])
        zone.router.run(["nft", "flush set inet bench mesh"])
    return max(outcome.last, done) - began
