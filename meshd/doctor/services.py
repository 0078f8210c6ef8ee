"""What runs beside us: systemd-networkd, NetworkManager, whoever keeps the clock."""

from __future__ import annotations

import configparser
import ctypes
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from meshd.doctor.facts import Clock, Networkd

_FALSE: Final = ("0", "n", "no", "f", "false", "off")
"""systemd.syntax(7)"""

_DIRECTORIES: Final = ("etc", "run", "usr/local/lib", "usr/lib")
"""Of networkd.conf(5), the first one wins."""

_ADJTIMEX_SIZE: Final = 512
"""Octets; struct timex has 208 on 64-bit kernels (linux/timex.h)."""
_ERROR_STATE: Final = 5
"""TIME_ERROR: not synchronised."""


def networkd(root: Path, running: Iterable[str]) -> Networkd | None:
    """How it deals with routes of others; None where it does not run."""
    if "systemd-network" not in running:  # as much of the name as the kernel keeps
        return None
    settings: dict[str, tuple[bool, str]] = {}
    for path in networkd_files(root):
        parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        try:
            parser.read_string(path.read_text("utf-8", "replace"))
        except (OSError, configparser.Error):
            continue
        for key, value in parser.items("Network") if parser.has_section("Network") else ():
            settings[key] = ((value or "").strip().lower() not in _FALSE, str(path))
    routes, file = settings.get("ManageForeignRoutes", (True, ""))
    return Networkd(
        routes,
        settings.get("ManageForeignRoutingPolicyRules", (True, ""))[0],
        settings.get("ManageForeignNextHops", (True, ""))[0],
        file,
    )


def networkd_files(root: Path) -> list[Path]:
    """Its files in the order in which they are read: the later one's word counts."""
    homes = [root / directory / "systemd" for directory in _DIRECTORIES]
    main = next(
        (home / "networkd.conf" for home in homes if (home / "networkd.conf").exists()), None
    )
    dropped: dict[str, Path] = {}
    for home in reversed(homes):
        for path in (home / "networkd.conf.d").glob("*.conf"):
            dropped[path.name] = path
    return [*([main] if main else []), *(dropped[name] for name in sorted(dropped))]


def running(proc: Path) -> frozenset[str]:
    """The names of all processes, as the kernel keeps them: fifteen characters."""
    found = set()
    for path in proc.glob("[0-9]*/comm"):
        try:
            found.add(path.read_text("utf-8", "replace").strip())
        except OSError:
            continue
    return frozenset(found)


def clock() -> Clock | None:
    """Whether the kernel's clock is kept by somebody (adjtimex(2) with nothing to adjust)."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_ADJTIMEX_SIZE))
    except (OSError, AttributeError):
        return None
    return Clock(synchronised=state != _ERROR_STATE) if state >= 0 else None
