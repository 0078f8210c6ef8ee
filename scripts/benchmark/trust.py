"""What trust costs: signatures and seals, beside the library's own primitives in the same run.

The floors are ``cryptography``'s calls and msgpack's, with keys loaded and nothing else done:
what stands above them is what meshd adds.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any, Final

import attrs
import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from benchmark.report import Figure, Report
from protocol import messages
from protocol.address import Prefix, endpoint
from protocol.frames import MAX_BODY, Hello, pack_sealed_head
from protocol.identity import BootKey, Identity, Mesh
from protocol.messages import Probe
from protocol.node import Node
from protocol.objects import Announcement, Grant, Record, Signed, decode
from protocol.session import Ends, Session

NAME: Final = "trust"
HELP: Final = "seals, signatures, HELLO and a cold store, beside the library's own primitives"

Say = Callable[[str], None]

_POOL: Final = (Prefix.parse("10.0.0.0/8"),)
_BEGIN: Final = 1000.0
_PORTIONS: Final = 50
"""In how many portions a run of small things is timed: of 1,000 each has 20."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes."""
    add = parser.add_argument
    add(
        "--nodes", nargs="+", type=int, default=[1000, 5000], metavar="N",
        help="sizes of the store that is verified cold (default: 1000 5000)",
    )  # fmt: skip
    add(
        "--repeats", type=int, default=1000, metavar="R",
        help="how often each small thing is done in a run (default: 1000)",
    )  # fmt: skip


def run(options: argparse.Namespace, say: Say) -> Report:
    """Every figure once a run, each right behind its floor."""
    stage = Stage()
    smalls = _smalls(stage)
    stores = {size: _store(stage, size) for size in options.nodes}
    values: dict[str, list[float]] = {}
    floors: dict[str, str] = {}
    units: dict[str, str] = {}
    for number in range(options.runs):
        for each in smalls:
            say(f"run {number + 1} of {options.runs}: {each.what}")
            inputs = each.prepare(options.repeats)
            with _undisturbed():
                seconds = _typical(each.once, inputs)
            values.setdefault(each.what, []).append(seconds * 1e6)
            floors[each.what], units[each.what] = each.floor, "us"
        for size, records in stores.items():
            say(f"run {number + 1} of {options.runs}: a store of {size:,} nodes")
            raw, cold = f"{2 * size:,} raw verifies", f"start from a store of {size:,} nodes"
            for what, seconds in ((raw, _raw(stage, records)), (cold, _cold(stage, records))):
                values.setdefault(what, []).append(seconds)
                floors[what], units[what] = raw if what == cold else "", "s"
    figures = [
        Figure(what, units[what], tuple(found), floors[what]) for what, found in values.items()
    ]
    settings = {"runs": options.runs, "nodes": options.nodes, "repeats": options.repeats}
    return Report(NAME, tuple(figures), settings)


@attrs.frozen
class Small:
    """Something that takes microseconds."""

    what: str
    floor: str
    prepare: Callable[[int], Sequence[Any]]
    """So many inputs."""
    once: Callable[[Any], object]


@contextmanager
def _undisturbed() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _time(once: Callable[[Any], object], inputs: Sequence[Any]) -> float:
    began = time.perf_counter()
    for each in inputs:
        once(each)
    return time.perf_counter() - began


def _typical(once: Callable[[Any], object], inputs: Sequence[Any]) -> float:
    """Seconds of one: the median of portions, so that what else the machine did does not count."""
    size = max(1, len(inputs) // _PORTIONS)
    portions = [inputs[at : at + size] for at in range(0, len(inputs), size)]
    return statistics.median(_time(once, each) / len(each) for each in portions)


class Stage:
    """A mesh's keys, a node and a peer of it."""

    def __init__(self) -> None:
        self.rng = Random(6)
        self.authority, following, self.me, self.peer = (self.identity() for _ in range(4))
        self.mesh = Mesh.founded_by(self.authority.public, following.public)
        self.boots = [BootKey.generate(self.rng.randbytes) for _ in range(2)]
        self._serial = 0

    def identity(self) -> Identity:
        return Identity.generate(self.rng.randbytes)

    def member(self, identity: Identity) -> tuple[Grant, Announcement]:
        """Its grant and its announcement, of one prefix."""
        self._serial += 1
        number = self._serial
        grant = Grant.sign(
            self.authority, self.mesh, node=identity.public, name=f"n{number}", serial=number,
            allow=_POOL,
        )  # fmt: skip
        own = Announcement.sign(
            identity, self.mesh, sequence=1_700_000_000_000 + number,
            boot_key=BootKey.generate(self.rng.randbytes).public,
            endpoints=[endpoint(f"192.0.{number >> 8 & 255}.{number & 255 or 1}", 6179)],
            prefixes=[Prefix.parse(f"10.{number >> 8 & 255}.{number & 255}.0/24")],
        )  # fmt: skip
        return grant, own

    def ends(self) -> tuple[Session, Session]:
        """Both ends of a new channel."""
        a, b = self.boots
        here, there = self.me.public, self.peer.public
        return (
            Session(Ends(self.mesh.id, here, a, there, b.public), _BEGIN),
            Session(Ends(self.mesh.id, there, b, here, a.public), _BEGIN),
        )

    def node(self, records: Sequence[Record] = ()) -> Node:
        """One that has announced itself, and remembers ``records``."""
        grant, _ = self.member(self.me)
        node = Node(
            self.mesh, self.me, [grant, *records], next_sequence=lambda above: above + 1,
            rng=Random(7), now=_BEGIN,
        )  # fmt: skip
        node.announce(_BEGIN, prefixes=[], endpoints=[endpoint("192.0.2.1", 6179)])
        return node


def _smalls(stage: Stage) -> list[Small]:
    cipher = ChaCha20Poly1305(bytes(32))
    probe = messages.encode(Probe(1, bytes(16), bytes(8)))
    full = bytes(MAX_BODY)
    found = []
    for name, body in (("a PROBE", probe), ("1,158 octets", full)):
        nonce, head = bytes(12), pack_sealed_head(bytes(8), bytes(8), 1)
        closed = cipher.encrypt(nonce, body, head)
        raw_seal, raw_open = f"raw ChaCha20-Poly1305, {name}", f"raw opening, {name}"

        def seal(
            each: object, body: bytes = body, nonce: bytes = nonce, head: bytes = head
        ) -> bytes:
            return cipher.encrypt(nonce, body, head)

        def unseal(
            each: object, closed: bytes = closed, nonce: bytes = nonce, head: bytes = head
        ) -> bytes:
            return cipher.decrypt(nonce, closed, head)

        found += [
            Small(raw_seal, "", range, seal),
            Small(f"seal {name}", raw_seal, *_sealing(stage, body)),
            Small(raw_open, "", range, unseal),
            Small(f"open {name}", raw_open, *_opening(stage, body)),
        ]
    return found + _signatures(stage) + _decoding(stage) + _handling(stage)


def _sealing(
    stage: Stage, body: bytes
) -> tuple[Callable[[int], Sequence[Any]], Callable[[Any], object]]:
    return lambda count: [stage.ends()[0]] * count, lambda session: session.seal(body)


def _opening(
    stage: Stage, body: bytes
) -> tuple[Callable[[int], Sequence[Any]], Callable[[Any], object]]:
    def prepare(count: int) -> list[tuple[Session, bytes, int]]:
        here, there = stage.ends()
        return [(there, here.seal(body), here.sent) for _ in range(count)]

    return prepare, lambda given: given[0].open(given[1], given[2])


def _signatures(stage: Stage) -> list[Small]:
    """Each of another key, as they come: the same one again is quicker by what caches hold."""
    raw = "raw Ed25519 verify"

    def own(count: int) -> list[Announcement]:
        return [stage.member(stage.identity())[1] for _ in range(count)]

    return [
        Small(
            raw,
            "",
            lambda count: [RawCheck.of(each, stage.mesh) for each in own(count)],
            lambda check: check(),
        ),
        Small("verify an announcement", raw, own, lambda each: each.verify(stage.mesh)),
    ]


@attrs.frozen
class RawCheck:
    """The library's own verify, and nothing else."""

    key: Ed25519PublicKey
    signature: bytes
    message: bytes

    @classmethod
    def of(cls, signed: Signed, mesh: Mesh) -> RawCheck:
        message = b"meshd/1 " + signed.DOMAIN.encode() + b"\0" + mesh.id + signed.body
        signer = signed.signer(mesh)
        assert signer is not None
        return cls(Ed25519PublicKey.from_public_bytes(signer), signed.raw[1:65], message)

    def __call__(self) -> None:
        self.key.verify(self.signature, self.message)


def _decoding(stage: Stage) -> list[Small]:
    found = []
    for name, signed in zip(("a grant", "an announcement"), stage.member(stage.peer), strict=True):
        body, whole, raw = signed.body, signed.raw, f"raw msgpack, {name}"
        found += [
            Small(raw, "", lambda count, body=body: [body] * count, msgpack.unpackb),  # type: ignore[misc]
            Small(f"decode {name}", raw, lambda count, whole=whole: [whole] * count, decode),  # type: ignore[misc]
        ]
    return found


def _handling(stage: Stage) -> list[Small]:
    """Whole datagrams into a node, from its socket to what it answers."""

    def feed(given: tuple[Node, bytes, int]) -> None:
        node, data, number = given
        where = endpoint(f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", 4000)
        node.receive(data, where, _BEGIN + number / 100)  # below the rate at which it checks
        node.datagrams_to_send()

    def known(count: int) -> list[tuple[Node, bytes, int]]:
        node, hello = stage.node(), Hello(stage.mesh.id, True, *stage.member(stage.peer)).encode()
        feed((node, hello, 0))
        return [(node, hello, number) for number in range(1, count + 1)]

    def newcomers(count: int) -> list[tuple[Node, bytes, int]]:
        node = stage.node()
        pairs = (stage.member(stage.identity()) for _ in range(count))
        hellos = (Hello(stage.mesh.id, True, *pair).encode() for pair in pairs)
        return [(node, hello, number) for number, hello in enumerate(hellos)]

    def forged(count: int) -> list[tuple[Node, bytes, int]]:
        made = newcomers(count)
        return [(node, _spoilt(hello), number) for node, hello, number in made]

    def flood(count: int) -> list[tuple[Node, bytes, int]]:
        """All from one address, which has had all its checks."""
        made = forged(count + 200)
        for node, hello, _ in made[:200]:
            feed((node, hello, 0))
        return [(node, hello, 0) for node, hello, _ in made[200:]]

    def random(count: int) -> list[tuple[Node, bytes, int]]:
        node = stage.node()
        return [(node, stage.rng.randbytes(1200), number) for number in range(count)]

    def unknown(count: int) -> list[tuple[Node, bytes, int]]:
        node, sealed = stage.node(), bytes([1, 2]) + stage.rng.randbytes(100)
        return [(node, sealed, number) for number in range(count)]

    raw = "raw Ed25519 verify"
    return [
        Small("HELLO of a known node, answered", raw, known, feed),
        Small("HELLO of a newcomer, answered: two signatures", raw, newcomers, feed),
        Small("HELLO with a wrong signature", raw, forged, feed),
        Small("HELLO from an address beyond its rate", raw, flood, feed),
        Small("SEALED for a key id that nobody has, answered STALE", raw, unknown, feed),
        Small("1,200 random octets", raw, random, feed),
    ]


def _spoilt(hello: bytes) -> bytes:
    """With one bit of the grant's signature changed."""
    return hello[:30] + bytes([hello[30] ^ 1]) + hello[31:]


def _store(stage: Stage, size: int) -> list[Record]:
    return [record for _ in range(size) for record in stage.member(stage.identity())]


def _raw(stage: Stage, records: Sequence[Record]) -> float:
    checks = [RawCheck.of(record, stage.mesh) for record in records]
    with _undisturbed():
        return _time(lambda check: check(), checks)


def _cold(stage: Stage, records: Sequence[Record]) -> float:
    """As the daemon starts from its snapshot: octets in, a node with members out."""
    raw = [record.raw for record in records]

    def start(given: Sequence[bytes]) -> None:
        found = [each for each in map(decode, given) if isinstance(each, Record)]
        node = stage.node(found)
        assert len(node.store.announcements) == len(records) // 2 + 1

    with _undisturbed():
        return _time(start, [raw])
