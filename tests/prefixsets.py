"""Sets of prefixes for tests of shards: by number, at random, and as announcements have them."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from protocol.address import Prefix


def four(number: int, length: int = 24) -> Prefix:
    return Prefix(4, (10 << 24) + (number << (32 - length)), length)  # in 10/8


def six(number: int, length: int = 64) -> Prefix:
    return Prefix(6, (0xFD << 120) + (number << (128 - length)), length)


def some(kind: str, count: int, rng: Random) -> list[Prefix]:
    """``count`` different prefixes in no order."""
    if kind == "mixed":
        return some("/24", count // 2, rng) + some("/64", count - count // 2, rng)
    make, length = {"/24": (four, 24), "/32": (four, 32), "/64": (six, 64), "/128": (six, 128)}[
        kind
    ]
    return [make(number, length) for number in rng.sample(range(1 << 16), count)]


def ordered(prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """As an announcement has them."""
    return tuple(sorted(prefixes, key=lambda p: (p.version, p.prefixlen, p.first)))
