"""Our boot keys, the others' key ids, and the sessions between them.

Rules kept here:

- A peer has at most three key ids at a time: that of its stored announcement, that of the
  one before for a time of grace, and that of a candidate.
- We have at most two boot keys: the present one, and after a renewal the one before, with
  which we go on sealing towards a peer until that peer has named the new one.
- A session belongs to one pair of boot keys and goes with either of them.
"""

from __future__ import annotations

import attrs

from protocol.identity import BootKey
from protocol.members import Common
from protocol.resumption import Overlay, Resumption
from protocol.session import Ends, Session, key_id
from protocol.timers import Timer


@attrs.define(eq=False)
class _Own:
    """A boot key of ours and the sessions under it, by the peer's key id."""

    boot_key: BootKey
    key_id: bytes
    sessions: dict[bytes, Session] = attrs.field(factory=dict)


class Keyring:
    """All keys that one node can seal and open with."""

    def __init__(self, common: Common, boot_key: BootKey) -> None:
        self._common = common
        self._present = self._own(boot_key)
        self._before: _Own | None = None
        self._dropping: Timer | None = None
        self._lagging: dict[bytes, None] = {}
        """Nodes that may not know our present boot key yet."""
        self._peers: Overlay[tuple[bytes, bytes]] = Overlay()
        """Key id to (node, boot key)."""
        self._stored: Overlay[bytes] = Overlay()
        """Node to the key id of its stored announcement."""
        self._expected: dict[bytes, bytes] = {}
        """Candidate to its key id."""
        self._previous: dict[bytes, tuple[bytes, float]] = {}
        """Node to (the key id before that, until when it opens), in the order of that time."""

    def _own(self, boot_key: BootKey) -> _Own:
        common = self._common
        return _Own(boot_key, key_id(common.mesh.id, common.me.public, boot_key.public))

    # Our own keys.

    @property
    def key_id(self) -> bytes:
        """That of our present boot key."""
        return self._present.key_id

    def renew(self, boot_key: BootKey, now: float, *, keep_old: bool) -> None:
        """``boot_key`` is ours from now on; without ``keep_old`` the one before is gone at once.

        It is not to be kept when a copy of this machine may hold it: both would seal under
        the same counters.
        """
        self._drop_before(now)
        if keep_old:
            self._before = self._present
            known = [self._peers[each][0] for each in self._before.sessions]
            self._lagging = dict.fromkeys(known)
            grace = self._common.tuning.boot_key_grace
            self._dropping = self._common.timers.after(grace, now, self._drop_before)
        self._present = self._own(boot_key)

    def _drop_before(self, now: float) -> None:
        if self._dropping is not None:
            self._dropping.cancel()
        self._before = self._dropping = None
        self._lagging.clear()

    def knows_present(self, node: bytes) -> None:
        """``node`` has shown that it knows our present boot key."""
        self._lagging.pop(node, None)

    # The others' keys.

    def resume(self, resumption: Resumption) -> None:
        """Begin with all its members' keys but our own."""
        self._peers, self._stored = Overlay(resumption.boot_keys), Overlay(resumption.key_ids)
        self.forget(self._common.me.public)

    def adopt(self, node: bytes, boot_key: bytes, now: float) -> None:
        """``boot_key`` is now that of ``node``'s stored announcement."""
        new, old = self._name(node, boot_key), self._stored.get(node)
        if new == old:
            return
        self._stored[node] = new
        self.end_grace(node)
        while self._previous:
            other, (_, until) = next(iter(self._previous.items()))
            if until > now:
                break
            self.end_grace(other)
        if old is not None:
            # What is in flight under it still counts, and what the node seals with it until
            # it has heard us name the new one.
            self._previous[node] = (old, now + self._common.tuning.boot_key_grace)

    def end_grace(self, node: bytes) -> None:
        """What ``node`` seals with its boot key of before opens no more."""
        before, _ = self._previous.pop(node, (b"", 0.0))
        self._release(node, before)

    def expect(self, node: bytes, boot_key: bytes) -> bytes:
        """``node`` is a candidate with ``boot_key``: datagrams under it open. Its key id."""
        name = self._expected[node] = self._name(node, boot_key)
        return name

    def expect_no_more(self, node: bytes) -> None:
        """``node`` is no candidate any more; a member it may be."""
        self._release(node, self._expected.pop(node, b""))

    def forget(self, node: bytes) -> None:
        """``node`` is revoked: nothing of it opens any more."""
        self._release(node, self._stored.pop(node) or b"")
        self.end_grace(node)
        self.expect_no_more(node)
        self._lagging.pop(node, None)

    def _name(self, node: bytes, boot_key: bytes) -> bytes:
        name = key_id(self._common.mesh.id, node, boot_key)
        self._peers[name] = (node, boot_key)
        return name

    def _release(self, node: bytes, peer: bytes) -> None:
        """``node``'s key id ``peer`` lost one of its three uses: drop it with the last."""
        before, _ = self._previous.get(node, (b"", 0.0))
        if peer not in (self._stored.get(node), self._expected.get(node), before):
            self._peers.pop(peer)
            for own in (self._present, self._before):
                if own is not None:
                    own.sessions.pop(peer, None)

    def stored(self, node: bytes) -> bytes | None:
        """The key id of ``node``'s stored announcement."""
        return self._stored.get(node)

    def node(self, peer: bytes, now: float) -> bytes | None:
        """Whose key id ``peer`` is, if anything under it opens."""
        found = self._peers.get(peer)
        if found is None:
            return None
        node = found[0]
        before, until = self._previous.get(node, (b"", 0.0))
        if peer == before and now >= until and peer != self._expected.get(node):
            return None
        return node

    # Sessions.

    def sealing(self, node: bytes, peer: bytes, now: float) -> Session:
        """The session in which we seal for ``node``'s key id ``peer``."""
        lags = self._before is not None and node in self._lagging
        own = self._before if lags and self._before else self._present
        return self._session(own, peer, now)

    def opening(self, recipient: bytes, peer: bytes, now: float) -> tuple[bytes, Session] | None:
        """Who seals under key id ``peer`` for ``recipient``, and the session; None: unknown."""
        node = self.node(peer, now)
        for own in (self._present, self._before):
            if node is not None and own is not None and own.key_id == recipient:
                return node, self._session(own, peer, now)
        return None

    def _session(self, own: _Own, peer: bytes, now: float) -> Session:
        session = own.sessions.get(peer)
        if session is None:
            node, boot_key = self._peers[peer]
            common = self._common
            ends = Ends(common.mesh.id, common.me.public, own.boot_key, node, boot_key)
            session = own.sessions[peer] = common.wire.session(ends, now)
        return session
