"""What a daemon says of its own grant: that it ends, each stage once, and that it was renewed."""

from __future__ import annotations

import io
import json
from random import Random
from typing import Any

import attrs
import pytest
from parts import MAKER, MESH, POOL, node

from meshd import membership, text
from meshd.errors import StateError
from meshd.log import EventLog
from meshd.membership import Membership
from protocol.node import Node
from protocol.objects import Grant, Revocation

END = 1_800_000_000
DAY = 86_400
ME = node(1)


def granted(serial: int, until: int = END) -> Grant:
    return Grant.sign(
        MAKER, MESH, node=ME.public, name="b", serial=serial, since=1, allow=POOL, until=until
    )


@attrs.define(eq=False)
class Watch:
    """A node with a grant that ends, and what is said of it."""

    until: int = END
    output: io.StringIO = attrs.field(factory=io.StringIO)
    kept: list[Grant] = attrs.field(factory=list)
    node: Node = attrs.field(init=False)
    membership: Membership = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        first = granted(1, self.until)
        self.node = Node(
            MESH, ME, [first], next_sequence=lambda above: above + 1, rng=Random(1), now=0.0
        )
        log = EventLog(self.output, "json")
        self.membership = Membership(self.node, first, log, self.kept.append)

    def hear(self, word: Grant | Revocation) -> None:
        self.node.hear([word], 1.0)
        self.membership.follow()

    def look(self, *days_left: float) -> None:
        for days in days_left:
            self.membership.look(END - days * DAY)

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.getvalue().splitlines()]

    @property
    def stages(self) -> list[tuple[str, int]]:
        return [(each["event"], each["days"]) for each in self.told]


def test_the_end_is_told_a_month_a_week_and_a_day_before_and_when_it_has_come() -> None:
    watch = Watch()
    watch.look(31, 30.1, 30, 29, 15, 7, 6, 2, 1, 0.5, 0, -0.5, -1, -1.1, -2, -50)
    assert watch.stages == [
        ("grant-ending", 30), ("grant-ending", 7), ("grant-ending", 1),
        ("grant-ended", 0), ("grant-ended", 0),
    ]  # fmt: skip
    reasons = [each["reason"] for each in watch.told]
    assert "others honour it for one more day" in reasons[3]
    assert "others take no route from this node any more" in reasons[4]
    assert all("meshd renew b --until DATE" in reason for reason in reasons)


def test_the_end_itself_is_a_day_after_its_date_as_it_is_for_others() -> None:
    watch = Watch()
    watch.look(-0.99)
    assert len(watch.told) == 1
    watch.look(-1.01)
    assert "take no route from this node any more" in watch.told[1]["reason"]


def test_a_start_late_in_the_day_tells_the_present_stage_only() -> None:
    watch = Watch()
    watch.look(3, 3, 2)
    assert watch.stages == [("grant-ending", 3)]


def test_by_a_clock_that_cannot_be_right_nothing_ends() -> None:
    watch = Watch()
    watch.membership.look(None)
    assert watch.told == []


def test_a_grant_without_an_end_is_not_spoken_of() -> None:
    watch = Watch(until=0)
    watch.look(1, 0, -400)
    assert watch.told == []
    assert membership.standing(watch.node, ME.public, END)["ends_in_days"] is None


def test_a_renewal_is_told_kept_and_counted_from_anew() -> None:
    watch = Watch()
    watch.look(5)
    new = granted(2, END + 365 * DAY)
    watch.hear(new)
    watch.hear(new)
    watch.look(5, -340, -360)
    assert watch.kept == [new]
    assert [each["event"] for each in watch.told] == [
        "grant-ending", "grant-renewed", "grant-ending", "grant-ending",
    ]  # fmt: skip
    assert watch.told[1]["until"] == "2028-01-15 08:00 UTC"
    assert watch.told[1]["generation"] == 0


def test_a_renewal_that_cannot_be_kept_is_an_error_in_the_log() -> None:
    def fail(_: Grant) -> None:
        raise StateError("cannot write grant: No space left on device; make room on the disk")

    watch = Watch()
    watch.membership = Membership(watch.node, granted(1), watch.membership._log, fail)
    watch.hear(granted(2))
    assert watch.told[-1]["reason"].startswith("the new grant is not kept: cannot write grant")


def test_status_says_what_the_authority_says_of_this_node() -> None:
    watch = Watch()
    assert membership.standing(watch.node, ME.public, END - 5 * DAY) == {
        "state": "member", "reason": "", "until": END, "ends_in_days": 5,
    }  # fmt: skip
    watch.hear(Revocation.sign(MAKER, MESH, node=ME.public, since=1))
    watch.look(5)
    assert membership.standing(watch.node, ME.public, END) == {
        "state": "none", "reason": "the authority has revoked this node's key",
        "until": None, "ends_in_days": None,
    }  # fmt: skip
    assert watch.told == []


@pytest.mark.parametrize(
    ("standing", "line"),
    [
        ({"ends_in_days": 30, "until": END}, "membership ends in 30 days (2027-01-15 08:00 UTC): "),
        ({"ends_in_days": 1, "until": END}, "membership ends in 1 day (2027-01-15 08:00 UTC): ha"),
        ({"ends_in_days": 0, "until": END}, "membership has ended (2027-01-15 08:00 UTC): have it"),
        ({"reason": "revoked\x1b"}, "membership revoked\\x1b"),
    ],
)
def test_status_for_people_tells_of_the_end(standing: dict[str, Any], line: str) -> None:
    assert line in text.status({"membership": standing})
    quiet = text.status({"membership": {"ends_in_days": 31, "until": END, "reason": ""}})
    assert "membership" not in quiet


def test_status_for_people_tells_of_a_succession_that_waits() -> None:
    waits = {"generation": 1, "members": 12, "heard": 9}
    shown = text.status({"authority": {"generation": 0, "pending": waits}})
    line = "authority  generation 0; generation 1 waits for its word on 9/12 members"
    assert line in shown.splitlines()
