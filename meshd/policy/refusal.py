"""Why a prefix is not taken, or not in use: one name for programs and one sentence for people."""

from __future__ import annotations

from typing import Literal, NamedTuple

Rule = Literal[
    "",  # it is in use, and there is nothing to say
    # Refused, in this order: the first that holds is told.
    "self-revoked", "revoked", "grant-ended", "underlay", "outside-grant", "too-short", "bogon",
    "local", "gateway", "resolver", "endpoint", "over-limit", "denied", "not-allowed",
    "conflict", "next-hop", "kernel",
    # Not in use for the time being.
    "damped", "unseen", "failed", "unstable", "standby", "shadowed",
    # In use, though not as it should be.
    "kept-set", "held", "unreachable",
]  # fmt: skip
"""What decided about a row of ``meshd routes``; names are added and never changed."""


class Refusal(NamedTuple):
    """What stands against a prefix, or what is to be known of it."""

    rule: Rule
    reason: str
