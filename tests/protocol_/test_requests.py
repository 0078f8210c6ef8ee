"""Requests: one answer of the right kind from the right peer, or one silence in its time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from parts import Parts, node

from protocol.messages import Message, Objects, Pull, Subtree
from protocol.requests import Requests
from protocol.tuning import MAX_OVERDUE

PEER, OTHER = node(1).public, node(2).public


class Asker(Parts):
    """Asks for what stands in slots and notes what comes of it."""

    def begin(self) -> None:
        self.requests = Requests(self.common, self.send)
        self.came: list[object] = []

    def ask(self, least: float | None = None) -> int:
        self.requests.ask(
            PEER,
            lambda number: Pull(number, (bytes(12),)),
            self.now,
            expected=Objects,
            answer=lambda message, now: self.came.append(message),
            silence=lambda now: self.came.append("silence"),
            least=least,
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
    first, second = made.ask(least=1.0), made.ask(least=0.1)
    assert first != second
    made.wait(0.5)
    assert made.came == ["silence"]
    answer = Objects(first, False, ())
    made.answer(PEER, answer, first)
    assert made.came == ["silence", answer]


def answered_after(made: Asker, seconds: float, peer: bytes = PEER) -> list[object]:
    """What comes of one more question, whose answer of ``peer`` takes so long."""
    made.came.clear()
    number = made.ask()
    made.wait(seconds)
    made.answer(peer, Objects(number, False, ()), number)
    made.wait(60)
    return ["answer" if isinstance(each, Objects) else each for each in made.came]


def test_answers_that_come_too_late_teach_how_long_to_wait() -> None:
    made = asker()
    taken = [answered_after(made, 0.9) for _ in range(3)]
    assert taken == [["silence"], ["answer"], ["answer"]]
    assert made.common.counters["answer too late"] == 1
    assert made.requests.patience(PEER) > 0.9


def test_nobody_but_who_was_asked_can_teach_it() -> None:
    made = asker()
    for _ in range(3):
        assert answered_after(made, 0.9, OTHER) == ["silence"]
    assert made.requests.patience(PEER) == made.common.tuning.request_timeout


def test_what_is_lost_is_not_waited_for_longer_while_answers_are_quick() -> None:
    made = asker()
    for _ in range(20):
        assert answered_after(made, 0.001) == ["answer"]
        made.ask()
        made.wait(60)
        assert made.came[-1] == "silence"
    assert made.requests.patience(PEER) == made.common.tuning.request_timeout


@given(st.lists(st.floats(0.001, 5000), max_size=30))
def test_the_wait_has_a_least_and_a_most_whatever_answers_took(trips: list[float]) -> None:
    made = asker()
    for seconds in trips:
        answered_after(made, seconds)
    timeout = made.common.tuning.request_timeout
    assert timeout <= made.requests.patience(PEER) <= 8 * timeout


def test_it_shrinks_again_when_answers_are_quick_again() -> None:
    made = asker()
    for _ in range(5):
        answered_after(made, 2.0)
    for _ in range(60):
        answered_after(made, 0.01)
    assert made.requests.patience(PEER) == made.common.tuning.request_timeout


def test_a_far_peer_is_waited_for_by_its_own_round_trips_while_others_are_quick() -> None:
    made = asker()
    made.common.members[OTHER].rtt = 0.3
    for _ in range(20):
        answered_after(made, 0.001)
    timeout = made.common.tuning.request_timeout
    assert (made.requests.patience(PEER), made.requests.patience(OTHER)) == (timeout, 4 * 0.3)


def test_so_many_overdue_requests_are_remembered_and_no_more() -> None:
    made = asker()
    numbers = [made.ask() for _ in range(MAX_OVERDUE + 1)]
    made.wait(1)
    for number in numbers:
        made.answer(PEER, Objects(number, False, ()), number)
    assert made.common.counters["answer too late"] == MAX_OVERDUE
    assert made.common.counters["answer nobody asked for"] == 1
