"""Datagrams into a node: as strangers send them, as members seal them, and rightly signed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, Final

from fuzzing.target import Feed, Target
from fuzzing.world import (
    PEERS,
    STEPS,
    STRANGERS,
    Someone,
    World,
    cast,
    genuine,
    handed_on,
    hellos,
    notices,
    signed,
    stales,
    successor,
)  # fmt: skip
from protocol import codec, frames, messages
from protocol.address import Endpoint
from protocol.objects import Accusation, Announcement, Grant, Revocation, Successor

_KINDS: Final = (Grant, Revocation, Announcement, Accusation, Successor)

_LIFE: Final = 6000
"""Inputs that one node takes: more than ``world.MOST``, so that a table that keeps something of
each is found. With right signatures 600: after that little is left of what its peers once were."""


def _opening(
    take: Callable[[World, int, bytes], None],
) -> Callable[[], AbstractContextManager[Feed]]:
    """How a state is made for a target whose inputs begin with an octet that says how."""

    @contextmanager
    def opened() -> Iterator[Feed]:
        world = World()

        def feed(data: bytes) -> None:
            if data:
                world.pass_time(STEPS[data[0] >> 6])
                take(world, data[0] & 63, data[1:])

        yield feed
        world.finish()

    return opened


def _source(how: int) -> Endpoint:
    """Some stranger, or where a peer is."""
    places = (*STRANGERS, cast().peers[0].where)
    return places[how % len(places)]


def _frames(world: World, how: int, data: bytes) -> None:
    by = world.cast.peers[0] if data in _sealed_frames() else None
    world.give(data, _source(how), by=by)


def _sealed(world: World, how: int, body: bytes) -> None:
    """Bits 0 to 1: who seals; bit 2: from elsewhere; bit 3: as an answer to the last question."""
    peer = world.cast.peers[how % PEERS]
    if how & 8 and world.asked:
        key, number = world.asked[-1 - (how >> 4) % len(world.asked)]
        peer = next(each for each in world.cast.peers if each.key == key)
        body = body[:1] + number.to_bytes(4, "big") + body[5:]
    if 0 < len(body) <= frames.MAX_BODY:
        world.seal(peer, body, STRANGERS[0] if how & 4 else None)


def _signed(world: World, how: int, content: bytes) -> None:
    """A kind and a body, signed. Bits 0 to 2: whose; 3 to 4: in a HELLO that asks or does not, in
    a PUSH, or as an answer."""
    everyone = (*world.cast.everyone, _ourselves(world))
    someone = everyone[how & 7]
    if not content:
        return
    raw = signed(someone, _KINDS[content[0] % len(_KINDS)], content[1:], world.cast)
    world.believe(raw)
    sealer = world.cast.peers[how % PEERS]
    match how >> 3 & 3:
        case 2:
            sized = len(raw).to_bytes(2, "big") + raw
            body = bytes([messages.Push.TYPE]) + sized
        case 3:
            number = world.asked[-1][1] if world.asked else 0
            sized = (len(raw) | 0x8000).to_bytes(2, "big") + raw
            body = bytes([messages.Objects.TYPE]) + number.to_bytes(4, "big") + b"\0" + sized
        case asks:
            grant = someone.grant.raw
            known = how >> 7  # of one authority, or of another too
            head = bytes([frames.VERSION, frames.HELLO]) + world.cast.mesh.id + bytes([asks, known])
            sizes = len(grant).to_bytes(2, "big") + len(raw).to_bytes(2, "big")
            hello = head + sizes + grant + raw
            world.give(hello.ljust(1200, b"\0") if asks else hello, _source(how >> 5))
            return
    if len(body) <= frames.MAX_BODY:
        world.seal(sealer, body)


def _ourselves(world: World) -> Someone:
    """Our own node, as another host that has its key."""
    cast, own, other = world.cast, world.node.announcement, world.cast.absent
    assert own is not None or world.node.grant is None
    return Someone(cast.me, other.boot, cast.own_grant, own or other.announcement, other.where)


def _each(inputs: Sequence[bytes], hows: Sequence[int]) -> list[bytes]:
    """Every input, said in each of these ways."""
    return [bytes([how]) + data for data in inputs for how in hows]


@cache
def _sealed_frames() -> dict[bytes, None]:
    """Datagrams that a member has really sealed: from wherever they come, once they open. Boot keys
    are the same in every world."""
    world = World()
    return {
        world._session(peer).seal(messages.encode(message)): None
        for peer in world.cast.peers[:2]
        for message in genuine(world)
    }


def _frame_seeds() -> list[bytes]:
    world = World()
    inputs = [*hellos(world), *stales(world), *notices(world.cast), *_sealed_frames()]
    return _each(inputs, (0, 1, 2, 3, 0x40, 0x83))


def _sealed_seeds() -> list[bytes]:
    bodies = [messages.encode(message) for message in genuine(World())]
    return _each(bodies, (0, 1, 3, 4, 8, 24, 0x42, 0x48, 0x81, 0xC0))


def _signed_seeds() -> list[bytes]:
    world = World()
    cast = world.cast
    found = [
        successor(cast.peers[number], cast.mesh, sequence)
        for number in (0, PEERS - 1)
        for sequence in (10, 11, 2**63 - 1)
    ]
    departed = Announcement.sign(
        cast.peers[1].identity, cast.mesh, sequence=12, boot_key=cast.peers[1].boot.public,
        endpoints=[], prefixes=[], state=1,
    )  # fmt: skip
    accused = Accusation.sign(
        cast.peers[0].identity, cast.mesh, target=cast.peers[1].key, sequence=10, refused=True
    )
    renewed = Grant.sign(
        cast.authority, cast.mesh, node=cast.peers[2].key, name="p2", serial=99, allow=()
    )
    revoked = Revocation.sign(cast.authority, cast.mesh, node=cast.candidate.key)
    own = world.node.announcement
    assert own is not None
    others = [departed, accused, renewed, revoked, own, cast.candidate.announcement]
    objects = [*found, *others, *handed_on(cast)]
    inputs = [
        bytes([_KINDS.index(type(each))]) + body
        for each in objects
        for body in (each.body, *_with_other_fields(each.body))
    ]
    return _each(inputs, (0, 1, 4, 7, 8, 12, 16, 17, 24, 28, 0x40, 0x97))


def _with_other_fields(body: bytes) -> Iterator[bytes]:
    """``body`` with one field at a time replaced: its form is right, and what it says is not."""
    fields = codec.unpack(body)
    numbers = (0, 1, 255, 2**63 - 1, 2**63, 2**64 - 1)
    others: tuple[Any, ...] = (*numbers, b"", bytes(32), b"\x20" * 9, "", "x", [], [b""])
    for at, other in itertools.product(range(len(fields)), others):
        if type(other) is type(fields[at]) and other != fields[at]:
            yield codec.pack([*fields[:at], other, *fields[at + 1 :]])


TARGETS: Final = (
    Target(
        "frames", "HELLO, SEALED, STALE and NOTICE from anywhere, into a node with members",
        _opening(_frames), _frame_seeds, _LIFE,
    ),
    Target(
        "sealed", "what members seal: any message, and answers to what the node asked",
        _opening(_sealed), _sealed_seeds, _LIFE,
    ),
    Target(
        "signed", "objects with right signatures by members, the authority and a clone",
        _opening(_signed), _signed_seeds, 600,
    ),
)  # fmt: skip
