"""What any node knows that begins with a given store: worked out once, for thousands.

A node that resumes with the store of a mesh that converged long ago knows, of every member,
its key id and that it lives.  That is a function of the store and the mesh alone, so all
nodes of a simulation look into one ``Resumption`` and each holds only what has changed for
itself since.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import attrs

from protocol.merkle import Tree
from protocol.objects import Announcement, Record
from protocol.session import key_id
from protocol.store import Store

Value = TypeVar("Value")


class Overlay(Generic[Value]):
    """A dictionary by bytes over another one, which it shares and never changes."""

    __slots__ = ("_own", "_under")

    def __init__(self, under: Mapping[bytes, Value] | None = None) -> None:
        self._under: Mapping[bytes, Value] = {} if under is None else under
        self._own: dict[bytes, Value | None] = {}
        """What is put over ``under``; None where what stands there is taken out."""

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None

    def __getitem__(self, key: bytes) -> Value:
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def get(self, key: Any) -> Value | None:
        """What stands under ``key``, None if nothing does."""
        own = self._own
        return own[key] if key in own else self._under.get(key)

    def __setitem__(self, key: bytes, value: Value) -> None:
        self._own[key] = value

    def pop(self, key: bytes) -> Value | None:
        """Take out what stands under ``key``: that, or None."""
        found = self.get(key)
        if key in self._under:
            self._own[key] = None
        else:
            self._own.pop(key, None)
        return found


@attrs.frozen(eq=False)
class Resumption:
    """A store that is taken as verified, its members as seen, and what follows from it."""

    tree: Tree[Record]
    live: tuple[bytes, ...]
    """Members that have not left, in slot order."""
    left: tuple[bytes, ...]
    places: Mapping[bytes, int]
    """Each of ``live`` to its place in there."""
    key_ids: Mapping[bytes, bytes]
    """Member to the key id of its announcement."""
    boot_keys: Mapping[bytes, tuple[bytes, bytes]]
    """Key id to (member, boot key)."""
    sharded: tuple[Announcement, ...]
    """Those that name shards."""

    @classmethod
    def of(cls, store: Store, mesh_id: bytes) -> Resumption:
        """What follows from ``store`` as it is now."""
        everyone = tuple(store.announcements.all())
        live = tuple(each.node for each in everyone if not each.has_left)
        key_ids = {each.node: key_id(mesh_id, each.node, each.boot_key) for each in everyone}
        return cls(
            store.tree,
            live=live,
            left=tuple(each.node for each in everyone if each.has_left),
            places={key: place for place, key in enumerate(live)},
            key_ids=key_ids,
            boot_keys={key_ids[each.node]: (each.node, each.boot_key) for each in everyone},
            sharded=tuple(each for each in everyone if each.shards),
        )
