"""What one node knows of the others, and what the parts of the automaton share."""

from __future__ import annotations

import enum
from collections.abc import Callable
from random import Random

import attrs

from protocol import identity
from protocol.address import Endpoint, Prefix
from protocol.events import Event
from protocol.identity import Identity, Mesh
from protocol.objects import Announcement
from protocol.store import Evidence, Store
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
    """Failed, and all that count say that its host answers."""
    rtt: float | None = None
    """Smoothed round trip in seconds (RFC 6298's 1/8)."""
    acked: float = -1.0
    """When it last answered a probe of ours; -1 for never."""
    knocked: float = -1.0
    """When it was last probed although its silence would mean nothing."""
    observed: Endpoint | None = None
    """Where it last saw our datagrams come from, if not from an announced endpoint."""
    root: bytes | None = None
    """The root in its latest probe or ack."""
    silent: bool = False
    """Our last direct and indirect probes of it failed."""
    silent_refused: bool = False
    """... and its host said that nobody listens."""
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
    everywhere = sorted(announcement.endpoints, key=lambda where: where.family)
    usable = [where for where in everywhere if where.family in families] or everywhere
    return usable[attempt % len(usable)] if usable else None


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
    members: dict[bytes, Member] = attrs.field(factory=dict)
    events: list[Event] = attrs.field(factory=list)
    counters: dict[str, int] = attrs.field(factory=dict)
    """How often each thing was refused or done, by its name: for status and tests."""

    def count(self, what: str) -> None:
        """One more of ``what``."""
        self.counters[what] = self.counters.get(what, 0) + 1

    def live(self) -> list[Member]:
        """The members to count on, probe and tell."""
        return [member for member in self.members.values() if member.live]

    def some_known(self, number: int) -> list[Member]:
        """At most ``number`` members that have not left, drawn at random."""
        choice = [member for member in self.members.values() if member.state is not State.LEFT]
        return self.rng.sample(choice, min(number, len(choice)))

    def some_live(self, number: int, but: Callable[[Member], bool]) -> list[Member]:
        """At most ``number`` live members, drawn at random, without those ``but`` names."""
        choice = [member for member in self.live() if not but(member)]
        return self.rng.sample(choice, min(number, len(choice)))
