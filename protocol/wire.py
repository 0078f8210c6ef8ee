"""How the automaton encodes, seals and verifies: one seam, so that thousands can share the work.

The daemon uses ``Wire`` as it is.  The simulator puts another in its place, which seals
without a cipher and remembers what it has decoded and verified for all its nodes; what
is sent, its length and what is decided stay the same.
"""

from __future__ import annotations

from protocol import frames, messages
from protocol.frames import Hello
from protocol.identity import Mesh
from protocol.messages import Message
from protocol.objects import Signed
from protocol.session import Ends, Session


class Wire:
    """Real encodings, real keys."""

    def session(self, ends: Ends, now: float) -> Session:
        """The channel between two boot keys; see ``Session``."""
        return Session(ends, now)

    def encode(self, message: Message) -> bytes:
        """The body of a SEALED datagram."""
        return messages.encode(message)

    def decode(self, body: bytes) -> Message:
        """The message in a body, or ``Rejected``."""
        return messages.decode(body)

    def decode_hello(self, datagram: bytes, mesh_id: bytes) -> Hello:
        """A HELLO of our mesh, signatures not checked, or ``Rejected``."""
        return frames.decode_hello(datagram, mesh_id)

    def verify(self, claimed: Signed, mesh: Mesh) -> bool:
        """True when the signature is right. About 170 us."""
        return claimed.verify(mesh)
