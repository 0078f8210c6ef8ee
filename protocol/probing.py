"""Probes: whether a member answers us, or others (SWIM, Das et al., DSN 2002, section 3.1).

A member is probed directly, more than once where probes are often lost, and after that through
k others and once more directly.  What comes
of it is told to the detector as one of three: it *answered* us, it is there but *only
others reach it*, or it is *silent*.  How long an answer may take follows the round trips
that were measured, and our own local health (Lifeguard, Dadgar et al., 2018, section IV-A).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import Final, Protocol

import attrs

from protocol.address import Endpoint
from protocol.members import Common, Member
from protocol.messages import Ack, Indirect, Message, Nack, Probe, Reached
from protocol.objects import Announcement
from protocol.roundtrips import RoundTrips
from protocol.store import slot_id
from protocol.timers import Timer
from protocol.tuning import MAX_NONCES, MAX_RELAYED

_RARE: Final = 1 / 500
"""How seldom loss alone may make us ask relays: with those, and with one of four members told
who must find the same, a false accusation is one in millions."""

_FRESH: Final = 60.0
"""Seconds for which an answer shows that what we send arrives: a round of probes of 120 members.
One whose hardware address has changed misses our next probe, and shows nothing from then on."""

_RELAY_SHARE: Final = 1 / 3
"""Of ``indirect_timeout``: a relay's longest wait for each of its two acks, so that its nack
arrives in time."""

_RELAY_WAITS: Final = 4
"""Of our own timeouts until a relay's nack is overdue: its two, and one for each of two trips."""


@attrs.define(eq=False)
class Attempt:
    """One member being probed, from the first direct probe to what came of it."""

    member: Member
    drawn: bool
    """It was its turn: such probes are a fair sample of the mesh, others are not."""
    wanted: int = 1
    """Direct probes before relays are asked."""
    nonces: dict[int, None] = attrs.field(factory=dict)
    tries: int = 0
    relays: dict[bytes, None] = attrs.field(factory=dict)
    """Asked, and not heard from yet."""
    asked: int = 0
    nacks: int = 0
    refused: bool = False
    """Its host said that nobody listens."""
    graced: bool = False
    timer: Timer | None = None

    @property
    def confirmed(self) -> bool:
        """It was silent to a relay too, or there was none to ask."""
        return self.nacks > 0 or not self.asked


class Findings(Protocol):
    """Who is told what came of a probe."""

    def answered(self, member: Member, attempt: Attempt | None, now: float) -> None:
        """``member`` answered a probe of ours; no ``attempt``: late, or to a single one."""

    def only_others_reach(self, attempt: Attempt, now: float) -> None:
        """The member answered a relay and not us."""

    def silent(self, attempt: Attempt, now: float) -> None:
        """Neither we nor a relay had an answer."""

    def is_known(self, member: Member) -> bool:
        """Enough others find ``member`` silent: relays would add nothing to what they say."""


@attrs.define(eq=False)
class _Relayed:
    """A probe under way for another, who is answered once."""

    requester: bytes
    nonce: int
    target: Member
    answered: bool = False


@attrs.define(eq=False)
class Misses:
    """How often a first probe has no answer: loss, on the way there or back.

    One miss is no sign of death where a fifth of all probes is lost, and what follows from
    it costs others: so a member is tried directly until chance alone explains it badly.
    """

    rate: float = 0.0
    """Smoothed over about 32 turns."""

    def add(self, missed: bool) -> None:
        """One more turn began."""
        self.rate += (missed - self.rate) / 32

    @property
    def tries(self) -> int:
        """Direct probes before relays are asked: that all are lost by chance happens once in
        500 times; at most 6, which is a sixth of a second more."""
        if self.rate <= _RARE:
            return 1
        return min(6, math.ceil(math.log(_RARE) / math.log(self.rate)))


class Prober:
    """The probes of one node, for itself and for others."""

    def __init__(
        self,
        common: Common,
        findings: Findings,
        *,
        send: Callable[[bytes, Message, float, int], bool],
        doubtful: Container[bytes],
    ) -> None:
        """``doubtful``: members that are not asked to relay."""
        self._common, self._tuning = common, common.tuning
        self._findings, self._send, self._doubtful = findings, send, doubtful
        self._trips = RoundTrips()
        self._misses = Misses()
        self._attempts: dict[bytes, Attempt] = {}
        self._nonces: dict[int, tuple[bytes, float]] = {}
        """Nonce of an own probe that may still be answered: target and when it was sent."""
        self._relayed: dict[int, _Relayed] = {}
        self._health = 0

    @property
    def slowness(self) -> int:
        """By how much our own ill health lengthens every wait: 1 when we are well."""
        return 1 + self._health

    # Own probes.

    @property
    def missed(self) -> list[bytes]:
        """Members that a probe under way was in vain once at least."""
        return [key for key, each in self._attempts.items() if each.tries > 1 or each.asked]

    def probe(
        self, member: Member, now: float, *, drawn: bool = False, doubted: bool = False
    ) -> None:
        """Find out whether ``member`` answers, unless that is under way already.

        ``doubted``: it is silent to another, so relays are asked after one miss.
        """
        if member.key not in self._attempts:
            wanted = 1 if doubted else self._misses.tries
            attempt = self._attempts[member.key] = Attempt(member, drawn, wanted)
            self._try(attempt, now)

    def knock(self, member: Member, now: float, attempt: int = 0) -> None:
        """One probe to a member whose silence would mean nothing, at most one at a time;
        ``attempt``: which of its endpoints it goes to, by turns."""
        if now - member.knocked >= self._tuning.probe_timeout_unknown:
            member.knocked = now
            self._send_probe(member, now, attempt)

    def end(self, key: bytes) -> Attempt | None:
        """End the attempt at ``key``, if one is under way."""
        attempt = self._attempts.pop(key, None)
        if attempt is not None and attempt.timer is not None:
            attempt.timer.cancel()
        return attempt

    def end_all(self) -> None:
        """End every attempt: no silence of now is another's."""
        for key in list(self._attempts):
            self.end(key)

    def recovered(self) -> None:
        """What was wrong here was a link, and is over."""
        self._health = 0

    def worsen(self) -> None:
        """Something is wrong here: answers are waited for longer."""
        self._health = min(self._tuning.health_max, self._health + 1)

    def _try(self, attempt: Attempt, now: float) -> None:
        attempt.tries += 1
        attempt.nonces[self._send_probe(attempt.member, now, attempt.tries - 1)] = None
        self._wait(attempt, self.timeout(attempt.member), now)

    def _send_probe(self, member: Member, now: float, attempt: int = 0) -> int:
        nonce = self._new_nonce(member.key, now)
        probe = Probe(nonce, self._common.store.root, self._common.evidence.digest)
        self._send(member.key, probe, now, attempt)
        member.newest = nonce
        return nonce

    def _new_nonce(self, target: bytes, now: float) -> int:
        while self._nonces:  # the oldest stand first; no timer wakes an idle node for them
            oldest, (_, sent) = next(iter(self._nonces.items()))
            recent = now - sent < self._tuning.candidate_lifetime
            if recent and len(self._nonces) < MAX_NONCES:
                break
            del self._nonces[oldest]
        nonce = self._common.rng.getrandbits(32)
        self._nonces.pop(nonce, None)
        self._nonces[nonce] = (target, now)
        return nonce

    def timeout(self, member: Member) -> float:
        """How long an answer of ``member`` is waited for, in seconds."""
        expected = 4 * member.rtt if member.rtt is not None else self._trips.timeout
        longest = self._tuning.probe_timeout_unknown
        if expected is None:
            expected = longest
        elif member.rtt is None:
            expected = min(expected, longest)
        return max(self._tuning.probe_timeout_floor, expected) * self.slowness

    @property
    def usual_wait(self) -> float:
        """Within how many seconds answers have come of late, whosever, at a health of 0."""
        floor = self._tuning.probe_timeout_floor
        return max(floor, self._trips.timeout or floor)

    def _wait(self, attempt: Attempt, delay: float, now: float) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()
        attempt.timer = self._common.timers.silence(
            delay,
            now,
            lambda now: self._missed(attempt, now),
            late=self._tuning.probe_timeout_floor,
        )

    def _missed(self, attempt: Attempt, now: float) -> None:
        if attempt.drawn and attempt.tries == 1:
            self._misses.add(True)
        if attempt.asked:
            self._conclude(attempt, now)
        elif attempt.tries < attempt.wanted:
            self._try(attempt, now)
        elif self._findings.is_known(attempt.member):
            self.end(attempt.member.key)
        else:
            self._ask_relays(attempt, now)

    def _ask_relays(self, attempt: Attempt, now: float) -> None:
        target, number = attempt.member.key, self._tuning.indirect_members
        drawn = self._common.members.live.draw(self._common.rng, number + 1, self._doubtful)
        relays = [key for key in drawn if key != target][:number]
        if not relays:
            self._conclude(attempt, now)
            return
        attempt.asked = len(relays)
        attempt.relays = dict.fromkeys(relays)
        nonce = self._new_nonce(target, now)
        attempt.nonces[nonce] = None
        for key in relays:
            self._send(key, Indirect(nonce, slot_id(Announcement.KIND, target)), now, 0)
        # And once more ourselves.
        attempt.nonces[self._send_probe(attempt.member, now, attempt.tries)] = None
        patience = _RELAY_WAITS * self.timeout(attempt.member)
        self._wait(attempt, min(patience, self._tuning.indirect_timeout), now)

    def _conclude(self, attempt: Attempt, now: float) -> None:
        self.end(attempt.member.key)
        if attempt.asked and not attempt.nacks:
            # Not even the relays answered: Lifeguard's sign that the trouble is here.
            self.worsen()
        if self._common.members.get(attempt.member.key) is attempt.member:
            self._findings.silent(attempt, now)

    # What comes back.

    def acked(self, peer: bytes, ack: Ack, now: float) -> bool:
        """``peer`` answered; whether it is believed: with the nonce of a probe that was its own."""
        target, sent = self._nonces.get(ack.nonce, (None, 0.0))
        relayed = self._relayed.get(ack.nonce)
        if relayed is not None and relayed.target.key == peer and not relayed.answered:
            relayed.answered = True
            self._send(relayed.requester, Reached(relayed.nonce), now, 0)
        if target != peer:
            return False
        self._common.count("heard Ack")
        del self._nonces[ack.nonce]
        member = self._common.members[peer]
        if ack.nonce == member.newest:
            member.newest = None
            self._timed(member, now - sent)
        self._health = max(0, self._health - 1)
        attempt = self.end(peer)
        if attempt is not None and attempt.drawn and attempt.tries == 1:
            self._misses.add(False)
        self._findings.answered(member, attempt, now)
        return True

    def has_just_reached(self, member: Member, now: float) -> bool:
        """Our newest probe of ``member`` was answered, and that not long ago."""
        return member.newest is None and member.acked >= 0 and now - member.acked <= _FRESH

    def _timed(self, member: Member, trip: float) -> None:
        """The newest probe of ``member`` took ``trip`` seconds to be answered.

        Of what lay in a queue until a cable was in again, a dozen answers at once, only that one
        counts, and not in full: it says little of this way, and nothing of others.
        """
        longest = self.timeout(member) / self.slowness
        if trip < longest:
            self._trips.add(trip)
        trip = min(trip, longest)
        member.rtt = trip if member.rtt is None else member.rtt + (trip - member.rtt) / 8

    def reached(self, peer: bytes, answer: Reached, now: float) -> None:
        """A relay reaches the target: it lives, though not for us."""
        attempt = self._attempt_of(peer, answer.nonce)
        if attempt is not None:
            self.end(attempt.member.key)
            self._findings.only_others_reach(attempt, now)

    def nacked(self, peer: bytes, answer: Nack, now: float) -> None:
        """A relay did not reach the target either."""
        attempt = self._attempt_of(peer, answer.nonce)
        if attempt is not None:
            attempt.relays.pop(peer, None)
            attempt.nacks += 1
            if not attempt.relays:
                self._conclude(attempt, now)

    def _attempt_of(self, relay: bytes, nonce: int) -> Attempt | None:
        target, _ = self._nonces.get(nonce, (None, 0.0))
        attempt = self._attempts.get(target) if target is not None else None
        if attempt is None or nonce not in attempt.nonces or relay not in attempt.relays:
            return None
        return attempt

    def stale(self, node: bytes, now: float) -> None:
        """A probe of ``node`` drew STALE: that host is up, its daemon may have restarted."""
        attempt = self._attempts.get(node)
        if attempt is not None and not attempt.graced:
            attempt.graced = True
            self._wait(attempt, self._tuning.stale_grace, now)

    def unreachable(self, where: Endpoint, now: float) -> None:
        """The host at ``where`` answered that nobody listens there: do not wait it out."""
        for attempt in list(self._attempts.values()):
            if where in attempt.member.announcement.endpoints:
                attempt.refused = True
                if not attempt.asked:
                    self._wait(attempt, 0.0, now)

    # For others.

    def relay(self, peer: bytes, request: Indirect, now: float) -> None:
        """Probe a member for ``peer``; a stranger is not probed."""
        wanted = self._common.store.in_slot(request.target)
        target = self._common.members.get(wanted.subject) if wanted else None
        if target is None or target.key == peer or len(self._relayed) >= MAX_RELAYED:
            self._common.count("relay refused")
            return
        self._relay_probe(_Relayed(peer, request.nonce, target), tries=2, now=now)

    def _relay_probe(self, relayed: _Relayed, tries: int, now: float) -> None:
        nonce = self._send_probe(relayed.target, now)
        self._relayed[nonce] = relayed

        def missed(now: float) -> None:
            if self._relayed.pop(nonce, None) is None or relayed.answered:
                return
            if tries > 1:
                self._relay_probe(relayed, tries - 1, now)
            else:
                relayed.answered = True
                self._send(relayed.requester, Nack(relayed.nonce), now, 0)

        longest = _RELAY_SHARE * self._tuning.indirect_timeout
        patience = min(self.timeout(relayed.target), longest)
        late = self._tuning.probe_timeout_floor
        self._common.timers.silence(patience, now, missed, late=late)
