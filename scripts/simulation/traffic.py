"""What passes the wire, counted by kind of message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, get_args

import attrs

from protocol import frames
from protocol.messages import (
    Ack,
    Agree,
    AskEvidence,
    Indirect,
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
    Subtree,
    Suspect,
    Vouch,
    Walk,
)

HEADERS: Final = 28
"""Octets of IPv4 (20, RFC 791) and UDP (8, RFC 768) around each payload. A frame's own
(Ethernet: 14 and more) is not counted."""

_SEALED_KINDS: Final = {kind.TYPE: kind.__name__ for kind in get_args(Message)}

STALE: Final = 0
HELLO: Final = max(_SEALED_KINDS) + 1
NOTICE: Final = HELLO + 1
NAMES: Final = (
    "Stale",
    *(_SEALED_KINDS.get(number, f"type {number}") for number in range(1, HELLO)),
    "Hello",
    "Notice",
)
"""Name of each kind by its number: a message's type, 0 for STALE, above all HELLO and NOTICE."""

GROUPS: Final[dict[str, tuple[int, ...]]] = {
    "news": (Push.TYPE, Offer.TYPE, Pull.TYPE, Objects.TYPE),
    "shards": (PullShards.TYPE, Shards.TYPE),
    "probes": (Probe.TYPE, Ack.TYPE, Indirect.TYPE, Reached.TYPE, Nack.TYPE, Suspect.TYPE),
    "repair": (Walk.TYPE, Subtree.TYPE, Scan.TYPE, Vouch.TYPE, AskEvidence.TYPE),
    "agreement": (Agree.TYPE,),
    "greetings": (HELLO, NOTICE, STALE),
}
"""What the kinds are for, each in one group. PULL and OBJECTS are sent in repair too."""

_ANSWERS: Final = frozenset(
    (Ack.TYPE, Reached.TYPE, Nack.TYPE, Objects.TYPE, Subtree.TYPE, Shards.TYPE, STALE, NOTICE)
)
_CLEAR: Final[dict[int, int]] = {frames.HELLO: HELLO, frames.NOTICE: NOTICE}
_ANSWERS_AT: Final = {Vouch.TYPE: 5, Agree.TYPE: 1}
"""Where in a message of such a kind the octet stands that says whether it answers."""
_HELLO_FLAGS_AT: Final = 18


def kind_of(datagram: bytes, message: bytes) -> int:
    """The number of a datagram's kind; ``message`` begins what is inside, if it is SEALED."""
    frame = datagram[1]
    if frame == frames.SEALED:
        return message[0] if message else STALE
    return _CLEAR.get(frame, STALE)


def answers(kind: int, datagram: bytes, message: bytes) -> bool:
    """True for what is sent in reply, and not as a question, a probe or news of one's own."""
    if kind == HELLO:
        return not datagram[_HELLO_FLAGS_AT] & frames.ASKS
    if kind in _ANSWERS_AT:
        return message[_ANSWERS_AT[kind]] == 1
    return kind in _ANSWERS


@attrs.define(eq=False)
class Traffic:
    """Datagrams and octets of UDP payload by kind."""

    datagrams: list[int] = attrs.field(factory=lambda: [0] * len(NAMES))
    octets: list[int] = attrs.field(factory=lambda: [0] * len(NAMES))

    @classmethod
    def of(cls, parts: Iterable[Traffic]) -> Traffic:
        """The sum of ``parts``."""
        total = cls()
        for part in parts:
            for kind, (datagrams, octets) in enumerate(
                zip(part.datagrams, part.octets, strict=True)
            ):
                total.datagrams[kind] += datagrams
                total.octets[kind] += octets
        return total

    def __sub__(self, earlier: Traffic) -> Traffic:
        """What came since ``earlier``."""
        return Traffic(
            [now - then for now, then in zip(self.datagrams, earlier.datagrams, strict=True)],
            [now - then for now, then in zip(self.octets, earlier.octets, strict=True)],
        )

    def count(self, group: str | None = None) -> int:
        """Datagrams of a group of kinds, or of all."""
        return sum(self.datagrams[kind] for kind in _kinds(group))

    def payload(self, group: str | None = None) -> int:
        """Octets of UDP payload."""
        return sum(self.octets[kind] for kind in _kinds(group))

    def bodies(self, group: str) -> int:
        """Octets of messages: without SEALED's head and tag. Not for greetings."""
        return self.payload(group) - frames.SEALED_OVERHEAD * self.count(group)

    def wire(self, group: str | None = None) -> int:
        """Octets with IPv4's and UDP's headers."""
        return self.payload(group) + HEADERS * self.count(group)


def _kinds(group: str | None) -> Iterable[int]:
    return range(len(NAMES)) if group is None else GROUPS[group]
