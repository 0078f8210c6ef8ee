"""Timers: what is due, and silences that a loop which stood still does not conclude from."""

from __future__ import annotations

import pytest

from protocol.timers import Timers


def test_a_silence_is_over_when_its_time_is() -> None:
    timers, over = Timers(), list[float]()
    timers.silence(0.1, 10.0, over.append, late=0.03)
    timers.run(10.09)
    assert over == []
    timers.run(10.12)
    assert over == [10.12]
    assert timers.deadline == float("inf")


@pytest.mark.parametrize(("come", "again"), [(10.15, 10.2), (10.3, 10.4), (17.0, 17.1)])
def test_who_comes_to_it_late_waits_once_more_as_long_as_it_was_late_or_was_to_wait(
    come: float, again: float
) -> None:
    timers, over = Timers(), list[float]()
    timers.silence(0.1, 10.0, over.append, late=0.03)
    timers.run(come)
    assert over == []
    assert timers.deadline == pytest.approx(again)
    timers.run(22.0)  # but only once: else a loop that is always late would never conclude
    assert over == [22.0]


def test_a_silence_is_cancelled_also_while_it_is_waited_for_once_more() -> None:
    timers, over = Timers(), list[float]()
    timer = timers.silence(0.1, 10.0, over.append, late=0.03)
    timers.run(10.3)
    timer.cancel()
    timers.run(11.0)
    assert over == []
    assert timers.deadline == float("inf")
