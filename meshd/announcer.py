"""What this node announces: the config's list, what was changed at run time, where it sits.

Each change is all or nothing: checked against the grant and the mesh, written to the state
directory, announced; when the announcement cannot be made, the file is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from meshd.advertise import advertised
from meshd.config import Config
from meshd.errors import Refused, UsageError
from meshd.kernel.state import Host
from meshd.log import EventLog
from meshd.policy.prefixes import overlaps
from meshd.startup import check_announced
from meshd.state import RuntimeChanges, StateDirectory
from protocol.address import Endpoint, Prefix
from protocol.errors import SequenceUnavailable
from protocol.node import Node
from protocol.objects import Grant


class Announcer:
    """Keeps ``node``'s announcement as config, run-time changes and addresses want it."""

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
    ) -> None:
        """``clock`` gives the node's ``now``; ``changed`` tells of something to send."""
        self.seeds: tuple[Endpoint, ...] = ()
        """Where they resolve to now: the address towards them is the one to advertise."""
        self._node, self._first_grant = node, grant
        self._config, self._state = config, state
        self._host, self._log, self._clock, self._changed = host, log, clock, changed
        self._changes = state.read_changes()
        self.behind = False
        """Where we are could not be announced: ``follow`` is to be called again."""

    @property
    def prefixes(self) -> tuple[Prefix, ...]:
        """What is to be announced."""
        return self._changes.apply(self._config.announce)

    @property
    def grant(self) -> Grant:
        """Our own, as the mesh knows it now."""
        return self._node.grant or self._first_grant

    def start(self) -> None:
        """The first announcement of this life, or ``UsageError``."""
        check_announced(self.grant, self.prefixes, "announce")
        try:
            self._node.announce(
                self._clock(),
                prefixes=self.prefixes,
                endpoints=self._endpoints(),
                preference=self._config.preference,
                tunnel=self._config.vxlan_port,
            )
        except (SequenceUnavailable, ValueError) as error:
            raise UsageError(str(error)) from None

    def announce(self, prefixes: Iterable[Prefix]) -> None:
        """Announce these too. ``UsageError`` outside the grant, ``Refused`` if another's."""
        prefixes = tuple(prefixes)
        changes = self._changes.announce(prefixes)
        check_announced(self.grant, changes.apply(self._config.announce), "announce")
        for prefix in prefixes:
            self._refuse_if_taken(prefix)
        self._apply(changes, self._config)

    def withdraw(self, prefixes: Iterable[Prefix]) -> None:
        """Announce these no more. ``Refused`` if one is not announced."""
        prefixes = tuple(prefixes)
        for prefix in prefixes:
            if prefix not in self.prefixes:
                listed = ", ".join(map(str, self.prefixes)) or "nothing"
                raise Refused(f"{prefix} is not announced here; announced: {listed}")
        self._apply(self._changes.withdraw(prefixes), self._config)

    def reload(self, config: Config) -> None:
        """Announce by another, checked config; ``UsageError`` leaves the old in force."""
        self._apply(self._changes.settle(config.announce), config)

    def _apply(self, changes: RuntimeChanges, config: Config) -> None:
        prefixes = changes.apply(config.announce)
        before = self._changes
        if changes != before:
            self._state.write_changes(changes)
        if prefixes != self.prefixes or config.preference != self._config.preference:
            try:
                self._node.announce(self._clock(), prefixes=prefixes, preference=config.preference)
            except (SequenceUnavailable, ValueError) as error:
                self._state.write_changes(before)
                raise UsageError(str(error)) from None
        self._changes, self._config = changes, config
        self.follow()  # what may be advertised depends on what is announced
        self._changed()

    def follow(self, host: Host | None = None) -> None:
        """Advertise where we are now: after a change of addresses, seeds or prefixes."""
        self._host = host or self._host
        own, wanted = self._node.announcement, self._endpoints()
        if own is None or own.has_left or not wanted or set(wanted) == set(own.endpoints):
            self.behind = False
            return
        try:
            self._node.announce(self._clock(), endpoints=wanted)
        except (SequenceUnavailable, ValueError) as error:
            if not self.behind:
                self._log.emit("error", reason=f"our new address is not announced: {error}")
            self.behind = True
            return
        self.behind = False
        self._log.emit("moved", endpoints=[str(where) for where in wanted])
        self._changed()

    def _endpoints(self) -> tuple[Endpoint, ...]:
        config, own = self._config, self._node.announcement
        current = own.endpoints if own is not None else ()
        return advertised(
            config.advertise, self.seeds, self._host, self.prefixes, config.port, current
        )

    def _refuse_if_taken(self, prefix: Prefix) -> None:
        """``Refused`` when another's prefix overlaps and the grants do not share it."""
        for member in self._node.members.values():
            theirs = self._node.store.grants[member.key]
            for other in member.prefixes:
                both_named = prefix in self.grant.allow and prefix in theirs.allow
                if overlaps(prefix, other) and not (prefix == other and both_named):
                    raise Refused(
                        f"{prefix} overlaps {other}, which {member.name} announces; withdraw it"
                        " there, or let the authority grant this very prefix to both"
                    )
