"""A bundle: what an authority signed on a machine without a daemon, as text to be carried.

One line an object (``meshd1o-``, base64url, with the first 8 bytes of its SHA-256), then a
line with their number and the SHA-256 of them all.  Blank lines and lines that begin with
# are passed over.  The checksums are for slips of the hand: every node that takes an object
verifies its signature.  Nothing in it is secret.  Knows nothing of what the objects mean,
and imports nothing heavy: ``meshd deliver`` only talks to the control socket.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from typing import Final

from meshd.errors import UsageError

PREFIX: Final = "meshd1o-"
END: Final = "meshd1o-end"
_CHECKSUM: Final = 8
"""Bytes of each line. A slip goes unnoticed once in 2^64."""
MAX_TEXT: Final = 16 * 1024 * 1024
"""Characters: all of 8,192 members, each with a grant of 440 octets, have 5 million."""


def dump(raws: Iterable[bytes], words: str = "") -> str:
    """The text for ``raws``, each line ended; ``words`` say in it what it is."""
    listed = list(raws)
    lines = [f"# {words}"] if words else []
    lines += [PREFIX + _text(raw + hashlib.sha256(raw).digest()[:_CHECKSUM]) for raw in listed]
    lines.append(f"{END} {len(listed)} {_digest(listed)}")
    return "".join(f"{line}\n" for line in lines)


def load(text: str, where: str) -> list[bytes]:
    """The objects in ``text``, which came from ``where``; ``UsageError`` if not all are here."""
    found: list[bytes] = []
    for number, line in enumerate(text[:MAX_TEXT].splitlines(), 1):
        word, _, rest = line.strip().partition(" ")
        if word == END:
            if rest != f"{len(found)} {_digest(found)}":
                raise UsageError(f"{where}: lines of the bundle are missing; copy it again, whole")
            if found:
                return found
            break
        if not word or word.startswith("#"):
            continue
        if not word.startswith(PREFIX):
            raise UsageError(
                f"{where}: line {number} is none of a bundle's, which start with {PREFIX};"
                " give what a command of meshd wrote"
            )
        raw = None if rest else _object(word.removeprefix(PREFIX))
        if raw is None:
            raise UsageError(
                f"{where}: line {number} is incomplete or altered; copy the bundle again, whole"
            )
        found.append(raw)
    if found:
        raise UsageError(f"{where}: the bundle's end is missing; copy it again, whole")
    raise UsageError(f"{where} is empty; give what a command of meshd wrote")


def _object(text: str) -> bytes | None:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    raw, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
    # Compared as text too: the last character has bits that decoding ignores.
    good = hashlib.sha256(raw).digest()[:_CHECKSUM] == checksum and _text(data) == text
    return raw if good and raw else None


def _digest(raws: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(raw).digest() for raw in raws)).hexdigest()[:32]


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
