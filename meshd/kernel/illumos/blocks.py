"""Our lines in a file that is somebody else's: between two markers. Pure.

Everything outside the markers stays as it is, octet for octet, and a file from which our lines are
taken is what it was before they came.  Ours go to the beginning: in ipnat.conf the first line that
matches counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

BEGIN: Final = "# meshd: begin. Written by meshd: changes from here to the end marker are lost."
END: Final = "# meshd: end"


class Damaged(ValueError):
    """The markers are not one pair in their order: nothing is certain, so nothing is written."""


def split(text: str) -> tuple[str, list[str] | None, str]:
    """What stands ahead of our lines, our lines (None: there are none), and what follows."""
    lines = text.splitlines(keepends=True)
    begins = [at for at, line in enumerate(lines) if line.startswith("# meshd: begin")]
    ends = [at for at, line in enumerate(lines) if line.startswith(END)]
    if not begins and not ends:
        return "", None, text
    if len(begins) != 1 or len(ends) != 1 or begins > ends:
        raise Damaged('the lines "# meshd: begin" and "# meshd: end" are not one pair')
    first, last = begins[0], ends[0]
    inside = [line.rstrip("\n") for line in lines[first + 1 : last]]
    return "".join(lines[:first]), inside, "".join(lines[last + 1 :])


def put(text: str, lines: Sequence[str]) -> str:
    """``text`` with these lines as ours; without any, no marker stays either."""
    ahead, _, after = split(text)
    if not lines:
        return ahead + after
    return ahead + "\n".join((BEGIN, *lines, END)) + "\n" + after
