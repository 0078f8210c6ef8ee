"""What became of one prefix of one node: a row of ``meshd routes``. A value."""

from __future__ import annotations

from typing import Literal, NamedTuple

from meshd.policy.refusal import Rule
from protocol.address import Address, Prefix

RouteState = Literal["installed", "standby", "unreachable", "refused", "shadowed"]


class Winner(NamedTuple):
    """What stands against a prefix that is refused for a conflict."""

    node: bytes
    prefix: Prefix


class Route(NamedTuple):
    """One of up to 20,000 of a decision. They sort by prefix, then by node."""

    prefix: Prefix
    node: bytes
    name: str
    next_hop: Address | None
    state: RouteState
    reason: str
    rule: Rule = ""
    device: str | None = None
    """Where the next hop is on-link."""
    until: float | None = None
    """Held back until then, in the seconds of ``decide``'s ``now``, unless it flaps again."""
    winner: Winner | None = None
    """Refused for a conflict with it."""
