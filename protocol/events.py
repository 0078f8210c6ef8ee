"""What the automaton tells its owner: one frozen value per happening, drained in order.

Every one may mean that the table changed; the owner reads the table, not the event.
"""

from __future__ import annotations

import attrs

from protocol.address import Endpoint, Prefix


@attrs.frozen
class PeerChanged:
    """A peer's state as shown to people: alive, suspect, failed or left."""

    node: bytes
    name: str
    state: str
    previous: str | None
    reason: str
    endpoint: Endpoint | None
    accusers: tuple[bytes, ...] = ()
    refused: bool = False
    """failed: its host answers that the daemon is gone."""
    seconds: float = 0.0
    """How long it had been in the previous state."""


@attrs.frozen
class ReachabilityChanged:
    """Our own probes of a live peer are lost while others reach it, or arrive again."""

    node: bytes
    name: str
    reachable: bool


@attrs.frozen
class PrefixesChanged:
    """Another whole set of a node's prefixes is in force than before."""

    node: bytes
    name: str
    added: tuple[Prefix, ...]
    removed: tuple[Prefix, ...]


@attrs.frozen
class ShardsMissing:
    """Shards of a node's newest announcement could not be had for ``fetch_patience``.

    Its last whole set stays in force, and they are still asked for; told once.
    """

    node: bytes
    name: str
    lacking: int
    """How many."""


@attrs.frozen
class Converged:
    """Every peer we hold live has held our root."""

    root: bytes
    peers: int
    known: int
    """Peers that have not left, dead or alive."""
    seconds: float
    """Since the first change after the last agreement."""


@attrs.frozen
class Superseded:
    """Our own key had announced more than we knew: we go on above its sequence."""

    sequence: int


@attrs.frozen
class Cloned:
    """Another host runs with this node's key."""

    yielded: bool
    """It goes on and we say nothing of ourselves; else we go on."""
    endpoints: tuple[Endpoint, ...]
    """Where it says it is."""


@attrs.frozen
class Reinstated:
    """The other host with this node's key is silent: we announce ourselves again."""

    seconds: float
    """How long we had yielded."""


@attrs.frozen
class BootKeyRenewed:
    """The key that seals our datagrams is a new one."""

    reason: str


@attrs.frozen
class Accused:
    """Members called us silent; ``answered`` is the sequence that refutes them."""

    accusers: tuple[bytes, ...]
    answered: int


@attrs.frozen
class ObservedElsewhere:
    """A peer receives our datagrams from an endpoint that we do not announce."""

    peer: bytes
    endpoint: Endpoint


@attrs.frozen
class Refused:
    """Something that came was not believed: from an address, or sealed by a member."""

    source: Endpoint | None
    peer: bytes | None
    reason: str


@attrs.frozen
class Revoked:
    """The authority has ended a membership (ours, if ``node`` is us)."""

    node: bytes
    name: str
    lapsed: bool = False
    """It did so by silence: its grant is of an earlier authority, and was not renewed."""


@attrs.frozen
class Succession:
    """Another authority speaks for the mesh."""

    generation: int
    """How many came before it."""
    members: int
    """How many nodes it took over."""
    in_effect: bool
    """Its word alone counts from now on. Else it is only known, and waits until what it said of
    each of these nodes is here."""


@attrs.frozen
class CannotAnnounce:
    """No sequence could be reserved, so nothing was signed or sent; tried again later."""

    reason: str


@attrs.frozen
class Isolated:
    """More than half of our peers were lost at once: an alarm, and their routes are held."""

    lost: int
    known: int
    """Peers that were live before."""


@attrs.frozen
class Released:
    """The routes of ``nodes``, which are still lost, are held no longer."""

    nodes: tuple[bytes, ...]
    isolated: bool
    """We were isolated, and are no more; else it was only in doubt."""
    seconds: float
    """For which it lasted."""


Event = (
    PeerChanged | ReachabilityChanged | PrefixesChanged | ShardsMissing | Converged | Superseded
    | Accused | ObservedElsewhere | Refused | Revoked | Succession | CannotAnnounce | Isolated
    | Released | Cloned | Reinstated | BootKeyRenewed
)  # fmt: skip
