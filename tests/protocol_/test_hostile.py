"""What strangers and members may send: nothing is raised, and nothing changes but a counter."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from random import Random

import attrs
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from protocol import frames, messages
from protocol.address import Endpoint, Prefix
from protocol.errors import Rejected
from protocol.frames import Hello, Stale
from protocol.identity import BootKey, Identity, Mesh
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
    Push,
    Reached,
    Scan,
    Slots,
    Subtree,
    Suspect,
    Vouch,
    Walk,
)
from protocol.node import Node
from protocol.objects import ALIVE, LEFT, Accusation, Announcement, Grant, Record
from protocol.session import Ends, Session
from protocol.store import slot_id, slot_of
from protocol.tuning import Tuning

POOL = [Prefix.parse("10.0.0.0/8")]
STRANGER = Endpoint("198.51.100.7", 4444)
NODE_AT, PEER_AT = Endpoint("192.0.2.1", 6179), Endpoint("192.0.2.2", 6179)


@attrs.define(eq=False)
class Pair:
    """A node, and a member whose every datagram the test writes by hand."""

    node: Node
    mesh: Mesh
    me: Identity
    peer: Identity
    boot: BootKey
    announcement: Announcement
    session: Session
    absent: tuple[Grant, Announcement]
    """Of a third member, that the node has never heard of."""
    now: float = 1000.0

    def say(self, message: Message) -> list[Message]:
        return self.send(messages.encode(message))

    def send(self, body: bytes) -> list[Message]:
        """Seal ``body`` for the node; what it answers, at once and by itself."""
        self.node.receive(self.session.seal(body), PEER_AT, self.now)
        return self.heard()

    def wait(self, seconds: float) -> list[Message]:
        end, heard = self.now + seconds, []
        while self.node.deadline <= end:
            self.now = max(self.now, self.node.deadline)
            self.node.tick(self.now)
            heard += self.heard()
        self.now = end
        return heard

    def heard(self) -> list[Message]:
        found = []
        for datagram in self.node.datagrams_to_send():
            if frames.frame_type(datagram.data) == frames.SEALED:
                counter = frames.decode_sealed(datagram.data).counter
                found.append(messages.decode(self.session.open(datagram.data, counter)))
        return found


def pair(seed: int = 1) -> Pair:
    rng = Random(seed)
    maker, following, me, peer, third = (Identity.generate(rng.randbytes) for _ in range(5))
    mesh = Mesh.founded_by(maker.public, following.public)
    grants = [
        Grant.sign(maker, mesh, node=each.public, name=name, serial=serial, allow=POOL)
        for serial, (each, name) in enumerate([(me, "node"), (peer, "peer"), (third, "third")])
    ]
    boot = BootKey.generate(rng.randbytes)
    own = Announcement.sign(
        peer, mesh, sequence=1, boot_key=boot.public, endpoints=[PEER_AT], prefixes=()
    )
    node = Node(
        mesh, me, grants[:1], next_sequence=lambda above: above + 1, rng=Random(seed), now=1000.0
    )
    node.announce(1000.0, prefixes=[Prefix.parse("10.1.0.0/24")], endpoints=[NODE_AT])
    node.join([], 1000.0)
    assert node.announcement is not None
    theirs = node.announcement.boot_key
    session = Session(Ends(mesh.id, peer.public, boot, me.public, theirs), 1000.0)
    absent = Announcement.sign(
        third, mesh, sequence=1, boot_key=BootKey.generate(rng.randbytes).public,
        endpoints=[Endpoint("192.0.2.3", 6179)], prefixes=(),
    )  # fmt: skip
    made = Pair(node, mesh, me, peer, boot, own, session, (grants[2], absent))
    node.receive(Hello(mesh.id, True, grants[1], own).encode(), PEER_AT, 1000.0)
    made.say(Probe(7, bytes(16), bytes(8)))
    assert peer.public in node.members
    node.events()
    return made


def state(node: Node) -> object:
    """Everything about a node that a datagram could change, but its counters."""
    members = [
        (key, each.state, each.seen, each.root, each.rtt, each.acked, each.announcement)
        for key, each in node.members.items()
    ]
    return node.store.root, node.evidence.digest, members, node.converged, node.deadline


PAIR = pair()
"""For tests in which nothing may change."""


def receives(data: bytes, made: Pair = PAIR, source: Endpoint = STRANGER) -> None:
    """The node takes ``data`` from a stranger: no change, few bytes of answer, a counter."""
    before, counted = state(made.node), sum(made.node.counters.values())
    made.node.receive(data, source, made.now)
    assert state(made.node) == before
    sent = made.node.datagrams_to_send()
    assert len(sent) <= 1
    assert sum(len(each.data) for each in sent) <= len(data)
    assert sum(made.node.counters.values()) - counted <= 1
    assert len(made.node.events()) <= 1


@given(st.binary(max_size=2000))
def test_random_octets_change_nothing_but_a_counter(data: bytes) -> None:
    receives(data)


@given(st.sampled_from((frames.HELLO, frames.SEALED, frames.STALE)), st.binary(max_size=1198))
def test_random_frames_change_nothing_but_a_counter(kind: int, rest: bytes) -> None:
    receives(bytes([frames.VERSION, kind]) + rest)


@given(st.binary(min_size=5, max_size=1181), st.booleans())
def test_a_hello_of_our_mesh_with_random_objects_changes_nothing(rest: bytes, asks: bool) -> None:
    data = bytes([frames.VERSION, frames.HELLO]) + PAIR.mesh.id + bytes([asks]) + rest
    receives(data.ljust(1200, b"\0") if asks else data)


@given(st.integers(0, 2**64 - 1), st.binary(min_size=17, max_size=1174), st.booleans())
def test_a_sealed_datagram_between_members_that_is_forged_changes_nothing(
    counter: int, sealed: bytes, reflected: bool
) -> None:
    session = PAIR.session
    ids = (session.key_id, session.peer_key_id)
    sender, recipient = reversed(ids) if reflected else ids
    receives(frames.pack_sealed_head(sender, recipient, counter) + sealed)


@given(st.integers(0, 2**64 - 1), st.booleans())
def test_a_stale_for_a_counter_that_was_not_sent_changes_nothing(counter: int, known: bool) -> None:
    recipient = PAIR.session.key_id if known else bytes(8)
    receives(Stale(recipient, counter).encode())


def test_every_bit_of_a_members_hello_flipped_changes_nothing() -> None:
    grant = PAIR.node.store.grants[PAIR.peer.public]
    newer = Announcement.sign(
        PAIR.peer, PAIR.mesh, sequence=9, boot_key=PAIR.boot.public,
        endpoints=[PEER_AT], prefixes=(),
    )  # fmt: skip
    hello = Hello(PAIR.mesh.id, False, grant, newer).encode()
    for bit in range(8 * len(hello)):
        if bit % 1000 == 0:
            made = pair()
        made.now += 1.0  # sooner, or all from one address, they would not be looked at
        flipped = bytearray(hello)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        receives(bytes(flipped), made, Endpoint(f"198.51.{bit >> 8 & 255}.{bit & 255}", 4444))
        assert not [what for what in made.node.counters if "too many" in what or "often" in what]


LARGE = {
    "random": Random(1).randbytes(1200),
    "random HELLO": bytes([1, 1]) + PAIR.mesh.id + b"\x01" + Random(2).randbytes(1181),
    "nested arrays in a HELLO": bytes([1, 1]) + PAIR.mesh.id + b"\0\x01\xb8\x02\xd0"
    + (b"\x01" + bytes(64) + b"\x91" * 375) + (b"\x03" + bytes(64) + b"\x91" * 655),
    "array16 in a HELLO": bytes([1, 1]) + PAIR.mesh.id + b"\0\x01\xb8\x02\xd0"
    + (b"\x01" + bytes(64) + b"\xdc\x01\x74" * 125) + (b"\x03" + bytes(64) + b"\xdc\x02\x8c" * 218)
    + b"\0",
    "2,000 octets": Random(3).randbytes(2000),
}  # fmt: skip


@pytest.mark.parametrize("data", LARGE.values(), ids=LARGE.keys())
def test_a_hostile_datagram_costs_less_than_64_kib_and_a_millisecond(data: bytes) -> None:
    receives(data)
    tracemalloc.start()
    try:
        PAIR.node.receive(data, STRANGER, PAIR.now)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024
    quickest = 1.0
    for _ in range(20):
        began = time.perf_counter()
        PAIR.node.receive(data, STRANGER, PAIR.now)
        quickest = min(quickest, time.perf_counter() - began)
    PAIR.node.events()
    PAIR.node.datagrams_to_send()
    assert quickest < 1e-3


def hostile_messages(made: Pair) -> st.SearchStrategy[Message]:
    """Messages of every type that name things which exist, and things which do not."""
    store = made.node.store
    keys = [made.me.public, made.peer.public]
    slot = st.sampled_from([slot_id(kind, key) for kind in (1, 2, 3) for key in keys])
    slots = slot | st.binary(min_size=12, max_size=12)
    root = st.sampled_from([store.root, bytes(16)]) | st.binary(min_size=16, max_size=16)
    start = st.binary(min_size=8, max_size=8)
    number = st.integers(0, 3) | st.integers(0, 2**32 - 1)
    path = st.lists(st.integers(0, 15), max_size=23).map(bytes)
    sequence = st.integers(0, 3)
    accused = st.builds(
        lambda target, at, refused: Accusation.sign(
            made.peer, made.mesh, target=target, sequence=at, refused=refused
        ),
        st.sampled_from(keys), sequence, st.booleans(),
    )  # fmt: skip
    held: list[Record | Accusation] = list(store)
    news = st.sampled_from(held) | accused
    listed = st.lists(news, max_size=3).map(tuple)
    items = st.lists(st.tuples(news, st.booleans()), max_size=3).map(tuple)
    bucket = st.dictionaries(slots, root, max_size=16).map(Slots)
    branch = st.lists(root, min_size=16, max_size=16).map(lambda found: Branches(tuple(found)))
    members = st.integers(0, 3).flatmap(
        lambda size: st.tuples(st.integers(0, (1 << size) - 1), st.just(size))
    )
    return st.one_of(
        st.builds(Probe, number, root, start),
        st.builds(Ack, number, root, start, st.sampled_from((None, STRANGER))),
        st.builds(Indirect, number, slots),
        st.builds(Reached, number),
        st.builds(Nack, number),
        st.builds(Suspect, slots, st.integers(0, 2**64 - 1)),
        st.builds(Push, listed),
        st.builds(Offer, st.lists(st.tuples(slots, start), min_size=1, max_size=9).map(tuple)),
        st.builds(Pull, number, st.lists(slots, min_size=1, max_size=64).map(tuple)),
        st.builds(Objects, number, st.booleans(), items),
        st.builds(Walk, number, path, root),
        st.builds(Subtree, number, path, st.none() | st.just(Later()) | bucket | branch),
        st.builds(Vouch, number, st.just(False), root),
        st.builds(lambda n, r, places: Vouch(n, True, r, *places), number, root, members),
        st.builds(AskEvidence, number, st.lists(start, max_size=9).map(tuple)),
        st.builds(lambda n, at, depth: Scan(n, digits(at)[:depth], at), number, slots,
                  st.integers(0, 23)),
        st.builds(lambda a, r, places: Agree(a, r, *places), st.booleans(), root, members),
    )  # fmt: skip


def digits(slot: bytes) -> bytes:
    return bytes(int(digit, 16) for digit in slot.hex())


def numbered(message: Message, request: int) -> Message:
    """``message`` as an answer to the request of that number, if it is an answer."""
    if isinstance(message, Subtree | Objects) or (isinstance(message, Vouch) and message.answers):
        return attrs.evolve(message, request=request)
    if isinstance(message, Ack | Reached | Nack):
        return attrs.evolve(message, nonce=request)
    return message


@settings(max_examples=60, phases=[Phase.generate])  # shrinking signs too many objects
@given(st.data())
def test_a_member_that_says_anything_at_all_raises_nothing_and_draws_few_answers(
    data: st.DataObject,
) -> None:
    made = pair()
    strategy = hostile_messages(made)
    last = 0
    for _ in range(12):
        message = numbered(data.draw(strategy), last)
        answers = made.say(message)
        # The answer, a question of our own, a probe if it had failed, one pull for all objects.
        assert len(answers) <= 4, (message, answers)
        for each in answers + made.wait(data.draw(st.sampled_from((0.0, 0.03, 0.3, 2.0)))):
            last = getattr(each, "request", getattr(each, "nonce", last))
        assert made.node.deadline > made.now
    assert made.node.announcement is not None
    assert made.node.store.announcements[made.peer.public] == made.announcement


@given(st.integers(0, 16), st.binary(max_size=1157))
def test_random_octets_sealed_by_a_member_raise_nothing(kind: int, rest: bytes) -> None:
    made = pair()
    made.send(bytes([kind]) + rest)
    made.wait(0.1)
    assert made.node.store.announcements[made.peer.public] == made.announcement


def walk_of(made: Pair) -> Walk:
    """The node's first question after the peer has shown another root."""
    made.say(Probe(8, b"\x55" * 16, bytes(8)))
    walks = [each for each in made.wait(0.03) if isinstance(each, Walk)]
    assert walks
    return walks[0]


def endless(path: Callable[[bytes], bytes]) -> int:
    """How often the node asks on, of a peer whose every subtree is a branch of 16 others."""
    made = pair()
    walk, rng = walk_of(made), Random(5)
    for asked in range(500):
        children = tuple(rng.randbytes(16) for _ in range(16))
        answers = made.say(Subtree(walk.request, path(walk.path), Branches(children)))
        following = [each for each in answers if isinstance(each, Walk)]
        if not following:
            return asked
        walk = following[0]
        assert len(walk.path) <= 24
    return 500


def test_a_subtree_that_was_not_asked_for_is_not_walked_into() -> None:
    # Else a peer that answers every path as if it were the top makes us remember 15 more each.
    assert endless(lambda asked: b"") <= 1
    assert endless(lambda asked: asked + b"\1") == 0


def test_an_answer_to_another_peers_request_is_dropped() -> None:
    made = pair()
    walk = walk_of(made)
    grant = made.node.store.grants[made.peer.public]
    assert made.say(Objects(walk.request + 1 & 0xFFFFFFFF, False, ((grant, True),))) == []
    assert made.say(Subtree(walk.request + 1 & 0xFFFFFFFF, b"", None)) == []


def test_a_hello_of_another_mesh_is_not_answered() -> None:
    other = pair(2)
    grant = other.node.store.grants[other.peer.public]
    before = state(PAIR.node)
    PAIR.node.receive(
        Hello(other.mesh.id, True, grant, other.announcement).encode(), STRANGER, PAIR.now
    )
    assert PAIR.node.datagrams_to_send() == []
    assert state(PAIR.node) == before
    forged = Hello(PAIR.mesh.id, True, grant, other.announcement).encode()
    PAIR.node.receive(forged, STRANGER, PAIR.now)
    assert PAIR.node.datagrams_to_send() == []
    assert state(PAIR.node) == before
    with pytest.raises(Rejected):
        frames.decode_hello(forged, other.mesh.id)


def test_a_flood_of_strangers_signatures_keeps_no_members_news_away() -> None:
    made, rng = pair(), Random(6)
    stranger = Identity.generate(rng.randbytes)
    own = Announcement.sign(
        stranger, made.mesh, sequence=1, boot_key=made.boot.public, endpoints=[], prefixes=()
    )
    body = Grant.sign(
        stranger, made.mesh, node=stranger.public, name="x", serial=1, allow=POOL
    ).raw[65:]
    for number in range(8000):  # for two seconds, far more than may be checked
        made.now += 1 / 4000
        forged = Grant.decode(b"\x01" + rng.randbytes(63) + b"\0" + body)
        hello = Hello(made.mesh.id, False, forged, own).encode()
        made.node.receive(hello, STRANGER, made.now)
        if number % 1000 == 999:
            news = Announcement.sign(
                made.peer, made.mesh, sequence=2 + number, boot_key=made.boot.public,
                endpoints=[PEER_AT], prefixes=(),
            )  # fmt: skip
            made.say(Push((news,)))
            assert made.node.store.announcements[made.peer.public] == news
    checked = made.node.counters["refused: grant not signed by who must sign it"]
    tuning = Tuning.lan()
    assert checked <= 2 * tuning.stranger_verify_rate + tuning.stranger_verify_burst + 1
    assert made.node.counters["refused: too many signatures to check"] >= 3999


@pytest.mark.parametrize("state_", [ALIVE, LEFT], ids=["refutation", "departure"])
@pytest.mark.parametrize("way", ["PUSH", "HELLO"])
def test_a_refutation_or_a_departure_that_another_signed_is_refused(state_: int, way: str) -> None:
    made = pair()
    grant, announcement = made.absent
    made.say(Push(made.absent))
    forged = Announcement.draft(
        grant.node, sequence=announcement.sequence + 1, boot_key=announcement.boot_key,
        endpoints=announcement.endpoints, prefixes=(), state=state_,
    ).signed(made.peer, made.mesh)  # fmt: skip
    before = state(made.node)
    if way == "PUSH":
        made.say(Push((forged,)))
    else:
        made.node.receive(Hello(made.mesh.id, False, grant, forged).encode(), PEER_AT, made.now)
    assert state(made.node) == before
    assert made.node.store.announcements[grant.node] == announcement
    assert made.node.counters["refused: announcement not signed by who must sign it"] == 1


# Who is believed to have been seen.


def gives(made: Pair, *items: tuple[Record, bool]) -> None:
    """The peer has another root, and answers the walk that this draws with ``items``."""
    walk = walk_of(made)
    slots = Slots({slot_of(each): each.hash for each, _ in items})
    (pull,) = made.say(Subtree(walk.request, b"", slots))
    assert isinstance(pull, Pull)
    made.say(Objects(pull.request, False, items))


def is_seen(made: Pair) -> bool:
    return made.node.members[made.absent[0].node].seen


@pytest.mark.parametrize("vouched", [False, True])
def test_what_a_walk_brings_is_seen_when_the_peer_vouches_for_it(vouched: bool) -> None:
    made = pair()
    grant, announcement = made.absent
    gives(made, (grant, False), (announcement, vouched))
    assert is_seen(made) == vouched


def test_a_word_for_a_grant_is_none_for_its_announcement() -> None:
    made = pair()
    grant, announcement = made.absent
    gives(made, (grant, True), (announcement, False))
    assert not is_seen(made)
    made.say(Push((grant,)))
    assert not is_seen(made)
    made.say(Push((announcement,)))
    assert is_seen(made)


@pytest.mark.parametrize("vouched", [False, True])
def test_what_waited_for_its_grant_is_seen_when_the_peer_vouches_for_it(vouched: bool) -> None:
    made = pair()
    grant, announcement = made.absent
    walk = walk_of(made)
    slots = Slots({slot_id(3, announcement.node): announcement.hash})
    (first,) = made.say(Subtree(walk.request, b"", slots))
    assert isinstance(first, Pull)
    answers = made.say(Objects(first.request, False, ((announcement, vouched),)))
    (second,) = [each for each in answers if isinstance(each, Pull)]
    assert second.slots == (slot_id(1, grant.node), slot_id(3, grant.node))
    made.say(Objects(second.request, False, ((grant, True), (announcement, vouched))))
    assert is_seen(made) == vouched
