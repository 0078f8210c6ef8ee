"""What ``meshd status`` says about the kernel."""

from __future__ import annotations

import attrs

from meshd.dataplane import repairs
from protocol.address import Prefix


@attrs.define(eq=False)
class KernelStatus:
    """How the kernel stands to what is wanted of it."""

    in_sync: bool = False
    error: str | None = None
    failed: dict[Prefix, str] = attrs.field(factory=dict)
    """Prefix to why its last step was not done."""
    repairs: repairs.Tally = attrs.field(factory=repairs.Tally)
    observing: bool = False
    """The kernel is only looked at."""

    @property
    def as_wanted(self) -> bool:
        """Nothing is left to be done: the kernel is in sync, or is not ours to change."""
        return self.in_sync or (self.observing and self.error is None)
