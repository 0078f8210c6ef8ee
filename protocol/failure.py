"""The failure detector: SWIM (Das et al., DSN 2002) with Lifeguard (Dadgar et al., 2018).

One member is probed each period, in shuffled round robin.  A miss is retried directly,
then through k others; what stays silent is suspected, and failed when its suspicion has
run out unrefuted.  Accusing others is rationed, because a route hangs on it:

- an accusation is signed only when a relay says that the target was silent to it too
  (or when there is no relay to ask);
- nobody adds to a target that has three accusers;
- nobody accuses while more than half of the last eight members it probed are silent, or
  within two periods of a late tick: then the fault is most likely our own.

Others' word is checked by one probe of our own before it is acted on, and an ack that
came after they spoke outweighs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import attrs

from protocol.address import Endpoint
from protocol.members import Common, Member, State
from protocol.messages import Ack, Indirect, Message, Nack, Probe, Reached
from protocol.objects import Accusation
from protocol.store import slot_id
from protocol.timers import Timer
from protocol.tuning import FANOUT_ALL

MAX_RELAYED: Final = 256
"""Probes under way for others at a time; beyond it they are refused with silence."""

_RECENT: Final = 8
_ENOUGH_ACCUSERS: Final = 3
_RELAY_SHARE: Final = 1 / 3
"""Of ``indirect_timeout``: a relay's longest wait for each of its two acks, so that its nack
arrives in time."""


@attrs.define(eq=False)
class _Attempt:
    """One member being probed, from the first direct probe to the verdict."""

    member: Member
    began: float
    nonces: dict[int, None] = attrs.field(factory=dict)
    tries: int = 0
    relays: dict[bytes, None] = attrs.field(factory=dict)
    """Asked, and not heard from yet."""
    asked: int = 0
    nacks: int = 0
    refused: bool = False
    graced: bool = False
    timer: Timer | None = None


@attrs.define(eq=False)
class _Relayed:
    """A probe under way for another, who is answered once."""

    requester: bytes
    nonce: int
    target: Member
    answered: bool = False


class Detector:
    """Probes, suspicions and verdicts of one node."""

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
        self._attempts: dict[bytes, _Attempt] = {}
        self._nonces: dict[int, tuple[bytes, float]] = {}
        """Nonce of an own probe that may still be answered: target and when it was sent."""
        self._relayed: dict[int, _Relayed] = {}
        self._recent: dict[bytes, bool] = {}
        """Of the last eight members probed: was it silent?"""
        self._suspicions: dict[bytes, Timer] = {}
        self._health = 0
        self._quiet_until = 0.0
        """No accusations before this: a tick was late."""

    # Probing.

    def probe_next(self, now: float) -> None:
        """The period's probe: the next of the round, and besides it one that nobody has
        seen and one that is suspected, if there are any."""
        members, rng = self._common.members, self._common.rng
        for roster in (members.live, members.unseen):
            key = roster.next(rng)
            if key is not None:
                self.probe(members[key], now)
        if self._suspicions:
            self.probe(members[rng.choice(list(self._suspicions))], now)

    def probe(self, member: Member, now: float) -> None:
        """Find out whether ``member`` answers, unless that is under way already."""
        if member.key not in self._attempts:
            attempt = _Attempt(member, now)
            self._attempts[member.key] = attempt
            self._try(attempt, now)

    def knock(self, member: Member, now: float) -> None:
        """One probe to a member whose silence would mean nothing, at most one at a time."""
        if now - member.knocked >= self._tuning.probe_timeout_unknown:
            member.knocked = now
            self._send_probe(member, now)

    def _try(self, attempt: _Attempt, now: float) -> None:
        attempt.tries += 1
        attempt.nonces[self._send_probe(attempt.member, now, attempt.tries - 1)] = None
        self._wait(attempt, self._timeout(attempt.member), now)

    def _send_probe(self, member: Member, now: float, attempt: int = 0) -> int:
        nonce = self._new_nonce(member.key, now)
        probe = Probe(nonce, self._common.store.root, self._common.evidence.digest)
        self._send(member.key, probe, now, attempt)
        return nonce

    def _new_nonce(self, target: bytes, now: float) -> int:
        while self._nonces:  # the oldest stand first; no timer wakes an idle node for them
            oldest, (_, sent) = next(iter(self._nonces.items()))
            if now - sent < self._tuning.candidate_lifetime:
                break
            del self._nonces[oldest]
        nonce = self._common.rng.getrandbits(32)
        self._nonces.pop(nonce, None)
        self._nonces[nonce] = (target, now)
        return nonce

    def _timeout(self, member: Member) -> float:
        if member.rtt is None:
            return self._tuning.probe_timeout_unknown
        return max(self._tuning.probe_timeout_floor, 4 * member.rtt) * (1 + self._health)

    def _wait(self, attempt: _Attempt, delay: float, now: float) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()
        attempt.timer = self._common.timers.after(
            delay, now, lambda now: self._missed(attempt, now)
        )

    def _missed(self, attempt: _Attempt, now: float) -> None:
        if attempt.asked:
            self._conclude(attempt, now)
        elif attempt.tries < 2:
            self._try(attempt, now)
        else:
            self._ask_relays(attempt, now)

    def _ask_relays(self, attempt: _Attempt, now: float) -> None:
        target = attempt.member.key
        doubtful = {target: None, **dict.fromkeys(self._suspicions)}
        live = self._common.members.live
        relays = live.draw(self._common.rng, self._tuning.indirect_members, doubtful)
        if not relays:
            self._conclude(attempt, now)
            return
        attempt.asked = len(relays)
        attempt.relays = dict.fromkeys(relays)
        nonce = self._new_nonce(target, now)
        attempt.nonces[nonce] = None
        for key in relays:
            self._send(key, Indirect(nonce, slot_id(3, target)), now, 0)
        attempt.nonces[self._send_probe(attempt.member, now)] = None  # and once more ourselves
        self._wait(attempt, self._tuning.indirect_timeout, now)

    def acked(self, peer: bytes, ack: Ack, now: float) -> None:
        """``peer`` answered; believed only with the nonce of a probe that was its own."""
        target, sent = self._nonces.get(ack.nonce, (None, 0.0))
        relayed = self._relayed.get(ack.nonce)
        if relayed is not None and relayed.target.key == peer and not relayed.answered:
            relayed.answered = True
            self._send(relayed.requester, Reached(relayed.nonce), now, 0)
        if target != peer:
            return
        del self._nonces[ack.nonce]
        member = self._common.members[peer]
        trip = now - sent
        member.rtt = trip if member.rtt is None else member.rtt + (trip - member.rtt) / 8
        member.acked = now
        member.silent = member.silent_refused = False
        self._note(peer, silent=False)
        self._health = max(0, self._health - 1)
        self._end(peer)
        was_unreachable, member.reachable = not member.reachable, True
        if member.state is State.FAILED:
            # One that answers again means most often a partition that has healed: the
            # next few are tried at once, and each that answers does the same.
            self.revive(member, "answered a probe", now)
            members = self._common.members
            for key in members.failed.draw(self._common.rng, self._tuning.indirect_members):
                self.knock(members[key], now)
        elif member.state is State.SUSPECT:
            self.revive(member, "answered a probe", now)
        elif was_unreachable:
            self._changed(member, now)

    def reached(self, peer: bytes, answer: Reached, now: float) -> None:
        """A relay reaches the target: it lives, though not for us."""
        attempt = self._attempt_of(peer, answer.nonce)
        if attempt is None:
            return
        member = attempt.member
        member.acked = now
        self._end(member.key)
        self._note(member.key, silent=False)
        if member.reachable:
            member.reachable = False
            self._changed(member, now)
        if member.state is State.SUSPECT:
            self.revive(member, "others reach it", now)

    def nacked(self, peer: bytes, answer: Nack, now: float) -> None:
        """A relay did not reach the target either."""
        attempt = self._attempt_of(peer, answer.nonce)
        if attempt is not None:
            attempt.relays.pop(peer, None)
            attempt.nacks += 1
            if not attempt.relays:
                self._conclude(attempt, now)

    def _attempt_of(self, relay: bytes, nonce: int) -> _Attempt | None:
        target, _ = self._nonces.get(nonce, (None, 0.0))
        attempt = self._attempts.get(target) if target is not None else None
        if attempt is None or nonce not in attempt.nonces or relay not in attempt.relays:
            return None
        return attempt

    def relay(self, peer: bytes, request: Indirect, now: float) -> None:
        """Probe a member for ``peer``; a stranger is not probed."""
        wanted = self._common.store.in_slot(request.target)
        target = self._common.members.get(wanted.node) if wanted else None
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
        patience = min(self._timeout(relayed.target), longest)
        self._common.timers.after(patience, now, missed)

    def stale(self, node: bytes, now: float) -> None:
        """A probe of ``node`` drew STALE: that host is up, its daemon may have restarted."""
        attempt = self._attempts.get(node)
        if attempt is not None and not attempt.graced:
            attempt.graced = True
            self._wait(attempt, self._tuning.stale_grace, now)

    def unreachable(self, where: Endpoint, now: float) -> None:
        """The host at ``where`` answered that nobody listens there: do not wait it out."""
        for attempt in list(self._attempts.values()):
            if where in attempt.member.announcement.endpoints and not attempt.asked:
                attempt.refused = True
                self._wait(attempt, 0.0, now)

    # Verdicts.

    def _conclude(self, attempt: _Attempt, now: float) -> None:
        member = attempt.member
        self._end(member.key)
        self._note(member.key, silent=True)
        if attempt.asked and not attempt.nacks:
            # Not even the relays answered: Lifeguard's sign that the trouble is here.
            self._health = min(self._tuning.health_max, self._health + 1)
        if self._common.members.get(member.key) is not member:
            return
        member.silent, member.silent_refused = True, attempt.refused
        if self._may_accuse(attempt, now):
            self._accuse(
                Accusation.sign(
                    self._common.me,
                    self._common.mesh,
                    target=member.key,
                    sequence=member.announcement.sequence,
                    refused=attempt.refused,
                ),
                now,
            )
        self.suspect(member, now)

    def _may_accuse(self, attempt: _Attempt, now: float) -> bool:
        held = self._common.evidence.against(attempt.member.key)
        silent = sum(self._recent.values())
        return (
            (attempt.nacks > 0 or not attempt.asked)
            and 2 * silent <= len(self._recent)
            and now >= self._quiet_until
            and len(list(held)) < _ENOUGH_ACCUSERS
            and all(each.accuser != self._common.me.public for each in held)
        )

    def accused(self, accusation: Accusation, now: float) -> None:
        """A member's accusation of another, at its present sequence, is held now."""
        member = self._common.members[accusation.target]
        member.heard[accusation.accuser] = now
        if member.state in (State.FAILED, State.LEFT) or not member.seen:
            return
        if not member.silent and len(self._common.members) <= FANOUT_ALL:
            self.probe(member, now)
        self.suspect(member, now)

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
        self._suspicions[member.key] = self._common.timers.after(
            ends - now, now, lambda now: self._fail(member, now)
        )

    def _patience(self, accusers: int) -> float:
        """Lifeguard's suspicion timeout: from max to min as independent accusers agree."""
        low, high = self._tuning.suspicion_min, self._tuning.suspicion_max
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
        self._suspicions.pop(member.key, None)
        if member.state is not State.SUSPECT:
            return
        accusers = self._counted(member)
        if not member.silent and len(accusers) < self._needed():
            self.revive(member, "answered a probe", now)
            return
        words = [each.refused for each in accusers if each.accuser != self._common.me.public]
        if member.silent:
            words.append(member.silent_refused)
        member.refused = all(words)
        member.state, member.since = State.FAILED, now
        member.reason = self._why(member, len(accusers))
        self._end(member.key)
        self._changed(member, now)

    def _why(self, member: Member, accusers: int) -> str:
        own = "refused our probes" if member.silent_refused else "silent to our probes"
        told = f"accused by {accusers}" if accusers else ""
        return ", ".join(filter(None, (own if member.silent else "", told)))

    def revive(self, member: Member, reason: str, now: float) -> None:
        """``member`` is alive again; evidence that stands is outweighed, not removed."""
        suspicion = self._suspicions.pop(member.key, None)
        if suspicion is not None:
            suspicion.cancel()
        member.silent = member.silent_refused = member.refused = False
        member.state, member.since, member.reason = State.ALIVE, now, reason
        self._changed(member, now)

    def renewed(self, member: Member) -> None:
        """``member`` announced itself anew: what was under way about its past is void."""
        suspicion = self._suspicions.pop(member.key, None)
        if suspicion is not None:
            suspicion.cancel()
        self._end(member.key)
        member.heard.clear()
        member.silent = member.silent_refused = member.refused = False
        member.acked = -1.0

    def late(self, now: float) -> None:
        """Our own loop stalled: every silence since then is ours, so nothing of it stands."""
        self._quiet_until = now + 2 * self._tuning.probe_period
        self._health = min(self._tuning.health_max, self._health + 1)
        for key in list(self._attempts):
            self._end(key)
        for key in list(self._suspicions):
            member = self._common.members[key]
            if len(self._counted(member)) < self._needed():
                self.revive(member, "suspected while we were late ourselves", now)

    def _note(self, key: bytes, *, silent: bool) -> None:
        self._recent.pop(key, None)
        self._recent[key] = silent
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]

    def _end(self, key: bytes) -> None:
        attempt = self._attempts.pop(key, None)
        if attempt is not None and attempt.timer is not None:
            attempt.timer.cancel()
