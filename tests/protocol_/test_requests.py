"""Requests: one answer of the right kind from the right peer, or one silence."""

from __future__ import annotations

from parts import Parts, node

from protocol.messages import Message, Objects, Pull, Subtree
from protocol.requests import Requests

PEER, OTHER = node(1).public, node(2).public


class Asker(Parts):
    """Asks for what stands in slots and notes what comes of it."""

    def begin(self) -> None:
        self.requests = Requests(self.common, self.send)
        self.came: list[object] = []

    def ask(self, patience: float | None = None) -> int:
        self.requests.ask(
            PEER,
            lambda number: Pull(number, (bytes(12),)),
            self.now,
            expected=Objects,
            answer=lambda message, now: self.came.append(message),
            silence=lambda now: self.came.append("silence"),
            patience=patience,
        )
        asked = self.sent[-1][1]
        assert isinstance(asked, Pull)
        return asked.request

    def answer(self, peer: bytes, message: Message, number: int) -> None:
        self.requests.answered(peer, number, message, self.now)


def asker() -> Asker:
    made = Asker(3)
    made.begin()
    return made


def test_an_answer_is_taken_once_and_ends_the_silence() -> None:
    made = asker()
    number = made.ask()
    answer = Objects(number, False, ())
    made.answer(PEER, answer, number)
    made.answer(PEER, answer, number)
    made.wait(10)
    assert made.came == [answer]
    assert made.common.counters["answer nobody asked for"] == 1


def test_who_was_not_asked_cannot_answer() -> None:
    made = asker()
    number = made.ask()
    answer = Objects(number, False, ())
    made.answer(OTHER, answer, number)
    made.answer(PEER, answer, number ^ 1)
    assert made.came == []
    made.answer(PEER, answer, number)
    assert made.came == [answer]


def test_an_answer_of_another_kind_is_dropped_and_the_right_one_still_counts() -> None:
    made = asker()
    number = made.ask()
    made.answer(PEER, Subtree(number, b"", None), number)
    assert made.came == []
    answer = Objects(number, False, ())
    made.answer(PEER, answer, number)
    assert made.came == [answer]


def test_silence_is_told_once_and_an_answer_after_it_is_dropped() -> None:
    made = asker()
    number = made.ask()
    made.wait(made.common.tuning.request_timeout - 0.01)
    assert made.came == []
    made.wait(0.02)
    made.answer(PEER, Objects(number, False, ()), number)
    made.wait(10)
    assert made.came == ["silence"]


def test_each_request_has_its_own_patience_and_number() -> None:
    made = asker()
    first, second = made.ask(patience=1.0), made.ask(patience=0.1)
    assert first != second
    made.wait(0.5)
    assert made.came == ["silence"]
    answer = Objects(first, False, ())
    made.answer(PEER, answer, first)
    assert made.came == ["silence", answer]
