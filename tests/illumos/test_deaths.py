"""Death between any two commands: the next process mends it, and owns nothing foreign."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Final
from unittest.mock import patch

import pytest
from zonebox import Killed
from zonehost import (
    NOTHING,
    OWN,
    PUBLIC,
    REJECT,
    SIX,
    B,
    C,
    Host,
    foreigners,
    state,
    with_foreigners,
)

from meshd.kernel.illumos.runner import Done
from meshd.kernel.state import KernelState

JOURNEYS: Final[dict[str, tuple[KernelState, KernelState]]] = {
    "join": (NOTHING, state(B, C, SIX)),
    "leave": (state(B, C, SIX), NOTHING),
    "move": (state(B, C), state(B, C, gateway="192.0.2.3")),
    "exchange": (state(B), state(C, SIX)),
    "first": (KernelState(), state(B)),
    "purge": (state(B, C), KernelState()),
}


Death = tuple[dict[str, object], dict[str, bytes]]
"""The zone and the disk as they are when it comes."""


def deaths_in(host: Host, act: Callable[[], object], *, writes: bool = False) -> list[Death]:
    """What death before any command of ``act`` leaves, and after its last; each once. ``writes``:
    and before any file takes the place of another."""
    found: list[Death] = []
    run, replace = host.runner.run, os.replace

    def watched(argv: Sequence[str], stdin: str = "") -> Done:
        note()
        return run(argv, stdin)

    def replaced(temporary: str, target: Path) -> None:
        note()
        replace(temporary, target)

    def note() -> None:
        death = (deepcopy(host.zone.machine.held), snapshot(host.directory))
        if not found or found[-1] != death:
            found.append(death)

    host.runner.run = watched  # type: ignore[method-assign]
    with patch("os.replace", replaced if writes else replace):
        act()
    note()
    return found


def snapshot(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def restore(directory: Path, disk: dict[str, bytes]) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            path.unlink()
    for name, content in disk.items():
        (directory / name).write_bytes(content)


@pytest.mark.parametrize("journey", JOURNEYS)
def test_death_after_any_command_is_mended_and_owns_nothing_foreign(
    host: Host, journey: str
) -> None:
    before, after = JOURNEYS[journey]
    theirs = with_foreigners(host)
    host.apply(before)
    deaths = deaths_in(host, lambda: host.apply(after))
    assert len(deaths) > 5
    for death in deaths:
        for wanted in (after, before):
            rise(host, death)
            if host.apply(wanted):  # a step may lean on one that had to be done again
                assert host.apply(wanted) == {}
            host.holds(wanted)
            assert foreigners(host) == theirs
            if wanted.local:
                expected = [OWN if each in wanted.mesh else PUBLIC for each in (B, C)]
                assert host.sources() == [*expected, PUBLIC]


@pytest.mark.parametrize("journey", ["exchange", "leave"])
def test_what_the_file_of_a_dead_machine_brings_back_is_known(host: Host, journey: str) -> None:
    before, after = JOURNEYS[journey]
    host.apply(before)
    for death in deaths_in(host, lambda: host.apply(after), writes=True):
        rise(host, death)
        host.boot()
        if host.apply(after):
            assert host.apply(after) == {}
        host.holds(after)
        expected = [OWN if each in after.mesh else PUBLIC for each in (B, C)]
        assert host.sources() == [*expected, PUBLIC]


def rise(host: Host, death: Death) -> None:
    """A new process finds what ``death`` has left."""
    host.zone.machine.held = deepcopy(death[0])
    restore(host.directory, death[1])
    host.start()


def test_a_command_that_raises_leaves_what_death_leaves(host: Host) -> None:
    host.reach(NOTHING)
    start: Death = (deepcopy(host.zone.machine.held), snapshot(host.directory))
    deaths = deaths_in(host, lambda: host.apply(state(B)))
    found: list[Death] = []
    for fuel in range(1000):
        rise(host, start)
        host.runner.fuel = fuel
        with suppress(Killed):
            host.apply(state(B))
        death = (deepcopy(host.zone.machine.held), snapshot(host.directory))
        if not found or found[-1] != death:
            found.append(death)
        if death == deaths[-1]:
            break
    assert found == deaths


def test_nothing_leaks_at_any_moment_of_a_life_with_deaths(host: Host) -> None:
    """A packet to a guarded prefix is refused or keeps its source; it never takes the default
    route, whatever command was the last."""
    host.reach(state(B))
    for after in (state(B, gateway="192.0.2.3"), state(B, C), NOTHING):
        gone = False
        for held, _ in deaths_in(host, partial(host.apply, after)):
            host.zone.machine.held = held
            leads = host.leads(B)
            if leads - REJECT:
                assert host.zone.source("10.2.0.7") == OWN
                assert not gone
            gone = gone or not leads
        assert gone == (after == NOTHING)
        host.start()
