"""Who is a member and who is not, and what ``meshd grants --json`` promises of each."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from parts import MAKER, MESH, announcement, grant, node

from meshd import report, text, values
from meshd.authority import roll
from meshd.authority.ledger import Entry
from protocol.identity import Identity
from protocol.objects import Grant, Revocation, Successor
from protocol.store import Store

NOW = 1_800_000_000.0
DAY = 86_400


def given(until: int = 0, **fields: Any) -> Grant:
    allow = [values.prefix("10.1.0.0/24"), values.prefix("fd00:1::/64")]
    base: dict[str, Any] = {"serial": 7, "allow": allow, "until": until, "name": "b"}
    return Grant.sign(MAKER, MESH, **({"node": node(1).public} | base | fields))


def state(
    word: Grant,
    *,
    revoked: Revocation | None = None,
    valid_until: int = 0,
    joined: bool | None = True,
    generation: int = 0,
) -> str:
    (found,) = roll.standings(
        {word.node: word},
        {word.node: revoked} if revoked else {},
        {word.node: Entry(word, valid_until)},
        generation=generation,
        has_joined=lambda _: joined,
        unix_now=NOW,
    )
    return found.state


def test_each_state_has_its_reason() -> None:
    soon, past = int(NOW) + 60, int(NOW) - 60
    assert state(given()) == "member"
    assert state(given(), valid_until=soon) == "member"
    assert state(given(), valid_until=soon, joined=False) == "invited"
    assert state(given(), valid_until=soon, joined=None) == "invited"
    assert state(given(), valid_until=past, joined=False) == "unused"
    assert state(given(), valid_until=past, joined=None) == "member"
    assert state(given(until=past)) == "ended"
    assert state(given(until=soon)) == "member"
    assert state(given(), generation=1) == "lapsed"
    revoked = Revocation.sign(MAKER, MESH, node=node(1).public)
    assert state(given(), revoked=revoked) == "revoked"
    assert state(given(), revoked=revoked, generation=1) == "lapsed"
    assert state(given(generation=1), revoked=revoked, generation=1) == "member"


@pytest.mark.parametrize(
    ("left", "days"), [(0, 0), (-5 * DAY, 0), (1, 1), (DAY, 1), (DAY + 1, 2), (30 * DAY, 30)]
)
def test_days_that_are_left_are_rounded_up(left: int, days: int) -> None:
    assert roll.ends_in_days(int(NOW) + left, NOW) == days
    assert roll.ends_in_days(0, NOW) is None


def rows() -> list[dict[str, Any]]:
    """What a daemon answers of a store with a member, one that only has a grant, one revoked."""
    store = Store()
    word = given(int(NOW) + 5 * DAY, at=[values.prefix("192.0.2.0/24")], limit=3, since=5)
    for record in (word, announcement(1), grant(2), Revocation.sign(MAKER, MESH, node=b"\7" * 32)):
        store.merge(record)
    return report.grants(store, NOW)


def test_programs_may_rely_on_the_fields_of_grants() -> None:
    found = json.loads(text.to_json(rows()))
    assert [each["state"] for each in found] == ["revoked", "member", "member"]
    revoked, b, other = found
    assert b == {
        "id": node(1).public.hex(),
        "name": "b",
        "state": "member",
        "allow": ["10.1.0.0/24", "fd00:1::/64"],
        "at": ["192.0.2.0/24"],
        "limit": 3,
        "until": int(NOW) + 5 * DAY,
        "ends_in_days": 5,
        "token_until": None,
        "generation": 0,
        "serial": 7,
        "since": 5,
    }
    assert (other["limit"], other["until"], other["ends_in_days"]) == (None, None, None)
    assert revoked == {
        **dict.fromkeys(b),
        "id": "07" * 32,
        "name": "",
        "state": "revoked",
        "allow": [],
        "at": [],
    }


def test_grants_for_people_line_up_and_say_what_ends_soon() -> None:
    invited = {**rows()[2], "state": "invited", "token_until": int(NOW)}
    lines = text.grants([*rows(), invited]).splitlines()
    ends = "10.1.0.0/24 fd00:1::/64  192.0.2.0/24  3      2027-01-20 08:00 UTC"
    short = node(1).public.hex()[:8]
    assert lines[0].split() == ["NAME", "ID", "STATE", "ALLOW", "AT", "LIMIT", "UNTIL"]
    assert lines[1].split() == ["07070707", "revoked", "-"]
    assert lines[2].startswith(f"b     {short}  ends in 5 days ")
    assert lines[2].endswith(ends)
    assert lines[3].split()[2] == "member"
    assert "invited until 2027-01-15 08:00 UTC" in lines[4]
    assert "after the year 9999" in text.grants([{**invited, "token_until": 2**60}])
    assert "\x1b" not in text.grants([{**invited, "name": "\x1b[31m"}])


def test_records_come_page_by_page_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    for number in range(20):
        store.merge(grant(number))
        store.merge(announcement(number))
    whole = report.records(store, b"")
    assert (len(whole["objects"]), len(whole["announced"]), whole["next"]) == (20, 20, "")
    monkeypatch.setattr(report, "PAGE", 7)
    objects: list[str] = []
    announced: list[str] = []
    start = b""
    while True:
        page = report.records(store, start)
        assert len(page["objects"]) + len(page["announced"]) <= 7
        objects += page["objects"]
        announced += page["announced"]
        if not page["next"]:
            break
        start = bytes.fromhex(page["next"])
    assert (objects, announced) == (whole["objects"], whole["announced"])


def test_status_tells_how_far_a_succession_is() -> None:
    store, aside = Store(), Identity.from_secret(bytes(range(32)))
    made = attrs.evolve(MESH.newest, generation=1, key=aside.public)
    members = [node(number).public for number in (1, 2)]
    for number in (1, 2):
        store.merge(grant(number))
    assert report.authority(store) == {"generation": 0, "pending": None}
    store.merge(Successor.sign(aside, MESH, made=made, serial=9, members=members))
    waits = {"generation": 1, "members": 2, "heard": 0}
    assert report.authority(store) == {"generation": 0, "pending": waits}
    store.merge(given(generation=1, since=1))
    assert report.authority(store)["pending"] == {**waits, "heard": 1}
    store.merge(given(generation=1, since=1, node=node(2).public))
    assert report.authority(store) == {"generation": 1, "pending": None}
