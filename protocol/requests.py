"""What we asked and who must answer: each request has a number, one answer, and an end.

An answer that nobody waits for, from another peer than was asked, or of another kind than
the question, is dropped.  One that comes too late is dropped as well, but measured: what
follows is waited for as long as answers take, on a long way or from hosts with much to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, TypeVar

import attrs

from protocol.members import Common
from protocol.messages import Message, News
from protocol.roundtrips import RoundTrips
from protocol.timers import Timer
from protocol.tuning import MAX_OVERDUE

_LONGEST: Final = 8
"""Times ``request_timeout`` that an answer is waited for at most: who answers late on purpose
slows what we ask again by no more."""


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
    asked: float
    silence: Timer


class Requests:
    """The requests of one node that are out."""

    def __init__(self, common: Common, send: Callable[[bytes, Message, float], bool]) -> None:
        self._common, self._send = common, send
        self._longest = _LONGEST * common.tuning.request_timeout
        self._out: dict[int, _Request] = {}
        self._overdue: dict[int, tuple[bytes, float]] = {}
        """Number of a request that was given up to whom was asked and when; the oldest first."""
        self._trips = RoundTrips()

    def patience(self, peer: bytes, least: float | None = None) -> float:
        """Seconds that an answer of ``peer`` is waited for, at least ``least``
        (``request_timeout``): SRTT + 4 RTTVAR over the answers of all (RFC 6298), or four of its
        own round trips, if it is far and the others are near."""
        member = self._common.members.get(peer)
        own = 4 * member.rtt if member is not None and member.rtt is not None else 0.0
        usual = min(max(own, self._trips.timeout or 0.0), self._longest)
        return max(self._common.tuning.request_timeout if least is None else least, usual)

    def ask(
        self,
        peer: bytes,
        build: Callable[[int], Message],
        now: float,
        *,
        expected: type[Answer],
        answer: Callable[[Answer, float], None],
        silence: Callable[[float], None],
        least: float | None = None,
    ) -> None:
        """Send the message that ``build`` makes for a number; then ``answer`` is called with
        the ``expected`` kind of message that comes back, or ``silence`` after ``patience``."""
        number = self._common.rng.getrandbits(32)

        def give_up(now: float) -> None:
            request = self._out.pop(number, None)
            if request is None:
                return
            self._overdue[number] = (peer, request.asked)
            if len(self._overdue) > MAX_OVERDUE:
                del self._overdue[next(iter(self._overdue))]
            silence(now)

        timer = self._common.timers.after(self.patience(peer, least), now, give_up)
        self._out[number] = _Request(peer, expected, answer, now, timer)
        self._send(peer, build(number), now)

    def answered(self, peer: bytes, number: int, message: Message, now: float) -> None:
        """``peer`` sent an answer to the request of that number."""
        request = self._out.get(number)
        if request is None or request.peer != peer or not isinstance(message, request.expected):
            self._unawaited(peer, number, now)
            return
        del self._out[number]
        self._trips.add(min(now - request.asked, self._longest))
        request.silence.cancel()
        request.answer(message, now)

    def _unawaited(self, peer: bytes, number: int, now: float) -> None:
        asked, when = self._overdue.get(number, (None, 0.0))
        if asked != peer:
            self._common.count("answer nobody asked for")
            return
        del self._overdue[number]
        self._trips.add(min(now - when, self._longest))
        self._common.count("answer too late")
