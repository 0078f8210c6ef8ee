"""What is fuzzed: something that takes octets, genuine examples of these, and how long it lives.

Most targets forget each input.  Those with a node behind them do not, so what breaks one is
every input since its state was new: the *journal*, which is what is kept and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import attrs

Feed = Callable[[bytes], None]


class Broken(AssertionError):
    """A rule that must hold whatever the input does not."""


@attrs.frozen
class Target:
    """One thing to fuzz."""

    name: str
    summary: str
    open: Callable[[], AbstractContextManager[Feed]]
    """A new state: what is called with each input, and raises when it should not have."""
    seeds: Callable[[], Sequence[bytes]]
    """Genuine inputs, of which the others are made."""
    life: int = 1000
    """Inputs before the state is made anew."""


@attrs.define(eq=False)
class Session:
    """A target being fed, and what it was fed since its state was new."""

    target: Target
    journal: list[bytes] = attrs.field(factory=list)
    _state: AbstractContextManager[Feed] | None = None
    _feed: Feed | None = None

    def feed(self, data: bytes) -> None:
        """One input; whatever is wrong with the target comes out as it was raised."""
        if self._feed is None or len(self.journal) >= self.target.life:
            self.close()
            self._state = self.target.open()
            self._feed = self._state.__enter__()
        self.journal.append(data)
        self._feed(data)

    def close(self) -> None:
        """End the state: that may find something too."""
        state, self._state, self._feed = self._state, None, None
        if state is not None:
            state.__exit__(None, None, None)
        self.journal.clear()


def replay(target: Target, journal: Sequence[bytes]) -> None:
    """Feed ``journal`` to a new state of ``target``."""
    with target.open() as feed:
        for data in journal:
            feed(data)


def shortened(target: Target, journal: Sequence[bytes]) -> list[bytes]:
    """``journal``, or its last input if that breaks the target by itself."""
    try:
        replay(target, journal[-1:])
    except Exception:
        return list(journal[-1:])
    return list(journal)
