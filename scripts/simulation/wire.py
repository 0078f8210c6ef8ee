"""What the automaton encodes, seals and verifies, counted; and in large meshes shared.

Both wires count what a node's server has to pay for (``Meter``).  ``RealWire`` does the real
thing.  ``SimulatedWire`` seals without a cipher, at the same lengths, and remembers for all
nodes what was decoded and verified, so that thousands of nodes share one copy of each object:
what is sent, its length and what is decided stay the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

import attrs

from protocol import frames, messages, objects
from protocol.errors import Rejected
from protocol.frames import SEALED_HEAD, Hello, pack_sealed_head
from protocol.identity import Identity, Mesh
from protocol.messages import Message, News
from protocol.objects import Signed
from protocol.session import WINDOW, Ends, Session
from protocol.wire import Wire

_TAG: Final = b"simulated-cipher"
"""In the place of Poly1305's 16 octets."""

_OBJECTS: Final = 65536
_HELLOS: Final = 16384
_VERDICTS: Final = 131072
"""What is remembered at most: the newest two objects of 8,192 nodes, several times over."""

_PEEK: Final = 6
"""Octets of a message that say what it is for: type, request, and whether it answers."""


@attrs.define(eq=False)
class Meter:
    """What a node's last piece of work cost, to be charged to its server."""

    verified: int = 0
    signed: int = 0
    sealed: dict[bytes, bytes] = attrs.field(factory=dict)
    """Head of a datagram just sealed by a real cipher to the first octets of its message."""


@attrs.frozen(repr=False)
class MeteredIdentity(Identity):
    """A key pair that counts its signatures."""

    meter: Meter = attrs.field(factory=Meter, eq=False)

    @classmethod
    def from_secret(cls, secret: bytes) -> MeteredIdentity:
        plain = Identity.from_secret(secret)
        return cls(plain.secret, plain.public, plain._signer)

    def sign(self, message: bytes) -> bytes:
        self.meter.signed += 1
        return super().sign(message)


class RealWire(Wire):
    """Real encodings, keys and signatures, counted."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def session(self, ends: Ends, now: float) -> Session:
        return _MeteredSession(ends, now, self._meter)

    def verify(self, claimed: Signed, mesh: Mesh) -> bool:
        self._meter.verified += 1
        return super().verify(claimed, mesh)

    def peek(self, datagram: bytes) -> bytes:
        """The first octets of the message in a SEALED that this wire has just made; once."""
        return self._meter.sealed.pop(datagram[:SEALED_HEAD], b"")


class _MeteredSession(Session):
    def __init__(self, ends: Ends, now: float, meter: Meter) -> None:
        super().__init__(ends, now)
        self._meter = meter

    def seal(self, body: bytes) -> bytes:
        datagram = super().seal(body)
        self._meter.sealed[datagram[:SEALED_HEAD]] = body[:_PEEK]
        return datagram


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _Remembered(Generic[_Key, _Value]):
    """A bounded memory of a function; what came first goes first."""

    def __init__(self, bound: int) -> None:
        self._held: dict[_Key, _Value] = {}
        self._bound = bound

    def get(self, key: _Key, make: Callable[[], _Value]) -> _Value:
        value = self._held.get(key)
        if value is None:
            value = make()
            if len(self._held) >= self._bound:
                del self._held[next(iter(self._held))]
            self._held[key] = value
        return value


class SharedWork:
    """What the nodes of one simulated mesh remember together."""

    def __init__(self) -> None:
        self._objects = _Remembered[bytes, News](_OBJECTS)
        self._hellos = _Remembered[bytes, Hello](_HELLOS)
        self._verdicts = _Remembered[bytes, bool](_VERDICTS)

    def decode_object(self, raw: bytes) -> News:
        return self._objects.get(raw, lambda: objects.decode(raw))

    def decode_hello(self, datagram: bytes, mesh_id: bytes) -> Hello:
        return self._hellos.get(datagram, lambda: frames.decode_hello(datagram, mesh_id))

    def verify(self, claimed: Signed, mesh: Mesh) -> bool:
        if claimed.signer(mesh) is None:
            return False  # to this node; another may know the authority
        return self._verdicts.get(claimed.hash, lambda: claimed.verify(mesh))

    def trust(self, made: Signed) -> None:
        """``made`` was signed here, with a key that is right: it need not be checked."""
        self._verdicts.get(made.hash, lambda: True)


class SimulatedWire(RealWire):
    """No cipher; decoding and signature checks shared with all other nodes."""

    def __init__(self, meter: Meter, shared: SharedWork) -> None:
        super().__init__(meter)
        self._shared = shared

    def session(self, ends: Ends, now: float) -> Session:
        return _OpenSession(ends, now)

    def decode(self, body: bytes) -> Message:
        return messages.decode(body, self._shared.decode_object)

    def decode_hello(self, datagram: bytes, mesh_id: bytes) -> Hello:
        return self._shared.decode_hello(datagram, mesh_id)

    def verify(self, claimed: Signed, mesh: Mesh) -> bool:
        self._meter.verified += 1
        return self._shared.verify(claimed, mesh)

    def peek(self, datagram: bytes) -> bytes:
        return datagram[SEALED_HEAD : SEALED_HEAD + _PEEK]


class _OpenSession(Session):
    """A session whose cipher does nothing: key ids, counters and window are real.

    Who holds the key ids in a head holds the keys behind them, so what a cipher would refuse
    between simulated nodes is what has another key id.
    """

    def __init__(self, ends: Ends, now: float) -> None:
        self.key_id, self.peer_key_id = ends.key_id, ends.peer_key_id
        self.sent = int(now * 1e6)
        self._highest = 0
        self._window = 0

    def seal(self, body: bytes) -> bytes:
        self.sent += 1
        return pack_sealed_head(self.key_id, self.peer_key_id, self.sent) + body + _TAG

    def open(self, datagram: bytes, counter: int) -> bytes:
        behind = self._highest - counter
        if behind < 0:
            self._window = (self._window << min(-behind, WINDOW) | 1) & ((1 << WINDOW) - 1)
            self._highest = counter
        elif counter == 0 or behind >= WINDOW or self._window >> behind & 1:
            raise Rejected("replayed, or older than the window")
        else:
            self._window |= 1 << behind
        return datagram[SEALED_HEAD : -len(_TAG)]
