"""The event log: one stream of events, for people, for programs and for ``meshd watch``.

``emit`` never waits and never raises for what a reader does: a full disk, a closed pipe or
a watcher that does not read costs that reader its events and nobody else anything.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import attrs
import trio

from meshd.text import event_line, to_json

Event = dict[str, Any]

WATCHER_BACKLOG: Final = 1024
"""Events that may wait for one watcher: two for each of 500 members that go and come at once."""


@attrs.define(eq=False)
class EventLog:
    """Hands each event to the stream and to whoever subscribed."""

    _stream: TextIO | None = None
    """None: no stream, subscribers only."""
    _format: str = attrs.field(default="text", validator=attrs.validators.in_(("text", "json")))
    _clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _colour: bool = False
    _lost: int = attrs.field(default=0, init=False)
    """Lines not written because nobody took them; the next that is written says so."""
    _watchers: dict[trio.MemorySendChannel[Event], None] = attrs.field(factory=dict, init=False)

    def emit(self, event: str, /, **fields: Any) -> None:
        """Log ``event`` with ``fields``: JSON values, in the order that people read them.

        Lists and tuples of text are fine; anything else is shown as ``str`` shows it.
        """
        moment = self._clock().astimezone(UTC).isoformat(timespec="milliseconds")
        entry: Event = {"time": moment.replace("+00:00", "Z"), "event": event, **fields}
        self._write(entry)
        for watcher in list(self._watchers):
            try:
                watcher.send_nowait(entry)
            except (trio.WouldBlock, trio.BrokenResourceError):
                watcher.close()  # Its end of the stream is how a slow watcher learns of it.
                self._watchers.pop(watcher, None)

    @contextmanager
    def subscribe(self) -> Iterator[trio.MemoryReceiveChannel[Event]]:
        """Every event from now on; the channel ends when the subscriber reads too slowly."""
        send, receive = trio.open_memory_channel[Event](WATCHER_BACKLOG)
        self._watchers[send] = None
        try:
            with receive:
                yield receive
        finally:
            self._watchers.pop(send, None)
            send.close()

    def _write(self, entry: Event) -> None:
        if self._stream is None:
            return
        try:
            if not _takes_more(self._stream):
                self._lost += 1
                return
            if self._lost:
                entry, self._lost = {**entry, "lines_lost_before": self._lost}, 0
            line = to_json(entry) if self._format == "json" else event_line(entry, self._colour)
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            # A router goes on routing when nobody reads its log; ValueError: stream closed.
            return


def _takes_more(stream: TextIO) -> bool:
    """False when a write would wait for a reader: a full pipe, a terminal that is stopped.

    A pipe that poll(2) calls writable has room for PIPE_BUF (4,096) bytes: a longer line,
    of hundreds of prefixes at once, may still wait.
    """
    try:
        descriptor = stream.fileno()
    except OSError:  # io.UnsupportedOperation: not a file at all
        return True
    return bool(select.select([], [descriptor], [], 0)[1])
