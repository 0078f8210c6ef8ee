"""The automaton: one node of the mesh, without a socket, a clock or a thread.

The owner feeds it datagrams and time and drains what it wants sent and told, as with
h11 or aioquic::

    node.receive(data, source, now)      # never raises for what a peer did
    node.tick(now)                       # early, late or spurious: harmless
    for datagram in node.datagrams_to_send(): ...
    for event in node.events(): ...
    sleep until node.deadline

Rules kept here:

- The store changes in ``_merge`` and nowhere else, and everything that follows from a
  change (members, evidence, events, telling others) follows there.
- ``now`` is monotonic seconds; no wall clock is read, and none is compared.
- Randomness and sequences are given, so the same calls make the same history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random

from protocol import messages
from protocol.address import Endpoint, Prefix
from protocol.contacts import Candidate, Contacts, Datagram
from protocol.errors import Rejected
from protocol.events import (
    BootKeyRenewed,
    Converged,
    Event,
    ObservedElsewhere,
    PeerChanged,
    PrefixesChanged,
    ReachabilityChanged,
    Refused,
    Revoked,
)
from protocol.failure import Detector
from protocol.identity import BootKey, Identity, Mesh
from protocol.members import Common, Member, State, choose_endpoint
from protocol.messages import (
    OFFER_HASH,
    Ack,
    AskEvidence,
    Indirect,
    Message,
    Nack,
    Objects,
    Offer,
    Probe,
    Pull,
    Push,
    Reached,
    Subtree,
    Vouch,
    Walk,
)
from protocol.objects import Accusation, Announcement, Grant, Record, Revocation
from protocol.originate import Originator
from protocol.reconcile import Reconciler
from protocol.store import Evidence, Outcome, Store, newer, slot_id
from protocol.timers import Timer
from protocol.tuning import FANOUT_ALL, Tuning
from protocol.wire import Wire

_DEPARTURE_REPEAT = 0.1
"""Seconds between two tellings of our departure to those who have not confirmed it."""


class Node:
    """One member of a mesh.

    ``records`` is what is known from before (a snapshot, or at first the own grant);
    the own grant must be in it.  ``next_sequence(above)`` returns a sequence that is
    larger than ``above`` and than every one it returned before, in all lives of this
    node, or raises ``SequenceUnavailable``.  ``wire`` is for the simulator alone.
    """

    def __init__(
        self,
        mesh: Mesh,
        identity: Identity,
        records: Iterable[Record],
        *,
        next_sequence: Callable[[int], int],
        rng: Random,
        now: float,
        tuning: Tuning | None = None,
        wire: Wire | None = None,
    ) -> None:
        common = Common(identity, mesh, tuning or Tuning.lan(), rng, wire or Wire())
        self._common = common
        boot_key = BootKey.generate(rng.randbytes)
        self._originator = Originator(
            common,
            boot_key.public,
            next_sequence=next_sequence,
            publish=self._publish,
            copied=self._copied,
            yielding=self._yielding,
            inquire=self._inquire,
        )
        self._contacts = Contacts(
            common,
            boot_key,
            on_contact=self._contact,
            on_own_newer=self._originator.superseded,
            on_own_older=self._originator.clones.older,
            on_stale=self._drew_stale,
        )
        self._detector = Detector(
            common, send=self._send_probe, accuse=self._own_accusation, changed=self._show
        )
        self._reconciler = Reconciler(
            common, send=self._contacts.send, learn=self._learn, vouched=self._vouched
        )
        self._seeds: tuple[Endpoint, ...] | None = None
        """None until ``join``: before it there is nothing to agree on."""
        self._diverged_at: float | None = now
        self._renewal: Timer | None = None
        self._renew_later(now)
        self._recall(records, now)
        common.timers.after(rng.random() * common.tuning.probe_period, now, self._period)

    def _recall(self, records: Iterable[Record], now: float) -> None:
        """Take over what was known in an earlier life; it is no news and told to nobody."""
        common, me = self._common, self._common.me.public
        for record in records:
            if common.wire.verify(record, common.mesh):
                self._merge(record, now, news=False)
        if me not in common.store.grants:
            raise ValueError("a node needs its own grant, signed by the mesh's authority")
        self._originator.cancel()  # of our own last announcement: it is not another's
        common.events.clear()

    # What the owner does.

    def announce(
        self,
        now: float,
        *,
        prefixes: Iterable[Prefix] | None = None,
        endpoints: Sequence[Endpoint] | None = None,
        preference: int | None = None,
    ) -> None:
        """Announce ``prefixes`` at ``endpoints``; what is not given stays as it is.

        ``ValueError`` when the prefixes do not fit one announcement, with the number
        that does; ``SequenceUnavailable`` when none could be reserved.  Both leave the
        announcement in force as it was.
        """
        self._originator.announce(
            now, prefixes=prefixes, endpoints=endpoints, preference=preference
        )
        families = {where.family: None for where in self._endpoints}
        self._contacts.families = frozenset(families) or frozenset((4, 6))

    def join(self, seeds: Iterable[Endpoint], now: float) -> None:
        """Contact ``seeds`` now, and for life: call again when they resolve anew."""
        self._seeds = tuple(seeds)
        doors = [seed for seed in self._seeds if seed not in self._endpoints]
        for member in self._common.some_known(self._common.tuning.start_members):
            where = choose_endpoint(member.announcement, self._contacts.families)
            if where is not None and where not in self._seeds and not member.seen:
                doors.append(where)
        self._contacts.greet_only(doors, now)
        self._settle(now)

    def renew_boot_key(self, now: float, *, keep_old: bool, reason: str = "by its owner") -> None:
        """Seal under a new boot key from now on, and announce it; ``reason`` is for the log.

        ``keep_old``: nobody notices. False when a copy of this machine may hold the old one
        (it was resumed, or copied): nothing is sealed or opened with that one again.
        """
        boot_key = BootKey.generate(self._common.rng.randbytes)
        self._contacts.renew(boot_key, now, keep_old=keep_old)
        self._common.events.append(BootKeyRenewed(reason))
        self._renew_later(now)
        self._originator.renew(boot_key.public, now)

    def leave(self, now: float) -> None:
        """Announce our departure and go on telling it until ``departed``.

        ``SequenceUnavailable`` when none could be reserved: then we have not left.
        """
        self._originator.depart(now)
        self._repeat_departure(now)

    @property
    def departed(self) -> bool:
        """After ``leave``: every live member has shown that it knows."""
        root = self._common.store.root
        return self._originator.content.departed and (
            self._originator.clones.yielded or all(m.root == root for m in self._common.live())
        )

    def receive(self, data: bytes, source: Endpoint, now: float) -> None:
        """Take one datagram. What is wrong with it is counted and told, never raised."""
        try:
            opened = self._contacts.receive(data, source, now)
            if opened is not None:
                self._opened(opened.peer, opened.message, opened.confirms, source, now)
        except Rejected as error:
            self._refused(error, source, None)

    def unreachable(self, where: Endpoint, now: float) -> None:
        """The host at ``where`` itself says that nobody listens there (ICMP, section 5)."""
        self._detector.unreachable(where, now)

    def tick(self, now: float) -> None:
        """Do what is due. Early, late or repeated calls are harmless."""
        deadline = self._common.timers.deadline
        if now - deadline > self._common.tuning.late_tick:
            self._common.count("late ticks")
            self._detector.late(now)
        self._common.timers.run(now)

    def datagrams_to_send(self) -> list[Datagram]:
        """What is to be sent, in order; each once."""
        sent, self._contacts.outbox = self._contacts.outbox, []
        return sent

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        told, self._common.events = self._common.events, []
        return told

    # What the owner may read.

    @property
    def deadline(self) -> float:
        """When ``tick`` is due next, in the caller's monotonic seconds."""
        return self._common.timers.deadline

    @property
    def store(self) -> Store:
        """What was heard; not to be changed."""
        return self._common.store

    @property
    def evidence(self) -> Evidence:
        """The accusations that stand."""
        return self._common.evidence

    @property
    def members(self) -> dict[bytes, Member]:
        """The others, by key; not to be changed."""
        return self._common.members

    @property
    def counters(self) -> dict[str, int]:
        """How often each thing was done or refused, by its name."""
        return self._common.counters

    @property
    def announcement(self) -> Announcement | None:
        """Our own, as we said it last; None when we are revoked, or never said any."""
        if self.grant is None:
            return None
        held = self._common.store.announcements.get(self._common.me.public)
        return self._originator.latest or held

    @property
    def grant(self) -> Grant | None:
        """Our own newest; None when we are revoked."""
        return self._common.store.grants.get(self._common.me.public)

    @property
    def converged(self) -> bool:
        """Every live peer's latest probe or ack carried our root (SPEC.md 7)."""
        return self._diverged_at is None

    # Announcing.

    @property
    def _endpoints(self) -> tuple[Endpoint, ...]:
        return self._originator.content.endpoints

    def _publish(self, own: Announcement, now: float) -> None:
        self._contacts.own = own
        self._merge(own, now, news=True)
        if own.node in self._common.store.grants:
            self._tell_everyone((own,), now)

    def _repeat_departure(self, now: float) -> None:
        own, root = self.announcement, self._common.store.root
        if own is None or not own.has_left:
            return
        for member in self._common.live():
            if member.root != root:
                self._contacts.send(member.key, Push((own,)), now)
                self._detector.knock(member, now)
        self._common.timers.after(_DEPARTURE_REPEAT, now, self._repeat_departure)

    # Telling.

    def _tell_everyone(self, news: tuple[Record | Accusation, ...], now: float) -> None:
        """Push what we made ourselves: to all up to FANOUT_ALL members, else to a few."""
        live = self._common.live()
        if len(live) <= FANOUT_ALL:
            for member in live:
                self._contacts.send(member.key, Push(news), now)
        else:
            self._relay(news, self._common.me.public, now)

    def _relay(self, news: tuple[Record | Accusation, ...], source: bytes, now: float) -> None:
        """Pass on what is new to us: in full to a few of many, by name to others."""
        common = self._common
        size = len(common.live())
        origins = {each.accuser if isinstance(each, Accusation) else each.node for each in news}
        chosen = common.some_live(
            common.tuning.relay_full + max(1, size.bit_length() - 1),
            but=lambda member: member.key == source or member.key in origins,
        )
        full = common.tuning.relay_full if size > FANOUT_ALL else 0
        for member in chosen[:full]:
            for portion in messages.fill(news):
                self._contacts.send(member.key, Push(portion), now)
        items = tuple(
            (slot_id(each.KIND, each.node), each.hash[:OFFER_HASH])
            for each in news
            if not isinstance(each, Accusation)
        )
        if items:
            for member in chosen[full:]:
                self._contacts.send(member.key, Offer(items), now)

    # Listening.

    def _opened(
        self,
        peer: bytes,
        message: Message,
        confirms: Candidate | None,
        source: Endpoint,
        now: float,
    ) -> None:
        if confirms is not None:
            self._welcome(confirms, now)
        member = self._common.members.get(peer)
        if member is None:
            raise Rejected("sealed by one who is no member")
        if not member.seen:
            # Sealed to our boot key under its own: no replay, it lives.
            member.seen = True
            self._show(member, now)
        if member.state is State.FAILED:
            self._detector.knock(member, now)
        detector, reconciler = self._detector, self._reconciler
        match message:
            case Probe():
                self._acknowledge(member, message, source, now)
            case Ack():
                detector.acked(peer, message, now)
                if message.observed is not None and message.observed != member.observed:
                    told = ObservedElsewhere(peer, message.observed)
                    self._common.events.append(told)
                member.observed = message.observed
                self._pulse(member, message, now)
            case Indirect():
                detector.relay(peer, message, now)
            case Reached():
                detector.reached(peer, message, now)
            case Nack():
                detector.nacked(peer, message, now)
            case Push():
                self._learn(message.objects, peer, True, now)
            case Offer():
                reconciler.offered(peer, message, now)
            case Pull():
                reconciler.give(peer, message, now)
            case Objects():
                reconciler.objects(peer, message, now)
            case Walk():
                reconciler.show(peer, message, now)
            case Subtree():
                reconciler.subtree(peer, message, now)
            case Vouch():
                reconciler.vouch(peer, message, now)
            case AskEvidence():
                reconciler.give_evidence(peer, message, now)

    def _acknowledge(self, member: Member, probe: Probe, source: Endpoint, now: float) -> None:
        observed = None if source in member.announcement.endpoints else source
        root, evidence = self._common.store.root, self._common.evidence.digest
        ack = Ack(probe.nonce, root, evidence, observed)
        self._contacts.send(member.key, ack, now, to=source)
        self._pulse(member, probe, now)

    def _pulse(self, member: Member, message: Probe | Ack, now: float) -> None:
        """``member`` told what it holds."""
        member.root = message.root
        self._reconciler.heard(member, message.evidence, now)
        self._settle(now)

    def _send_probe(self, node: bytes, message: Message, now: float, attempt: int = 0) -> bool:
        """Send for the detector: a second attempt goes to the node's other endpoint."""
        member = self._common.members.get(node)
        to = None
        if attempt and member is not None:
            to = choose_endpoint(member.announcement, self._contacts.families, attempt)
        return self._contacts.send(node, message, now, to)

    def _drew_stale(self, node: bytes, now: float) -> None:
        self._detector.stale(node, now)

    def _contact(self, node: bytes, now: float) -> bool:
        """``node`` answered our HELLO and nothing waits for it: speak sealed."""
        if self._originator.clones.yielded:
            return False
        store, evidence = self._common.store, self._common.evidence
        probe = Probe(self._common.rng.getrandbits(32), store.root, evidence.digest)
        return self._contacts.send(node, probe, now)

    def _welcome(self, candidate: Candidate, now: float) -> None:
        """A candidate has spoken under its boot key: what its HELLO carried is true."""
        news: list[Record | Accusation] = [
            record
            for record in (candidate.grant, candidate.announcement)
            if self._merge(record, now, news=True) is Outcome.NEW
        ]
        if news:
            self._relay(tuple(news), candidate.announcement.node, now)

    # Learning.

    def _learn(
        self,
        objects: Iterable[Record | Accusation],
        source: bytes,
        news: bool,
        now: float,
    ) -> bool:
        """Verify and keep what ``source`` sent; True when any of it was new to us.

        ``news``: it was pushed or offered to us by one who has seen its origin.
        """
        learned: list[Record | Accusation] = []
        lacking: dict[bytes, None] = {}
        for each in objects:
            try:
                if isinstance(each, Accusation):
                    new = self._learn_accusation(each, lacking, now)
                else:
                    new = self._learn_record(each, lacking, now, news=news)
            except Rejected as error:  # the others may be good, and what was asked goes on
                self._refused(error, None, source)
                continue
            if new:
                learned.append(each)
                waiting = isinstance(each, Grant) and self._common.store.take_waiting(each.node)
                if waiting and self._merge(waiting, now, news=news) is Outcome.NEW:
                    learned.append(waiting)
        if lacking:
            self._reconciler.fetch(source, lacking, now)
        passed_on = tuple(each for each in learned if self._worth_telling(each))
        if passed_on:
            self._relay(passed_on, source, now)
        return bool(learned)

    def _refused(self, error: Rejected, source: Endpoint | None, peer: bytes | None) -> None:
        self._common.count(f"refused: {error.reason}")
        self._common.events.append(Refused(source, peer, error.reason))

    def _worth_telling(self, each: Record | Accusation) -> bool:
        """Members push a node's word only when it is seen; the root spreads the rest."""
        if isinstance(each, Announcement):
            member = self._common.members.get(each.node)
            return member is not None and (member.seen or each.has_left)
        return True

    def _learn_record(
        self, record: Record, lacking: dict[bytes, None], now: float, *, news: bool
    ) -> bool:
        """Keep ``record`` if it is newest; note in ``lacking`` the slot it cannot stand without."""
        store = self._common.store
        held = store.in_slot(slot_id(record.KIND, record.node))
        if held is not None and (held.hash == record.hash or not newer(record, held)):
            return False
        if not self._contacts.verify(record, now):
            raise Rejected(f"{record.DOMAIN} not signed by who must sign it")
        outcome = self._merge(record, now, news=news)
        if outcome is Outcome.WAITING:
            lacking[slot_id(Grant.KIND, record.node)] = None
        return outcome is Outcome.NEW

    def _learn_accusation(
        self, accusation: Accusation, lacking: dict[bytes, None], now: float
    ) -> bool:
        store = self._common.store
        if accusation.accuser not in store.announcements:
            return False
        target = store.announcements.get(accusation.target)
        if target is None or target.sequence != accusation.sequence or target.has_left:
            if target is not None and accusation.sequence > target.sequence:
                lacking[slot_id(Announcement.KIND, accusation.target)] = None
            return False
        if any(each.hash == accusation.hash for each in self.evidence.against(target.node)):
            return False
        if not self._contacts.verify(accusation, now):
            raise Rejected("accusation not signed by its accuser")
        if accusation.target == self._common.me.public:
            self._originator.accused(accusation, now)
            return False
        if not self._common.evidence.add(accusation):
            return False
        self._detector.accused(accusation, now)
        return True

    def _own_accusation(self, accusation: Accusation, now: float) -> None:
        self._common.evidence.add(accusation)
        self._common.members[accusation.target].heard[accusation.accuser] = now
        self._tell_everyone((accusation,), now)

    def _merge(self, record: Record, now: float, *, news: bool) -> Outcome:
        """The only place where the store changes; what follows from it follows here."""
        store = self._common.store
        before = store.announcements.get(record.node)
        outcome = store.merge(record)
        if outcome is not Outcome.NEW:
            return outcome
        if isinstance(record, Announcement):
            if record.node == self._common.me.public:
                self._tell_prefixes(before, record, record.node)
                if record is not self._originator.latest:
                    self._originator.superseded(record, None, now)
            else:
                self._renew(before, record, now, news=news)
        elif isinstance(record, Revocation):
            self._remove(record.node)
        else:
            member = self._common.members.get(record.node)
            if member is not None:
                member.name = record.name
        self._reconciler.root_changed()
        if self._diverged_at is None:
            self._diverged_at = now
        self._settle(now)
        return outcome

    def _renew(
        self, before: Announcement | None, new: Announcement, now: float, *, news: bool
    ) -> None:
        member = self._common.members.get(new.node)
        if member is None:
            name = self._common.store.grants[new.node].name
            member = Member(new.node, new, name, since=now, shown_since=now)
            self._common.members[new.node] = member
        elif before is not None and before.boot_key != new.boot_key and not member.live:
            # Whoever spoke under the old boot key is gone.  One that lives has restarted or
            # renewed its key, and the detector goes on watching it.
            member.seen = False
        member.announcement = new
        member.seen = member.seen or news
        self._contacts.adopt(new, now)
        self._common.evidence.clear(new.node)
        self._detector.renewed(member)
        state = State.LEFT if new.has_left else State.ALIVE
        if member.state is not state:
            member.state, member.since = state, now
            member.reason = "announced its departure" if new.has_left else "announced itself"
        self._tell_prefixes(before, new, new.node)
        self._show(member, now)

    def _remove(self, node: bytes) -> None:
        member = self._common.members.pop(node, None)
        self._contacts.forget(node)
        self._common.evidence.clear(node)
        if member is not None:
            self._detector.renewed(member)
        name = member.name if member is not None else ""
        self._common.events.append(Revoked(node, name))

    def _vouched(self, nodes: Iterable[bytes], now: float) -> None:
        for key in nodes:
            member = self._common.members.get(key)
            if member is not None and not member.seen:
                member.seen = True
                self._show(member, now)
        self._settle(now)

    # Boot keys and clones.

    def _renew_later(self, now: float) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        jitter = 0.9 + 0.2 * self._common.rng.random()
        self._renewal = self._common.timers.after(
            jitter * self._common.tuning.boot_key_lifetime,
            now,
            lambda now: self.renew_boot_key(now, keep_old=True, reason="it was in use for a week"),
        )

    def _copied(self, now: float) -> None:
        self.renew_boot_key(now, keep_old=False, reason="another host seals with it too")

    def _yielding(self, now: float) -> None:
        """Another speaks under our key: what others do not answer us says nothing of them."""
        self._contacts.hush()
        self._detector.late(now)

    def _inquire(self, where: Iterable[Endpoint]) -> None:
        self._contacts.inquire(where)

    # Periodic.

    def _period(self, now: float) -> None:
        self._common.timers.after(self._common.tuning.probe_period, now, self._period)
        if self._originator.clones.yielded:
            return
        self._detector.probe_next(now)
        self._reconnect(now)

    def _reconnect(self, now: float) -> None:
        """Serf's reconnect: with p = (failed + lost seeds) / (alive + 1), contact one."""
        members = self._common.members.values()
        failed = [member for member in members if member.state is State.FAILED]
        live = self._common.live()
        found = {where for member in live for where in member.announcement.endpoints}
        lost = [s for s in self._seeds or () if s not in found and s not in self._endpoints]
        count = len(failed) + len(lost)
        if not count or self._common.rng.random() >= count / (len(live) + 1):
            return
        which = self._common.rng.randrange(count)
        if which < len(failed):
            self._detector.knock(failed[which], now)
        else:
            self._contacts.greet(lost[which - len(failed)], now)

    # Reporting.

    def _show(self, member: Member, now: float) -> None:
        """Tell the owner when a member's state, as shown to people, has changed."""
        if member.seen and member.reachable != member.shown_reachable:
            member.shown_reachable = member.reachable
            told = ReachabilityChanged(member.key, member.name, member.reachable)
            self._common.events.append(told)
        shown = member.shown_state
        if shown == member.shown or (member.shown is None and not member.seen):
            return
        previous, member.shown = member.shown, shown
        accusers = tuple(each.accuser for each in self._common.evidence.against(member.key))
        self._common.events.append(
            PeerChanged(
                node=member.key,
                name=member.name,
                state=shown,
                previous=previous,
                reason=member.reason,
                endpoint=choose_endpoint(member.announcement, self._contacts.families),
                accusers=accusers,
                refused=member.refused,
                seconds=now - member.shown_since,
            )
        )
        member.shown_since = now
        self._settle(now)

    def _tell_prefixes(self, before: Announcement | None, after: Announcement, node: bytes) -> None:
        old = dict.fromkeys(before.prefixes if before else ())
        new = dict.fromkeys(after.prefixes)
        added = tuple(prefix for prefix in new if prefix not in old)
        removed = tuple(prefix for prefix in old if prefix not in new)
        if added or removed:
            name = self._common.store.grants[node].name
            self._common.events.append(PrefixesChanged(node, name, added, removed))

    def _settle(self, now: float) -> None:
        """Say so when every live peer has shown our root since it last changed."""
        if self._diverged_at is None:
            return
        live, root = self._common.live(), self._common.store.root
        if any(member.root != root for member in live):
            return
        if any(m.state is State.ALIVE and not m.seen for m in self._common.members.values()):
            return  # known from before, and neither seen nor failed yet
        if self._seeds is None or (not live and set(self._seeds) - set(self._endpoints)):
            return  # we were told of others and have met nobody yet
        known = [m for m in self._common.members.values() if m.state is not State.LEFT]
        prefixes = sum(len(member.announcement.prefixes) for member in live)
        own = self.announcement
        self._common.events.append(
            Converged(
                root=root,
                peers=len(live),
                known=len(known),
                prefixes=prefixes + len(own.prefixes if own else ()),
                seconds=now - self._diverged_at,
            )
        )
        self._diverged_at = None
