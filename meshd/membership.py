"""What the daemon says and keeps of its own grant: that it was renewed, that it will end.

Others' grants are the authority's business: ``meshd grants`` shows there which end soon.
A daemon does not read the ledger, for where care is taken the authority's key lies on a
machine that runs none; and each member tells of its own in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs

from meshd import values
from meshd.authority.roll import DAY, ends_in_days
from meshd.errors import StateError
from meshd.log import EventLog
from meshd.policy.decide import GRACE
from meshd.text import ENDING_DAYS
from protocol.node import Node
from protocol.objects import Grant

_WARNED: Final = (ENDING_DAYS, 7, 1)
"""Days before the end: a month to plan, a week to do it, a day to hurry."""

_ENDED: Final = len(_WARNED)
_OVER: Final = _ENDED + 1
"""The stages after those: its date is past, and a day later nobody honours it."""


@attrs.define(eq=False)
class Membership:
    """Looks at ``node``'s own grant when it may have changed, and now and then by the clock."""

    _node: Node
    _known: Grant
    _log: EventLog
    _keep: Callable[[Grant], None]
    """Write it down; ``StateError`` if that cannot be done."""
    _told: int | None = attrs.field(default=None, init=False)
    """The last stage before the end of ``_known`` that was told; None: none yet."""

    def follow(self) -> None:
        """Another grant of ours may be in force: say so, and keep it for the next life."""
        grant = self._node.grant
        if grant is None or grant.hash == self._known.hash:
            return
        self._known, self._told = grant, None
        self._log.emit(
            "grant-renewed",
            name=grant.name,
            allow=[str(prefix) for prefix in grant.allow],
            until=values.moment(grant.until) if grant.until else "no end",
            generation=grant.generation,
        )
        try:
            self._keep(grant)
        except StateError as error:
            self._log.emit("error", reason=f"the new grant is not kept: {error}")

    def look(self, unix_now: float | None) -> None:
        """Warn when the grant's end comes near, each stage once; ``unix_now`` is None while the
        clock cannot be right, by which others are not judged either."""
        grant = self._node.grant
        if grant is None or not grant.until or unix_now is None:
            return
        stage = _stage(grant.until, unix_now)
        if stage is None or (self._told is not None and stage <= self._told):
            return
        self._told = stage
        what = {
            _ENDED: "others honour it for one more day",
            _OVER: "others take no route from this node any more",
        }.get(stage, "a day after that others take no route from this node")
        self._log.emit(
            "grant-ending" if stage < _ENDED else "grant-ended",
            name=grant.name,
            until=values.moment(grant.until),
            days=ends_in_days(grant.until, unix_now),
            reason=f"{what}; where the authority's key is: meshd renew {grant.name} --until DATE",
        )


def standing(node: Node, me: bytes, unix_now: float) -> dict[str, Any]:
    """``status --json``, "membership": what the authority says of this node."""
    grant = node.grant
    if grant is None:
        return {"state": "none", "reason": why_ended(node, me), "until": None, "ends_in_days": None}
    return {
        "state": "member",
        "reason": "",
        "until": grant.until or None,
        "ends_in_days": ends_in_days(grant.until, unix_now),
    }


def why_ended(node: Node, me: bytes) -> str:
    """Why this node is no member, in words for log and ``status``."""
    if me in node.store.revocations:
        return "the authority has revoked this node's key"
    return f"the authority of generation {node.store.generation} has not taken this node over"


def _stage(until: int, unix_now: float) -> int | None:
    """Which warning is due, if any: its place in ``_WARNED``, or one of the two after them."""
    if unix_now > until + GRACE:
        return _OVER
    if unix_now > until:
        return _ENDED
    passed = [at for at, days in enumerate(_WARNED) if until - unix_now <= days * DAY]
    return passed[-1] if passed else None
