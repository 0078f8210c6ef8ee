"""A node in the middle of everything: members, candidates, requests that are out, the gone.

Around it are peers whose every datagram the fuzzer writes, with their real keys: what a
stranger cannot do it does as a stranger, and what only a member can, as a member.  After each
input the rules are checked that hold whatever was in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from random import Random
from typing import Any, Final

import attrs

from fuzzing.target import Broken
from protocol import frames, messages
from protocol.address import Endpoint, Prefix, endpoint
from protocol.contacts import Datagram
from protocol.errors import Rejected, SequenceUnavailable
from protocol.frames import Hello, Notice, Stale
from protocol.identity import Authority, BootKey, Identity, Mesh, key_hash
from protocol.messages import (
    Ack,
    Agree,
    AskEvidence,
    Branches,
    Indirect,
    Later,
    Message,
    Nack,
    Objects,
    Offer,
    Probe,
    Pull,
    PullShards,
    Push,
    Reached,
    Scan,
    Shards,
    Slots,
    Subtree,
    Suspect,
    Vouch,
    Walk,
)  # fmt: skip
from protocol.node import Node
from protocol.objects import (
    MAX_SEQUENCE,
    Accusation,
    Announcement,
    Grant,
    Revocation,
    Signed,
    Successor,
)
from protocol.session import Ends, Session
from protocol.shards import cut
from protocol.store import slot_id
from protocol.tuning import Tuning
from simulation.referee import MAX_ANSWERS, MAX_DRAWN
from simulation.traffic import answers, kind_of

PEERS: Final = 4
BEGIN: Final = 1000.0
ME_AT: Final = endpoint("192.0.2.1", 6179)
STRANGERS: Final = tuple(
    endpoint(host, port)
    for host, port in (("198.51.100.7", 4444), ("198.51.100.8", 1), ("2001:db8:9::1", 53))
)
STEPS: Final = (0.0, 0.002, 0.06, 2.5)
"""Seconds that pass before an input: none, a trip, a request's patience, a failure's."""

TUNING: Final = attrs.evolve(
    Tuning.lan(),
    hello_burst=1e9,
    stale_burst=1e9,
    stranger_verify_burst=1e9,
    source_verify_burst=1e9,
    key_verify_burst=1e9,
    member_verify_burst=1e9,
    share_verify_burst=1e9,
    fault_burst=1e9,
    serve_burst=1e9,
)
"""Nothing is refused for being too much: else most inputs would end there."""

MOST: Final = 4096
"""No table holds more (``limits.MAX_SOURCES``, ``tuning.MAX_NONCES``). A state takes more inputs
than that, so a table into which each puts something ends above it."""

_POOL: Final = (Prefix.parse("10.0.0.0/8"), Prefix.parse("fd00::/8"))
_NETS: Final = tuple(Prefix.parse(f"10.77.{each}.0/24") for each in range(200))
SHARDS: Final = cut(_NETS)

_OWN: Final = tuple(Prefix.parse(f"10.78.{each}.0/24") for each in range(40))
"""So many that our HELLO is longer than the others': an answer to one that is not padded shows."""


@attrs.frozen
class Someone:
    """A node other than ours, with its secrets."""

    identity: Identity
    boot: BootKey
    grant: Grant
    announcement: Announcement
    where: Endpoint

    @property
    def key(self) -> bytes:
        return self.identity.public


@attrs.frozen
class Cast:
    """Everybody, made once: keys and signatures are what takes long."""

    mesh: Mesh
    authority: Identity
    aside: Identity
    """Can make another authority."""
    me: Identity
    own_grant: Grant
    peers: tuple[Someone, ...]
    """The last one announces shards."""
    candidate: Someone
    absent: Someone
    """Has a grant, and our node has never heard of it."""
    revoked: Someone

    @property
    def everyone(self) -> tuple[Someone, ...]:
        return (*self.peers, self.candidate, self.absent, self.revoked)


@cache
def cast() -> Cast:
    """Always the same."""
    rng = Random(8)
    authority, following, me = (Identity.generate(rng.randbytes) for _ in range(3))
    mesh = Mesh.founded_by(authority.public, following.public)
    serial = iter(range(1, 100))

    def grant(node: bytes, name: str) -> Grant:
        return Grant.sign(authority, mesh, node=node, name=name, serial=next(serial), allow=_POOL)

    def someone(name: str, number: int) -> Someone:
        identity, boot = Identity.generate(rng.randbytes), BootKey.generate(rng.randbytes)
        where = endpoint(f"192.0.2.{number}", 6179)
        last = name == f"p{PEERS - 1}"
        own = Announcement.sign(
            identity, mesh, sequence=10, boot_key=boot.public, endpoints=[where],
            prefixes=() if last else [Prefix.parse(f"10.9.{number}.0/24")],
            shards=[each.hash for each in SHARDS] if last else (),
        )  # fmt: skip
        return Someone(identity, boot, grant(identity.public, name), own, where)

    peers = tuple(someone(f"p{each}", 10 + each) for each in range(PEERS))
    others = (someone(name, 50 + each) for each, name in enumerate(("cand", "absent", "gone")))
    return Cast(mesh, authority, following, me, grant(me.public, "me"), peers, *others)


class World:
    """The node and its peers, at one moment."""

    def __init__(self) -> None:
        self.cast, self.now = cast(), BEGIN
        self._last = 0
        self.node = Node(
            self.cast.mesh, self.cast.me, [self.cast.own_grant],
            next_sequence=self._sequence, rng=Random(9), now=BEGIN, tuning=TUNING,
        )  # fmt: skip
        self.node.announce(BEGIN, prefixes=_OWN, endpoints=[ME_AT])
        self.node.join([STRANGERS[1]], BEGIN)
        self._sessions: dict[bytes, Session] = {}
        self._sealed_to: bytes = b""
        self.asked: list[tuple[bytes, int]] = []
        """Peer and number of each question and probe that came out of the node, the newest last."""
        self._acks: list[tuple[Someone, int]] = []
        """Probes that the peers have yet to answer: who never does is soon failed."""
        self._heard: dict[Endpoint, int] = {}
        """Address that has proven nothing to what came from it less what went there, in octets."""
        self._proven = {someone.where for someone in self.cast.everyone} | {STRANGERS[1]}
        self._begin()

    def _begin(self) -> None:
        cast = self.cast
        for peer in cast.peers:
            self.give(Hello(cast.mesh.id, True, peer.grant, peer.announcement).encode(), peer.where)
            self.say(peer, Probe(7, bytes(16), bytes(8)))
        candidate = cast.candidate
        hello = Hello(cast.mesh.id, True, candidate.grant, candidate.announcement)
        self.give(hello.encode(), candidate.where)
        gone = Revocation.sign(cast.authority, cast.mesh, node=cast.revoked.key)
        self.say(cast.peers[0], Push((gone,)))
        self.pass_time(0.1)
        if sum(peer.key in self.node.members for peer in cast.peers) != PEERS:
            raise Broken("the peers did not get in")

    def _sequence(self, above: int) -> int:
        if max(above, self._last) >= MAX_SEQUENCE:
            raise SequenceUnavailable("no sequence is left")  # as the daemon's does
        self._last = max(above, self._last) + 1
        return self._last

    # What goes in.

    def give(self, data: bytes, source: Endpoint, *, by: Someone | None = None) -> None:
        """A datagram from ``source``; ``by``: a member has sealed it, which proves where it is."""
        if by is not None:
            self._proven.add(source)
        self.node.receive(data, source, self.now)
        self._judge(self.node.datagrams_to_send(), data, source, by)
        acks, self._acks = self._acks, []
        for peer, nonce in acks:
            if nonce % 8:  # now and then one is lost
                self.say(peer, Ack(nonce, self.node.store.root, self.node.evidence.digest))

    def say(self, peer: Someone, message: Message, source: Endpoint | None = None) -> None:
        self.seal(peer, messages.encode(message), source)

    def seal(self, peer: Someone, body: bytes, source: Endpoint | None = None) -> None:
        """``peer`` seals ``body`` for the node, under its real key."""
        self.give(self._session(peer).seal(body), source or peer.where, by=peer)

    def believe(self, raw: bytes) -> None:
        """Somebody with a right to it has signed ``raw``: he may name any address as his own."""
        try:
            self._proven.update(Announcement.decode(raw).endpoints)
        except Rejected:
            return

    def pass_time(self, seconds: float) -> None:
        """Let the node do what falls due."""
        end = self.now + seconds
        for _ in range(1000):
            if self.node.deadline > end:
                break
            self.now = max(self.now, self.node.deadline)
            self.node.tick(self.now)
            if self.node.deadline <= self.now:
                raise Broken("still due after a tick")
            for each, _ in self._note(self.node.datagrams_to_send()):
                self._count(each.to, 0, len(each.data))
        else:
            raise Broken(f"due a thousand times within {seconds} s")
        self.now = end

    def finish(self) -> None:
        """Check what is checked at the end: that no table has grown with what came."""
        for path, size in tables(self.node):
            if size > MOST:
                raise Broken(f"{path} holds {size}")

    # What comes out.

    def _judge(
        self, drained: list[Datagram], data: bytes, source: Endpoint, by: Someone | None
    ) -> None:
        bodies = self._note(drained)
        for event in self.node.events():
            if not repr(event).isprintable():
                raise Broken(f"an event that a terminal would obey: {event!r}")
        back = [(each.data, body) for each, body in bodies if each.to == source]
        if len(back) > MAX_DRAWN:
            raise Broken(f"{len(back)} datagrams drawn by one")
        replies = sum(answers(kind_of(sent, body), sent, body) for sent, body in back)
        if replies > MAX_ANSWERS:
            raise Broken(f"{replies} answers to one datagram")
        for each, _ in bodies:
            self._count(each.to, len(data) if each.to == source else 0, len(each.data))
        if not back:
            self._count(source, len(data), 0)

    def _count(self, where: Endpoint, came: int, went: int) -> None:
        """So many octets came from ``where``, and so many went there."""
        if where in self._proven:
            return
        balance = self._heard[where] = self._heard.get(where, 0) + came - went
        if balance < 0 or (came and went > came):
            raise Broken("an address that has proven nothing was sent more than came from it")

    def _note(self, drained: Iterable[Datagram]) -> list[tuple[Datagram, bytes]]:
        """Check the form of what the node sent, and read what is for a peer."""
        found = []
        for each in drained:
            if len(each.data) > frames.MAX_DATAGRAM:
                raise Broken(f"a datagram of {len(each.data)} octets")
            body = self._open(each.data) if each.data[1] == frames.SEALED else b""
            found.append((each, body))
        return found

    def _open(self, data: bytes) -> bytes:
        head = frames.decode_sealed(data)
        for peer in self.cast.peers:
            session = self._session(peer)
            if session.key_id == head.recipient:
                try:
                    body = session.open(data, head.counter)
                    message = messages.decode(body)
                except Rejected:
                    return b""  # for a boot key that the fuzzer has announced in its name
                if isinstance(message, Probe):
                    self._acks.append((peer, message.nonce))
                number = getattr(message, "request", getattr(message, "nonce", None))
                if number is not None:
                    self.asked = [*self.asked[-15:], (peer.key, number)]
                return body
        return b""

    def _session(self, peer: Someone) -> Session:
        own = self.node.announcement
        boot = own.boot_key if own is not None else self._sealed_to
        if boot != self._sealed_to:  # at first, and after the node has renewed it
            self._sealed_to = boot
            self._sessions.clear()
        session = self._sessions.get(peer.key)
        if session is None:
            ends = Ends(self.cast.mesh.id, peer.key, peer.boot, self.cast.me.public, boot)
            session = self._sessions[peer.key] = Session(ends, self.now)
        return session


def genuine(world: World) -> list[Message]:
    """A message of every kind, about what there is."""
    cast, store = world.cast, world.node.store
    first, last = cast.peers[0], cast.peers[-1]
    slots = tuple(slot_id(kind, each.key) for each in cast.everyone for kind in (1, 3))
    root = store.root
    accused = Accusation.sign(
        first.identity, cast.mesh, target=cast.peers[1].key, sequence=10, refused=False
    )
    news = (cast.absent.grant, cast.absent.announcement)
    kept = {slot_id(each.KIND, each.node): each.hash for each in news}
    return [
        Probe(1, root, bytes(8)), Probe(2, bytes(16), bytes(8)), Ack(1, root, bytes(8)),
        Ack(1, root, bytes(8), STRANGERS[0]), Indirect(3, slots[3]), Reached(3), Nack(3),
        Suspect(slots[3], 10), Push(news), Push((accused,)), Push((last.announcement,)),
        Offer(tuple((slot, b"\x01" * 8) for slot in slots[:9])), Pull(4, slots),
        Objects(4, False, tuple((each, True) for each in news)), Objects(4, True, ()),
        Walk(5, b"", bytes(16)), Walk(5, b"\x03", root), Subtree(5, b"", None),
        Subtree(5, b"", Later()), Subtree(5, b"", Slots(kept)),
        Subtree(5, b"", Branches(tuple(bytes([each]) * 16 for each in range(16)))),
        Vouch(6, False, root), Vouch(6, True, root, 0b1011, 5), AskEvidence(7, ()),
        AskEvidence(7, (b"\x02" * 8,)), Scan(8, b"", slots[0]), Agree(True, root, 0b11111, 5),
        Agree(False, root, 0, 0), PullShards(9, tuple(each.hash for each in SHARDS)),
        Shards(9, tuple(each.raw for each in SHARDS[:1])),
    ]  # fmt: skip


def hellos(world: World) -> list[bytes]:
    """HELLOs of everybody, old and new, that ask and that answer."""
    cast, own = world.cast, world.node.announcement
    assert own is not None
    pairs = [(each.grant, each.announcement) for each in cast.everyone]
    pairs.append((cast.own_grant, own))
    for sequence in (9, 11):
        for each in (*cast.peers[:2], cast.candidate):
            pairs.append((each.grant, successor(each, cast.mesh, sequence)))
    return [Hello(cast.mesh.id, asks, *pair).encode() for pair in pairs for asks in (True, False)]


def successor(someone: Someone, mesh: Mesh, sequence: int) -> Announcement:
    """Another announcement of ``someone``."""
    held = someone.announcement
    return Announcement.sign(
        someone.identity, mesh, sequence=sequence, boot_key=held.boot_key,
        endpoints=held.endpoints, prefixes=held.prefixes, shards=held.shards,
    )  # fmt: skip


def handed_on(cast: Cast) -> list[Successor]:
    """Successors that wait for somebody, and that wait for nobody."""
    made = Authority(1, cast.candidate.key, key_hash(cast.absent.key))
    return [
        Successor.sign(cast.aside, cast.mesh, made=made, serial=serial, members=members)
        for serial, members in ((50, [each.key for each in cast.peers]), (51, []))
    ]


def notices(cast: Cast) -> list[bytes]:
    """What authorities say of whom, in the clear."""
    gone = Revocation.sign(cast.authority, cast.mesh, node=cast.absent.key)
    words: list[Revocation | Successor] = [gone, *handed_on(cast)]
    return [Notice(cast.mesh.id, word).encode() for word in words]


def stales(world: World) -> list[bytes]:
    """For the last datagram that the node sealed for each peer, and for others."""
    last = world.node._contacts._last
    found = []
    for peer in world.cast.peers:
        name = world._session(peer).key_id
        found += [Stale(name, counter).encode() for counter in (last[peer.key][0], 1)]
    return found


def signed(someone: Someone, kind: type[Signed], body: bytes, cast: Cast) -> bytes:
    """An envelope around ``body`` whose signature is right."""
    signer = someone.identity if kind in (Announcement, Accusation) else cast.authority
    if kind is Successor:
        signer = cast.aside
    domain = b"meshd/1 " + kind.DOMAIN.encode() + b"\0"
    return bytes([kind.KIND]) + signer.sign(domain + cast.mesh.id + body) + body


def tables(root: object) -> Iterator[tuple[str, int]]:
    """Every dict, list, set and queue that ``root`` is made of, by name, with its size."""
    seen: set[int] = set()
    waiting: deque[tuple[str, Any]] = deque([("node", root)])
    while waiting:
        path, found = waiting.popleft()
        if id(found) in seen or isinstance(found, str | bytes | int | float | type(None)):
            continue
        seen.add(id(found))
        if isinstance(found, dict | list | set | frozenset | deque | tuple):
            yield path, len(found)
            inner = found.values() if isinstance(found, dict) else found
            waiting += ((f"{path}[]", each) for each in inner)
        elif type(found).__module__.partition(".")[0] == "protocol":
            names = [*getattr(found, "__dict__", ())]
            for one in type(found).__mro__:
                names += getattr(one, "__slots__", ())
            for name in names:
                if name != "__weakref__":
                    waiting.append((f"{path}.{name}", getattr(found, name, None)))
