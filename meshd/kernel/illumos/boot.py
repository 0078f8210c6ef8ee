"""A file that the system reads at boot, with our lines in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from meshd.errors import StateError
from meshd.files import failure, replace_file
from meshd.kernel.illumos import blocks
from meshd.kernel.illumos.journal import Journal

MODE: Final = 0o644
"""Of a file that we make; one that is there keeps its own."""


class BootFile:
    """One of them, or none. ``journal`` remembers whether it was there before us, and by its place
    our lines are told from those of another daemon."""

    def __init__(self, path: Path | None, journal: Journal) -> None:
        self._path, self._journal = path, journal
        self._owner = str(journal.path.parent) if journal.path is not None else ""
        self._failed = False
        """It could not be written last time: that has been told."""

    def others(self) -> str:
        """What stands outside our lines. ``StateError`` when it cannot be kept: it cannot be read,
        or the markers in it are none of ours."""
        ahead, _, after = self._split()
        return ahead + after

    def problems(self, lines: Sequence[str]) -> list[str]:
        """How it differs from what it should say."""
        if self._path is None or self._failed:
            return []
        try:
            _, inside, _ = self._split()
        except StateError as error:
            return [str(error)]
        return [] if (inside or []) == list(lines) else [f"{self._path} is not as it was left"]

    def write(self, lines: Sequence[str]) -> str:
        """Put our lines in; why that could not be."""
        try:
            self._put(lines, *self._split())
        except StateError as error:
            self._failed = True
            return f"it is in the kernel, but will not be at the next boot: {error}"
        self._failed = False
        return ""

    def clear(self) -> str:
        """Take them out; likewise."""
        try:
            self._put([], *blocks.split(self._text(), self._owner))
        except blocks.Foreign:
            return ""
        except blocks.Damaged as error:
            return f"{self._path}: {error}"
        except StateError as error:
            return str(error)
        return ""

    def _split(self) -> tuple[str, list[str] | None, str]:
        text = self._text()
        try:
            return blocks.split(text, self._owner)
        except blocks.Damaged as error:
            raise StateError(f"{self._path}: {error}") from None

    def _text(self) -> str:
        """All of it; octets are characters here, so that none can get lost."""
        if self._path is None:
            return ""
        try:
            return self._path.read_bytes().decode("latin-1")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise failure(self._path, "read", error) from None

    def _put(self, lines: Sequence[str], ahead: str, inside: list[str] | None, after: str) -> None:
        if self._path is None or inside == (list(lines) or None):
            return
        text, made = blocks.joined(ahead, lines, after, self._owner), self._journal.made_files
        if not self._path.exists():
            made.add(str(self._path))
            self._journal.save()
        try:
            if text or str(self._path) not in made:
                mode = self._path.stat().st_mode & 0o777 if self._path.exists() else MODE
                replace_file(self._path, text.encode("latin-1"), mode)
                return
            self._path.unlink()
        except OSError as error:
            raise failure(self._path, "write", error) from None
        made.discard(str(self._path))
        self._journal.save()
