"""What clients of the control socket may ask with: readers of a method's params.

Each returns checked values, or raises ``UsageError`` that says what was wanted.
"""

from __future__ import annotations

import base64
from typing import Any

from meshd import values
from meshd.authority.knowledge import Word
from meshd.errors import UsageError
from protocol.errors import Rejected
from protocol.merkle import SLOT_SIZE
from protocol.objects import Grant, Revocation, Successor, decode


def announced(params: dict[str, Any]) -> tuple[values.Announced, ...]:
    """What to announce or withdraw, one at least."""
    texts = params.get("prefixes")
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise UsageError('params must hold "prefixes", a list of text')
    return tuple(values.announced(text) for text in texts)


def words(params: dict[str, Any]) -> list[Word]:
    """What an authority signed, as ``deliver`` takes it; all of it is read before any is heard."""
    texts = params.get("objects")
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise UsageError('params must hold "objects", a list of base64 text')
    found: list[Word] = []
    for number, text in enumerate(texts, 1):
        try:
            word = decode(base64.b64decode(text, validate=True))
        except (ValueError, Rejected) as error:
            raise UsageError(f"object {number} is none that this version knows: {error}") from None
        if not isinstance(word, Grant | Revocation | Successor):
            raise UsageError(f"object {number} is no grant, revocation or successor")
        found.append(word)
    return found


def slot_from(params: dict[str, Any]) -> bytes:
    """Where the reading of records goes on; nothing: at the first."""
    try:
        slot = bytes.fromhex(params.get("from", ""))
    except (TypeError, ValueError):
        slot = b"?"
    if len(slot) not in (0, SLOT_SIZE):
        raise UsageError('"from" must be what "next" was in the answer before')
    return slot
