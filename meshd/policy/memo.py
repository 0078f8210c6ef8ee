"""What the last decision found, found again at once where nothing that it follows from has changed.

A decision is the same with any memo and without one: an answer is given again only while all the
arguments that it was made from are equal, and it is made from nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, cast

T = TypeVar("T")
Of = TypeVarTuple("Of")


class Memo:
    """The answers of one caller, whose decisions follow each other: the last to each question."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, bytes], tuple[tuple[object, ...], object]] = {}
        """By question and node: the arguments, and the answer."""
        self._nodes: frozenset[bytes] = frozenset()

    def only(self, nodes: frozenset[bytes]) -> None:
        """Forget all other nodes."""
        if nodes != self._nodes:
            self._nodes = nodes
            self._held = {
                asked: known
                for asked, known in self._held.items()
                if not asked[1] or asked[1] in nodes
            }

    def again(self, what: str, node: bytes, make: Callable[[*Of], T], *of: *Of) -> T:
        """``make(*of)``, or what it gave last for ``what`` of ``node``, if that was for the same.

        The arguments are values, and things that are equal to themselves only. Empty ``node``: of
        all of them.
        """
        known = self._held.get((what, node))
        if known is None or known[0] != of:
            self._held[what, node] = known = of, make(*of)
        return cast(T, known[1])
