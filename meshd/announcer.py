"""What this node announces: what the operator wants, what is there of it, where it sits.

Each change that an operator makes is all or nothing: checked against the grant and the mesh,
announced, written to the state directory; when that cannot be done, it is taken back.  What changes
by itself (interfaces, addresses, health) is followed, and never fatal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from meshd.advertise import advertised
from meshd.config import Config
from meshd.errors import Refused, StateError, UsageError
from meshd.kernel.state import Host
from meshd.local.health import Health
from meshd.local.selection import Selection, candidates, select
from meshd.log import EventLog
from meshd.policy.prefixes import Nets
from meshd.startup import check_announced
from meshd.state import RuntimeChanges, StateDirectory
from meshd.values import Announced, Followed
from protocol.address import Endpoint, Prefix
from protocol.errors import SequenceUnavailable
from protocol.members import Member
from protocol.node import Node
from protocol.objects import Grant


class Announcer:
    """Keeps ``node``'s announcement as config, run-time changes, interfaces and checks want it."""

    def __init__(
        self,
        node: Node,
        grant: Grant,
        config: Config,
        state: StateDirectory,
        *,
        host: Host,
        log: EventLog,
        clock: Callable[[], float],
        changed: Callable[[], None],
        turn: Callable[[], None],
        silent: bool = False,
    ) -> None:
        """``clock`` gives the node's ``now``; ``changed`` tells of something to send, and ``turn``
        sends it before it returns. ``silent``:
        no prefix is announced, for no traffic is routed."""
        self.seeds: tuple[Endpoint, ...] = ()
        """Where they resolve to now: the address towards them is the one to advertise."""
        self.selection = Selection()
        """What is announced of what is wanted."""
        self.health = Health(log, host=lambda: self._host, changed=self.follow)
        self._node, self._first_grant = node, grant
        self._config, self._state = config, state
        self._host, self._log, self._clock, self._changed = host, log, clock, changed
        self._turn = turn
        self._changes = state.read_changes()
        self._granted = self.grant
        """What was selected by last."""
        self._silent = silent
        self._behind = False
        """What changed here could not be announced."""

    @property
    def wanted(self) -> tuple[Announced, ...]:
        """What is to be announced, by the operator's word."""
        return self._changes.apply(self._config.announce)

    @property
    def routed(self) -> tuple[Prefix, ...]:
        """What the kernel is to treat as announced here: what is, or what would be."""
        return tuple(self.selection.prefixes) if self._silent else self._node.prefixes

    @property
    def grant(self) -> Grant:
        """Our own, as the mesh knows it now."""
        return self._node.grant or self._first_grant

    def start(self) -> None:
        """The first announcement of this life, or ``UsageError``."""
        check_announced(self.grant, self.wanted, "announce")
        try:
            self._declare()
        except (SequenceUnavailable, ValueError) as error:
            raise UsageError(str(error)) from None
        self._warn_of_idle_checks()

    def announce(self, wanted: Iterable[Announced]) -> None:
        """Announce these too. ``UsageError`` outside the grant, ``Refused`` if another's."""
        self._refuse_if_silent()
        wanted = tuple(wanted)
        changes = self._changes.announce(wanted)
        check_announced(self.grant, changes.apply(self._config.announce), "announce")
        self._refuse_if_taken([item for item in wanted if not isinstance(item, Followed)])
        self._apply(changes, self._config)

    def withdraw(self, unwanted: Iterable[Announced]) -> None:
        """Announce these no more. ``Refused`` if one is not announced."""
        self._refuse_if_silent()
        unwanted = tuple(unwanted)
        listed = dict.fromkeys(self.wanted)
        for item in unwanted:
            if item in listed:
                continue
            source = None if isinstance(item, Followed) else self.selection.prefixes.get(item)
            if source is not None:
                raise Refused(f"{item} comes from {source}: withdraw that")
            told = ", ".join(map(str, listed)) or "nothing"
            raise Refused(f"{item} is not announced here; announced: {told}")
        changes = self._changes.withdraw(unwanted, self._config.announce)
        self._apply(changes, self._config)

    def reload(self, config: Config) -> None:
        """Announce by another, checked config; ``UsageError`` leaves the old in force."""
        self._apply(self._changes.settle(config.announce), config)
        self._warn_of_idle_checks()

    def _refuse_if_silent(self) -> None:
        if self._silent:
            raise Refused(
                "this daemon only observes and announces nothing: run it without --observe"
            )

    def look(self, host: Host) -> bool:
        """Follow, if ``host`` or our grant is not what it was; whether all of it is announced."""
        same = host is self._host or host == self._host  # most often it is known, not read
        if self._behind or not same or self.grant != self._granted:
            self._host = host
            self.follow()
        return not self._behind

    def follow(self) -> None:
        """Announce what is here now: after a change of host, grant, health or seeds."""
        own = self._node.announcement
        if own is None or own.has_left:
            self._behind = False
            return
        try:
            self._declare()
        except (SequenceUnavailable, ValueError) as error:
            if not self._behind:
                self._log.emit("error", reason=f"what changed here is not announced: {error}")
            self._behind = True
        else:
            self._behind = False

    def told(self, now: float) -> list[dict[str, Any]]:
        """What ``status --json`` says of each thing that is wanted, at trio's ``now``."""
        prefixes: dict[Announced, list[str]] = {}
        for prefix, source in self.selection.prefixes.items():
            prefixes.setdefault(source, []).append(str(prefix))
        left_out: dict[Announced, list[dict[str, str | None]]] = {}
        for each in self.selection.left_out:
            told = {"prefix": str(each.prefix) if each.prefix else None, "reason": each.reason}
            left_out.setdefault(each.source, []).append(told)
        return [
            {
                "announce": str(item),
                "prefixes": prefixes.get(item, []),
                "left_out": left_out.get(item, []),
                "health": self.health.told(item, now),
            }
            for item in self.wanted
        ]

    def _apply(self, changes: RuntimeChanges, config: Config) -> None:
        """Announced first, then written down: who asked for it is answered after both, and a disk
        takes longer than the mesh."""
        before = self._changes, self._config
        changes.apply(config.announce)  # Before anything is said: it may refuse.
        self._changes, self._config = changes, config
        try:
            self._declare()
            if changes != before[0]:
                self._turn()
                self._state.write_changes(changes)
        except (SequenceUnavailable, ValueError, StateError) as error:
            self._changes, self._config = before
            if isinstance(error, StateError):
                self.follow()
                raise
            self._watch()
            raise UsageError(str(error)) from None

    def _declare(self) -> None:
        """Say all of it; a node that says so already says nothing."""
        own, wanted = self._node.announcement, self.wanted
        self._granted = self.grant
        possible = candidates(wanted, self._host)
        self._ask(wanted, possible)
        current = own.endpoints if own is not None else ()
        config = self._config
        endpoints = advertised(
            config.advertise, self.seeds, self._host, possible, config.port, current
        )
        if not endpoints or set(endpoints) == set(current):
            endpoints = current
        selection = select(
            wanted,
            self._host,
            self.grant,
            reached_at=[where.address for where in endpoints],
            unhealthy=self.health.unhealthy,
        )
        self._node.announce(
            self._clock(),
            prefixes=() if self._silent else tuple(selection.prefixes),
            endpoints=endpoints,
            preference=config.preference,
            tunnel=0 if self._silent else config.vxlan_port,
        )
        before, self.selection = self.selection, selection
        if not self._silent:
            self._tell(before, first=own is None)
        if own is not None and endpoints != current:
            self._log.emit("moved", endpoints=[str(where) for where in endpoints])
        self._changed()

    def _watch(self) -> None:
        """Ask the checks of what is wanted, and no others."""
        wanted = self.wanted
        self._ask(wanted, candidates(wanted, self._host))

    def _ask(self, wanted: Iterable[Announced], possible: Iterable[Announced]) -> None:
        checks = self._config.health
        there = {*wanted, *possible} if checks else ()
        self.health.want({target: checks[target] for target in checks if target in there})

    def _warn_of_idle_checks(self) -> None:
        possible = {*self.wanted, *candidates(self.wanted, self._host)}
        for target in self._config.health:
            if target not in possible:
                reason = f'[health."{target}"] gates nothing: {target} is not announced here'
                self._log.emit("warning", reason=reason)

    def _tell(self, before: Selection, *, first: bool) -> None:
        """What is new about the selection, and not told already: the first one stands in
        ``listening``, and every prefix in ``prefix-added`` and ``prefix-removed``."""
        for event, one, other in (
            ("announced", self.selection, before),
            ("withdrawn", before, self.selection),
        ):
            sources: dict[Followed, list[str]] = {}
            for prefix, source in one.prefixes.items():
                new = prefix not in other.prefixes and not first
                if new and isinstance(source, Followed):
                    sources.setdefault(source, []).append(str(prefix))
            for source, prefixes in sources.items():
                self._log.emit(event, prefixes=prefixes, source=str(source))
        known = set(before.left_out)
        for each in self.selection.left_out:
            if each not in known and not each.unhealthy:  # of health its checks tell
                item, found = str(each.source), each.prefix
                what = {"prefix": str(found)} if found not in (None, each.source) else {}
                self._log.emit("left-out", announce=item, **what, reason=each.reason)

    def _refuse_if_taken(self, prefixes: Iterable[Prefix]) -> None:
        """``Refused`` when another's prefix overlaps one and the grants do not share it."""
        prefixes = tuple(prefixes)
        nets = Nets(prefixes)  # for thousands may meet thousands
        for member in self._node.members.values():
            if any(map(nets.overlapping, member.prefixes)):
                for prefix in prefixes:
                    self._refuse_if_it_has(member, prefix)

    def _refuse_if_it_has(self, member: Member, prefix: Prefix) -> None:
        theirs = self._node.store.grants[member.key]
        both_named = prefix in self.grant.allow and prefix in theirs.allow
        for other in member.prefixes:
            if prefix.overlaps(other) and not (prefix == other and both_named):
                raise Refused(
                    f"{prefix} overlaps {other}, which {member.name} announces; withdraw it"
                    " there, or let the authority grant this very prefix to both"
                )
