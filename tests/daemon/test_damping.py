"""Flap damping: the first changes at once, then a wait that grows, is bounded and is forgotten."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.policy.damping import (
    CEILING,
    FORGET,
    HALF_LIFE,
    LONGEST,
    REMEMBERED,
    REUSE,
    SUPPRESS,
    Damping,
    Key,
)
from protocol.address import Prefix

KEY: Key = (b"n" * 32, Prefix.parse("10.2.0.0/24"))
OTHER: Key = (b"n" * 32, Prefix.parse("10.3.0.0/24"))


def flapping(times: int, every: float, since: float = 0.0) -> tuple[Damping, float]:
    """What is remembered of so many flaps, and when the last of them was."""
    damping, now = Damping(), since
    for number in range(times):
        now = since + number * every
        damping = damping.after([KEY], now)
    return damping, now


def test_three_flaps_in_a_row_are_let_through_and_the_fourth_is_not() -> None:
    for times, held in ((1, False), (2, False), (3, False), (4, True)):
        damping, now = flapping(times, 0.6)
        assert bool(damping.held(KEY, now)) is held


def test_the_wait_grows_with_the_flaps_up_to_its_bound() -> None:
    waits = [damping.held(KEY, now) for damping, now in (flapping(n, 0.6) for n in range(4, 40))]
    assert waits[0] == pytest.approx(
        HALF_LIFE * math.log2(SUPPRESS + 1) - HALF_LIFE * math.log2(REUSE), abs=2
    )
    assert all(later > sooner for sooner, later in itertools.pairwise(waits[:8]))
    assert max(waits) == pytest.approx(LONGEST)


def test_what_flaps_while_it_is_held_back_waits_anew() -> None:
    damping, now = flapping(4, 1)
    first = damping.held(KEY, now)
    later = now + first - 1
    again = damping.after([KEY], later)
    assert damping.held(KEY, later) == pytest.approx(1)
    assert again.held(KEY, later) > 1


def test_after_the_wait_it_is_free_and_its_history_fades() -> None:
    damping, now = flapping(100, 0.6)
    assert damping.held(KEY, now + LONGEST) == 0
    assert damping.held(KEY, now + LONGEST - 0.1) > 0
    # Once more soon after: one flap more than REUSE is no reason to hold it back again.
    assert damping.after([KEY], now + LONGEST + 1).held(KEY, now + LONGEST + 1) == 0
    faded = now + HALF_LIFE * math.log2(CEILING / FORGET) + 1
    assert set(damping.after([OTHER], faded).history) == {OTHER}


def test_one_flap_every_forty_seconds_is_never_held_back() -> None:
    damping = Damping()
    for number in range(1000):
        damping = damping.after([KEY], 40.0 * number)
        assert damping.held(KEY, 40.0 * number) == 0


def test_one_flap_every_thirty_seconds_is_held_back_in_the_end() -> None:
    damping, now = flapping(20, 30)
    assert damping.held(KEY, now) > 0


def test_each_prefix_and_the_node_itself_have_histories_of_their_own() -> None:
    damping, now = flapping(10, 1)
    assert damping.held(OTHER, now) == 0
    assert damping.held((KEY[0], None), now) == 0


def test_nothing_gone_changes_nothing() -> None:
    damping, now = flapping(4, 1)
    assert damping.after([], now) is damping


def test_a_node_that_cycles_through_prefixes_does_not_make_the_history_grow_without_bound() -> None:
    damping, now = flapping(6, 0.1)
    nets = [Prefix(4, (10 << 24) + (number << 8), 24) for number in range(REMEMBERED + 100)]
    churn: list[Key] = [(b"m" * 32, each) for each in nets]
    damping = damping.after(churn, now)
    assert len(damping.history) == REMEMBERED
    assert damping.held(KEY, now) > 0, "the least unstable are forgotten first"


@given(st.lists(st.floats(0, 600), max_size=60))
def test_whatever_the_flaps_the_wait_ends_within_its_bound_of_the_last(gaps: list[float]) -> None:
    damping, now = Damping(), 0.0
    for gap in gaps:
        now += gap
        damping = damping.after([KEY], now)
        assert 0 <= damping.held(KEY, now) <= LONGEST + 1e-6
        assert damping.history[KEY].penalty <= CEILING
    assert damping.held(KEY, now + LONGEST + 1e-6) == 0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.data())
def test_one_flap_more_never_shortens_the_wait(gaps: list[float], data: st.DataObject) -> None:
    times, now = [], 0.0
    for gap in gaps:
        now += gap
        times.append(now)
    without = data.draw(st.integers(0, len(times) - 1))
    every = fewer = Damping()
    for number, when in enumerate(times):
        every = every.after([KEY], when)
        if number != without:
            fewer = fewer.after([KEY], when)
    assert every.held(KEY, now) >= fewer.held(KEY, now) - 1e-6
