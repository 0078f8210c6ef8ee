"""What is known here of the mesh: its authorities, and what these have said of nodes.

From a running daemon, else from the snapshot that one has left: also from a copy of it, on a
machine that is no member.  Everything is verified again, for a copy may come from anywhere.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterable, Iterator

import attrs

from meshd import client, records
from meshd.errors import Refused, UsageError
from meshd.paths import Paths
from meshd.state import StateDirectory
from protocol.errors import Rejected
from protocol.identity import Mesh
from protocol.objects import (
    Accusation,
    Announcement,
    Grant,
    Record,
    Revocation,
    Successor,
    decode,
)
from protocol.store import Store

Word = Grant | Revocation | Successor
"""What an authority says, or the key that was set aside for naming the next one."""


@attrs.frozen
class Known:
    """The mesh with the authorities that are known, and what is in force in it."""

    mesh: Mesh
    store: Store
    """Only what authorities say: no announcements."""
    announced: frozenset[bytes]
    """Nodes that have announced themselves."""
    source: str
    """Where it is from, for people; empty: nothing is known but what was brought along."""

    def has_joined(self, node: bytes) -> bool | None:
        """Whether it has announced itself; None where nothing is known of that."""
        return node in self.announced if self.source else None


def learn(paths: Paths, mesh: Mesh, more: Iterable[Successor] = ()) -> Known:
    """What the daemon of ``paths`` knows, else its snapshot; ``more`` is known besides."""
    records_, announced, source = _from_daemon(paths)
    if not source:
        records_, announced, source = _from_snapshot(paths)
    words = [*records_, *more]
    mesh = with_successors(mesh, [each for each in words if isinstance(each, Successor)])
    store = Store()
    # The newest first: what an authority that was succeeded has said finds its place taken.
    for word in sorted(words, key=lambda each: (each.KIND != Successor.KIND, -each.generation)):
        if word.verify(mesh):
            store.merge(word)
    return Known(mesh, store, frozenset(announced), source)


def with_successors(mesh: Mesh, successors: Iterable[Successor]) -> Mesh:
    """``mesh`` with the authorities that these make, as far as each follows from the one
    before; of two for one generation the newer counts."""
    for each in sorted(successors, key=lambda each: (each.generation, each.version, each.hash)):
        if each.verify(mesh):
            mesh = mesh.succeeded_by(each.made)
    return mesh


def readable(raws: Iterable[bytes]) -> Iterator[Record]:
    """The objects among ``raws``; what is none, or of another version, is left out."""
    for raw in raws:
        with contextlib.suppress(Rejected):
            found = decode(raw)
            if not isinstance(found, Accusation):
                yield found


def _from_daemon(paths: Paths) -> tuple[list[Word], list[bytes], str]:
    raws: list[bytes] = []
    announced: list[bytes] = []
    start = ""
    try:
        with client.Connection(paths, 10.0) as connection:
            while True:
                page = connection.call("records", {"from": start})
                raws += map(base64.b64decode, page["objects"])
                announced += map(bytes.fromhex, page["announced"])
                start = page["next"]
                if not start:
                    break
    except (Refused, UsageError):
        return [], [], ""
    return _words(readable(raws)), announced, f"the daemon on {paths.socket}"


def _from_snapshot(paths: Paths) -> tuple[list[Word], list[bytes], str]:
    # A damaged snapshot is the daemon's to set aside; here it only means that we know less.
    state = StateDirectory(paths.state)
    with contextlib.suppress(records.Damaged):
        if state.has("snapshot"):
            found = list(readable(state.read_snapshot()))
            announced = [each.node for each in found if isinstance(each, Announcement)]
            return _words(found), announced, str(paths.state / "snapshot")
    return [], [], ""


def _words(found: Iterable[Record]) -> list[Word]:
    return [each for each in found if not isinstance(each, Announcement)]
