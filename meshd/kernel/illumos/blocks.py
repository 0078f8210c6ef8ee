"""Our lines in a file that is somebody else's: between two markers. Pure.

Everything outside the markers stays as it is, octet for octet, and a file from which our lines are
taken is what it was before they came.  Ours go to the beginning: in ipnat.conf the first line that
matches counts.  The first marker says whose they are, for two daemons would write over one another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

BEGIN: Final = "# meshd: begin"
END: Final = "# meshd: end"


class Damaged(ValueError):
    """The markers are not one pair of ours in their order: nothing is certain, so nothing is
    written."""


class Foreign(Damaged):
    """They are a pair, and another daemon's: nothing in the file is ours."""


def begin(owner: str) -> str:
    """The first marker of the daemon whose state is in ``owner``."""
    return (
        f"{BEGIN}. Written by the meshd of {owner}: changes from here to the end marker are lost."
    )


def split(text: str, owner: str) -> tuple[str, list[str] | None, str]:
    """What stands ahead of our lines, our lines (None: there are none), and what follows."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    begins = [at for at, line in enumerate(lines) if line.startswith(BEGIN)]
    ends = [at for at, line in enumerate(lines) if line.startswith(END)]
    if not begins and not ends:
        return "", None, text
    if len(begins) != 1 or len(ends) != 1 or begins > ends:
        raise Damaged(f'the lines "{BEGIN}" and "{END}" are not one pair')
    first, last = begins[0], ends[0]
    marker = lines[first].rstrip()
    if marker != begin(owner):
        raise Foreign(
            f'another meshd keeps its lines there ("{marker}"), and only one can do so on a host:'
            ' set nat = "off" in one of the two; if the other is gone, take its lines out'
        )
    inside = [line.rstrip("\n") for line in lines[first + 1 : last]]
    return "".join(lines[:first]), inside, "".join(lines[last + 1 :])


def joined(ahead: str, lines: Sequence[str], after: str, owner: str) -> str:
    """The whole file with these lines as ours; without any, no marker stays either."""
    if not lines:
        return ahead + after
    return ahead + "\n".join((begin(owner), *lines, END)) + "\n" + after
