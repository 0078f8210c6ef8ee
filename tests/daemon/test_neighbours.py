"""Neighbours that answered are told to the kernel once, and when it takes notice."""

from __future__ import annotations

from meshd.neighbours import LATER, Neighbours
from protocol.address import Endpoint

NEAR, NEXT = Endpoint("192.0.2.1", 6179), Endpoint("192.0.2.2", 6179)


def test_an_answer_is_told_a_little_later_and_once() -> None:
    neighbours = Neighbours()
    assert not neighbours.answered([NEAR], 100.0)
    assert not neighbours.answered([NEXT], 100.0 + LATER / 2)
    assert neighbours.answered([], 100.0 + LATER) == [NEAR]
    assert neighbours.answered([], 100.0 + 2 * LATER) == [NEXT]
    assert not neighbours.answered([], 100.0 + 3 * LATER)


def test_who_answers_again_meanwhile_is_told_of_again() -> None:
    neighbours = Neighbours()
    told = [
        neighbours.answered([NEAR], when)
        for when in (100.0, 100.0 + LATER / 2, 100.0 + LATER, 100.0 + 2 * LATER)
    ]
    assert told == [[], [], [NEAR], [NEAR, NEAR]]
