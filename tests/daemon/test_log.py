"""The event log: for people, for programs, for watchers; no reader disturbs it."""

from __future__ import annotations

import io
import json
import os
from datetime import UTC, datetime, timedelta, timezone
from typing import TextIO

import trio
import trio.testing

from meshd.log import WATCHER_BACKLOG, EventLog
from meshd.text import event_line, field

MOMENT = datetime(2026, 1, 2, 13, 0, 1, 123456, timezone(timedelta(hours=1)))


def log(stream: TextIO | None = None, form: str = "text", *, colour: bool = False) -> EventLog:
    return EventLog(stream, form, lambda: MOMENT, colour)


def test_a_line_for_people_has_the_time_in_utc_the_event_and_its_fields() -> None:
    stream = io.StringIO()
    log(stream).emit("peer-alive", name="b", id="1a2b3c4d", endpoint="192.0.2.2:6179")
    line = "12:00:01.123  peer-alive      name=b id=1a2b3c4d endpoint=192.0.2.2:6179\n"
    assert stream.getvalue() == line


def test_a_line_for_programs_has_time_event_and_typed_fields() -> None:
    stream = io.StringIO()
    log(stream, "json").emit("converged", prefixes=["10.1.0.0/24"], in_s=0.41)
    assert json.loads(stream.getvalue()) == {
        "time": "2026-01-02T12:00:01.123Z",
        "event": "converged",
        "prefixes": ["10.1.0.0/24"],
        "in_s": 0.41,
    }


def test_a_reader_that_stalls_costs_lines_and_never_a_wait() -> None:
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as reader, open(writing, "w", encoding="utf-8") as writer:
        events = log(writer)
        for number in range(5000):
            events.emit("peer-alive", number=number, padding="x" * 100)
        os.set_blocking(reading, False)
        taken = reader.readlines()
        assert 100 < len(taken) < 5000
        events.emit("converged")
        assert f"lines_lost_before={5000 - len(taken)}" in reader.readline()


def test_a_field_may_be_called_event_name() -> None:
    stream = io.StringIO()
    log(stream).emit("refused", name="x", reason="host bits set")
    assert 'reason="host bits set"' in stream.getvalue()


def test_nothing_hostile_reaches_a_terminal() -> None:
    hostile = "\x1b[31mred\n\u202eevil\x00\x7f\x9b\u2028\ud800"
    for line in (event_line({"time": hostile, "event": hostile, hostile: [hostile]}),):
        assert line.isprintable()
    stream = io.StringIO()
    log(stream, "json").emit("refused", reason=hostile)
    assert stream.getvalue().rstrip("\n").isprintable()
    assert json.loads(stream.getvalue())["reason"] == hostile


def test_a_value_is_quoted_where_it_would_be_ambiguous() -> None:
    assert field("a b") == '"a b"'
    assert field('a"b\\') == '"a\\"b\\\\"'
    assert field("k=v") == '"k=v"'
    assert field("") == '""'
    assert (field(None), field(True), field([]), field(["a", "b"])) == ("-", "yes", "-", "a,b")


def test_colour_only_when_asked() -> None:
    plain, coloured = io.StringIO(), io.StringIO()
    log(plain).emit("peer-failed")
    log(coloured, colour=True).emit("peer-failed")
    assert "\x1b" not in plain.getvalue()
    assert coloured.getvalue().startswith("12:00:01.123  \x1b[31mpeer-failed")


class Broken(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError("no space left")


def test_a_broken_stream_is_nobody_elses_trouble() -> None:
    broken = log(Broken())
    with broken.subscribe() as events:
        broken.emit("listening")
        assert events.receive_nowait()["event"] == "listening"
    closed = io.StringIO()
    closed.close()
    log(closed).emit("listening")


async def test_a_watcher_gets_every_event_from_now_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    events = log()
    events.emit("before")
    with events.subscribe() as one, events.subscribe() as other:
        events.emit("now", n=1)
        for receive in (one, other):
            assert (await receive.receive())["n"] == 1
            with trio.move_on_after(1) as scope:
                await receive.receive()
            assert scope.cancelled_caught


async def test_a_slow_watcher_is_dropped_and_the_others_are_not() -> None:
    events = log()
    with events.subscribe() as slow, events.subscribe() as quick:
        for number in range(WATCHER_BACKLOG + 5):
            events.emit("tick", n=number)
            assert (await quick.receive())["n"] == number
        seen = [event["n"] async for event in slow]  # It ends: the log has hung up.
        assert seen == list(range(WATCHER_BACKLOG))
    events.emit("after")  # Nobody is left, which is fine.


def test_the_clock_is_utc_by_default() -> None:
    stream = io.StringIO()
    EventLog(stream, "json").emit("listening")
    told = datetime.fromisoformat(json.loads(stream.getvalue())["time"])
    assert abs(datetime.now(UTC) - told) < timedelta(minutes=1)
