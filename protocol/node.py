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

from protocol.address import Endpoint, Prefix
from protocol.agreement import Agreement
from protocol.answering import Answerer
from protocol.authorities import Authorities, judging_order
from protocol.contacts import Candidate, Contacts, Datagram
from protocol.departure import Departure
from protocol.errors import Rejected
from protocol.events import (
    BootKeyRenewed,
    Event,
    ObservedElsewhere,
    Refused,
)
from protocol.evidence import Evidence
from protocol.failure import Detector
from protocol.fetch import Fetcher
from protocol.gossip import Gossip
from protocol.herald import Herald
from protocol.identity import BootKey, Identity, Mesh
from protocol.isolation import Isolation
from protocol.members import Common, Member, Members, State, choose_endpoint
from protocol.messages import (
    Ack,
    Agree,
    AskEvidence,
    Indirect,
    Message,
    Nack,
    News,
    Objects,
    Offer,
    Probe,
    Pull,
    PullShards,
    Push,
    Reached,
    Scan,
    Shards,
    Subtree,
    Suspect,
    Vouch,
    Walk,
)
from protocol.objects import (
    Accusation,
    Announcement,
    Grant,
    Record,
    Revocation,
    Successor,
)
from protocol.originate import Originator
from protocol.reconcile import Reconciler
from protocol.requests import Requests
from protocol.resumption import Resumption
from protocol.seeds import Seeds
from protocol.shards import Shard, Shelf
from protocol.store import Outcome, Store, newer, slot_id, slot_of
from protocol.timers import Timer
from protocol.tuning import FANOUT_ALL, Tuning
from protocol.wire import Wire


class Node:
    """One member of a mesh.

    ``records`` is what is known from before (a snapshot, or at first the own grant);
    the own grant must be in it, be it revoked by now; ``shards`` are what it held of those
    that they name.  A ``Resumption`` is taken as verified, and its members as seen: a
    simulation of thousands starts so.  ``next_sequence(above)`` returns a sequence that is
    larger than ``above`` and than every one it returned before, in all lives of this node, or
    raises ``SequenceUnavailable``.  ``wire`` is for the simulator.
    """

    def __init__(
        self,
        mesh: Mesh,
        identity: Identity,
        records: Iterable[Record] | Resumption,
        *,
        next_sequence: Callable[[int], int],
        rng: Random,
        now: float,
        tuning: Tuning | None = None,
        wire: Wire | None = None,
        shards: Iterable[bytes] = (),
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
            yields=self._yields,
            inquire=self._inquire,
        )
        self._contacts = Contacts(
            common,
            boot_key,
            on_contact=self._contact,
            on_own_newer=self._originator.superseded,
            on_own_older=self._originator.clones.older,
            on_stale=self._drew_stale,
            on_notice=self._noticed,
        )
        send = self._contacts.send
        self._detector = Detector(
            common, send=self._send_probe, accuse=self._own_accusation, changed=self._show
        )
        self._authorities = Authorities(
            common,
            self._contacts,
            self._originator,
            forget=self._forget,
            silenced=self._detector.hushed,
        )
        self._isolation = Isolation(common)
        self._requests = Requests(common, send)
        self._gossip = Gossip(common, self._requests, send=send, learn=self._learn)
        self._reconciler = Reconciler(
            common, self._requests, send=send, learn=self._learn, vouched=self._vouched
        )
        self._fetcher = Fetcher(
            common,
            self._requests,
            send=send,
            in_force=self._in_force,
            refused=lambda error, node: self._refused(error, None, node),
            settle=self._agree,
        )
        self._answerer = Answerer(
            common,
            self._fetcher.shelf,
            send=send,
            is_being_filled=lambda: self._reconciler.is_being_filled,
        )
        self._agreement = Agreement(
            common,
            now,
            send=send,
            heard=self._reconciler.heard,
            holds_all=lambda: not self._fetcher.waiting,
            may_settle=lambda: self._seeds.met,
        )
        self._own_prefixes: tuple[Prefix, ...] = ()
        """Our own set in force."""
        knock = self._detector.prober.knock
        self._seeds = Seeds(common, self._contacts, knock)
        self._departure = Departure(common, self._contacts, knock)
        self._reached: dict[Endpoint, None] = {}
        """Where probes were answered from, until ``reached`` is asked."""
        self._herald = Herald(common, self._contacts)
        self._renewal: Timer | None = None
        self._renew_later(now)
        self._recall(records, shards, now)
        common.timers.after(rng.random() * common.tuning.probe_period, now, self._period)

    def _recall(
        self, records: Iterable[Record] | Resumption, shards: Iterable[bytes], now: float
    ) -> None:
        """Take over what was known in an earlier life; it is no news and told to nobody."""
        common, me = self._common, self._common.me.public
        if isinstance(records, Resumption):
            common.store.tree = records.tree
            common.members.resume(records, me)
            self._contacts.resume(records)
            for announcement in records.sharded:
                if announcement.node != me:
                    self._fetcher.named(announcement, now)
        else:
            for record in sorted(records, key=judging_order):
                if not common.wire.verify(record, common.mesh):
                    continue
                if isinstance(record, Grant) and record.node == me:
                    known = self._contacts.grant
                    if known is None or newer(record, known):
                        self._contacts.grant = record
                self._merge(record, now, vouched=False)
        self._contacts.grant = self._contacts.grant or self.grant
        if self._contacts.grant is None:
            raise ValueError("a node needs its own grant, signed by the mesh's authority")
        for raw in shards:
            self._fetcher.keep(raw, now)
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
        tunnel: int | None = None,
    ) -> None:
        """Announce ``prefixes`` at ``endpoints``; what is not given stays as it is.

        ``ValueError`` for more prefixes than one node can announce (1,000), with that
        number; ``SequenceUnavailable`` when none could be reserved.  Both leave the
        announcement in force as it was.
        """
        self._originator.announce(
            now, prefixes=prefixes, endpoints=endpoints, preference=preference, tunnel=tunnel
        )
        self._contacts.own = self._originator.latest
        families = {where.family: None for where in self._endpoints}
        self._contacts.families = frozenset(families) or frozenset((4, 6))

    def join(self, seeds: Iterable[Endpoint], now: float) -> None:
        """Contact ``seeds`` now, and for life: call again when they resolve anew."""
        self._seeds.join(seeds, self._endpoints, now)
        self._agreement.changed(now)

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

    def hear(self, words: Iterable[Record], now: float) -> list[Outcome | None]:
        """Take what an authority signed, from the owner's hand, and tell it; what became of
        each. None: it is not signed by an authority that is known here."""
        outcomes: list[Outcome | None] = []
        news: list[Record] = []
        before = self._common.store.root
        for word in words:
            good = self._common.wire.verify(word, self._common.mesh)
            outcomes.append(self._merge(word, now, vouched=False) if good else None)
            if outcomes[-1] is Outcome.NEW:
                news += (word, *self._no_longer_waiting(word, now))
        self._changed(before, news, now)
        self._gossip.publish(tuple(news), now)
        return outcomes

    def leave(self, now: float) -> None:
        """Announce our departure and go on telling it until ``departed``.

        ``SequenceUnavailable`` when none could be reserved: then we have not left.
        """
        self._originator.depart(now)
        if self._contacts.own is not None:
            self._departure.begin(self._contacts.own, now)

    @property
    def departed(self) -> bool:
        """After ``leave``: the members we told it, at most 64, have shown that they know."""
        silent = self._originator.clones.yielded or self._departure.known
        return self._originator.content.departed and silent

    def receive(self, data: bytes, source: Endpoint, now: float) -> None:
        """Take one datagram. What is wrong with it is counted and told, never raised."""
        try:
            opened = self._contacts.receive(data, source, now)
            if opened is not None:
                if opened.confirms is not None:
                    self._welcome(opened.confirms, now)
                self._opened(opened.peer, opened.message, source, now)
        except Rejected as error:
            self._refused(error, source, None)

    def unreachable(self, where: Endpoint, now: float) -> None:
        """The host at ``where`` itself says that nobody listens there (ICMP, section 5)."""
        self._detector.prober.unreachable(where, now)

    def link_changed(self, now: float) -> None:
        """A link or an address of this host has changed: those who are silent are tried at once."""
        self._detector.link_changed(now)

    def tick(self, now: float) -> None:
        """Do what is due. Early, late or repeated calls are harmless."""
        behind = now - self.deadline
        if behind > self._common.tuning.late_tick:
            self._common.count("late ticks")
            self._detector.late(behind, now)
        self._common.timers.run(now)

    def datagrams_to_send(self) -> list[Datagram]:
        """What is to be sent, in order; each once."""
        sent, self._contacts.outbox = self._contacts.outbox, []
        return sent

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        told, self._common.events = self._common.events, []
        return told

    def reached(self) -> list[Endpoint]:
        """Endpoints where what we send arrives, so the link layer need not ask (RFC 4861 section
        7.3.1): from there a probe of ours was answered since the last call, or came one of theirs
        that we answer, not long after."""
        reached, self._reached = self._reached, {}
        return list(reached)

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
    def members(self) -> Members:
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
    def prefixes(self) -> tuple[Prefix, ...]:
        """What our own announcement says, ascending."""
        return self._own_prefixes

    def prefixes_of(self, node: bytes) -> tuple[Prefix, ...]:
        """The set of ``node``'s prefixes that is in force; none of one that is no member."""
        if node == self._common.me.public:
            return self._own_prefixes
        member = self._common.members.get(node)
        return member.prefixes if member is not None else ()

    @property
    def shards(self) -> Shelf:
        """The shards that are held, to be given to the next life; not to be changed."""
        return self._fetcher.shelf

    @property
    def mesh(self) -> Mesh:
        """The mesh, with the authorities that are known here."""
        return self._common.mesh

    @property
    def grant(self) -> Grant | None:
        """Our own newest; None when we are revoked."""
        return self._common.store.grants.get(self._common.me.public)

    @property
    def converged(self) -> bool:
        """Every peer we hold live has held our root (SPEC.md 7)."""
        return self._agreement.converged

    @property
    def isolated(self) -> bool:
        """Most of our peers were lost at once (DESIGN 6)."""
        return self._isolation.isolated

    def holds(self, key: bytes) -> bool:
        """``key`` failed, but most likely it is we who are cut off: its routes stay, where
        no other live member offers them."""
        return self._isolation.holds(key)

    # Announcing.

    @property
    def _endpoints(self) -> tuple[Endpoint, ...]:
        return self._originator.content.endpoints

    def _publish(self, own: Announcement, shards: tuple[Shard, ...], now: float) -> None:
        self._contacts.own = own
        before = self._common.store.root
        if self._merge(own, now, vouched=True) is Outcome.NEW:
            for shard in shards:
                self._fetcher.keep(shard.raw, now)
            self._changed(before, (own,), now)
            self._gossip.publish((own,), now)

    # Listening.

    def _opened(self, peer: bytes, message: Message, source: Endpoint, now: float) -> None:
        member = self._common.members.get(peer)
        if member is None:
            raise Rejected("sealed by one who is no member")
        if not member.seen:
            # Sealed to our boot key under its own: no replay, it lives.
            member.seen = True
            self._show(member, now)
        if member.state is State.FAILED:
            # By the way that it came, if that is announced: the other may not be open yet.
            first = choose_endpoint(member.announcement, self._contacts.families)
            second = source != first and source in member.announcement.endpoints
            self._detector.prober.knock(member, now, int(second))
        prober = self._detector.prober
        match message:
            case Probe():
                self._detector.turns.probed_by(peer, now)
                self._acknowledge(member, message, source, now)
                if prober.has_just_reached(member, now):
                    self._note_reached(member, source)
            case Ack():
                if prober.acked(peer, message, now):
                    self._note_reached(member, source)
                if message.observed is not None and message.observed != member.observed:
                    told = ObservedElsewhere(peer, message.observed)
                    self._common.events.append(told)
                member.observed = message.observed
                self._pulse(member, message, now)
            case Indirect():
                prober.relay(peer, message, now)
            case Reached():
                prober.reached(peer, message, now)
            case Nack():
                prober.nacked(peer, message, now)
            case Suspect():
                self._detector.told(peer, message, now)
            case Push():
                items = [(each, True) for each in message.objects]
                self._learn(items, peer, now, pass_on=True, pushed=True)
            case Offer():
                self._gossip.offered(peer, message, now)
            case Walk() | Pull() | Scan() | AskEvidence() | Vouch(answers=False) | PullShards():
                self._answerer.answer(peer, message, now)
            case Objects() | Subtree() | Vouch() | Shards():
                self._requests.answered(peer, message.request, message, now)
            case Agree():
                self._shows_root(member, message.root)
                self._agreement.told(member, message, now)

    def _note_reached(self, member: Member, where: Endpoint) -> None:
        if where in member.announcement.endpoints:
            self._reached[where] = None

    def _acknowledge(self, member: Member, probe: Probe, source: Endpoint, now: float) -> None:
        observed = None if source in member.announcement.endpoints else source
        root, evidence = self._common.store.root, self._common.evidence.digest
        ack = Ack(probe.nonce, root, evidence, observed)
        self._contacts.send(member.key, ack, now, to=source)
        self._pulse(member, probe, now)

    def _pulse(self, member: Member, message: Probe | Ack, now: float) -> None:
        """``member`` told what it holds."""
        self._shows_root(member, message.root)
        self._reconciler.heard(member, now, message.evidence)
        self._fetcher.heard(now)

    def _shows_root(self, member: Member, root: bytes) -> None:
        member.root = root
        self._departure.told_root(member.key, root)

    def _send_probe(self, node: bytes, message: Message, now: float, attempt: int = 0) -> bool:
        """Send for the detector: a second attempt goes to the node's other endpoint."""
        member = self._common.members.get(node)
        to = None
        if attempt and member is not None:
            to = choose_endpoint(member.announcement, self._contacts.families, attempt)
        return self._contacts.send(node, message, now, to)

    def _drew_stale(self, node: bytes, now: float) -> None:
        self._detector.prober.stale(node, now)

    def _contact(self, node: bytes, now: float) -> bool:
        """``node`` answered our HELLO and nothing waits for it: speak sealed."""
        store, evidence = self._common.store, self._common.evidence
        probe = Probe(self._common.rng.getrandbits(32), store.root, evidence.digest)
        return self._contacts.send(node, probe, now)

    def _welcome(self, candidate: Candidate, now: float) -> None:
        """A candidate has spoken under its boot key: what its HELLO carried is true."""
        before = self._common.store.root
        news = [
            record
            for record in (candidate.grant, candidate.announcement)
            if self._merge(record, now, vouched=True) is Outcome.NEW
        ]
        if news:
            node = candidate.announcement.node
            self._fetcher.brought(node, node, now)
            self._changed(before, news, now)
            self._gossip.relay(news, node, now)

    def _noticed(self, word: Revocation | Successor, now: float) -> None:
        """Somebody shows us what we must know of our authorities before all else."""
        before = self._common.store.root
        if self._merge(word, now, vouched=False) is Outcome.NEW:
            self._changed(before, (word,), now)
            self._gossip.relay((word,), self._common.me.public, now)

    # Learning.

    def _learn(
        self,
        items: Iterable[tuple[News, bool]],
        source: bytes,
        now: float,
        *,
        pass_on: bool,
        pushed: bool = False,
    ) -> bool:
        """Verify and keep what ``source`` sent; True when any of it was new to us.

        Each comes with whether ``source`` has seen its origin; ``pass_on``: it is news, which
        ``source`` has ``pushed`` unasked.
        """
        learned: list[News] = []
        lacking: dict[bytes, None] = {}
        before = self._common.store.root
        for each, vouched in items:
            try:
                if isinstance(each, Accusation):
                    new = self._learn_accusation(each, lacking, source, now)
                else:
                    new = self._learn_record(each, lacking, source, now, vouched=vouched)
            except Rejected as error:  # the others may be good, and what was asked goes on
                self._refused(error, None, source)
                continue
            if new:
                learned += (each, *self._no_longer_waiting(each, now))
        for each in learned:
            if isinstance(each, Announcement):
                self._fetcher.brought(each.node, source, now)
        if lacking:
            self._gossip.pull(source, list(lacking), now)
        self._changed(before, [each for each in learned if isinstance(each, Record)], now)
        if pass_on:
            told = [each for each in learned if self._common.may_tell(each)]
            self._gossip.relay(told, source, now, pushed=pushed)
        return bool(learned)

    def _no_longer_waiting(self, news: News, now: float) -> tuple[Announcement, ...]:
        """The announcement that ``news`` was lacking, if there is one: it is in the store now."""
        waiting = isinstance(news, Grant) and self._common.store.take_waiting(news.node)
        if waiting and self._merge(waiting, now, vouched=False) is Outcome.NEW:
            return (waiting,)
        return ()

    def _refused(self, error: Rejected, source: Endpoint | None, peer: bytes | None) -> None:
        self._common.count(f"refused: {error.reason}")
        self._common.events.append(Refused(source, peer, error.reason))

    def _learn_record(
        self,
        record: Record,
        lacking: dict[bytes, None],
        source: bytes,
        now: float,
        *,
        vouched: bool,
    ) -> bool:
        """Keep ``record`` if it is newest; note in ``lacking`` what it cannot stand without."""
        store = self._common.store
        held = store.in_slot(slot_of(record))
        if held is not None and not newer(record, held):
            if isinstance(record, Announcement) and held.hash == record.hash and vouched:
                self._vouched((record.node,), now)
            return False
        authorities = self._authorities.lacking(record)
        if authorities:
            lacking.update(dict.fromkeys((*authorities, slot_of(record))))
            return False
        if not self._contacts.verify(record, source, now):
            raise Rejected(f"{record.DOMAIN} not signed by who must sign it")
        outcome = self._merge(record, now, vouched=vouched)
        if outcome is Outcome.WAITING:
            # The announcement once more, for only with it comes whether ``source`` has seen it.
            for kind in (Grant.KIND, Announcement.KIND):
                lacking[slot_id(kind, record.subject)] = None
        return outcome is Outcome.NEW

    def _learn_accusation(
        self, accusation: Accusation, lacking: dict[bytes, None], source: bytes, now: float
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
        if not self._contacts.verify(accusation, source, now):
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
        self._gossip.publish((accusation,), now)
        if len(self._common.members.live) > FANOUT_ALL:  # who is to answer must hear of it
            self._contacts.send(accusation.target, Push((accusation,)), now)

    def _merge(self, record: Record, now: float, *, vouched: bool) -> Outcome:
        """The only place where the store changes; what follows from it follows here."""
        store = self._common.store
        before = store.announcements.get(record.subject)
        self._common.members.get(record.subject)  # made by now, it tells what we held until now
        outcome = store.merge(record)
        if outcome is not Outcome.NEW:
            return outcome
        while store.evicted:
            self._forget(store.evicted.pop(), now)
        if not isinstance(record, Announcement):
            self._authorities.spoke(record, now)
        elif record.node != self._common.me.public:
            self._renew(before, record, now, vouched=vouched)
        else:
            if record is not self._originator.latest:
                self._originator.superseded(record, None, now)
            if record is self._originator.latest or self._originator.latest is None:
                self._fetcher.named(record, now)  # not what another host wants announced
        return outcome

    def _changed(self, before: bytes, learned: Iterable[Record], now: float) -> None:
        """The store held ``before`` until now."""
        if self._common.store.root != before:
            self._reconciler.root_changed(before, learned)
            self._agreement.changed(now)

    def _agree(self, now: float) -> None:
        self._agreement.changed(now)

    def _renew(
        self, before: Announcement | None, new: Announcement, now: float, *, vouched: bool
    ) -> None:
        members = self._common.members
        member = members.get(new.node)
        if member is None:
            name = self._common.store.grants[new.node].name
            member = Member(new.node, new, name, since=now, shown_since=now)
            members.add(member)
        elif before is not None and before.boot_key != new.boot_key and not member.live:
            # Whoever spoke under the old boot key is gone.  One that lives has restarted or
            # renewed its key, and the detector goes on watching it.
            member.seen = False
        member.announcement = new
        member.seen = member.seen or vouched
        self._contacts.adopt(new, now)
        self._seeds.announced(new)
        self._common.evidence.clear(new.node)
        self._detector.renewed(member)
        state = State.LEFT if new.has_left else State.ALIVE
        if member.state is not state:
            member.state, member.since = state, now
            member.reason = "announced its departure" if new.has_left else "announced itself"
        self._fetcher.named(new, now)
        self._show(member, now)

    def _forget(self, node: bytes, now: float) -> Member | None:
        """``node`` is revoked, or had to leave a full store."""
        member = self._common.members.get(node)
        self._common.members.remove(node)
        self._contacts.forget(node)
        self._fetcher.forget(node, now)
        self._common.evidence.clear(node)
        self._isolation.found(node, now)
        if member is not None:
            self._detector.renewed(member)
        if node == self._common.me.public:
            self._own_prefixes = ()
        return member

    def _vouched(self, nodes: Iterable[bytes], now: float) -> None:
        """A member we have seen has seen these."""
        for key in nodes:
            if key in self._common.members.unseen:
                member = self._common.members[key]
                member.seen = True
                self._show(member, now)

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

    def _yields(self, yielded: bool, now: float) -> None:
        self._contacts.hush(yielded)
        if yielded:
            self._detector.hushed(now)

    def _inquire(self, where: Iterable[Endpoint]) -> None:
        self._contacts.inquire(where)

    # Periodic.

    def _period(self, now: float) -> None:
        pause = self._common.tuning.probe_period
        if self._originator.clones.yielded:
            pass
        elif self.grant is None:
            self._seeds.plead(self._endpoints, now)
        else:
            self._detector.probe_next(now)
            self._seeds.reconnect(self._endpoints, now)
            pause = self._detector.turns.pause()
        self._common.timers.after(pause, now, self._period)

    # Reporting.

    def _show(self, member: Member, now: float) -> None:
        """``member``'s state may have changed: into its roster, and tell the owner."""
        members = self._common.members
        changes, was_live = members.changes, member.key in members.live
        members.place(member)
        self._herald.tell(member, now)
        if members.changes == changes:
            return
        if was_live and member.key in members.failed:
            self._isolation.lost(
                member.key,
                now,
                doubtful=self._detector.doubtful,
                self_doubt=self._detector.doubts_itself,
                slowness=self._detector.prober.slowness,
            )
        elif member.key not in members.failed:
            self._isolation.found(member.key, now)
        self._agreement.changed(now)

    def _in_force(self, node: bytes, prefixes: tuple[Prefix, ...]) -> None:
        """A whole set of ``node``'s prefixes replaces its last."""
        if node == self._common.me.public:
            before, self._own_prefixes = self._own_prefixes, prefixes
        else:
            member = self._common.members[node]
            before, member.prefixes = member.prefixes, prefixes
        self._herald.tell_prefixes(node, before, prefixes)
