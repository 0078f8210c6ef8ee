"""The port to the operating system, whole on a page: what a backend must do.

What it works with are the values in ``state`` and ``plan``; policy (which prefix is wanted)
and timing (when to read again) are not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

import attrs
import trio

from meshd.kernel.plan import Failure, FlowStep, Plan
from meshd.kernel.state import Reading


@attrs.frozen
class Change:
    """Something changed under us; it is for the log, the answer is always to read."""

    what: str
    by: str = ""
    """Who is suspected, in words; empty where nothing is known."""
    about: Literal["ours", "host", "others"] = "others"
    """Done to a route or the table of ours; to a link or an address; to somebody else's route."""


Concerns = Callable[[int, int, int], bool]
"""Whether somebody else's route matters: to a family's addresses from the first to the last."""


class Backend(Protocol):
    """A kernel. Methods block: the reconciler decides about threads; calls take turns, but for
    those of ``forget``."""

    name: str

    def check(self) -> None:
        """``UsageError`` with the remedy when privileges or parts of the kernel are missing."""

    def read(self) -> Reading:
        """What is there now; ``OSError`` when the kernel does not answer."""

    def undisturbed(self) -> bool:
        """Whether nobody else has changed what a reading shows since the last ``read`` began: then
        it is what that found, and what was applied since. Takes in what was told of others'
        changes, without waiting; False where that cannot be known. From the event loop."""

    def apply(self, plan: Plan) -> list[Failure]:
        """Do all that can be done, in the plan's order; what could not be, and why.

        A step that depends on a failed one is not done and comes back as a failure too.
        """

    def connections(self) -> int:
        """How many connections are tracked, in microseconds; at least 1 where nobody knows."""

    def forget(self, steps: Sequence[FlowStep]) -> list[Failure]:
        """Connections alone, also while another thread reads or applies: looking through all of
        them takes 11 ms where there is none (the table has 262,144 places), and up to a second."""

    def changes(
        self, concerns: Concerns
    ) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Change]]:
        """Whatever others change, from entering on. Own writes do not show, nor do routes of
        others that do not concern us. When more happens than is received, the surplus is
        dropped: a change is pending anyway."""

    def hints(self) -> list[str]:
        """What runs on this host that is known to change routes or rules of others."""

    def purge(self) -> list[str]:
        """Remove every object of ours, damaged ones too; one line for each step done.
        ``OSError`` when something stayed."""

    def close(self) -> None:
        """Give sockets back. The kernel state stays (fail static)."""
