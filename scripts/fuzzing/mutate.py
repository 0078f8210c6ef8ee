"""Octets like genuine ones: a few changes to one of them, now and then none.

The changes are those of AFL's havoc stage (Zalewski, "Technical whitepaper for afl-fuzz"):
bits, interesting numbers in one to eight octets, pieces taken out, doubled, put in, and two
inputs spliced.  Unchanged ones keep a state alive that changed ones are to meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

LONGEST: Final = 2000
"""Octets that a mutation may grow to: beyond any datagram, and any body (1,200; 1,024)."""

_UNCHANGED: Final = 1 / 8
_INTERESTING: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31, 2**32 - 1, 2**63 - 1)
_WIDTHS: Final = (1, 2, 4, 8)


def mutate(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """One of ``seeds`` with one to five changes, or as it is."""
    data = bytearray(rng.choice(seeds))
    if rng.random() >= _UNCHANGED:
        for _ in range(rng.randint(1, 5)):
            rng.choice(_CHANGES)(rng, data, seeds)
    return bytes(data[:LONGEST])


def _flip(rng: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _octet(rng: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _number(rng: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    width = rng.choice(_WIDTHS)
    at = rng.randrange(len(data) + 1)
    value = rng.choice(_INTERESTING) % (1 << 8 * width)
    data[at : at + width] = value.to_bytes(width, "big")


def _add(rng: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    width = rng.choice(_WIDTHS)
    at = rng.randrange(len(data) + 1)
    value = int.from_bytes(data[at : at + width], "big") + rng.randint(-9, 9)
    data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "big")


def _cut(rng: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.choice((1, 2, 8, 32, LONGEST))]


def _double(rng: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    piece = data[at : at + rng.choice((1, 2, 8, 32, 128))]
    data[at:at] = piece * rng.choice((1, 1, 2, 16))


def _insert(rng: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 8, 32)))


def _splice(rng: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]


def _graft(rng: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    start, size = rng.randrange(len(other) + 1), rng.choice((4, 12, 16, 32))
    at = rng.randrange(len(data) + 1)
    data[at : at + size] = other[start : start + size]


_CHANGES: Final[tuple[Callable[[Random, bytearray, Sequence[bytes]], None], ...]] = (
    _flip, _octet, _number, _add, _cut, _double, _insert, _splice, _graft,
)  # fmt: skip
