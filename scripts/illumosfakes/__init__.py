"""Stand-ins for ``route``, ``netstat``, ``ifconfig``, ``ippool``, ``ipnat``, ``ipf``, ``ipfstat``
of illumos: programs that keep their state in a file and behave as RECORDED.md says the real ones
do, traps included.

They are not a kernel. What is not known is modelled the way that hurts us more, and stands at the
end of RECORDED.md. They start with the bare interpreter (``-S -E``), so nothing here imports more
than the standard library.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

TOOLS: Final = ("route", "netstat", "ifconfig", "ippool", "ipnat", "ipf", "ipfstat")

_STUB: Final = """\
#!{python} -SE
import sys

sys.path.insert(0, {library!r})
from illumosfakes.command import main

sys.exit(main({tool!r}, {state!r}, sys.argv[1:]))
"""


def install(directory: Path, state: Path) -> None:
    """Write an executable for each tool into ``directory``; all of them work on ``state``."""
    directory.mkdir(parents=True, exist_ok=True)
    library = str(Path(__file__).parents[1])
    for tool in TOOLS:
        path = directory / tool
        path.write_text(
            _STUB.format(python=sys.executable, library=library, tool=tool, state=str(state)),
            encoding="utf-8",
        )
        path.chmod(0o755)
