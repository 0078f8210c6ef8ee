"""A file that the system reads at boot, with our lines in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from meshd.errors import StateError
from meshd.files import failure, replace_file
from meshd.kernel.illumos import blocks
from meshd.kernel.illumos.journal import Journal

MODE: Final = 0o644
"""Of a file that we make; one that is there keeps its own."""


@attrs.frozen
class BootFile:
    """One of them; ``journal`` remembers whether it was there before us."""

    path: Path
    journal: Journal

    def text(self) -> str:
        """All of it; octets are characters here, so that none can get lost."""
        try:
            return self.path.read_bytes().decode("latin-1")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise failure(self.path, "read", error) from None

    def problem(self, lines: Sequence[str]) -> str | None:
        """How it differs from what it should say."""
        try:
            _, inside, _ = blocks.split(self.text())
        except (blocks.Damaged, StateError) as error:
            return f"{self.path}: {error}"
        if (inside or []) != list(lines):
            return f"{self.path} does not say what is wanted"
        return None

    def write(self, lines: Sequence[str]) -> str | None:
        """Put our lines in, or take them out; why that could not be."""
        try:
            before = self.text()
            after = blocks.put(before, lines)
            if after == before:
                return None
            if not self.path.exists():
                self.journal.made_files.add(str(self.path))
                self.journal.save()
            if not after and str(self.path) in self.journal.made_files:
                self.path.unlink()
                self.journal.made_files.discard(str(self.path))
                self.journal.save()
                return None
            mode = self.path.stat().st_mode & 0o777 if self.path.exists() else MODE
            replace_file(self.path, after.encode("latin-1"), mode)
        except (blocks.Damaged, StateError) as error:
            return f"{self.path}: {error}"
        except OSError as error:
            return str(failure(self.path, "write", error))
        return None
