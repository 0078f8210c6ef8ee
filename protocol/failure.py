"""The failure detector: SWIM (Das et al., DSN 2002) with Lifeguard (Dadgar et al., 2018).

One member is probed each period, in turns (``turns``).  What stays silent is suspected,
and failed when its suspicion has run out unrefuted.  Deaths come together, so each death
that is heard of brings a probe forward.  Accusing others is rationed, because a route
hangs on it:

- a suspicion is told to four members, who probe at once; one of them that finds the target
  silent too signs an accusation (in a mesh too small for that, who suspects it does);
- nobody adds to a target that has three accusers;
- nobody tells or accuses while more than half of the last eight members whose turn it was
  are silent, or within two periods of a late tick: then the fault is most likely our own.

Others' word is checked by one probe of our own before it is acted on, and an ack that
came after they spoke outweighs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from protocol.limits import TokenBucket
from protocol.members import Common, Member, Roster, State
from protocol.messages import Message, Suspect
from protocol.objects import Accusation, Announcement
from protocol.probing import Attempt, Prober
from protocol.returning import AT_ONCE, Returning
from protocol.store import slot_id
from protocol.timers import Timer
from protocol.tuning import FANOUT_ALL
from protocol.turns import Turns

_RECENT: Final = 8
_ENOUGH_ACCUSERS: Final = 3
_WAITS: Final = 5
"""Usual waits for an answer that a suspicion lasts at least: nothing where round trips are short,
and more where they are long of late because this host, or most, have much to do."""

_LONGEST: Final = 2.5
"""... but no longer than so many times ``suspicion_min``: enough accusers are enough."""

_APART: Final = 0.002
"""Seconds per live member over which those accuse who only heard of an accusation: one takes
about a trip to be heard, and few are to speak before it is."""


class Detector:
    """Suspicions and verdicts of one node."""

    def __init__(
        self,
        common: Common,
        *,
        send: Callable[[bytes, Message, float, int], bool],
        accuse: Callable[[Accusation, float], None],
        changed: Callable[[Member, float], None],
    ) -> None:
        self._common = common
        self._tuning = common.tuning
        self._send, self._accuse, self._changed = send, accuse, changed
        self.suspects = Roster()
        self.prober = Prober(common, self, send=send, doubtful=self.suspects)
        self._returning = Returning(common, self.prober.knock)
        self.turns = Turns(common)
        self._suspicions: dict[bytes, Timer] = {}
        """When each suspect is failed."""
        self._accusing: dict[bytes, Timer] = {}
        """Suspects that we are about to accuse."""
        self._recent: dict[bytes, bool] = {}
        """Of the last eight members whose turn it was: was it silent?"""
        tuning = common.tuning
        self._told = TokenBucket(tuning.told_rate, tuning.told_burst)
        self._hasten = TokenBucket(tuning.hasten_rate, tuning.hasten_burst)
        self._quiet_until = 0.0
        """No accusations before this: a tick was late."""

    # Probing.

    def probe_next(self, now: float) -> None:
        """The period's probe: the next of the round, and besides it one that nobody has
        seen and one that is suspected, if there are any."""
        members, rng = self._common.members, self._common.rng
        self._probe_in_turn(self.turns.next(now), now)
        for roster in (members.unseen, self.suspects):
            key = roster.next(rng)
            if key is not None:
                self.prober.probe(members[key], now)

    def _probe_in_turn(self, key: bytes | None, now: float) -> None:
        if key is not None:
            self.prober.probe(self._common.members[key], now, drawn=True)

    def _bring_forward(self, now: float) -> None:
        """A member is dead, it seems: look for others that died with it, before it is failed."""
        self.turns.disturbed(now)
        while self._hasten.take(now):
            self._probe_in_turn(self._common.members.live.next(self._common.rng), now)

    def link_changed(self, now: float) -> None:
        """A link or an address of this host is another: who was silent may not be any more."""
        members = self._common.members
        self.prober.recovered()
        self._returning.begin(now)
        for key in self.suspects.draw(self._common.rng, AT_ONCE):
            self.prober.knock(members[key], now)
        # Who holds us failed while we hold it live says so in its answer.
        self._bring_forward(now)

    # What came of a probe.

    def answered(self, member: Member, attempt: Attempt | None, now: float) -> None:
        """``member`` answered a probe of ours: nothing that was said before stands for us."""
        member.acked = now
        member.silent = member.silent_refused = member.doubted = False
        member.detours = 0
        self._note(member, attempt, silent=False)
        was_unreachable, member.reachable = not member.reachable, True
        if member.state is State.FAILED:
            # One that answers again means most often a partition that has healed.
            self._revive(member, "answered a probe", now)
            self.turns.disturbed(now)
            self._returning.begin(now)
        elif member.state is State.SUSPECT:
            self._revive(member, "answered a probe", now)
        elif was_unreachable:
            self._changed(member, now)

    def only_others_reach(self, attempt: Attempt, now: float) -> None:
        """It lives, though not for us; shown so when it is no accident."""
        member = attempt.member
        member.acked = now
        member.silent = member.silent_refused = member.doubted = False
        self._note(member, attempt, silent=False)
        member.detours += 1
        if member.detours >= self._tuning.detours:
            if member.reachable:
                member.reachable = False
                self._changed(member, now)
        else:
            self._common.timers.after(
                self._tuning.probe_period, now, lambda now: self._probe_again(member, now)
            )
        if member.state is State.SUSPECT:
            self._revive(member, "others reach it", now)

    def _probe_again(self, member: Member, now: float) -> None:
        if member.detours and member.key in self._common.members.live:
            self.prober.probe(member, now)

    def silent(self, attempt: Attempt, now: float) -> None:
        """Neither we nor a relay had an answer: suspect it, and find out who agrees."""
        member = attempt.member
        member.silent = True
        # Its kernel sends few of these (icmp_ratelimit): that none came later means nothing.
        member.silent_refused |= attempt.refused
        self._note(member, attempt, silent=True)
        if member.live:
            self._ask_or_accuse(member, attempt, now)
            self._bring_forward(now)
        self.suspect(member, now)

    def _note(self, member: Member, attempt: Attempt | None, *, silent: bool) -> None:
        """Only turns are counted: suspects are probed besides, and would be most of them."""
        if attempt is not None and attempt.drawn:
            self._recent.pop(member.key, None)
            self._recent[member.key] = silent
            if len(self._recent) > _RECENT:
                del self._recent[next(iter(self._recent))]
        elif member.key in self._recent and not silent:
            self._recent[member.key] = False

    # Accusing.

    def _ask_or_accuse(self, member: Member, attempt: Attempt, now: float) -> None:
        if not self._may_accuse(member, now):
            return
        if self._agreed(member):
            self._accuse_soon(member, self._tuning.accuse_jitter, now)
            return
        live, number = self._common.members.live, self._tuning.told_members
        if len(live) <= number:
            if attempt.confirmed:
                self._accuse_now(member, now)
            return
        told = Suspect(slot_id(Announcement.KIND, member.key), member.announcement.sequence)
        for key in live.draw(self._common.rng, number, (member.key,)):
            self._send(key, told, now, 0)

    def told(self, peer: bytes, message: Suspect, now: float) -> None:
        """A member is silent to ``peer``: if it is to us as well, two know it."""
        found = self._common.store.in_slot(message.target)
        if (
            not isinstance(found, Announcement)
            or found.sequence != message.sequence
            or found.node == peer
            or found.node not in self._common.members.live
        ):
            return
        if not self._told.take(now):
            self._common.count("suspicion not looked into")
            return
        member = self._common.members[found.node]
        member.doubted = True
        if member.silent:
            self._accuse_soon(member, self._tuning.accuse_jitter, now)
        else:
            self.prober.probe(member, now, doubted=True)

    def accused(self, accusation: Accusation, now: float) -> None:
        """A member's accusation of another, at its present sequence, is held now."""
        member = self._common.members[accusation.target]
        member.heard[accusation.accuser] = now
        if not member.live:
            return
        self._bring_forward(now)
        if member.silent:
            spread = self._tuning.accuse_jitter + _APART * len(self._common.members.live)
            self._accuse_soon(member, spread, now)
        elif len(self._common.members) <= FANOUT_ALL:
            self.prober.probe(member, now)
        self.suspect(member, now)

    def is_known(self, member: Member) -> bool:
        """``member`` is a suspect by the word of enough others, whatever we find ourselves."""
        return member.state is State.SUSPECT and len(self._counted(member)) >= self._needed()

    def _agreed(self, member: Member) -> bool:
        """Another finds it silent as well."""
        return member.doubted or bool(self._counted(member))

    @property
    def doubtful(self) -> int:
        """Live members that are suspected, accused, or silent to a first probe of ours."""
        members, live = self._common.members, self._common.members.live
        targets = (key for key in self._common.evidence.targets if key in live)
        accused = (key for key in targets if self._counted(members[key]))
        return sum(key in live for key in {*self.suspects, *self.prober.missed, *accused})

    @property
    def doubts_itself(self) -> bool:
        """Most of those whose turn it was of late were silent: it may be us."""
        turns = max(len(self._recent), min(_RECENT, len(self._common.members.live)))
        return 2 * sum(self._recent.values()) > turns

    def _may_accuse(self, member: Member, now: float) -> bool:
        held = self._common.evidence.against(member.key)
        return (
            not self.doubts_itself
            and now >= self._quiet_until
            and len(held) < _ENOUGH_ACCUSERS
            and all(each.accuser != self._common.me.public for each in held)
        )

    def _accuse_soon(self, member: Member, spread: float, now: float) -> None:
        """Accuse it within ``spread`` seconds, unless three others have done so by then."""
        if member.key in self._accusing or not self._may_accuse(member, now):
            return

        def accuse(now: float) -> None:
            del self._accusing[member.key]
            if member.silent and member.live and self._may_accuse(member, now):
                self._accuse_now(member, now)

        delay = spread * self._common.rng.random()
        self._accusing[member.key] = self._common.timers.after(delay, now, accuse)

    def _accuse_now(self, member: Member, now: float) -> None:
        self._common.count("accusations signed")
        self._accuse(
            Accusation.sign(
                self._common.me,
                self._common.mesh,
                target=member.key,
                sequence=member.announcement.sequence,
                refused=member.silent_refused,
            ),
            now,
        )
        self.suspect(member, now)

    # Verdicts.

    def suspect(self, member: Member, now: float) -> None:
        """Suspect ``member`` if our own probes or enough others say so, or think again."""
        if member.state not in (State.ALIVE, State.SUSPECT):
            return
        accusers = self._counted(member)
        if not member.silent and len(accusers) < self._needed():
            return
        if member.state is State.ALIVE:
            member.state, member.since = State.SUSPECT, now
            member.reason = self._why(member, len(accusers))
            self._changed(member, now)
        old = self._suspicions.pop(member.key, None)
        if old is not None:
            old.cancel()
        ends = member.since + self._patience(len(accusers))
        self.suspects.add(member.key)
        self._suspicions[member.key] = self._common.timers.silence(
            ends - now,
            now,
            lambda now: self._fail(member, now),
            late=self._tuning.probe_timeout_floor,
        )

    def _patience(self, accusers: int) -> float:
        """Lifeguard's suspicion timeout: from max to min as independent accusers agree, but no
        less than several of the waits that answers have taken here of late."""
        low, high = self._tuning.suspicion_min, self._tuning.suspicion_max
        # Not by our own health: who was cut off would be slow to believe others for long.
        low = max(low, min(_WAITS * self.prober.usual_wait, _LONGEST * low))
        share = math.log(accusers + 1) / math.log(self._needed() + 1)
        return max(low, high - (high - low) * share)

    def _needed(self) -> int:
        """Distinct accusers that are enough: 3, 2 below eight members, 1 below four."""
        size = len(self._common.members.live) + 1
        return 1 if size < 4 else 2 if size < 8 else 3

    def _counted(self, member: Member) -> list[Accusation]:
        """The accusations that no ack of the target to us has outweighed since."""
        return [
            each
            for each in self._common.evidence.against(member.key)
            if member.heard.get(each.accuser, 0.0) > member.acked
        ]

    def _fail(self, member: Member, now: float) -> None:
        self._trust(member.key)
        if member.state is not State.SUSPECT:
            return
        accusers = self._counted(member)
        if not member.silent and len(accusers) < self._needed():
            self._revive(member, "answered a probe", now)
            return
        words = [each.refused for each in accusers if each.accuser != self._common.me.public]
        if member.silent:
            words.append(member.silent_refused)
        # One is enough: the others' silence means nothing where the host sends few errors.
        member.refused = any(words)
        member.state, member.since = State.FAILED, now
        member.reason = self._why(member, len(accusers))
        self.prober.end(member.key)
        self._bring_forward(now)
        self._changed(member, now)

    def _why(self, member: Member, accusers: int) -> str:
        own = "refused our probes" if member.silent_refused else "silent to our probes"
        told = f"accused by {accusers}" if accusers else ""
        return ", ".join(filter(None, (own if member.silent else "", told)))

    def _revive(self, member: Member, reason: str, now: float) -> None:
        """``member`` is alive again; evidence that stands is outweighed, not removed."""
        self._trust(member.key)
        member.silent = member.silent_refused = member.refused = member.doubted = False
        member.state, member.since, member.reason = State.ALIVE, now, reason
        self._changed(member, now)

    def _trust(self, key: bytes) -> None:
        """``key`` is no suspect any more, or never was."""
        self.suspects.discard(key)
        for timers in (self._suspicions, self._accusing):
            timer = timers.pop(key, None)
            if timer is not None:
                timer.cancel()

    def renewed(self, member: Member) -> None:
        """``member`` announced itself anew: what was under way about its past is void."""
        self._trust(member.key)
        self.prober.end(member.key)
        member.heard.clear()
        member.silent = member.silent_refused = member.refused = member.doubted = False
        member.detours = 0
        member.acked = -1.0

    def late(self, behind: float, now: float) -> None:
        """Our own loop stood still for ``behind`` seconds, in which we heard nobody: whom only we
        suspect is suspected for so much longer, and accused by us not now."""
        self._quiet_until = now + 2 * self._tuning.probe_period
        self.prober.worsen()
        for member in self._suspected_by_us():
            member.since += behind
            self.suspect(member, now)

    def hushed(self, now: float) -> None:
        """Others do not answer us for a reason that is ours: no silence of before stands."""
        self.prober.end_all()
        for member in self._suspected_by_us():
            self._revive(member, "suspected while nobody heard us", now)

    def _suspected_by_us(self) -> list[Member]:
        """Suspects against whom too few others speak."""
        suspects = [self._common.members[key] for key in self.suspects]
        return [each for each in suspects if len(self._counted(each)) < self._needed()]
