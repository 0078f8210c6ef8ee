"""Who speaks under which key: HELLO, STALE, sessions and what goes out.

Rules kept here:

- A datagram is known by its key id, never by its source address.
- What a HELLO carries is a *candidate* until a sealed datagram under its boot key has
  come: a HELLO can be replayed, a sealed datagram to our boot key cannot.
- No datagram causes more than one answer, no answer to an unproven address is longer
  than what came from it, and answers are limited by source.
- STALE ends nothing and proves nothing; it makes us say HELLO again.

What is in a sealed message is not looked at here.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from protocol import frames
from protocol.address import Endpoint
from protocol.errors import Rejected
from protocol.frames import Hello, Stale
from protocol.identity import BootKey
from protocol.limits import BySource, TokenBucket
from protocol.members import Common, choose_endpoint
from protocol.messages import Message
from protocol.objects import Announcement, Grant, Signed
from protocol.session import Session, key_id
from protocol.store import newer
from protocol.timers import Timer
from protocol.tuning import MAX_CANDIDATES

_BAD_OBJECTS = 1024
"""Hashes of objects whose signature was wrong: not checked again (a bound, not a timer)."""

_GREETING_LIFETIME = 30.0
"""Seconds of unanswered HELLOs to one endpoint before the detector's verdict stands."""


@attrs.frozen
class Datagram:
    """Bytes to send, at most 1,200."""

    data: bytes = attrs.field(repr=False)
    to: Endpoint


@attrs.frozen
class Candidate:
    """A node whose HELLO was good and who has not yet spoken under its boot key."""

    grant: Grant
    announcement: Announcement
    key_id: bytes
    expires: float


@attrs.frozen
class Opened:
    """A message that came sealed, who sealed it, and the candidate that it confirms."""

    peer: bytes
    message: Message
    confirms: Candidate | None


@attrs.define(eq=False)
class _Greeting:
    node: bytes
    began: float
    delay: float
    timer: Timer | None = None


class Contacts:
    """The sessions of one node and its outbox."""

    def __init__(
        self,
        common: Common,
        boot_key: BootKey,
        *,
        on_contact: Callable[[bytes, float], None],
        on_own_newer: Callable[[Announcement, float], None],
        on_stale: Callable[[bytes, float], None],
    ) -> None:
        self.boot_key = boot_key
        self.key_id = key_id(common.mesh.id, common.me.public, boot_key.public)
        self.outbox: list[Datagram] = []
        self.families: frozenset[int] = frozenset((4, 6))
        """Families we can send in: those of our own endpoints."""
        self._common = common
        self._on_contact, self._on_own_newer, self._on_stale = on_contact, on_own_newer, on_stale
        self._candidates: dict[bytes, Candidate] = {}
        self._peers: dict[bytes, tuple[bytes, bytes]] = {}
        """Key id to (node, boot key), of members and candidates."""
        self._key_ids: dict[bytes, bytes] = {}
        """Node to the key id of its stored announcement."""
        self._sessions: dict[bytes, Session] = {}
        self._last: dict[bytes, tuple[int, Message]] = {}
        """Node to the last message sealed for it, with its counter: what STALE may draw."""
        self._held: dict[bytes, Message] = {}
        """Node to the message that drew STALE, sealed anew when it has said HELLO."""
        self._greetings: dict[Endpoint, _Greeting] = {}
        self._asked: dict[Endpoint, None] = {}
        """Where we said HELLO and asked, and have had no answer from yet."""
        self._bad: dict[bytes, None] = {}
        tuning = common.tuning
        self._answers = BySource(tuning.hello_rate, tuning.hello_burst)
        self._checks = TokenBucket(tuning.verify_rate, tuning.verify_burst)
        self._member_checks = TokenBucket(tuning.verify_rate, tuning.verify_store)
        """Apart, so that no flood of strangers keeps members' news from being checked."""

    # What the store says of boot keys.

    def adopt(self, announcement: Announcement) -> None:
        """``announcement`` is now its node's in the store: its boot key is the one."""
        node = announcement.node
        new = key_id(self._common.mesh.id, node, announcement.boot_key)
        old = self._key_ids.get(node)
        if old != new:
            self._key_ids[node] = new
            self._peers[new] = (node, announcement.boot_key)
            if old is not None:
                self._drop(old)
        candidate = self._candidates.get(node)
        if candidate is not None and not newer(candidate.announcement, announcement):
            self._forget_candidate(node)

    def forget(self, node: bytes) -> None:
        """``node`` is revoked: nothing of it opens any more."""
        self._forget_candidate(node)
        old = self._key_ids.pop(node, None)
        if old is not None:
            self._drop(old)
        self._last.pop(node, None)
        self._held.pop(node, None)

    # Sending.

    def send(self, node: bytes, message: Message, now: float, to: Endpoint | None = None) -> bool:
        """Seal ``message`` for ``node``; False when there is no key or no address for it."""
        candidate = self._candidates.get(node)
        peer_key_id = candidate.key_id if candidate else self._key_ids.get(node)
        if to is None:
            to = self._where(node)
        if peer_key_id is None or to is None:
            return False
        session = self._session(peer_key_id, now)
        datagram = session.seal(self._common.wire.encode(message))
        self._last[node] = (session.sent, message)
        self.outbox.append(Datagram(datagram, to))
        self._common.count(f"sent {type(message).__name__}")
        return True

    def greet(self, to: Endpoint, now: float, node: bytes | None = None) -> None:
        """Say HELLO and ask for an answer; for a ``node`` again and again until it comes."""
        if to in self._greetings:
            return
        if node is not None:
            greeting = _Greeting(node, now, self._common.tuning.hello_first)
            self._greetings[to] = greeting
            self._repeat_later(to, greeting, now)
        self._ask(to)

    def _ask(self, to: Endpoint) -> None:
        self._asked.pop(to, None)
        if len(self._asked) >= MAX_CANDIDATES:
            del self._asked[next(iter(self._asked))]
        self._asked[to] = None
        self._say_hello(to, asks=True)

    def _repeat_later(self, to: Endpoint, greeting: _Greeting, now: float) -> None:
        def again(now: float) -> None:
            if now - greeting.began > _GREETING_LIFETIME:
                self._end_greeting(to)
                self._held.pop(greeting.node, None)
                return
            greeting.delay = min(2 * greeting.delay, self._common.tuning.hello_max)
            self._repeat_later(to, greeting, now)
            self._ask(to)

        greeting.timer = self._common.timers.after(greeting.delay, now, again)

    def _end_greeting(self, to: Endpoint) -> None:
        greeting = self._greetings.pop(to, None)
        if greeting is not None and greeting.timer is not None:
            greeting.timer.cancel()

    def _say_hello(
        self, to: Endpoint, *, asks: bool, about: tuple[Grant, Announcement] | None = None
    ) -> None:
        store, me = self._common.store, self._common.me.public
        if about is None:
            if me not in store.announcements:
                return  # we have nothing to say yet, or are revoked
            about = (store.grants[me], store.announcements[me])
        hello = Hello(self._common.mesh.id, asks, *about)
        self.outbox.append(Datagram(hello.encode(), to))
        self._common.count("sent HELLO")

    def _where(self, node: bytes) -> Endpoint | None:
        candidate = self._candidates.get(node)
        if candidate is not None:
            return choose_endpoint(candidate.announcement, self.families)
        member = self._common.members.get(node)
        return choose_endpoint(member.announcement, self.families) if member else None

    # Receiving.

    def receive(self, datagram: bytes, source: Endpoint, now: float) -> Opened | None:
        """The sealed message in ``datagram``, if it is one; ``Rejected`` if it is refused."""
        kind = frames.frame_type(datagram)
        if kind == frames.SEALED:
            return self._sealed(datagram, source, now)
        if kind == frames.HELLO:
            hello = self._common.wire.decode_hello(datagram, self._common.mesh.id)
            self._hello(hello, source, now)
        elif kind == frames.STALE:
            self._stale(frames.decode_stale(datagram), source, now)
        else:
            raise Rejected("frame of unknown type")
        return None

    def _sealed(self, datagram: bytes, source: Endpoint, now: float) -> Opened | None:
        head = frames.decode_sealed(datagram)
        peer = self._peers.get(head.sender)
        if head.recipient != self.key_id or peer is None:
            if self._answers.take(source, now):
                self._common.count("sent STALE")
                stale = Stale(head.recipient, head.counter)
                self.outbox.append(Datagram(stale.encode(), source))
            return None
        body = self._session(head.sender, now).open(datagram, head.counter)
        message = self._common.wire.decode(body)
        node = peer[0]
        candidate = self._candidates.get(node)
        if candidate is not None and candidate.key_id == head.sender:
            return Opened(node, message, candidate)
        return Opened(node, message, None)

    def _stale(self, stale: Stale, source: Endpoint, now: float) -> None:
        peer = self._peers.get(stale.recipient)
        if peer is None:
            return
        node = peer[0]
        counter, message = self._last.get(node, (0, None))
        if counter != stale.counter or message is None:
            return  # only who sent that very datagram reacts
        self._common.count("heard STALE")
        where = self._where(node) or source
        self._held[node] = message
        self._on_stale(node, now)
        self.greet(where, now, node)

    def _hello(self, hello: Hello, source: Endpoint, now: float) -> None:
        store, node = self._common.store, hello.announcement.node
        if node == self._common.me.public:
            self._about_us(hello, now)
            return
        if node in store.revocations:
            raise Rejected("HELLO of a revoked node")
        held = store.announcements.get(node)
        answers = source in self._asked and not hello.asks
        if answers:
            del self._asked[source]
        if held is not None and newer(held, hello.announcement):
            # NEWER: it has lost its sequence; its own word, verbatim, lets it go above.  Also
            # in return for an answer that we asked for: no stranger can draw it that way.
            if (hello.asks or answers) and self._answers.take(source, now):
                self._say_hello(source, asks=False, about=(store.grants[node], held))
            return
        self._check(hello.grant, store.grants.get(node), now)
        known = self._candidates.get(node)
        if known is not None and newer(known.announcement, hello.announcement):
            raise Rejected("HELLO older than the last")
        if known is None or known.announcement.hash != hello.announcement.hash:
            self._check(hello.announcement, held, now)
            if held is None or held.hash != hello.announcement.hash:
                self._add_candidate(hello, now)
        for to, greeting in list(self._greetings.items()):
            if greeting.node == node or to == source:
                self._end_greeting(to)
        if hello.asks:
            if self._answers.take(source, now):
                self._say_hello(source, asks=False)
            return
        pending = self._held.pop(node, None)
        if pending is None or not self.send(node, pending, now):
            self._on_contact(node, now)

    def _about_us(self, hello: Hello, now: float) -> None:
        ours = self._common.store.announcements.get(self._common.me.public)
        if ours is None or not newer(hello.announcement, ours):
            return
        self._check(hello.announcement, ours, now)
        self._on_own_newer(hello.announcement, now)

    def _check(self, claimed: Signed, held: Signed | None, now: float) -> None:
        """Raise ``Rejected`` unless ``claimed`` is what we hold, or is signed rightly."""
        if held is not None and held.hash == claimed.hash:
            return
        if not self._verify(claimed, self._checks, now):
            raise Rejected(f"{claimed.DOMAIN} not signed by who must sign it")

    def verify(self, claimed: Signed, now: float) -> bool:
        """Check the signature of what a member sent; bad ones are remembered."""
        return self._verify(claimed, self._member_checks, now)

    def _verify(self, claimed: Signed, checks: TokenBucket, now: float) -> bool:
        if claimed.hash in self._bad:
            return False
        if not checks.take(now):
            raise Rejected("too many signatures to check")
        if self._common.wire.verify(claimed, self._common.mesh):
            return True
        if len(self._bad) >= _BAD_OBJECTS:
            del self._bad[next(iter(self._bad))]
        self._bad[claimed.hash] = None
        return False

    def _add_candidate(self, hello: Hello, now: float) -> None:
        node = hello.announcement.node
        self._forget_candidate(node)
        for other, candidate in list(self._candidates.items()):
            if candidate.expires > now and len(self._candidates) < MAX_CANDIDATES:
                break  # they stand in the order of their expiry
            self._forget_candidate(other)
        new = key_id(self._common.mesh.id, node, hello.announcement.boot_key)
        self._peers[new] = (node, hello.announcement.boot_key)
        expires = now + self._common.tuning.candidate_lifetime
        self._candidates[node] = Candidate(hello.grant, hello.announcement, new, expires)

    def _forget_candidate(self, node: bytes) -> None:
        candidate = self._candidates.pop(node, None)
        if candidate is not None and self._key_ids.get(node) != candidate.key_id:
            self._drop(candidate.key_id)

    def _session(self, peer_key_id: bytes, now: float) -> Session:
        session = self._sessions.get(peer_key_id)
        if session is None:
            node, boot_key = self._peers[peer_key_id]
            common = self._common
            session = common.wire.session(
                common.mesh.id, common.me.public, self.boot_key, node, boot_key, now
            )
            self._sessions[peer_key_id] = session
        return session

    def _drop(self, peer_key_id: bytes) -> None:
        self._peers.pop(peer_key_id, None)
        self._sessions.pop(peer_key_id, None)
