"""The demo's view of several logs."""

from __future__ import annotations

import io
from pathlib import Path

from netlab.logview import LogView


def _view(directory: Path, width: int) -> tuple[LogView, io.StringIO]:
    out = io.StringIO()
    logs = [(name, directory / f"{name}.log") for name in ("r1", "r2")]
    return LogView(logs, out, width), out


def _write(directory: Path, name: str, text: str) -> None:
    with (directory / f"{name}.log").open("a", encoding="utf-8") as log:
        log.write(text)


def test_lines_are_interleaved_by_time_where_the_terminal_is_narrow(tmp_path: Path) -> None:
    view, out = _view(tmp_path, 80)
    _write(tmp_path, "r1", "12:00:00.002  b\n12:00:00.004  d\n")
    _write(tmp_path, "r2", "12:00:00.001  a\n12:00:00.003  c\n")
    view.show()
    assert out.getvalue().splitlines() == [
        "r2 | 12:00:00.001  a",
        "r1 | 12:00:00.002  b",
        "r2 | 12:00:00.003  c",
        "r1 | 12:00:00.004  d",
    ]


def test_the_lines_of_a_traceback_stay_together(tmp_path: Path) -> None:
    view, out = _view(tmp_path, 80)
    _write(tmp_path, "r1", "12:00:00.001  a\nTraceback\n  File\nError\n12:00:00.003  z\n")
    _write(tmp_path, "r2", "12:00:00.002  b\n")
    view.show()
    texts = [line.partition(" | ")[2] for line in out.getvalue().splitlines()]
    assert texts[:4] == ["12:00:00.001  a", "Traceback", "  File", "Error"]


def test_a_wide_terminal_has_a_column_for_each_log_and_wraps_long_lines(tmp_path: Path) -> None:
    view, out = _view(tmp_path, 123)
    view.head()
    _write(tmp_path, "r1", "one\n")
    _write(tmp_path, "r2", "word " * 20 + "\n")
    view.show()
    rows = out.getvalue().splitlines()
    assert [row[:60].rstrip() for row in rows] == ["r1", "one", ""]
    assert rows[0][60:] == " | r2"
    assert rows[2][63:].startswith("    word")
    assert max(map(len, rows)) <= 123


def test_a_line_is_shown_once_and_only_when_it_is_complete(tmp_path: Path) -> None:
    view, out = _view(tmp_path, 80)
    view.show()
    _write(tmp_path, "r1", "12:00:00.001  half")
    view.show()
    assert out.getvalue() == ""
    _write(tmp_path, "r1", " and half\n")
    view.show()
    view.show()
    assert out.getvalue() == "r1 | 12:00:00.001  half and half\n"
