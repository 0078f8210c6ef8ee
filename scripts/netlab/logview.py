"""The logs of several daemons on one terminal: side by side where it is wide, else interleaved."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import attrs

COLUMN = 50
"""A log's column narrower than this wraps every line; then one below the other reads better."""

GAP = " | "

COLOURS = (36, 33, 35, 32, 34, 31)
"""SGR foreground colours (ECMA-48), given to the logs in turn."""


@attrs.define(eq=False)
class LogView:
    """Prints what was added to the logs since the last `show`.

    logs: a title and a file for each, which need not exist yet. width: the terminal's columns.
    """

    logs: Sequence[tuple[str, Path]]
    out: TextIO
    width: int = 100
    colour: bool = False
    _read: dict[str, int] = attrs.field(factory=dict, init=False)

    @property
    def side_by_side(self) -> bool:
        return self._column >= COLUMN

    @property
    def _column(self) -> int:
        return (self.width - len(GAP) * (len(self.logs) - 1)) // len(self.logs)

    def head(self) -> None:
        """Print the titles above their columns, where there are columns."""
        if self.side_by_side:
            self._row([title for title, _ in self.logs])

    def show(self) -> None:
        """Print the complete lines that are new; harmless when there are none."""
        new = [self._new_lines(title, path) for title, path in self.logs]
        if self.side_by_side:
            columns = [[part for line in lines for part in self._wrapped(line)] for lines in new]
            for row in itertools.zip_longest(*columns, fillvalue=""):
                self._row(row)
        else:
            indent = max(len(title) for title, _ in self.logs)
            stamped = [
                (stamp, index, line)
                for index, lines in enumerate(new)
                for stamp, line in _stamped(lines)
            ]
            for _, index, line in sorted(stamped, key=lambda each: each[0]):
                title = self._paint(self.logs[index][0].rjust(indent), index)
                print(f"{title}{GAP}{line}", file=self.out)
        self.out.flush()

    def _new_lines(self, title: str, path: Path) -> list[str]:
        if not path.exists():
            return []
        with path.open("rb") as log:
            log.seek(self._read.get(title, 0))
            text = log.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._read[title] = self._read.get(title, 0) + len(complete)
        return complete.decode(errors="replace").splitlines()

    def _wrapped(self, line: str) -> list[str]:
        return textwrap.wrap(line, self._column, subsequent_indent="    ") or [""]

    def _row(self, cells: Sequence[str]) -> None:
        painted = [self._paint(cell.ljust(self._column), n) for n, cell in enumerate(cells)]
        print(GAP.join(painted).rstrip(), file=self.out)

    def _paint(self, text: str, index: int) -> str:
        if not self.colour or not text.strip():
            return text
        return f"\x1b[{COLOURS[index % len(COLOURS)]}m{text}\x1b[0m"


def _stamped(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each line with its time, or that of the line before: a traceback's lines have none."""
    stamp = ""
    for line in lines:
        if found := re.match(r"\d\d:\d\d:\d\d\.\d+", line):
            stamp = found[0]
        yield stamp, line
