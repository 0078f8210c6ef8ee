"""Room for neighbours: the kernel's table of them is one for all namespaces of a machine.

Its thresholds (net.ipv4.neigh.default.gc_thresh1 to 3; 128, 512 and 1,024 by default) are settable
in the first namespace only.  64 routers on one bridge are 64 x 63 neighbours: the table overflows,
and the machine drops packets, which is no system's doing.  So they are raised while a lab stands,
and put back afterwards; ones that are high enough are left alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

ALWAYS: Final = 2048
"""At least, for a small lab too: other labs of the machine use the same table."""

WHERE: Final = tuple(Path(f"/proc/sys/net/{family}/neigh/default") for family in ("ipv4", "ipv6"))


@contextlib.contextmanager
def room(
    routers: int, say: Callable[[str], None], where: tuple[Path, ...] = WHERE
) -> Iterator[None]:
    """For so many routers that all talk to each other. Where it cannot be made, it is said."""
    # Twice as many: the gateway, and link-local beside other addresses. Below the first
    # threshold nothing is collected at all.
    least = max(ALWAYS, 2 * routers * (routers + 1))
    before: list[tuple[Path, str]] = []
    try:
        for directory in where:
            for number in (3, 2, 1):  # at any moment in their order
                file = directory / f"gc_thresh{number}"
                try:
                    value = file.read_text(encoding="ascii")
                    if int(value) < least * number:
                        file.write_text(str(least * number), encoding="ascii")
                        before.append((file, value))
                except OSError as error:
                    say(f"neighbours may not fit the kernel's table: {error}")
        yield
    finally:
        for file, value in reversed(before):
            file.write_text(value, encoding="ascii")
