"""What the operator decides about illumos: the table ``[illumos]`` of the config. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

POOL: Final = 13
"""Default of the option ``pool``. Any number will do that no rule of the operator's names."""


@attrs.frozen
class Options:
    """Every field is an option; the comments are in meshd.toml."""

    interface: str = ""
    """Where packets are translated as they leave; empty: where the default route leads."""
    pool: int = POOL
    tools: str = ""
    """A directory; empty: those of the system."""
    files: str = "/etc/ipf"
    """Where the files are that are read at boot; empty: none is written."""

    @property
    def pool_file(self) -> Path | None:
        return Path(self.files) / "ippool.conf" if self.files else None

    @property
    def nat_file(self) -> Path | None:
        return Path(self.files) / "ipnat.conf" if self.files else None


DEFAULT: Final = Options()
