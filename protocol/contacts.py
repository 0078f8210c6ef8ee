"""Who speaks under which key: HELLO, STALE, NOTICE, candidates and what goes out.

Rules kept here:

- A datagram is known by its key id, never by its source address.
- What a HELLO carries is a *candidate* until a sealed datagram under its boot key has
  come: a HELLO can be replayed, a sealed datagram to our boot key cannot.
- No datagram causes more than one answer, no answer to an unproven address is longer
  than what came from it, and answers are limited by source.
- STALE ends nothing but the grace of a boot key that was replaced, and proves nothing; it
  makes us say HELLO again.
- No datagram costs more with more members.

What is in a sealed message is not looked at here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from protocol import frames
from protocol.address import Endpoint
from protocol.admission import Admission
from protocol.errors import Rejected
from protocol.frames import Hello, Notice, Stale
from protocol.greeting import Greetings
from protocol.identity import BootKey
from protocol.keyring import Keyring
from protocol.members import Common, choose_endpoint
from protocol.messages import Message
from protocol.objects import Announcement, Grant, Record, Revocation, Signed, Successor
from protocol.resumption import Resumption
from protocol.store import newer, slot_of
from protocol.tuning import MAX_CANDIDATES


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


class Contacts:
    """Whom one node knows how to reach, and its outbox."""

    def __init__(
        self,
        common: Common,
        boot_key: BootKey,
        *,
        on_contact: Callable[[bytes, float], bool],
        on_own_newer: Callable[[Announcement, Endpoint | None, float], None],
        on_own_older: Callable[[Announcement, float], None],
        on_stale: Callable[[bytes, float], None],
        on_notice: Callable[[Revocation | Successor, float], None],
    ) -> None:
        """``on_own_newer`` is also given where it came from, if we had asked there."""
        self.outbox: list[Datagram] = []
        self.families: frozenset[int] = frozenset((4, 6))
        """Families we can send in: those of our own endpoints."""
        self.own: Announcement | None = None
        """What we said last, and say of ourselves in HELLO; another may stand in the store."""
        self.grant: Grant | None = None
        """Our newest, also after it was taken away: so others know to whom they say so."""
        self._common = common
        self._on_contact, self._on_stale = on_contact, on_stale
        self._on_own_newer, self._on_own_older = on_own_newer, on_own_older
        self._on_notice = on_notice
        self._keys = Keyring(common, boot_key)
        self._greetings = Greetings(common, say=self._ask, speak=on_contact, given_up=self._give_up)
        self._candidates: dict[bytes, Candidate] = {}
        self._encoded: tuple[Message | None, bytes] = (None, b"")
        """The last message and its body: what is told to many is encoded once."""
        self._last: dict[bytes, tuple[int, Message, Endpoint]] = {}
        """Node to the last message sealed for it, its counter and where it went: what STALE may
        draw, and from where."""
        self._held: dict[bytes, Message] = {}
        """Node to the message that drew STALE, sealed anew when it has said HELLO."""
        self._hushed = False
        self._admission = Admission(common)

    # Boot keys.

    def renew(self, boot_key: BootKey, now: float, *, keep_old: bool) -> None:
        """``boot_key`` is ours from now on. See ``Keyring.renew``."""
        self._keys.renew(boot_key, now, keep_old=keep_old)

    def resume(self, resumption: Resumption) -> None:
        """Know the boot keys of all its members."""
        self._keys.resume(resumption)

    def adopt(self, announcement: Announcement, now: float) -> None:
        """``announcement`` is now its node's in the store: its boot key is the one."""
        node = announcement.node
        self._keys.adopt(node, announcement.boot_key, now)
        candidate = self._candidates.get(node)
        if candidate is not None and not newer(candidate.announcement, announcement):
            self._forget_candidate(node)

    def forget(self, node: bytes) -> None:
        """``node`` is revoked: nothing of it opens any more."""
        self._forget_candidate(node)
        self._keys.forget(node)
        self._greetings.heard(node)
        self._last.pop(node, None)
        self._held.pop(node, None)

    # Sending.

    def send(self, node: bytes, message: Message, now: float, to: Endpoint | None = None) -> bool:
        """Seal ``message`` for ``node``; False when no key or address is known, or hushed."""
        candidate = self._candidates.get(node)
        peer = candidate.key_id if candidate else self._keys.stored(node)
        if to is None:
            to = self._where(node)
        if peer is None or to is None or self._hushed:
            return False
        if message is not self._encoded[0]:
            self._encoded = (message, self._common.wire.encode(message))
        session = self._keys.sealing(node, peer, now)
        datagram = session.seal(self._encoded[1])
        self._last[node] = (session.sent, message, to)
        self.outbox.append(Datagram(datagram, to))
        self._common.count(f"sent {type(message).__name__}")
        return True

    def greet(self, to: Endpoint, now: float) -> None:
        """Say HELLO at ``to`` and ask for an answer; again while we know nobody live."""
        self._greetings.greet_address(to, now)

    def greet_only(self, addresses: Iterable[Endpoint], now: float) -> None:
        """Greet these, and no other address any longer."""
        addresses = tuple(dict.fromkeys(addresses))
        self._greetings.only(addresses)
        for to in addresses:
            self._greetings.greet_address(to, now)

    def inquire(self, where: Iterable[Endpoint]) -> None:
        """Ask, once, at ``where`` and at a member drawn at random what is known of us."""
        common, asked = self._common, dict.fromkeys(where)
        for key in common.members.live.draw(common.rng, 1):
            to = choose_endpoint(common.store.announcements[key], self.families)
            if to is not None:
                asked[to] = None
        for to in asked:
            if self.own is None or to not in self.own.endpoints:
                self._greetings.ask(to)

    def hush(self, hushed: bool) -> None:
        """Seal and greet nothing from now on, or no longer so: nobody knows our key id."""
        self._hushed = hushed
        if hushed:
            self._greetings.stop()
            self._held.clear()

    def _ask(self, to: Endpoint) -> None:
        self._say_hello(to, asks=True)

    def _give_up(self, node: bytes) -> None:
        self._held.pop(node, None)

    def _say_hello(
        self, to: Endpoint, *, asks: bool, about: tuple[Grant, Announcement] | None = None
    ) -> None:
        if about is None:
            if self.own is None or self.grant is None:
                return  # we have nothing to say yet
            about = (self.grant, self.own)
        mesh = self._common.mesh
        hello = Hello(mesh.id, asks, *about, mesh.generation)
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
            self._admission.look(source, frames.asks(datagram), now)
            hello = self._common.wire.decode_hello(datagram, self._common.mesh.id)
            self._hello(hello, source, now)
        elif kind == frames.STALE:
            self._stale(frames.decode_stale(datagram), now)
        elif kind == frames.NOTICE:
            self._admission.look(source, False, now)
            notice = frames.decode_notice(datagram, self._common.mesh.id)
            self._notice(notice.word, source, now)
        else:
            raise Rejected("frame of unknown type")
        return None

    def _sealed(self, datagram: bytes, source: Endpoint, now: float) -> Opened | None:
        head = frames.decode_sealed(datagram)
        found = self._keys.opening(head.recipient, head.sender, now)
        if found is None:
            if self._admission.may_say_stale(source, now):
                self._common.count("sent STALE")
                stale = Stale(head.recipient, head.counter)
                self.outbox.append(Datagram(stale.encode(), source))
            return None
        node, session = found
        body = session.open(datagram, head.counter)
        if session.key_id == self._keys.key_id:
            self._keys.knows_present(node)
        message = self._common.wire.decode(body)
        candidate = self._candidates.get(node)
        if candidate is not None and candidate.key_id == head.sender:
            return Opened(node, message, candidate)
        return Opened(node, message, None)

    def _stale(self, stale: Stale, now: float) -> None:
        node = self._keys.node(stale.recipient, now)
        if node is None:
            return
        last = self._last.get(node)
        if last is None or last[0] != stale.counter:
            return  # only who sent that very datagram reacts
        _, message, to = last
        self._common.count("heard STALE")
        candidate = self._candidates.get(node)
        present = candidate.key_id if candidate else self._keys.stored(node)
        if stale.recipient != present:
            self.send(node, message, now)  # it had renewed its boot key, as we know meanwhile
            return
        # Who speaks under the boot key before that one is then not who has this one.
        self._keys.end_grace(node)
        self._held[node] = message
        self._on_stale(node, now)
        # Never where STALE came from: that address has proven nothing, and HELLO is 60 times it.
        self._greetings.greet_node(node, self._where(node) or to, now)

    def _hello(self, hello: Hello, source: Endpoint, now: float) -> None:
        store, node = self._common.store, hello.announcement.node
        answers = not hello.asks and self._greetings.answered(source, node, now)
        if node == self._common.me.public:
            self._about_us(hello, source, answers, now)
            return
        word = self._must_know(hello)
        if word is not None:
            if (hello.asks or answers) and self._admission.may_answer(source, now):
                self._common.count("sent NOTICE")
                notice = Notice(self._common.mesh.id, word)
                self.outbox.append(Datagram(notice.encode(), source))
            if isinstance(word, Revocation):
                raise Rejected("HELLO of a revoked node")
            return
        held = store.announcements.get(node)
        if held is not None and newer(held, hello.announcement):
            # NEWER: it has lost its sequence; its own word, verbatim, lets it go above.  Also
            # in return for an answer that we asked for: no stranger can draw it that way.
            if (hello.asks or answers) and self._admission.may_answer(source, now):
                self._say_hello(source, asks=False, about=(store.grants[node], held))
            return
        known = self._candidates.get(node)
        if known is not None and newer(known.announcement, hello.announcement):
            raise Rejected("HELLO older than the last")
        grant = self._standing(hello, source, now)
        verified: list[Signed | None] = [store.grants.get(node), held]
        if known is not None:
            verified += [known.grant, known.announcement]
        self._check((grant, hello.announcement), verified, source, now)
        if not any(each and each.hash == hello.announcement.hash for each in verified):
            self._add_candidate(grant, hello.announcement, now)
        if hello.asks:
            if self._admission.may_answer(source, now):
                self._say_hello(source, asks=False)
            return
        self._greetings.heard(node)
        if answers:
            self._keys.knows_present(node)  # our HELLO told it
        pending = self._held.pop(node, None)
        if pending is None or not self.send(node, pending, now):
            self._on_contact(node, now)

    def _must_know(self, hello: Hello) -> Revocation | Successor | None:
        """What the sender of ``hello`` must hear before anything else means something to it."""
        store = self._common.store
        successor = store.successor(hello.generation + 1)
        if successor is not None and hello.generation < self._common.mesh.generation:
            return successor
        revocation = store.revocations.get(hello.grant.node)
        if revocation is not None and revocation.generation >= hello.grant.generation:
            return revocation
        return None

    def _standing(self, hello: Hello, source: Endpoint, now: float) -> Grant:
        """The newer of the grant that a HELLO brought and the one that we hold."""
        held = self._common.store.grants.get(hello.grant.node)
        if held is not None and newer(held, hello.grant):
            return held
        if hello.grant.generation < self._common.store.generation:
            raise Rejected("grant that the present authority has not renewed")
        if hello.grant.generation > self._common.mesh.generation:
            if hello.asks and self._admission.may_answer(source, now):
                self._say_hello(source, asks=False)  # which shows that we must be told
            raise Rejected("grant of an authority that is not known here")
        return hello.grant

    def _notice(self, word: Revocation | Successor, source: Endpoint, now: float) -> None:
        held, mesh = self._common.store.in_slot(slot_of(word)), self._common.mesh
        if held is not None and not newer(word, held):
            return
        if word.signer(mesh) is None:
            raise Rejected(f"{word.DOMAIN} of an authority that is not known here")
        self._check((word,), [], source, now)
        self._on_notice(word, now)
        if isinstance(word, Successor) and self._greetings.awaits(source):
            self._greetings.ask(source)  # there may be more; nobody else has proven where he is

    def _about_us(self, hello: Hello, source: Endpoint, answers: bool, now: float) -> None:
        own, told = self.own, hello.announcement
        if own is None or told.hash == own.hash:
            return
        if newer(told, own):
            held = self._common.store.announcements.get(told.node)
            self._check((told,), [held], source, now)
            self._on_own_newer(told, source if answers else None, now)
        elif hello.asks and told.boot_key != own.boot_key:
            # From nobody but an earlier life of ours, or another host with our key.
            self._check((told,), [], source, now)
            if self._admission.may_answer(source, now):
                self._say_hello(source, asks=False)
            self._on_own_older(told, now)

    def _check(
        self,
        claims: Iterable[Record],
        verified: Iterable[Signed | None],
        source: Endpoint,
        now: float,
    ) -> None:
        """Raise ``Rejected`` unless each claim is one that is ``verified``, or signed rightly."""
        known = [each.hash for each in verified if each is not None]
        unknown = [claim for claim in claims if claim.hash not in known]
        if unknown:
            self._admission.check_hello(unknown, unknown[0].subject, source, now)

    def verify(self, claimed: Signed, peer: bytes, now: float) -> bool:
        """Check the signature of what ``peer`` sealed. See ``Admission.check_member``."""
        return self._admission.check_member(claimed, peer, now)

    def _add_candidate(self, grant: Grant, announcement: Announcement, now: float) -> None:
        node = announcement.node
        self._forget_candidate(node)
        while self._candidates:
            other, candidate = next(iter(self._candidates.items()))
            if candidate.expires > now and len(self._candidates) < MAX_CANDIDATES:
                break  # they stand in the order of their expiry
            self._forget_candidate(other)
        key_id = self._keys.expect(node, announcement.boot_key)
        expires = now + self._common.tuning.candidate_lifetime
        self._candidates[node] = Candidate(grant, announcement, key_id, expires)

    def _forget_candidate(self, node: bytes) -> None:
        if self._candidates.pop(node, None) is not None:
            self._keys.expect_no_more(node)
