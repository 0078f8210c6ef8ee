"""Timers: what is due, and silences that a loop which stood still does not conclude from."""

from __future__ import annotations

from protocol.timers import Timers


def test_a_silence_is_over_when_its_time_is() -> None:
    timers, over = Timers(), list[float]()
    timers.silence(0.1, 10.0, over.append, late=0.03)
    timers.run(10.09)
    assert over == []
    timers.run(10.12)
    assert over == [10.12]
    assert timers.deadline == float("inf")


def test_who_comes_to_it_late_waits_once_more_for_as_long_as_it_was_late() -> None:
    timers, over = Timers(), list[float]()
    timers.silence(0.1, 10.0, over.append, late=0.03)
    timers.run(10.3)
    assert over == []
    assert round(timers.deadline, 6) == 10.5
    timers.run(12.0)  # but only once: else a loop that is always late would never conclude
    assert over == [12.0]


def test_a_silence_is_cancelled_also_while_it_is_waited_for_once_more() -> None:
    timers, over = Timers(), list[float]()
    timer = timers.silence(0.1, 10.0, over.append, late=0.03)
    timers.run(10.3)
    timer.cancel()
    timers.run(11.0)
    assert over == []
    assert timers.deadline == float("inf")
