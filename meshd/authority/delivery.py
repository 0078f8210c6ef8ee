"""Hands what an authority signed to a running daemon, which tells it to the mesh.

Only talks to the control socket, and imports nothing heavy.  To deliver something twice is
harmless, so what was interrupted is simply done again.
"""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from meshd import client
from meshd.paths import Paths

BATCH: Final = 64
"""Objects in one request: of 440 octets each, the longest, they make 38,000 of its 65,536."""

TIMEOUT: Final = 10.0
"""Seconds for one batch: 64 signatures cost a daemon a hundredth of one."""

UPTAKE: Final = 5.0
"""Seconds to wait until every live member is known to hold what was delivered; a mesh of
1,000 takes one (docs/scale.md)."""

LOOK_EVERY: Final = 0.1

FINE: Final = ("new", "same", "older", "revoked")
"""Outcomes after which the mesh is as it should be: it knows this, or something newer."""


def deliver(paths: Paths, raws: Sequence[bytes]) -> Counter[str]:
    """How often each outcome came. ``NoDaemon`` and other errors as the connection has them."""
    outcomes: Counter[str] = Counter()
    with client.Connection(paths, TIMEOUT) as connection:
        for at in range(0, len(raws), BATCH):
            texts = [base64.b64encode(raw).decode() for raw in raws[at : at + BATCH]]
            outcomes.update(connection.call("deliver", {"objects": texts})["outcomes"])
    return outcomes


def behind(paths: Paths) -> tuple[int, list[dict[str, Any]]]:
    """How many others there are, and those that have not been seen to hold what this node
    holds, as ``peers`` has them; waits for the live ones a little."""
    deadline = time.monotonic() + UPTAKE
    with client.Connection(paths, TIMEOUT) as connection:
        while True:
            agreed = connection.call("status")["agreed"]
            if agreed or time.monotonic() >= deadline:
                break
            time.sleep(LOOK_EVERY)
        peers = connection.call("peers")
    late = [
        peer
        for peer in peers
        if peer["state"] in ("failed", "left") or not (agreed or peer["agrees"])
    ]
    return len(peers), late
