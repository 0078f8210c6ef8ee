"""What was done to the kernel in words: which prefixes, what was found, and who is suspected.

Suspicion is worded as sure as it is.  A program that takes our routes away a hundred times a second
is repaired as often, and told about at a bounded pace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from meshd.kernel.plan import (
    AddElement,
    AddGuard,
    AddRoute,
    AddUplink,
    BuildTable,
    RemoveElement,
    RemoveGuard,
    RemoveRoute,
    RemoveStray,
    RemoveTable,
    RemoveUplink,
    ReplaceRoute,
    Step,
)
from meshd.kernel.port import Change
from meshd.kernel.state import Reading
from meshd.kernel.tunnel import (
    DEVICE,
    AddDevice,
    AddForward,
    AddNeighbour,
    ChangeDevice,
    RemoveDevice,
    RemoveForward,
    RemoveNeighbour,
)

SHOWN: Final = 5
"""Things named in one log line; the rest are counted."""

BURST: Final = 10
PACE: Final = 1.0
"""So many repairs are told one by one, and from then on one in so many seconds."""

NAMES: Final = 16
"""Suspects counted by name; whoever comes later is one of the others."""


def summary(steps: Iterable[Step]) -> dict[str, list[str]]:
    """The prefixes of steps by what was done for them; a table that is made anew is named.

    A route brings its guard and its exclusion along, and takes them away: said once.
    """
    done: dict[str, dict[object, None]] = {}

    def note(word: str, what: object) -> None:
        done.setdefault(word, {})[what] = None

    for step in steps:
        match step:  # what comes by the thousand first
            case AddRoute():
                note("added", step.prefix)
            case AddGuard():
                note("guarded", step.prefix)
            case AddElement():
                note(f"{step.name}_added", step.prefix)
            case RemoveRoute():
                note("removed", step.prefix)
            case RemoveGuard():
                note("unguarded", step.prefix)
            case RemoveElement():
                note(f"{step.name}_removed", step.prefix)
            case ReplaceRoute():
                note("moved", step.prefix)
            case BuildTable():
                note("table", "; ".join(step.problems) or "made")
            case AddDevice():
                note("tunnel", "made")
            case ChangeDevice():
                note("tunnel", "changed")
            case RemoveDevice():
                note("tunnel", step.why or "removed")
            case AddNeighbour() | RemoveNeighbour():
                word = "added" if isinstance(step, AddNeighbour) else "removed"
                note(f"neighbours_{word}", step.address)
            case AddForward() | RemoveForward():
                word = "added" if isinstance(step, AddForward) else "removed"
                note(f"forwards_{word}", step.forward.address)
            case AddUplink():
                note("uplinks_added", step.device)
            case RemoveUplink():
                note("uplinks_removed", step.device)
            case _:
                pass
    for word, others in (("added", ("guarded", "mesh_added")),
                         ("removed", ("unguarded", "mesh_removed"))):  # fmt: skip
        for other in others:
            for prefix in done.get(word, {}):
                done.get(other, {}).pop(prefix, None)
    return {word: list(map(str, things)) for word, things in done.items() if things}


def found(steps: Iterable[Step], reading: Reading) -> list[str]:
    """What was not as it should be, one line for each step that a repair took."""
    lines: dict[str, None] = {}
    for step in steps:
        for line in _found(step, reading):
            lines[line] = None
    return list(lines)


def _found(step: Step, reading: Reading) -> Iterable[str]:
    match step:
        case AddRoute(prefix=prefix):
            yield f"route {prefix} was gone"
        case ReplaceRoute(prefix=prefix):
            there = reading.state.routes.get(prefix)
            led = f" {there.words(prefix.version)}" if there is not None else " elsewhere"
            yield f"route {prefix} led{led}"
        case RemoveRoute(prefix=prefix):
            yield f"route {prefix} was there, of our protocol"
        case RemoveStray(stray=stray):
            yield f"route {stray.prefix} metric {stray.metric} was there, of our protocol"
        case AddGuard(prefix=prefix):
            yield f"guard {prefix} was gone"
        case RemoveGuard(prefix=prefix):
            yield f"guard {prefix} was there"
        case BuildTable(problems=problems):
            yield from problems or ("table inet meshd was gone",)
        case RemoveTable():
            yield "table inet meshd was there"
        case AddElement(name=name, prefix=prefix):
            yield f"{prefix} was gone from set {name}{prefix.version}"
        case RemoveElement(name=name, prefix=prefix):
            yield f"{prefix} was in set {name}{prefix.version}"
        case AddDevice() if reading.state.tunnel is None:
            yield f"device {DEVICE} was gone"
        case RemoveDevice(why=why):
            yield f"device {DEVICE}: {why}" if why else f"device {DEVICE} was there"
        case ChangeDevice():
            yield from (f"device {DEVICE} {what}" for what in step.found())
        case AddNeighbour(address=address):
            yield f"the neighbour entry of {address} was gone or another"
        case RemoveNeighbour(address=address):
            yield f"a neighbour entry of {address} was there"
        case AddForward(forward=forward):
            yield f"the forwarding entry to {forward.address} was gone or another"
        case RemoveForward(forward=forward):
            yield f"a forwarding entry to {forward.address} was there"
        case AddUplink(device=device):
            yield f"{device} was gone from set uplinks"
        case RemoveUplink(device=device):
            yield f"{device} was in set uplinks"
        case _:
            pass


def suspected(heard: Iterable[Change]) -> list[str]:
    """Who did it, as far as notices tell; empty if they tell nothing.

    What the kernel takes away by itself goes with a link or an address, and often without notice:
    then those are the reason.
    """
    heard = list(heard)
    hands = dict.fromkeys(
        each.by for each in heard if each.about == "ours" and each.by not in ("", "the kernel")
    )
    if hands:
        return list(hands)
    reasons = dict.fromkeys(
        f"{each.by or 'the kernel'}: {each.what}" for each in heard if each.about == "host"
    )
    if reasons:
        return list(reasons)
    return ["the kernel"] if any(each.by for each in heard if each.about == "ours") else []


def told(heard: Sequence[Change]) -> list[str]:
    """The first notices, what matters most first, each with its author."""
    order = ("ours", "host", "others")
    ordered = sorted(heard, key=lambda each: order.index(each.about))[:SHOWN]
    return list(
        dict.fromkeys(f"{each.what}{f' by {each.by}' if each.by else ''}" for each in ordered)
    )


@attrs.define(eq=False)
class Tally:
    """How many repairs there were, by whom, and which of them are told."""

    total: int = 0
    by: dict[str, int] = attrs.field(factory=dict)
    """Name of the suspect to how often; "nobody known" where there was none."""
    _credit: float = BURST
    _at: float = 0.0
    _silent: int = 0

    def count(self, suspects: Sequence[str], now: float) -> int | None:
        """One more, at ``now`` in seconds; how many went untold before it, or None: it is not to
        be told either."""
        self.total += 1
        for suspect in suspects or ("nobody known",):
            name = suspect.partition(" (")[0].partition(":")[0]
            if name not in self.by and len(self.by) >= NAMES:
                name = "others"
            self.by[name] = self.by.get(name, 0) + 1
        self._credit = min(BURST, self._credit + (now - self._at) / PACE)
        self._at = now
        if self._credit < 1:
            self._silent += 1
            return None
        self._credit -= 1
        silent, self._silent = self._silent, 0
        return silent
