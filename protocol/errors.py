"""The protocol's two families of error.

The caller's fault raises a ``ValueError`` and leaves everything as it was.  The
peer's fault is a ``Rejected``: decoding raises it, the automaton counts it and
reports it, and it never leaves ``Node.receive``.
"""

from __future__ import annotations


class Rejected(Exception):
    """What a peer sent is refused.

    ``reason`` is one of our own literals and never holds a byte of the input, so
    it can be logged, counted and shown on a terminal as it is.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SequenceUnavailable(Exception):
    """The owner could not reserve a sequence (its disk is full, say): nothing was signed."""
