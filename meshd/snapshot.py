"""The snapshot: what a node knows, kept for its next life.

It holds the envelopes of the store and the shards that these name.  What of it cannot be read
any more is left out, for the mesh will tell it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import trio

from meshd.errors import StateError
from meshd.log import EventLog
from meshd.state import StateDirectory
from protocol.errors import Rejected
from protocol.node import Node
from protocol.objects import Accusation, Record, decode

SHARD_MARK: Final = b"\0"
"""Before a shard: no object is of kind 0."""

DELAY: Final = 1.0
"""Seconds for more changes to come before the store is written down."""

RETRY: Final = 10.0
"""Seconds before what could not be written is tried again."""


def remembered(node: Node) -> Iterable[bytes]:
    """The whole snapshot: envelopes, and the shards that these name, each marked."""
    yield from (record.raw for record in node.store)
    yield from (SHARD_MARK + raw for raw in node.shards)


def split(snapshot: Iterable[bytes]) -> tuple[list[Record], list[bytes]]:
    """What of a snapshot can still be read: objects, and shards as they came."""
    records: list[Record] = []
    shards: list[bytes] = []
    for raw in snapshot:
        if raw.startswith(SHARD_MARK):
            shards.append(raw.removeprefix(SHARD_MARK))
            continue
        try:
            record = decode(raw)
        except Rejected:
            continue
        if not isinstance(record, Accusation):
            records.append(record)
    return records, shards


class Keeper:
    """Writes the snapshot of ``node`` while it runs, and once more at its end."""

    def __init__(self, node: Node, state: StateDirectory, log: EventLog) -> None:
        self._node, self._state, self._log = node, state, log
        self._changed = trio.Event()

    def changed(self) -> None:
        """The store may hold something else."""
        self._changed.set()

    async def run(self) -> None:
        """Keep it, until cancelled; a disk that cannot be written is told of once."""
        written, failing = (b"", 0), False
        while True:
            await self._changed.wait()
            await trio.sleep(RETRY if failing else DELAY)
            self._changed = trio.Event()
            # The root says which shards are to be here, their number whether more have come.
            known = (self._node.store.root, len(self._node.shards))
            if known == written:
                continue
            objects = list(remembered(self._node))
            try:
                await trio.to_thread.run_sync(self._state.write_snapshot, objects)
            except StateError as error:
                if not failing:
                    self._log.emit("error", reason=str(error))
                failing = True
                self.changed()
            else:
                written, failing = known, False

    def finish(self) -> None:
        """The last word, when nothing runs any more."""
        try:
            self._state.write_snapshot(remembered(self._node))
        except StateError as error:
            self._log.emit("error", reason=str(error))
