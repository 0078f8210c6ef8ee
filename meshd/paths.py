"""Where things lie: everything under one directory, or spread over the system's own.

Knows names only and looks at no disk; imports nothing heavy, for every command needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Paths(NamedTuple):
    """The places of one node."""

    config: Path
    socket: Path
    state: Path
    """The state directory: keys, sequence, snapshot."""
    root: Path | None
    """What ``--dir`` named, or None for the system's layout."""

    @classmethod
    def under(cls, root: Path) -> Paths:
        """Everything below ``root``, so that several nodes can live on one machine."""
        root = root.absolute()
        return cls(root / "meshd.toml", root / "control.sock", root / "state", root)

    @classmethod
    def system(cls) -> Paths:
        """The layout of hier(7) and of systemd's Configuration, Runtime and StateDirectory."""
        return cls(
            Path("/etc/meshd/meshd.toml"),
            Path("/run/meshd/control.sock"),
            Path("/var/lib/meshd"),
            None,
        )

    @property
    def option(self) -> str:
        """`` --dir DIR`` as it must be repeated in a command we suggest, or nothing."""
        return f" --dir {self.root}" if self.root else ""

    @property
    def home(self) -> Path:
        """The directory that people know this node by: what ``--dir`` named, else the state's."""
        return self.root or self.state
