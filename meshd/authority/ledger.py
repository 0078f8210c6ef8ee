"""The ledger: what the authority has given, in a file beside its key.

It is written before anything of it is shown or sent: a serial that was used and forgotten
could be used twice, and a grant that nobody remembers could not be revoked.  Of each node
the newest grant and the newest revocation are kept, and all Successors; it goes through
all generations of a mesh.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import attrs

from meshd import records
from meshd.authority.knowledge import Word
from meshd.errors import UsageError
from meshd.files import failure, replace_file
from meshd.state import LEDGER
from protocol.errors import Rejected
from protocol.objects import Grant, Revocation, Successor, decode


@attrs.frozen
class Entry:
    """One thing that was signed."""

    word: Word
    valid_until: int = 0
    """Unix seconds: until then a token with this grant may be used. 0: there was none, or it
    was used."""


@attrs.frozen
class Ledger:
    """Entries in the order in which they were made."""

    entries: tuple[Entry, ...] = ()

    @property
    def grants(self) -> dict[bytes, Entry]:
        """By node, each node's newest."""
        return {each.word.node: each for each in self.entries if isinstance(each.word, Grant)}

    @property
    def revocations(self) -> dict[bytes, Revocation]:
        """By node, each node's newest."""
        words = [each.word for each in self.entries]
        return {word.node: word for word in words if isinstance(word, Revocation)}

    @property
    def successors(self) -> tuple[Successor, ...]:
        """By generation."""
        words = [each.word for each in self.entries]
        found = [word for word in words if isinstance(word, Successor)]
        return tuple(sorted(found, key=lambda each: (each.generation, each.serial)))

    @property
    def serial(self) -> int:
        """The highest that was used; 0 if none was."""
        words = [each.word for each in self.entries]
        return max((word.serial for word in words if not isinstance(word, Revocation)), default=0)

    def with_entries(self, new: Iterable[Entry]) -> Ledger:
        """With ``new``, each in place of what was said before of the same slot."""
        kept = {_slot(each.word): each for each in self.entries}
        for each in new:
            kept.pop(_slot(each.word), None)
            kept[_slot(each.word)] = each
        return Ledger(tuple(kept.values()))

    def content(self) -> bytes:
        """As the file holds it: records of ``token's valid-until u64 | object``."""
        return records.dump(
            struct.pack(">Q", each.valid_until) + each.word.raw for each in self.entries
        )

    def write(self, directory: Path) -> None:
        """Into its file in ``directory``, or ``StateError`` with the old one as it was."""
        replace_file(directory / LEDGER, self.content(), 0o600)


def read(directory: Path) -> Ledger:
    """The ledger in ``directory``, or ``UsageError``."""
    path = directory / LEDGER
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(
            f"{path} is missing, which says what names and serials were given; restore it"
        ) from None
    except OSError as error:
        raise failure(path, "read", error) from None
    try:
        return Ledger(tuple(map(_entry, records.load(content))))
    except (records.Damaged, Rejected):
        raise UsageError(f"{path} is damaged; restore it from a copy") from None


def _entry(record: bytes) -> Entry:
    word = decode(record[8:])
    if not isinstance(word, Grant | Revocation | Successor):
        raise Rejected("no word of an authority")
    return Entry(word, int.from_bytes(record[:8], "big"))


def _slot(word: Word) -> tuple[int, bytes | int]:
    return word.KIND, word.generation if isinstance(word, Successor) else word.node
