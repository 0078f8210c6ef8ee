"""What one node knows of the others, and what the parts of the automaton share.

Every other node whose announcement is in the store stands in exactly one *roster*: live,
unseen, failed or left.  A record of its own it has only once something is to be noted
about it: in a mesh of thousands most members have never done anything.
"""

from __future__ import annotations

import enum
from collections.abc import Container, Iterable, Iterator, Mapping
from random import Random

import attrs

from protocol import identity
from protocol.address import Endpoint, Prefix
from protocol.events import Event
from protocol.evidence import Evidence
from protocol.identity import Identity, Mesh
from protocol.objects import Accusation, Announcement, Record
from protocol.resumption import Overlay, Resumption
from protocol.store import Store
from protocol.timers import Timers
from protocol.tuning import Tuning
from protocol.wire import Wire


class State(enum.Enum):
    """A member's state in SWIM's words."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    FAILED = "failed"
    LEFT = "left"


@attrs.define(eq=False)
class Member:
    """Another node whose announcement is in the store."""

    key: bytes = attrs.field(repr=identity.short_id)
    announcement: Announcement
    name: str
    prefixes: tuple[Prefix, ...] = ()
    """Its last whole set: that of ``announcement`` unless shards of it are lacking."""
    state: State = State.ALIVE
    since: float = 0.0
    reason: str = ""
    seen: bool = False
    """It has spoken under its boot key, or one we have seen vouches that it did."""
    reachable: bool = True
    """False: our own probes are lost, but others reach it."""
    refused: bool = False
    """Failed, and one that counts says that its host answers."""
    rtt: float | None = None
    """Smoothed round trip in seconds (RFC 6298's 1/8)."""
    acked: float = -1.0
    """When it last answered a probe of ours; -1 for never."""
    knocked: float = -1.0
    """When it was last probed although its silence would mean nothing."""
    newest: int | None = None
    """Nonce of the newest probe of ours; None when that was answered, or there was none."""
    observed: Endpoint | None = None
    """Where it last saw our datagrams come from, if not from an announced endpoint."""
    root: bytes | None = None
    """The root that it told last."""
    silent: bool = False
    """Our last direct and indirect probes of it failed."""
    silent_refused: bool = False
    """... and its host said that nobody listens."""
    doubted: bool = False
    """Since its last ack a member told us that it is silent to it."""
    detours: int = 0
    """How often in a row others reached it when we did not."""
    heard: dict[bytes, float] = attrs.field(factory=dict)
    """Accuser to when we heard its accusation at the present sequence."""
    shown: str | None = None
    shown_reachable: bool = True
    shown_since: float = 0.0

    @property
    def live(self) -> bool:
        """Seen, and neither failed nor gone: a peer to count on, probe and tell."""
        return self.seen and self.state in (State.ALIVE, State.SUSPECT)

    @property
    def shown_state(self) -> str:
        """For people: one that nobody vouches for is not called alive."""
        if self.state is State.ALIVE and not self.seen:
            return State.SUSPECT.value
        return self.state.value


def choose_endpoint(
    announcement: Announcement, families: frozenset[int], attempt: int = 0
) -> Endpoint | None:
    """Where to send: its endpoints of our ``families``, IPv4 first, by turns."""
    if len(announcement.endpoints) == 1:
        return announcement.endpoints[0]
    everywhere = sorted(announcement.endpoints, key=lambda where: where.family)
    usable = [where for where in everywhere if where.family in families] or everywhere
    return usable[attempt % len(usable)] if usable else None


class Roster:
    """Some of the members: added, taken out, drawn and gone round, each in constant time."""

    def __init__(self) -> None:
        self._order: list[bytes] = []
        """Those before ``_turn`` have had their turn in this round."""
        self._place: Overlay[int] = Overlay()
        self._turn = 0

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._order)

    def __contains__(self, key: object) -> bool:
        return key in self._place

    def fill(self, keys: Iterable[bytes], places: Mapping[bytes, int]) -> None:
        """Begin with ``keys``, each of them in ``places`` with its place, which are shared."""
        self._order, self._place = list(keys), Overlay(places)

    def add(self, key: bytes) -> None:
        """Put ``key`` in; it has its turn in this round."""
        if key not in self._place:
            self._place[key] = len(self._order)
            self._order.append(key)

    def discard(self, key: bytes) -> None:
        """Take ``key`` out, if it is in."""
        place = self._place.get(key)
        if place is None:
            return
        if place < self._turn:
            self._turn -= 1
            self._swap(place, self._turn)
            place = self._turn
        self._swap(place, len(self._order) - 1)
        self._order.pop()
        self._place.pop(key)

    def next(self, rng: Random) -> bytes | None:
        """The next of a shuffled round (SWIM 4.3): each once, then in another order."""
        if not self._order:
            return None
        if self._turn >= len(self._order):
            self._turn = 0
        self._swap(self._turn, rng.randrange(self._turn, len(self._order)))
        self._turn += 1
        return self._order[self._turn - 1]

    def draw(self, rng: Random, number: int, but: Container[bytes] = ()) -> list[bytes]:
        """At most ``number`` at random, without those ``but`` names."""
        drawn: list[bytes] = []
        moved: dict[int, int] = {}  # Fisher and Yates's shuffle, as far as it is needed
        left = len(self._order)
        while left and len(drawn) < number:
            place = int(rng.random() * left)
            left -= 1
            key = self._order[moved.get(place, place)]
            moved[place] = moved.get(left, left)
            if key not in but:
                drawn.append(key)
        return drawn

    def _swap(self, one: int, other: int) -> None:
        if one != other:
            order = self._order
            order[one], order[other] = order[other], order[one]
            self._place[order[one]], self._place[order[other]] = one, other


class Members(Mapping[bytes, Member]):
    """All others whose announcement is in the store, by key."""

    def __init__(self, store: Store) -> None:
        self.live, self.unseen, self.failed, self.left = (Roster() for _ in range(4))
        self.changes = 0
        """Counts up whenever a member goes from one roster to another."""
        self._store = store
        self._records: dict[bytes, Member] = {}

    def get(self, key: bytes) -> Member | None:  # type: ignore[override]
        """The member of that key, None when there is none. Asked for each datagram."""
        member = self._records.get(key)
        if member is None and key in self:
            announcement = self._store.announcements.get(key)
            if announcement is not None:  # None: it has just been evicted
                member = self._records[key] = self._record(key, announcement)
        return member

    def __getitem__(self, key: bytes) -> Member:
        member = self.get(key)
        if member is None:
            raise KeyError(key)
        return member

    def __contains__(self, key: object) -> bool:
        return key in self._records or any(key in roster for roster in self._rosters)

    def __iter__(self) -> Iterator[bytes]:
        return (key for roster in self._rosters for key in roster)

    def __len__(self) -> int:
        return sum(map(len, self._rosters))

    @property
    def _rosters(self) -> tuple[Roster, ...]:
        return (self.live, self.unseen, self.failed, self.left)

    def _record(self, key: bytes, announcement: Announcement) -> Member:
        """What is known of a member about whom nothing was noted yet."""
        member = Member(
            key,
            announcement,
            self._store.grants[key].name,
            prefixes=announcement.prefixes,
            seen=key in self.live,
        )
        if key in self.left:
            member.state, member.shown = State.LEFT, State.LEFT.value
        elif member.seen:
            member.shown = State.ALIVE.value
        return member

    def resume(self, resumption: Resumption, me: bytes) -> None:
        """Take all that the store knows for seen, except ``me``; nothing is noted of anyone."""
        self.live.fill(resumption.live, resumption.places)
        for key in resumption.left:
            self.left.add(key)
        self.live.discard(me)
        self.left.discard(me)

    def add(self, member: Member) -> None:
        """A new member, with its record."""
        self._records[member.key] = member
        self.place(member)

    def place(self, member: Member) -> None:
        """``member``'s state may have changed: put it into the roster where it belongs."""
        home = self.left
        if member.state is State.FAILED:
            home = self.failed
        elif member.state is not State.LEFT:
            home = self.live if member.seen else self.unseen
        if member.key not in home:
            self.changes += 1
            for roster in self._rosters:
                roster.discard(member.key)
            home.add(member.key)

    def remove(self, key: bytes) -> Member | None:
        """Forget one, who is revoked or had to leave; its record, if it had one."""
        self.changes += 1
        for roster in self._rosters:
            roster.discard(key)
        return self._records.pop(key, None)

    def bits(self, *, also: bytes) -> int:
        """The live members and ``also`` in the member list of the root: the first is bit 0."""
        announcements = self._store.announcements
        absent = (self.unseen, self.failed, self.left)
        if sum(map(len, absent)) < len(self.live):
            bits = (1 << len(announcements)) - 1
            for roster in absent:
                for key in roster:
                    bits &= ~(1 << announcements.rank(key))
            return bits
        bits = 1 << announcements.rank(also)
        for key in self.live:
            bits |= 1 << announcements.rank(key)
        return bits


@attrs.define(eq=False)
class Common:
    """What the parts of one node share: contacts, detector, reconciler and the node."""

    me: Identity
    mesh: Mesh
    tuning: Tuning
    rng: Random
    wire: Wire = attrs.field(factory=Wire)
    timers: Timers = attrs.field(factory=Timers)
    store: Store = attrs.field(factory=Store)
    evidence: Evidence = attrs.field(factory=Evidence)
    members: Members = attrs.field(init=False)
    events: list[Event] = attrs.field(factory=list)
    counters: dict[str, int] = attrs.field(factory=dict)
    """How often each thing was refused or done, by its name: for status and tests."""

    @members.default
    def _members(self) -> Members:
        return Members(self.store)

    def count(self, what: str) -> None:
        """One more of ``what``."""
        self.counters[what] = self.counters.get(what, 0) + 1

    def is_live(self, key: bytes) -> bool:
        """``key`` is a live member, or us."""
        return key in self.members.live or key == self.me.public

    def may_tell(self, each: Record | Accusation) -> bool:
        """A push says that its sender has seen the origin: an announcement is pushed only of
        one that is live, or by which it left; other objects are as good from anybody."""
        return not isinstance(each, Announcement) or each.has_left or self.is_live(each.node)
