"""What the log says of each thing that the automaton tells."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from meshd.log import EventLog
from meshd.narrator import QUIET, Narrator
from meshd.policy.refusal import Rule
from meshd.policy.route import Route
from protocol import events
from protocol.address import Endpoint, Prefix

NODE = bytes(range(32))
WHERE = Endpoint("192.0.2.2", 6179)
NET = Prefix.parse("10.2.0.0/24")


def told(*happened: events.Event, step: float = 0.0) -> list[dict[str, Any]]:
    output = io.StringIO()
    narrator = Narrator(EventLog(output, "json"), lambda key: f"node-{key[0]}")
    for number, event in enumerate(happened):
        narrator.tell(event, number * step)
    return [json.loads(line) for line in output.getvalue().splitlines()]


def failed(**fields: Any) -> events.PeerChanged:
    base = {
        "node": NODE, "name": "b", "state": "failed", "previous": "suspect",
        "reason": "silent to our probes", "endpoint": WHERE, "seconds": 0.61,
    }  # fmt: skip
    return events.PeerChanged(**{**base, **fields})


def test_a_failure_says_who_why_by_whose_word_and_after_how_long() -> None:
    (line,) = told(failed(accusers=(bytes(32),), refused=True))
    assert line.pop("time")
    assert line == {
        "event": "peer-failed", "name": "b", "id": "00010203", "endpoint": "192.0.2.2:6179",
        "reason": "silent to our probes", "accusers": ["node-0"], "host_answers": True,
        "was": "suspect", "for_s": 0.6,
    }  # fmt: skip


@pytest.mark.parametrize("state", ["alive", "suspect", "failed", "left"])
def test_every_state_of_a_peer_has_its_event(state: str) -> None:
    (line,) = told(failed(state=state))
    assert line["event"] == f"peer-{state}"


def test_prefixes_that_come_and_go_are_two_events() -> None:
    other = Prefix.parse("10.3.0.0/24")
    added, removed = told(events.PrefixesChanged(NODE, "b", (NET,), (other,)))
    assert (added["event"], added["prefixes"]) == ("prefix-added", ["10.2.0.0/24"])
    assert (removed["event"], removed["prefixes"]) == ("prefix-removed", ["10.3.0.0/24"])


@pytest.mark.parametrize(
    ("event", "name", "field", "value"),
    [
        (events.ReachabilityChanged(NODE, "b", False), "peer-unreachable", "name", "b"),
        (events.ReachabilityChanged(NODE, "b", True), "peer-reachable", "name", "b"),
        (events.ShardsMissing(NODE, "b", 3), "prefixes-missing", "shards", 3),
        (events.Superseded(7), "superseded", "sequence", 7),
        (events.Cloned(True, (WHERE,)), "cloned", "endpoints", ["192.0.2.2:6179"]),
        (events.Cloned(False, (WHERE,)), "cloned", "yielded", False),
        (events.Reinstated(61.23), "reinstated", "yielded_s", 61.2),
        (events.BootKeyRenewed("a week"), "key-renewed", "reason", "a week"),
        (events.Accused((NODE,), 9), "accused", "by", ["node-0"]),
        (events.ObservedElsewhere(NODE, WHERE), "observed-at", "endpoint", "192.0.2.2:6179"),
        (events.Revoked(NODE, "b"), "revoked", "name", "b"),
        (events.Revoked(NODE, "b"), "revoked", "reason", "the authority has ended its membership"),
        (events.Revoked(NODE, "b", lapsed=True), "revoked", "reason",
         "the present authority has not taken it over"),
        (events.Refused(WHERE, None, "cut short"), "refused", "source", "192.0.2.2:6179"),
        (events.Refused(None, NODE, "bad"), "refused", "source", "node-0"),
        (events.CannotAnnounce("disk full"), "error", "reason",
         "nothing is announced: disk full"),
    ],
)  # fmt: skip
def test_each_happening_has_its_event(
    event: events.Event, name: str, field: str, value: object
) -> None:
    (line,) = told(event)
    assert (line["event"], line[field]) == (name, value)


def test_a_succession_is_told_when_it_is_known_and_when_it_takes_effect() -> None:
    output = io.StringIO()
    narrator = Narrator(EventLog(output, "json"), str)
    narrator.succession(events.Succession(1, 12, in_effect=False), 0)
    narrator.succession(events.Succession(1, 12, in_effect=True), 2)
    known, in_effect = (json.loads(line) for line in output.getvalue().splitlines())
    assert (known["event"], known["generation"], known["members"]) == ("succession", 1, 12)
    assert (known["in_effect"], in_effect["in_effect"], in_effect["lapsed"]) == (False, True, 2)
    assert "when its word on each of these members is here" in known["reason"]


def test_what_a_stranger_repeats_is_counted_and_told_once_in_a_while() -> None:
    noise = events.Refused(WHERE, None, "another mesh")
    lines = told(*[noise] * 1001, step=QUIET / 500)
    assert len(lines) == 3
    assert [line.get("more", 0) for line in lines] == [0, 499, 499]
    assert len(told(noise, events.Refused(WHERE, None, "cut short"))) == 2


def test_a_clock_that_cannot_be_right_is_told_once_and_so_is_its_mending() -> None:
    output = io.StringIO()
    narrator = Narrator(EventLog(output, "json"), str)
    for off in (None, -9 * 86_400.0, -9.1 * 86_400, 70 * 86_400, None, None):
        narrator.clock(off)
    wrong, right = (json.loads(line) for line in output.getvalue().splitlines())
    assert (wrong["event"], wrong["days"], right["event"]) == ("clock-wrong", 9.0, "clock-right")
    assert "9 days behind what most members announce by: set it" in wrong["reason"]


def refused(prefix: str, rule: Rule = "bogon") -> Route:
    return Route(Prefix.parse(prefix), NODE, "b", None, "refused", f"a {rule}", rule)


def decided(*looks: tuple[float, list[Route]]) -> list[dict[str, Any]]:
    """What is told of the decisions made at these times."""
    output = io.StringIO()
    narrator = Narrator(EventLog(output, "json"), str)
    for now, rows in looks:
        narrator.decided(rows, now)
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_what_policy_refuses_is_told_once_with_node_rule_and_reason() -> None:
    rows = [refused("127.0.0.0/8"), refused("10.1.0.0/24", "conflict")]
    fine = Route(NET, NODE, "b", None, "installed", "")
    first, second = decided((0.0, [*rows, fine]), (100.0, rows), (200.0, rows))
    assert first.pop("time")
    assert first == {
        "event": "refused", "name": "b", "id": "00010203", "rule": "bogon",
        "prefixes": ["127.0.0.0/8"], "reason": "a bogon",
    }  # fmt: skip
    assert (second["rule"], second["prefixes"]) == ("conflict", ["10.1.0.0/24"])


def test_what_is_refused_anew_later_is_told_anew() -> None:
    rows = [refused("127.0.0.0/8")]
    assert len(decided((0.0, rows), (50.0, []), (100.0, rows))) == 2


def test_many_refusals_of_one_node_by_one_rule_are_one_line() -> None:
    (line,) = decided((0.0, [refused(f"127.{each}.0.0/16") for each in range(100)]))
    assert len(line["prefixes"]) == 5
    assert line["more"] == 95


def test_what_is_refused_again_and_again_is_told_once_in_a_while_and_nothing_is_lost() -> None:
    one, other = refused("127.1.0.0/16"), refused("127.2.0.0/16")
    flapping = [(0.1 * each, [one] if each % 2 else []) for each in range(50)]
    lines = decided(*flapping, (5.1, [other]), (QUIET + 0.2, [other]))
    assert [line["prefixes"] for line in lines] == [["127.1.0.0/16"], ["127.2.0.0/16"]]


def test_what_is_held_back_for_flapping_is_told_with_how_long() -> None:
    row = Route(NET, NODE, "b", None, "standby", "held back", "damped", until=130.0)
    (line,) = decided((10.0, [row]))
    assert (line["event"], line["rule"], line["for_s"]) == ("damped", "damped", 120.0)
