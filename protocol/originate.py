"""What this node says of itself: its announcement, and when that must be made anew.

The own announcement is self-originated state, as an OSPF router's own LSA is (RFC 2328
section 13.4): only we can sign it, and whoever shows us a newer one of ours than we know
makes us go above it.  It is made anew for four reasons: the owner wants other content, the
boot key is a new one, an earlier life of ours announced more, or members accuse us of
silence.  The last two are answered soon at first and more and more slowly while they
repeat.  While we yield to another host with our key, nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs

from protocol.address import Endpoint, Prefix
from protocol.clones import Clones
from protocol.errors import Rejected, SequenceUnavailable
from protocol.events import Accused, CannotAnnounce, Superseded
from protocol.members import Common
from protocol.objects import ALIVE, LEFT, MAX_ANNOUNCEMENT, Accusation, Announcement
from protocol.shards import Shard, cut
from protocol.timers import Timer

_LONG_SEQUENCE = 2**32
"""The least that is encoded in nine octets, as every sequence out of unix ms is."""

_NEVER_INLINE = MAX_ANNOUNCEMENT // 2
"""Prefixes that no announcement holds, of two octets at least each."""

RETRY_SEQUENCE = 1.0
"""Seconds before a sequence is asked for again that could not be reserved."""


@attrs.frozen
class Content:
    """What the owner wants announced."""

    prefixes: tuple[Prefix, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    preference: int = 100
    tunnel: int = 0
    departed: bool = False


class Originator:
    """Signs our announcements, each at a higher sequence than any of ours before."""

    def __init__(
        self,
        common: Common,
        boot_key: bytes,
        *,
        next_sequence: Callable[[int], int],
        publish: Callable[[Announcement, tuple[Shard, ...], float], None],
        copied: Callable[[float], None],
        yields: Callable[[bool, float], None],
        inquire: Callable[[Iterable[Endpoint]], None],
    ) -> None:
        """``publish`` gets each announcement and the shards that it names.  ``copied`` is told
        that another host holds our very boot key, ``yields`` whether we are to be still;
        ``inquire`` is to ask at these endpoints what is known of us."""
        self.content = Content()
        self.latest: Announcement | None = None
        """What we said last in this life."""
        self.clones = Clones(common, yields=yields, inquire=inquire, resume=self._say_again)
        self._common, self._boot_key = common, boot_key
        self._next_sequence, self._publish = next_sequence, publish
        self._copied = copied
        self._floor = 0
        """The newest sequence of ours, by us or by whoever showed it to us."""
        self._accusers: dict[bytes, None] = {}
        self._pending: Timer | None = None
        self._answered_at = -1e9
        self._delay = common.tuning.refute_first

    def announce(
        self,
        now: float,
        *,
        prefixes: Iterable[Prefix] | None = None,
        endpoints: Sequence[Endpoint] | None = None,
        preference: int | None = None,
        tunnel: int | None = None,
    ) -> None:
        """Say something else; what is not given stays. See ``Node.announce``."""
        old = self.content
        content = Content(
            old.prefixes if prefixes is None else tuple(dict.fromkeys(prefixes)),
            old.endpoints if endpoints is None else tuple(endpoints),
            old.preference if preference is None else preference,
            old.tunnel if tunnel is None else tunnel,
        )
        try:
            shards = self._shards(content)
            if not self._stands(content, shards):
                self._say(content, shards, now)
        except Rejected as error:
            raise ValueError(error.reason) from None

    def _stands(self, content: Content, shards: tuple[Shard, ...]) -> bool:
        """Our announcement in force says that already: it is not made anew."""
        own = self._common.store.announcements.get(self._common.me.public)
        if own is None or own.boot_key != self._boot_key or own.has_left:
            return False
        if self._draft(content, shards, own.sequence).body != own.body:
            return False
        self.content, self.latest = content, own
        self._floor = max(self._floor, own.sequence)
        return True

    def depart(self, now: float) -> None:
        """Say that we leave. ``SequenceUnavailable``: nothing was said."""
        self._say(attrs.evolve(self.content, departed=True), (), now)

    def renew(self, boot_key: bytes, now: float) -> None:
        """``boot_key`` is ours from now on; say so, if we said anything yet."""
        self._boot_key = boot_key
        if self.latest is not None:
            self._say_again(now)

    def superseded(self, newest: Announcement, answered_by: Endpoint | None, now: float) -> None:
        """Our key has announced what we have not: go above it, unless we yield to a clone.

        ``answered_by``: where it came from, when it is the answer to a question of ours.
        """
        self._floor = max(self._floor, newest.sequence)
        if newest.boot_key == self._boot_key and not self.clones.yielded:
            self._copied(now)
        elif self.clones.superseded(newest, self.latest, answered_by, now):
            self._common.events.append(Superseded(newest.sequence))
            self._answer_later(now)

    def accused(self, accusation: Accusation, now: float) -> None:
        """A member says that we were silent at our present sequence."""
        if not self.content.departed and not self.clones.yielded:
            self._accusers[accusation.accuser] = None
            self._answer_later(now)

    def admitted(self, now: float) -> None:
        """We are a member again, and nothing of ours is in the store: say what we last said."""
        if self.latest is not None:
            self._answer_later(now)

    def cancel(self) -> None:
        """Whatever was to be answered needs no answer: the owner announces next."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None

    def _say(self, content: Content, shards: tuple[Shard, ...], now: float) -> None:
        """``shards`` are those of ``content``: what cannot be encoded was refused, before a
        sequence is used."""
        if self.clones.yielded:
            self.content = content
            return
        self._floor = self._next_sequence(self._floor)
        self.content = content
        draft = self._draft(content, shards, self._floor)
        own = self.latest = draft.signed(self._common.me, self._common.mesh)
        self._publish(own, shards, now)

    def _shards(self, content: Content) -> tuple[Shard, ...]:
        """What ``content`` must be cut into: nothing where it fits the announcement itself.

        ``Rejected``, or ``ValueError`` for too many prefixes, when it cannot be announced.
        """
        longest = max(self._floor, _LONG_SEQUENCE)
        if content.departed or len(content.prefixes) <= _NEVER_INLINE:
            try:
                self._draft(content, (), longest)
            except Rejected as error:
                if not error.reason.startswith("announcement longer"):
                    raise
            else:
                return ()
        shards = cut(content.prefixes)
        self._draft(content, shards, longest)
        return shards

    def _draft(self, content: Content, shards: tuple[Shard, ...], sequence: int) -> Announcement:
        return Announcement.draft(
            self._common.me.public,
            sequence=sequence,
            boot_key=self._boot_key,
            state=LEFT if content.departed else ALIVE,
            preference=content.preference,
            tunnel=content.tunnel,
            endpoints=content.endpoints,
            prefixes=() if content.departed or shards else content.prefixes,
            shards=[shard.hash for shard in shards],
        )

    def _answer_later(self, now: float) -> None:
        if self._pending is not None:
            return
        tuning = self._common.tuning
        quiet = now - self._answered_at
        if quiet > 2 * self._delay + tuning.suspicion_max:
            self._delay = tuning.refute_first
        # 1 ms for each that is accused: many who are accused together do not answer at once.
        jitter = 0.001 * (1 + self._common.rng.random() * len(self._common.evidence.targets))
        delay = max(jitter, self._delay - quiet)
        self._pending = self._common.timers.after(delay, now, self._answer)

    def _answer(self, now: float) -> None:
        self._answered_at = now
        if self._say_again(now):
            self._delay = min(2 * self._delay, self._common.tuning.refute_max)

    def _say_again(self, now: float) -> bool:
        """The same at a higher sequence; False when it must wait, or is nobody's to hear."""
        self.cancel()
        if self.clones.yielded or self._common.me.public not in self._common.store.grants:
            return False  # another speaks under our key; or it is revoked: nobody would take it
        try:
            self._say(self.content, self._shards(self.content), now)
        except SequenceUnavailable as error:
            self._common.events.append(CannotAnnounce(str(error)))
            self._delay = RETRY_SEQUENCE
            self._answer_later(now)
            return False
        if self._accusers:
            self._common.events.append(Accused(tuple(self._accusers), self._floor))
            self._accusers.clear()
        return True
