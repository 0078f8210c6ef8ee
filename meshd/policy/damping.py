"""Flap damping (RFC 2439): who keeps coming and going waits until it has been stable.

Each time something goes it is charged one penalty, which halves every ``HALF_LIFE``.  Above
``SUPPRESS`` it is held back when it comes again, until the penalty has sunk to ``REUSE``: so the
first changes take effect at once, the wait grows with the flaps, is bounded by ``LONGEST`` from the
last one, and is forgotten.  Nothing that goes is ever delayed.  A pure value: time is an argument.

What may flap is named by a key: a node's prefix that is withdrawn, or the node itself that fails.
Only what a look at the table found gone is charged, so a burst between two looks, which changes
nothing in the kernel, costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from protocol.address import Prefix

Key = tuple[bytes, Prefix | None]
"""A node, and its prefix that was withdrawn; None: the node itself failed."""

SUPPRESS: Final = 3.0
"""Penalties above which a flapping thing is held back: the fourth flap in quick succession, as
RIPE-229 asks for.  RFC 7196's higher 6 makes up for path hunting, one withdrawal seen as many; an
announcement here is one, whichever way it came."""

REUSE: Final = 0.75
"""Penalties at which it is used again: Cisco's 750, where a flap is 1,000."""

HALF_LIFE: Final = 60.0
"""Seconds in which a penalty halves.  BGP's usual 15 min serve a default-free table and protocols
that converge in minutes; here a flap every 35 s or slower, six kernel steps each, is let through
for ever, and a faster one is not."""

LONGEST: Final = 4 * HALF_LIFE
"""Seconds at most that something waits after it went last: four half-lives, as Cisco's 60 min are
to its 15."""

CEILING: Final = REUSE * 2 ** (LONGEST / HALF_LIFE)
"""Penalties that are kept at most: what takes LONGEST to sink to REUSE (the ceiling of
RFC 2439 section 4.2)."""

FORGET: Final = REUSE / 2
"""Penalties below which a history is dropped: half of REUSE, as Cisco does."""

REMEMBERED: Final = 20_000
"""Histories at most, as many as prefixes in all; the least unstable go first."""


@attrs.frozen
class Flaps:
    """The history of one thing."""

    penalty: float
    """At ``last``; it sinks from there."""
    last: float
    """When it went last."""
    until: float = -math.inf
    """Held back until then."""

    def penalty_at(self, now: float) -> float:
        """What is left of it."""
        return float(self.penalty * 2 ** ((self.last - now) / HALF_LIFE))

    def once_more(self, now: float) -> Flaps:
        """It went again."""
        penalty = min(CEILING, self.penalty_at(now) + 1)
        held = penalty > SUPPRESS or now < self.until
        wait = HALF_LIFE * math.log2(penalty / REUSE)
        return Flaps(penalty, now, now + wait if held else -math.inf)


@attrs.frozen
class Damping:
    """What has been unstable of late."""

    history: Mapping[Key, Flaps] = attrs.field(factory=dict)

    def after(self, gone: Iterable[Key], now: float) -> Damping:
        """With what has gone since."""
        gone = list(gone)
        if not gone:
            return self
        history = {
            key: flaps for key, flaps in self.history.items() if flaps.penalty_at(now) >= FORGET
        }
        for key in gone:
            history[key] = history.get(key, Flaps(0.0, now)).once_more(now)
        if len(history) > REMEMBERED:
            worst = sorted(history, key=lambda key: history[key].penalty_at(now), reverse=True)
            history = {key: history[key] for key in worst[:REMEMBERED]}
        return Damping(history)

    def waiting(self, now: float) -> dict[bytes, dict[Prefix | None, float]]:
        """All that is held back: by node, what of it and until when."""
        found: dict[bytes, dict[Prefix | None, float]] = {}
        for (node, prefix), flaps in self.history.items():
            if flaps.until > now:
                found.setdefault(node, {})[prefix] = flaps.until
        return found

    def held(self, key: Key, now: float) -> float:
        """Seconds for which ``key`` is held back yet; 0 for what is stable."""
        flaps = self.history.get(key)
        return max(0.0, flaps.until - now) if flaps is not None else 0.0
