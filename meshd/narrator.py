"""Tells the event log what the automaton did, in the operator's words.

One protocol event becomes at most one log event (DESIGN section 7 names them), with who,
which prefix, why and how long.  What repeats without end (a stranger's datagrams) is
counted and told once in a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from meshd.log import EventLog
from meshd.policy.route import Route
from protocol.address import Prefix
from protocol.events import (
    Accused,
    BootKeyRenewed,
    CannotAnnounce,
    Cloned,
    Converged,
    Event,
    Isolated,
    ObservedElsewhere,
    PeerChanged,
    PrefixesChanged,
    ReachabilityChanged,
    Refused,
    Reinstated,
    Released,
    Revoked,
    ShardsMissing,
    Succession,
    Superseded,
)
from protocol.identity import short_id

QUIET: Final = 10.0
"""Seconds between two tellings of the same refusal; those between are counted."""

MAX_REASONS: Final = 256
"""Refusals remembered at a time. Reasons are our own literals, so there are fewer."""


SHOWN: Final = 5
"""Prefixes named in one line about a decision; the rest are counted."""

HELD_BACK: Final = ("damped", "unstable")
"""Rules by which what flaps is not in use, though nothing is wrong with it."""

_Judged = tuple[bytes, Prefix, str]
"""A node, its prefix, and the rule that stands against it."""


class Narrator:
    """Writes protocol events to ``log``; ``name_of`` gives a node's name."""

    def __init__(self, log: EventLog, name_of: Callable[[bytes], str]) -> None:
        self._log, self._name_of = log, name_of
        self._refusals: dict[str, tuple[float, int]] = {}
        self._clock_off = False
        self._standing: set[_Judged] = set()
        """What policy refuses or holds back, as far as it was told."""
        self._judged: dict[tuple[bytes, str], float] = {}
        """Node and rule to when that was told last."""

    def tell(self, event: Event, now: float) -> None:
        """Log ``event``; ``Converged`` is the daemon's to tell, for the kernel belongs to it, and
        of a ``Succession`` ``succession`` tells."""
        match event:
            case PeerChanged():
                self._peer(event)
            case ReachabilityChanged():
                what = "peer-reachable" if event.reachable else "peer-unreachable"
                reason = {} if event.reachable else {"reason": "others reach it, we do not"}
                self._log.emit(what, name=event.name, id=short_id(event.node), **reason)
            case PrefixesChanged():
                self._prefixes("prefix-added", event, event.added)
                self._prefixes("prefix-removed", event, event.removed)
            case ShardsMissing():
                self._log.emit(
                    "prefixes-missing",
                    name=event.name,
                    id=short_id(event.node),
                    shards=event.lacking,
                    reason="nobody has sent them; its last whole set of prefixes stays in force",
                )
            case Superseded():
                self._log.emit(
                    "superseded",
                    sequence=event.sequence,
                    reason="the mesh holds a newer announcement of this node than its disk did",
                )
            case Cloned():
                self._cloned(event)
            case Reinstated():
                self._log.emit(
                    "reinstated",
                    yielded_s=round(event.seconds, 1),
                    reason="the other host with this node's key is silent: this one goes on",
                )
            case BootKeyRenewed():
                self._log.emit("key-renewed", reason=event.reason)
            case Accused():
                self._log.emit("accused", by=self._names(event.accusers), answered=event.answered)
            case ObservedElsewhere():
                self._log.emit(
                    "observed-at",
                    by=self._name_of(event.peer),
                    endpoint=str(event.endpoint),
                    reason="a NAT on the way rewrites our datagrams' source",
                )
            case Refused():
                self._refused(event, now)
            case Revoked():
                self._revoked(event)
            case CannotAnnounce():
                self._log.emit("error", reason=f"nothing is announced: {event.reason}")
            case Isolated():
                self._log.emit(
                    "isolated",
                    lost=f"{event.lost}/{event.known}",
                    reason="most peers were lost at once: their routes are held for 10 min",
                )
            case Released():
                if event.isolated:
                    self._log.emit(
                        "isolation-over",
                        still_lost=self._names(event.nodes),
                        for_s=round(event.seconds, 1),
                    )
            case Converged() | Succession():
                pass

    def _revoked(self, event: Revoked) -> None:
        reason = (
            "the present authority has not taken it over"
            if event.lapsed
            else "the authority has ended its membership"
        )
        self._log.emit("revoked", name=event.name, id=short_id(event.node), reason=reason)

    def succession(self, event: Succession, lapsed: int) -> None:
        """Another authority; ``lapsed``: how many members it has not taken over."""
        fields: dict[str, object] = {"generation": event.generation, "members": event.members}
        if event.in_effect:
            self._log.emit(
                "succession",
                **fields,
                in_effect=True,
                lapsed=lapsed,
                reason="this authority's word alone counts from now on",
            )
            return
        self._log.emit(
            "succession",
            **fields,
            in_effect=False,
            reason="it takes effect when its word on each of these members is here",
        )

    def clock(self, off: float | None) -> None:
        """``policy.Decision.clock_off``, after each decision: told when it begins and ends."""
        if (off is not None) == self._clock_off:
            return
        self._clock_off = off is not None
        if off is None:
            self._log.emit("clock-right", reason="it agrees with the members again")
            return
        days, where = abs(off) / 86_400, "ahead of" if off > 0 else "behind"
        self._log.emit(
            "clock-wrong",
            days=round(days, 1),
            reason=f"this host's clock is {days:.0f} days {where} what most members announce by:"
            " set it; until then no grant ends here",
        )

    def decided(self, rows: Iterable[Route], now: float) -> None:
        """The rows of each decision: what is refused or held back is told when it begins.

        One line for a node and a rule, and not again within ``QUIET``: what is new meanwhile is
        told at the first decision after that.
        """
        standing = {
            (row.node, row.prefix, row.rule): row
            for row in rows
            if row.state == "refused" or row.rule in HELD_BACK
        }
        self._standing &= standing.keys()
        self._judged = {k: told for k, told in self._judged.items() if now - told < QUIET}
        fresh: dict[tuple[bytes, str], list[Route]] = {}
        for judged, row in standing.items():
            group = (row.node, row.rule)
            if judged not in self._standing and group not in self._judged:
                fresh.setdefault(group, []).append(row)
        for (node, rule), group_rows in fresh.items():
            self._judged[node, rule] = now
            self._standing.update((row.node, row.prefix, row.rule) for row in group_rows)
            first, more = group_rows[0], len(group_rows) - SHOWN
            self._log.emit(
                "damped" if rule in HELD_BACK else "refused",
                name=first.name,
                id=short_id(node),
                rule=rule,
                prefixes=[str(row.prefix) for row in group_rows[:SHOWN]],
                **({"more": more} if more > 0 else {}),
                reason=first.reason,
                **({"for_s": round(first.until - now, 1)} if first.until is not None else {}),
            )

    def _cloned(self, event: Cloned) -> None:
        goes_on = (
            "it goes on, and nothing is announced here" if event.yielded else "this one goes on"
        )
        self._log.emit(
            "cloned",
            yielded=event.yielded,
            endpoints=[str(where) for where in event.endpoints],
            reason=f"another host runs with this node's key: {goes_on}; stop one of them,"
            " and give it a key of its own (`meshd purge --state`, then `meshd join`)",
        )

    def _peer(self, event: PeerChanged) -> None:
        fields: dict[str, object] = {
            "name": event.name,
            "id": short_id(event.node),
            "endpoint": str(event.endpoint) if event.endpoint else None,
        }
        if event.reason:
            fields["reason"] = event.reason
        if event.accusers:
            fields["accusers"] = self._names(event.accusers)
        if event.refused:
            fields["host_answers"] = True
        if event.previous is not None:
            fields["was"] = event.previous
            fields["for_s"] = round(event.seconds, 1)
        self._log.emit(f"peer-{event.state}", **fields)

    def _prefixes(self, what: str, event: PrefixesChanged, which: Iterable[Prefix]) -> None:
        prefixes = [str(prefix) for prefix in which]
        if prefixes:
            self._log.emit(what, name=event.name, id=short_id(event.node), prefixes=prefixes)

    def _refused(self, event: Refused, now: float) -> None:
        told, count = self._refusals.get(event.reason, (-QUIET, 0))
        if now - told < QUIET:
            self._refusals[event.reason] = (told, count + 1)
            return
        if len(self._refusals) >= MAX_REASONS:
            self._refusals.clear()
        self._refusals[event.reason] = (now, 0)
        more = {"more": count} if count else {}
        self._log.emit("refused", source=self._source(event), reason=event.reason, **more)

    def _source(self, event: Refused) -> str:
        return self._name_of(event.peer) if event.peer is not None else str(event.source)

    def _names(self, keys: Iterable[bytes]) -> list[str]:
        return [self._name_of(key) for key in keys]
