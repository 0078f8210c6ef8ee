"""What we asked and who must answer: each request has a number, one answer, and an end.

An answer that nobody waits for, from another peer than was asked, or of another kind than
the question, is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

import attrs

from protocol.members import Common
from protocol.messages import Message, News
from protocol.timers import Timer


class Learn(Protocol):
    """Keeps what ``source`` sent; True when any of it was new."""

    def __call__(
        self, items: Iterable[tuple[News, bool]], source: bytes, now: float, *, pass_on: bool
    ) -> bool:
        """Each with whether ``source`` has seen its origin; ``pass_on``: it is news."""


Answer = TypeVar("Answer", bound=Message)


@attrs.define(eq=False)
class _Request:
    peer: bytes
    expected: type[Any]
    answer: Callable[[Any, float], None]
    silence: Timer


class Requests:
    """The requests of one node that are out."""

    def __init__(self, common: Common, send: Callable[[bytes, Message, float], bool]) -> None:
        self._common, self._send = common, send
        self._out: dict[int, _Request] = {}

    def ask(
        self,
        peer: bytes,
        build: Callable[[int], Message],
        now: float,
        *,
        expected: type[Answer],
        answer: Callable[[Answer, float], None],
        silence: Callable[[float], None],
        patience: float | None = None,
    ) -> None:
        """Send the message that ``build`` makes for a number; then ``answer`` is called with
        the ``expected`` kind of message that comes back, or ``silence`` after ``patience``
        (``request_timeout``) seconds."""
        number = self._common.rng.getrandbits(32)

        def give_up(now: float) -> None:
            if self._out.pop(number, None) is not None:
                silence(now)

        seconds = self._common.tuning.request_timeout if patience is None else patience
        timer = self._common.timers.after(seconds, now, give_up)
        self._out[number] = _Request(peer, expected, answer, timer)
        self._send(peer, build(number), now)

    def answered(self, peer: bytes, number: int, message: Message, now: float) -> None:
        """``peer`` sent an answer to the request of that number."""
        request = self._out.get(number)
        if request is None or request.peer != peer or not isinstance(message, request.expected):
            self._common.count("answer nobody asked for")
            return
        del self._out[number]
        request.silence.cancel()
        request.answer(message, now)
