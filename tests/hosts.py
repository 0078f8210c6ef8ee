"""Hosts as directories, and a clock: what founding and the authority do without any network."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import attrs

from meshd import founding, values
from meshd.authority import office
from meshd.authority.office import Book
from meshd.authority.terms import GrantTerms
from meshd.invitation import Invitation
from meshd.paths import Paths
from meshd.startup import Additions, RunOptions, prepare
from meshd.state import AUTHORITY_KEY, StateDirectory
from meshd.world import World
from protocol.identity import Identity, Mesh
from protocol.objects import Announcement

NOW = 1_800_000_000.0
HOUR = 3600
A, B = map(values.prefix, ("10.1.0.0/24", "10.2.0.0/24"))
ADVERTISED = (values.advertised("192.0.2.1"),)


@attrs.define
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@attrs.define
class Hosts:
    """Two hosts and a clock; ``a`` is where the mesh is made."""

    a: Paths
    b: Paths
    clock: Clock
    world: World

    @classmethod
    def under(cls, root: Path) -> Hosts:
        clock = Clock()
        world = World(clock, Random(1).randbytes)
        return cls(Paths.under(root / "a"), Paths.under(root / "b"), clock, world)

    def init(self, **options: Any) -> None:
        given = {"name": "a", "announce": [A], "advertise": ADVERTISED} | options
        founding.init(self.a, self.world, **given)

    def invited(
        self, name: str = "b", valid: int = HOUR, file: Path | None = None, **terms: Any
    ) -> Invitation:
        with office.held(self.a, self.world, file) as holder:
            seeds = office.seeds_for_token(self.a, holder.config, ())
            return holder.invite(name=name, valid=valid, terms=GrantTerms(**terms), seeds=seeds)

    def invite(self, name: str = "b", valid: int = HOUR, **terms: Any) -> str:
        return self.invited(name, valid, **terms).encode()

    def grant(self, node: bytes, name: str = "b", valid: int = HOUR, **terms: Any) -> Invitation:
        with office.held(self.a, self.world) as holder:
            seeds = [values.seed("192.0.2.1")]
            given = GrantTerms(**terms)
            return holder.grant(node, name=name, valid=valid, terms=given, seeds=seeds)

    def join(self, token: str, **options: Any) -> None:
        founding.join(self.b, self.world, token, **({"announce": [B]} | options))

    def book(self) -> Book:
        return office.open_book(self.a, self.world, self.a.state)

    def state_of(self, name: str) -> str:
        (found,) = [each for each in self.book().standings if each.name == name]
        return found.state

    def authority(self) -> Identity:
        return StateDirectory(self.a.state).read_key(AUTHORITY_KEY)

    def snapshot(self, *objects: bytes) -> None:
        StateDirectory(self.a.state).write_snapshot(objects)

    def announced(self, node: Identity) -> bytes:
        return announcement(node, self.book().mesh).raw


def announcement(node: Identity, mesh: Mesh) -> Announcement:
    boot = bytes([3]) + bytes(31)
    return Announcement.sign(node, mesh, sequence=1, boot_key=boot, endpoints=(), prefixes=())


def start(paths: Paths, clock: Clock, **additions: Any) -> RunOptions:
    """What ``meshd run`` finds in ``paths``, or its ``UsageError``."""
    options = prepare(paths, Additions(**additions), "text", clock)
    options.lock.release()
    return options


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))
