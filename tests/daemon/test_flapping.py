"""Flapping origins from decision to kernel: few writes, nothing that goes is delayed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs
from origins import GATEWAY, HOST, INSIDE, UPLINK, judge, net, origin, row

from meshd.kernel.memory import Memory
from meshd.kernel.plan import diff
from meshd.policy.damping import LONGEST
from meshd.policy.decide import NOTHING, Decision
from meshd.policy.origin import Origin

PREFIX = "10.2.0.0/24"
THERE = origin(0, PREFIX, allow=(PREFIX,))
GONE = origin(0, allow=(PREFIX,))


@attrs.define
class Bench:
    """A kernel in memory that is kept as decided, and how many steps that took."""

    kernel: Memory = attrs.field(factory=lambda: Memory([UPLINK, INSIDE], [GATEWAY]))
    decision: Decision = NOTHING
    steps: int = 0

    def look(self, now: float, *origins: Origin) -> None:
        self.decision = judge(*origins, previous=self.decision, at=now)
        plan = diff(self.decision.desired, self.kernel.read())
        assert self.kernel.apply(plan) == []
        self.steps += len(plan)

    @property
    def routed(self) -> bool:
        return net(PREFIX) in self.kernel.read().state.routes


def flap(bench: Bench, times: int, every: float, *others: Origin) -> Iterator[float]:
    """Announced and withdrawn so often; yields the time of each withdrawal."""
    for number in range(times):
        bench.look(number * every, THERE, *others)
        bench.look((number + 0.5) * every, GONE, *others)
        yield (number + 0.5) * every


def test_a_hundred_announcements_and_withdrawals_a_minute_cost_few_kernel_writes() -> None:
    bench = Bench()
    bench.look(0.0, GONE)
    built = bench.steps
    for now in flap(bench, 100, 0.6):
        assert not bench.routed, f"what goes is gone at once, at {now} too"
    whole = bench.steps - built
    fresh = Bench()
    fresh.look(0.0, GONE)
    fresh.look(0.0, THERE)
    fresh.look(0.1, GONE)
    once = fresh.steps - built
    assert 3 * once < whole < 4 * once, "the first four, of a hundred; the guard has stayed"
    # Then it stays: back when it has been stable for so long, and looked at by itself then.
    last = 60.0
    bench.look(last, THERE)
    held = row(bench.decision, PREFIX)
    assert (held.state, held.rule) == ("standby", "damped")
    assert held.reason == "withdrawn again and again: held back"
    assert bench.decision.desired.guards == {net(PREFIX)}, "or its traffic leaks meanwhile"
    assert held.until is not None
    assert last < held.until <= last + LONGEST
    assert bench.decision.look_again == held.until - last
    bench.look(held.until - 0.01, THERE)
    assert not bench.routed
    bench.look(held.until, THERE)
    assert bench.routed
    assert bench.decision.look_again == math.inf


def test_what_was_withdrawn_for_good_loses_its_guard_when_it_would_be_stable() -> None:
    bench = Bench()
    *_, now = flap(bench, 10, 0.6)
    assert bench.decision.desired.guards == {net(PREFIX)}
    bench.look(now + bench.decision.look_again, GONE)
    assert not bench.decision.desired.guards


def test_no_guard_of_what_is_held_back_stands_in_the_way_of_a_route_that_covers_it() -> None:
    bench = Bench()
    wider = origin(1, "10.2.0.0/16", allow=("10.0.0.0/8",))
    *_, now = flap(bench, 10, 0.6, wider)
    bench.look(now + 0.1, THERE, wider)
    assert row(bench.decision, PREFIX, 0).rule == "damped"
    assert bench.decision.desired.guards == {net("10.2.0.0/16")}


def test_three_changes_in_a_row_take_effect_at_once() -> None:
    bench = Bench()
    list(flap(bench, 3, 0.6))
    bench.look(2.0, THERE)
    assert bench.routed


def test_what_comes_back_between_two_looks_is_no_flap() -> None:
    bench = Bench()
    bench.look(0.0, THERE)
    for number in range(100):  # Withdrawn and announced again before anybody looked.
        bench.look(float(number), THERE._replace(prefixes=(net(PREFIX),)))
    assert bench.decision.damping.history == {}


def test_another_origin_of_the_prefix_is_used_while_one_is_held_back() -> None:
    bench = Bench()
    other = origin(1, PREFIX, allow=(PREFIX,), preference=50)
    for now in flap(bench, 10, 0.6, other):
        assert bench.routed, f"the other's, at {now}"
    bench.look(now + 0.1, THERE, other)
    assert row(bench.decision, PREFIX, 0).rule == "damped"
    assert row(bench.decision, PREFIX, 1).state == "installed"
    bench.look(now + LONGEST, THERE, other)
    assert row(bench.decision, PREFIX, 0).state == "installed"


def test_what_is_held_back_keeps_nobody_weaker_out() -> None:
    bench = Bench()
    weaker = origin(1, PREFIX, allow=("10.0.0.0/8",))
    *_, now = flap(bench, 10, 0.6, weaker)
    before = bench.steps
    bench.look(now + 0.1, THERE, weaker)
    assert row(bench.decision, PREFIX, 1).state == "installed"
    assert bench.steps == before, "nothing was written for it"


def test_a_node_that_fails_again_and_again_gives_way_to_a_stable_one_until_it_is_stable() -> None:
    bench = Bench()
    dead = THERE._replace(state="failed")
    other = origin(1, PREFIX, allow=(PREFIX,), preference=50)
    for number in range(4):
        bench.look(10.0 * number, THERE, other)
        bench.look(10.0 * number + 5, dead, other)
    bench.look(40.0, THERE, other)
    aside = row(bench.decision, PREFIX, 0)
    assert (aside.state, aside.rule) == ("standby", "unstable")
    assert aside.reason == "n1 carries it: this one failed again and again"
    assert aside.until is not None
    assert bench.decision.look_again == aside.until - 40.0
    bench.look(aside.until, THERE, other)
    assert row(bench.decision, PREFIX, 0).state == "installed"


def test_a_sole_origin_that_fails_again_and_again_is_used_whenever_it_lives() -> None:
    bench = Bench()
    for number in range(10):
        bench.look(10.0 * number, THERE)
        assert bench.routed
        bench.look(10.0 * number + 5, THERE._replace(state="failed", why="silent"))
        assert not bench.routed
        assert net(PREFIX) in bench.kernel.read().state.guards


def test_to_stay_failed_is_to_fail_once() -> None:
    bench = Bench()
    bench.look(0.0, THERE)
    for number in range(20):
        bench.look(1.0 + number, THERE._replace(state="failed"))
    (history,) = bench.decision.damping.history.values()
    assert history.penalty == 1


def test_a_restart_in_its_window_is_no_failure() -> None:
    bench = Bench()
    held = THERE._replace(state="failed", held="held for its restart")
    for number in range(10):
        bench.look(10.0 * number, THERE)
        bench.look(10.0 * number + 5, held)
    assert bench.decision.damping.history == {}


def test_leaving_and_coming_back_again_and_again_is_flapping_too() -> None:
    bench = Bench()
    for number in range(6):
        bench.look(2.0 * number, THERE)
        bench.look(2.0 * number + 1, GONE._replace(state="left"))
    bench.look(12.0, THERE)
    assert row(bench.decision, PREFIX).rule == "damped"


def test_a_refused_prefix_that_flaps_is_refused_for_what_it_is() -> None:
    bench = Bench()
    bogon = origin(0, "127.1.0.0/16")
    for number in range(6):
        bench.look(number, bogon)
        bench.look(number + 0.5, origin(0))
    bench.look(7.0, bogon)
    assert row(bench.decision, "127.1.0.0/16").rule == "bogon"


def test_the_operators_own_changes_are_no_flaps_of_an_origin() -> None:
    decision = NOTHING
    for number in range(10):
        host = HOST if number % 2 else attrs.evolve(HOST, interfaces=(UPLINK,))
        decision = judge(THERE, host=host, previous=decision, at=float(number))
    assert decision.damping.history == {}
