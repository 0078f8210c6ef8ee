"""The systems that people would use instead, and meshd, each driven the same way.

A ``System`` makes one ``Daemon`` for each router of a lab: it is started in the router's namespace,
told over its own control socket what to announce, and stopped.  Nothing is learnt from its logs;
what it does is seen in the kernel (``benchmark.events``), but for Serf, which makes no routes.  All
announce IPv4 prefixes only, for that is what the comparison is about.
"""

from __future__ import annotations

from benchmark.systems.babeld import Babeld
from benchmark.systems.bird import Bird
from benchmark.systems.common import Daemon, Fleet, System, staged
from benchmark.systems.meshd import Meshd
from benchmark.systems.serf import Serf

_ALL: tuple[System, ...] = (
    Meshd("meshd"),
    Bird("bird"),
    Bird("bird-fast", fast=True),
    Bird("bird-scan1", scan=1),
    Bird("bird-graceful", fast=True, graceful=True),
    Bird("bird-bfd", fast=True, bfd=(20, 50, 5)),  # the example in BIRD's manual
    Bird("bird-bfd-300", fast=True, bfd=(300, 300, 4)),
    Bird("bird-bfd-fast", fast=True, bfd=(10, 10, 3)),
    Babeld("babeld"),
    Babeld("babeld-fast", hello=1, update=4),
    Serf("serf"),
)

SYSTEMS: dict[str, System] = {each.name: each for each in _ALL}
"""By the name that `--systems` gives them."""

__all__ = ["SYSTEMS", "Daemon", "Fleet", "System", "staged"]
