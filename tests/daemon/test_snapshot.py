"""What a node knows goes through its snapshot to its next life: objects, and their shards."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest
import trio
import trio.testing

from meshd.errors import StateError
from meshd.log import EventLog
from meshd.snapshot import DELAY, RETRY, Keeper, remembered, split
from meshd.state import StateDirectory
from protocol.address import Prefix, endpoint
from protocol.identity import Identity, Mesh
from protocol.node import Node
from protocol.objects import Grant, Record

RNG = Random(1)
MAKER, NEXT, ME = (Identity.generate(RNG.randbytes) for _ in range(3))
MESH = Mesh.founded_by(MAKER.public, NEXT.public)
POOL = [Prefix.parse("10.0.0.0/8")]
GRANT = Grant.sign(MAKER, MESH, node=ME.public, name="me", serial=1, allow=POOL)


def node(records: Iterable[Record], shards: Iterable[bytes]) -> Node:
    return Node(
        MESH, ME, records, shards=shards, next_sequence=lambda above: above + 1, rng=Random(2),
        now=0.0,
    )  # fmt: skip


def test_shards_survive_in_the_snapshot(tmp_path: Path) -> None:
    nets = [Prefix.parse(f"10.1.{number}.0/24") for number in range(250)]
    first = node([GRANT], ())
    first.announce(0.0, prefixes=nets, endpoints=[endpoint("192.0.2.1", 6179)])
    state = StateDirectory(tmp_path)
    state.write_snapshot(remembered(first))
    records, shards = split(state.read_snapshot())
    again = node(records, shards)
    assert again.prefixes == first.prefixes == tuple(nets)
    assert list(again.shards) == list(first.shards)


def test_what_cannot_be_read_in_a_snapshot_is_left_out() -> None:
    records, shards = split([b"garbage", b"\0", b"\0garbage", b"", GRANT.raw, b"\x06"])
    assert records == [GRANT]
    assert list(node(records, shards).shards) == []


class FullDisk(StateDirectory):
    """A state directory whose disk is full until there is room; counts what was tried."""

    room = False
    tried: ClassVar[list[float]] = []

    def write_snapshot(self, objects: Iterable[bytes]) -> None:
        self.tried.append(trio.current_time())
        if not self.room:
            raise StateError("no room")
        super().write_snapshot(objects)


async def test_a_snapshot_that_could_not_be_written_is_tried_again_and_told_of_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def at_once(call: Callable[..., None], *given: object) -> None:
        await trio.lowlevel.checkpoint()
        call(*given)  # the clock would jump while a thread works

    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    out = io.StringIO()
    disk, known = FullDisk(tmp_path), node([GRANT], ())
    keeper = Keeper(known, disk, EventLog(out, "json"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        keeper.changed()
        await trio.sleep(DELAY + 2.5 * RETRY)
        assert len(disk.tried) == 3
        assert out.getvalue().count("no room") == 1
        monkeypatch.setattr(FullDisk, "room", True)
        await trio.sleep(RETRY)
        assert split(disk.read_snapshot()) == ([GRANT], [])
        await trio.sleep(100)
        assert len(disk.tried) == 4, "what was written is not written again"
        nursery.cancel_scope.cancel()
