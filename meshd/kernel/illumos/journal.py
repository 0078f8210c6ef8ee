"""What is ours, written down before it is done: this kernel keeps no owner for most of it.

One small file in the state directory, replaced whole (temporary file, fsync, rename).  It names
what may be ours, so that after a crash at any point nothing of ours is forgotten; whether it is
there the kernel says, and of a route also ``-proto1``.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import attrs

from meshd.errors import StateError
from meshd.files import replace_file
from meshd.kernel.illumos.nat import Map, parse
from protocol.address import Address, Prefix

NAME: Final = "illumos.json"

Way = tuple[Prefix, Address]
"""What this kernel knows a route by: where to, and by which gateway."""


@attrs.frozen
class Leading:
    """The rest of a route of ours."""

    device: str
    source: Address | None


@attrs.define(eq=False)
class Journal:
    """The file and what it says. ``save`` writes it if it says something else now."""

    path: Path | None
    """None: kept in memory only."""
    ways: dict[Way, Leading] = attrs.field(factory=dict)
    rejects: set[Prefix] = attrs.field(factory=set)
    """Prefixes for which a ``-reject`` route is ours."""
    guards: set[Prefix] = attrs.field(factory=set)
    """Those that must not fall through to a shorter route."""
    local: set[Prefix] = attrs.field(factory=set)
    mesh: set[Prefix] = attrs.field(factory=set)
    """The sets of the exclusion, as far as the kernel does not hold them itself."""
    entries: set[Prefix] = attrs.field(factory=set)
    """Entries of the pool that we made, and not somebody else."""
    lines: set[Map] = attrs.field(factory=set)
    """Lines of ipnat that we made."""
    form: str = ""
    """How it is kept (``nat``: ippool, ipnat); empty: not at all."""
    interface: str = ""
    """Where was translated last; it counts while no default route says it."""
    made_pool: bool = False
    unreferred: int = 0
    """References of our pool as they were told when no rule could have one: it counts itself, and
    it may count who asks. 0: not known."""
    made_files: set[str] = attrs.field(factory=set)
    """Files that were not there before us."""
    tells_proto1: bool | None = None
    """Whether this kernel tells PROTO1 of a route that was made with it; None: not known yet."""
    _written: str = ""

    @classmethod
    def load(cls, path: Path | None) -> Journal:
        """``StateError`` when there is a file that cannot be read."""
        journal = cls(path)
        if path is None or not path.exists():
            return journal
        try:
            text = path.read_text(encoding="utf-8")
            journal._take(json.loads(text))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(
                f"{path} is damaged ({error}): it says which routes and exclusions are ours;"
                " restore it, or remove it and what `route` and `ippool` show of the mesh by hand"
            ) from None
        journal._written = text
        return journal

    def save(self) -> None:
        """``StateError`` when it cannot be written; then nothing may be done."""
        text = json.dumps(self._told(), indent=1)
        if text == self._written:
            return
        if self.path is not None:
            replace_file(self.path, text.encode(), 0o600)
        self._written = text

    def _told(self) -> dict[str, Any]:
        ways = sorted(self.ways.items(), key=lambda item: (item[0][0], str(item[0][1])))
        return {
            "routes": [
                [str(prefix), str(gateway), to.device, str(to.source) if to.source else None]
                for (prefix, gateway), to in ways
            ],
            "rejects": _texts(self.rejects),
            "guards": _texts(self.guards),
            "local": _texts(self.local),
            "mesh": _texts(self.mesh),
            "entries": _texts(self.entries),
            "lines": sorted(map(str, self.lines)),
            "form": self.form,
            "interface": self.interface,
            "made_pool": self.made_pool,
            "unreferred": self.unreferred,
            "made_files": sorted(self.made_files),
            "tells_proto1": self.tells_proto1,
        }

    def _take(self, told: dict[str, Any]) -> None:
        for prefix, gateway, device, source in told["routes"]:
            where = ipaddress.ip_address(source) if source else None
            way = (Prefix.parse(prefix), ipaddress.ip_address(gateway))
            self.ways[way] = Leading(str(device), where)
        for name in ("rejects", "guards", "local", "mesh", "entries"):
            setattr(self, name, {Prefix.parse(text) for text in told[name]})
        self.lines = {line for text in told["lines"] if (line := parse(text)) is not None}
        self.form, self.made_pool = str(told["form"]), bool(told["made_pool"])
        self.interface, self.unreferred = str(told["interface"]), int(told["unreferred"])
        self.made_files = set(map(str, told["made_files"]))
        self.tells_proto1 = told["tells_proto1"]


def _texts(prefixes: Iterable[Prefix]) -> list[str]:
    return [str(prefix) for prefix in sorted(prefixes)]
