"""What comes from outside and cannot be asked twice: time and randomness, given to who needs
them, so that tests can give them too."""

from __future__ import annotations

from collections.abc import Callable

import attrs


@attrs.frozen
class World:
    """The surroundings of commands that make keys, grants and tokens."""

    clock: Callable[[], float]
    """Unix seconds."""
    random_bytes: Callable[[int], bytes]
