"""The parts of one node without the node: what they send is listed, and time is a number."""

from __future__ import annotations

import hashlib
from functools import cache
from random import Random

import attrs

from protocol.address import Prefix
from protocol.identity import Identity, Mesh
from protocol.members import Common
from protocol.messages import Message
from protocol.objects import Announcement, Grant, Record
from protocol.resumption import Resumption
from protocol.store import Outcome, Store
from protocol.tuning import Tuning

MAKER, NEXT = (Identity.from_secret(hashlib.sha256(name).digest()) for name in (b"m", b"n"))
MESH = Mesh.founded_by(MAKER.public, NEXT.public)
POOL = [Prefix.parse("10.0.0.0/8")]


@cache
def node(number: int) -> Identity:
    return Identity.from_secret(hashlib.sha256(b"node %d" % number).digest())


@cache
def grant(number: int, serial: int = 1) -> Grant:
    return Grant.sign(MAKER, MESH, node=node(number).public, name="x", serial=serial, allow=POOL)


@cache
def announcement(number: int, sequence: int = 1, *, left: bool = False) -> Announcement:
    return Announcement.sign(
        node(number),
        MESH,
        sequence=sequence,
        boot_key=hashlib.sha256(b"boot %d" % number).digest()[:31] + b"\x11",
        state=int(left),
        endpoints=(),
        prefixes=(),
    )


@cache
def mesh_store(number: int) -> Store:
    """The store of nodes 0 to ``number`` - 1; not to be changed."""
    store = Store()
    for each in range(number):
        store.merge(grant(each))
        store.merge(announcement(each))
    return store


@cache
def mesh_resumption(number: int) -> Resumption:
    """What follows from ``mesh_store(number)``."""
    return Resumption.of(mesh_store(number), MESH.id)


@attrs.define(eq=False)
class Parts:
    """What the parts of node ``me`` share in a mesh of ``size``, all of them live."""

    size: int
    me: int = 0
    seed: int = 1
    now: float = 1000.0
    sent: list[tuple[bytes, Message]] = attrs.field(factory=list)
    common: Common = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.common = Common(node(self.me), MESH, Tuning.lan(), Random(self.seed))
        self.common.store.tree = mesh_store(self.size).tree
        self.common.members.resume(mesh_resumption(self.size), node(self.me).public)

    def send(self, peer: bytes, message: Message, now: float) -> bool:
        self.sent.append((peer, message))
        return True

    def take(self) -> list[tuple[bytes, Message]]:
        """What was sent since the last call."""
        taken, self.sent = self.sent, []
        return taken

    def wait(self, seconds: float) -> None:
        end, timers = self.now + seconds, self.common.timers
        while timers.deadline <= end:
            self.now = max(self.now, timers.deadline)
            timers.run(self.now)
        self.now = end

    def hold(self, *records: Record) -> list[Record]:
        """Merge into the store; those that were new."""
        return [each for each in records if self.common.store.merge(each) is Outcome.NEW]
