"""What is measured: scenarios, and of each what comes out. Nothing here does anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

MEMBERSHIP: Final = "membership only"
"""Why Serf has no figure in some places."""


@attrs.frozen
class Measure:
    """One row of the table."""

    name: str
    """Within its scenario; empty if it is the only one."""
    unit: str
    """s, ms, B/s, packets/s, MB or nothing for a count."""


@attrs.frozen
class Scenario:
    """One thing that happens."""

    name: str
    help: str
    """One line."""
    measures: tuple[Measure, ...]
    group: str
    """Scenarios of one group share a fleet."""
    seconds: float
    """One run of it takes about so long at 16 nodes; a guess, until one has been seen."""
    once: bool = False
    """One run tells it all."""
    remark: str = ""
    """What a reader of its figures must know."""


def _seconds(*names: str) -> tuple[Measure, ...]:
    return tuple(Measure(name, "s") for name in names)


_NEWS: Final = (Measure("", "s"), Measure("processor per node", "ms"))

_ALL: Final = (
    Scenario(
        "cold-start", "all daemons at once, until every kernel has every route",
        _seconds("from spawn", "from ready"), "cold", 15,
        remark="ready is when the last daemon answers on its control socket, looked at every 10 ms",
    ),
    Scenario(
        "join", "one more router into a running mesh",
        _seconds("from spawn", "from ready"), "coming", 8,
    ),
    Scenario(
        "announce", "one prefix more, told over the control socket",
        _NEWS, "standing", 2,
        remark="processor time is the daemons' own, from the request until the last kernel has it",
    ),
    Scenario(
        "announce-1000", "1,000 prefixes more, from one node",
        _NEWS, "standing", 6,
    ),
    Scenario(
        "leave", "one leaves, each system in its own way, until it is withdrawn",
        _seconds(""), "coming", 4,
    ),
    Scenario(
        "kill", "one daemon gets SIGKILL while its host still forwards, until it is withdrawn",
        (Measure("", "s"), Measure("packets still delivered", "%")), "coming", 40,
        remark="the host goes on forwarding, so keeping its routes loses no packet; meshd keeps"
        " them by design, for a restart window of 30 s. Packets are those of a flow to"
        " behind it, from the kill until their router withdraws it, if that is long enough for ten",
    ),
    Scenario(
        "link-cut", "the cable at the switch, until it is withdrawn everywhere",
        _seconds(""), "cutting", 15,
    ),
    Scenario(
        "link-back", "the cable again, until every kernel has everything, both ways",
        _seconds(""), "cutting", 5,
    ),
    Scenario(
        "split", "one to three for 30 s, healed; seen from the larger side",
        (Measure("", "s"), Measure("kernels affected", "")), "splitting", 45,
        remark="of the larger side; a kernel that kept its routes all the while is not affected",
    ),
    Scenario(
        "idle", "60 s of nothing, counted at the switch's ports and in /proc",
        (
            Measure("sent per node", "B/s"),
            Measure("packets per node", "/s"),
            Measure("processor per node", "ms/s"),
            Measure("RSS per node", "MB"),
            Measure("PSS per node", "MB"),
            Measure("healthy routes withdrawn", ""),
        ),
        "standing", 65, once=True,
    ),
    Scenario(
        "command", "the start of the command that announces, by itself",
        (Measure("", "ms"),), "standing", 1,
    ),
)  # fmt: skip

SCENARIOS: Final = {each.name: each for each in _ALL}

GROUPS: Final = tuple(dict.fromkeys(each.group for each in _ALL))

FLOOR: Final = "floor"
"""A system without daemons: `ip -batch` and nft by themselves."""

FLOOR_SCENARIOS: Final = ("announce", "announce-1000")

DEFAULT_SYSTEMS: Final = (
    "meshd", "bird", "bird-fast", "bird-bfd", "babeld", "babeld-fast", "serf", FLOOR,
)  # fmt: skip


@attrs.frozen(order=True)
class Case:
    """One cell: a scenario under circumstances."""

    scenario: str
    nodes: int
    loss: float
    """Percentage of frames lost on each router's uplink, each way in."""
    prefixes: int
    """Of each node, its own subnet among them."""
    system: str


def cases(
    scenarios: Sequence[str],
    systems: Sequence[str],
    nodes: Sequence[int],
    losses: Sequence[float],
    prefixes: Sequence[int],
) -> list[Case]:
    """All that is to be measured, in the order in which it is: systems side by side.

    More than one prefix a node is of interest when idle only.
    """
    return [
        Case(name, count, loss, many, system)
        for loss in losses
        for count in nodes
        for many in prefixes
        for group in GROUPS
        for system in systems
        for name in scenarios
        if SCENARIOS[name].group == group
        and (many == prefixes[0] or name == "idle")
        and (system != FLOOR or (name in FLOOR_SCENARIOS and not loss))
    ]


def runs_of(scenario: str, runs: int) -> int:
    """How often it is done where `runs` are asked for."""
    return 1 if SCENARIOS[scenario].once else runs
