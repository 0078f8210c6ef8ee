"""Waiting for a real kernel and real daemons, which take the time they take."""

from __future__ import annotations

import time
from collections.abc import Callable

INTERVAL_S = 0.02
"""Between two looks: finer than anything here is judged by, and cheap beside what is looked at."""


def until(condition: Callable[[], object], timeout: float, what: str) -> float:
    """Look until `condition` is true; returns the seconds that it took.

    Raises TimeoutError, naming `what`, when it is not true within `timeout` seconds.
    """
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        time.sleep(INTERVAL_S)
    return time.monotonic() - start
