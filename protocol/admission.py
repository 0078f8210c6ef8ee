"""Admission: what may cost a signature check or draw an answer, for whom, and how often.

A check costs 170 us and an answer costs a datagram; everything before them costs some
microseconds.  So both are taken out of token buckets, and no flood takes what another needs:

- *Strangers*, in HELLO: one bucket for all, of which half is left to keys that the store
  knows.  Anybody can write a known key into a HELLO, so a quarter is left to those that say it
  from where they announce themselves; and no source and no key gets more than its own bucket
  holds.
- *Members*, in what they seal: one bucket for all, apart from the strangers'.  Each member has a
  share of its own; beyond it a quarter is left to the others.  An honest member passes on only
  what it has verified, so one whose signatures are wrong is not listened to for a while.
- What was refused once is refused unseen: objects whose signature was wrong are remembered,
  of each who sent them only a few, so that nobody's many push out the others'.

Every table here is bounded, and a source that nobody knew before costs one bucket in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.address import Endpoint
from protocol.errors import Rejected
from protocol.limits import Buckets, TokenBucket, network, take_from_all
from protocol.members import Common
from protocol.objects import Signed

MAX_BAD: Final = 1024
"""Objects with a wrong signature that are remembered: 1 s of all checks strangers get."""

MAX_BAD_EACH: Final = 64
"""... of one source or member: 16 of them would have to conspire to push out the rest."""

_TOO_MANY: Final = "too many signatures to check"


class Admission:
    """The limits of one node."""

    def __init__(self, common: Common) -> None:
        self._common = common
        tuning = common.tuning
        self._answers = Buckets(tuning.hello_rate, tuning.hello_burst)
        self._stales = TokenBucket(tuning.stale_rate, tuning.stale_burst)
        self._strangers = TokenBucket(tuning.stranger_verify_rate, tuning.stranger_verify_burst)
        self._sources = Buckets(tuning.source_verify_rate, tuning.source_verify_burst)
        self._keys = Buckets(tuning.key_verify_rate, tuning.key_verify_burst)
        self._members = TokenBucket(tuning.member_verify_rate, tuning.member_verify_burst)
        self._shares = Buckets(tuning.share_verify_rate, tuning.share_verify_burst)
        self._faults = Buckets(tuning.fault_rate, tuning.fault_burst)
        self._bad = _BadObjects()

    def may_answer(self, source: Endpoint, now: float) -> bool:
        """Whether a HELLO, STALE or NOTICE may go to ``source``, which has proven nothing."""
        return self._answers.of(network(source)).take(now)

    def may_say_stale(self, source: Endpoint, now: float) -> bool:
        """The same for a STALE, which any octets draw: of these there are not many in all."""
        return self._stales.take(now) and self.may_answer(source, now)

    def look(self, source: Endpoint, asks: bool, now: float) -> None:
        """Raise ``Rejected`` when a HELLO from ``source`` could come to nothing: to read one costs
        about half as much as to check a signature, and this a small part of that."""
        who = network(source)
        if self._sources.spent(who, now):
            raise Rejected(_TOO_MANY)
        if asks and self._answers.spent(who, now):
            raise Rejected("asks more often than it is answered")

    def check_hello(
        self, claims: Sequence[Signed], node: bytes, source: Endpoint, now: float
    ) -> None:
        """Raise ``Rejected`` unless all ``claims``, which ``source`` sent as those of ``node``,
        are signed rightly. All that are needed are checked, or none."""
        for claim in claims:
            _refuse_bad(claim, claim.hash not in self._bad)
        if claims and not self._take(len(claims), node, source, now):
            raise Rejected(_TOO_MANY)
        for claim in claims:
            _refuse_bad(claim, self._verified(claim, network(source)))

    def _take(self, number: int, node: bytes, source: Endpoint, now: float) -> bool:
        store, left, where = self._common.store, 1 / 2, b"away"
        if node in store.grants:
            left = 1 / 4
            held = store.announcements.get(node)
            if held is not None and any(source.host == each.host for each in held.endpoints):
                # Whoever abuses a key from elsewhere has another bucket than its node at home.
                left, where = 0.0, b"home"
        buckets = (
            (self._sources.of(network(source)), 0.0),
            (self._keys.of(node + where), 0.0),
            (self._strangers, left * self._strangers.burst),
        )
        return take_from_all(buckets, number, now)

    def check_member(self, claimed: Signed, peer: bytes, now: float) -> bool:
        """Whether what ``peer`` sealed is signed rightly.

        ``Rejected`` when it was not looked at: that says nothing of ``claimed``.
        """
        if claimed.hash in self._bad:
            return False
        faults = self._faults.of(peer)
        if not faults.holds(now):
            raise Rejected("sent by one whose signatures were wrong")
        within = self._shares.of(peer).take(now)
        if not self._members.take(now, spare=0.0 if within else self._members.burst / 4):
            raise Rejected(_TOO_MANY)
        good = self._verified(claimed, peer)
        if not good:
            faults.take(now)
        return good

    def _verified(self, claimed: Signed, sender: bytes) -> bool:
        good = self._common.wire.verify(claimed, self._common.mesh)
        if not good:
            self._bad.add(claimed.hash, sender)
        return good


def _refuse_bad(claim: Signed, good: bool) -> None:
    if not good:
        raise Rejected(f"{claim.DOMAIN} not signed by who must sign it")


class _BadObjects:
    """Hashes of objects whose signature was wrong, with who sent them."""

    def __init__(self) -> None:
        self._senders: dict[bytes, bytes] = {}
        self._sent: dict[bytes, dict[bytes, None]] = {}
        """The same the other way round; both in the order they came."""

    def __len__(self) -> int:
        return len(self._senders)

    def __contains__(self, name: bytes) -> bool:
        return name in self._senders

    def add(self, name: bytes, sender: bytes) -> None:
        """Remember ``name``; the sender's oldest goes where it has its number, else the oldest."""
        if len(own := self._sent.get(sender, {})) >= MAX_BAD_EACH:
            self._drop(next(iter(own)))
        elif len(self._senders) >= MAX_BAD:
            self._drop(next(iter(self._senders)))
        self._senders[name] = sender
        self._sent.setdefault(sender, {})[name] = None

    def _drop(self, name: bytes) -> None:
        sender = self._senders.pop(name)
        own = self._sent[sender]
        del own[name]
        if not own:
            del self._sent[sender]
