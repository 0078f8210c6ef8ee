"""A file that holds a list of byte strings: the snapshot, the own grant, the grants given.

``"meshd records 1\n" | count u32 | (length u32 | bytes)* | SHA-256 of all before``, big
endian.  Either the whole list is read, exactly as written, or ``Damaged`` is raised; it
knows nothing of what the records mean and touches no file.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import Final

_HEADER: Final = b"meshd records 1\n"
_DIGEST: Final = hashlib.sha256().digest_size


class Damaged(Exception):
    """The bytes are not a list of records as this module writes them."""


def dump(records: Iterable[bytes]) -> bytes:
    """The file's content for ``records``."""
    listed = list(records)
    parts = [_HEADER, struct.pack(">I", len(listed))]
    for record in listed:
        parts += (struct.pack(">I", len(record)), record)
    content = b"".join(parts)
    return content + hashlib.sha256(content).digest()


def load(data: bytes) -> tuple[bytes, ...]:
    """The records in ``data``, or ``Damaged``."""
    content, digest = data[:-_DIGEST], data[-_DIGEST:]
    if not content.startswith(_HEADER):
        raise Damaged("it has no header of version 1")
    if hashlib.sha256(content).digest() != digest:
        raise Damaged("its checksum is wrong")
    # The checksum vouches for the lengths: only `dump` can have written them.
    (count,) = struct.unpack_from(">I", content, len(_HEADER))
    at = len(_HEADER) + 4
    records = []
    for _ in range(count):
        (length,) = struct.unpack_from(">I", content, at)
        records.append(content[at + 4 : at + 4 + length])
        at += 4 + length
    return tuple(records)
