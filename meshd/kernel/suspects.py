"""Who changed something in a Linux kernel: what its notices tell, and how sure that is.

A notice of rtnetlink carries the port of the socket that asked for the change.  The kernel takes
a process' id for its first socket (``netlink_autobind``), and libnl puts it into the low 22 bits;
but a container's process has another id in there, and any program may choose its port.  So a name
is given as certain only when that process holds that very socket.  nftables tells process and name
itself (NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME).
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

KERNEL: Final = "the kernel"

_PROC: Final = Path("/proc")
_PID_BITS: Final = 22
"""PID_MAX_LIMIT is 4 * 1024 * 1024."""
_KERNEL_THREAD: Final = 0x200000  # PF_KTHREAD, include/linux/sched.h
_SHOWN: Final = 60
"""Characters of a command line."""
_REMEMBERED: Final = 1.0
"""Seconds for which a port is who it was: a flush of 10,000 routes is one question."""

SERVICES: Final = {
    "systemd-network": "systemd-networkd removes routes it does not know (ManageForeignRoutes=no)",
    "NetworkManager": "NetworkManager removes routes of devices that it manages",
    "firewalld": "firewalld may flush the ruleset when it is reloaded",
    "dhclient": "dhclient's scripts replace addresses and routes",
    "dhcpcd": "dhcpcd replaces addresses and routes",
    "connmand": "ConnMan replaces addresses and routes",
}
"""What services are known to do, by the name that /proc shows (15 characters at most)."""


class Suspects:
    """Names the processes behind netlink ports of the family ``protocol``."""

    def __init__(self, protocol: int) -> None:
        self._protocol = protocol
        self._known: dict[int, tuple[float, str]] = {}

    def of(self, port: int) -> str:
        """Who asked from ``port``, in words: ``ip (pid 4711: ip route flush proto 142)``.

        To be asked at once: such a process soon ends.
        """
        if port == 0:
            return KERNEL
        now = time.monotonic()
        known = self._known.get(port)
        if known is not None and now - known[0] < _REMEMBERED:
            return known[1]
        if len(self._known) > 64:
            self._known.clear()
        told = self._look(port)
        self._known[port] = (now, told)
        return told

    def _look(self, port: int) -> str:
        pid = port & ((1 << _PID_BITS) - 1)
        if port >> 31 or not pid:
            return f"an unknown process (netlink port {port})"
        name, command = name_of(pid), command_of(pid)
        if not name:
            return f"a process that has ended (pid {pid})"
        if port == pid and self._holds(pid, port):
            return _process(name, pid, command)
        return f"perhaps {_process(name, pid, command)}"

    def _holds(self, pid: int, port: int) -> bool:
        """Whether the process has the socket of that port; False where we may not look."""
        try:
            lines = (_PROC / "net/netlink").read_text(encoding="ascii").splitlines()[1:]
            found = [words[-1] for words in map(str.split, lines)
                     if (int(words[1]), int(words[2])) == (self._protocol, port)]  # fmt: skip
            held = set()
            for each in (_PROC / str(pid) / "fd").iterdir():
                with suppress(FileNotFoundError):  # closed meanwhile
                    held.add(os.readlink(each))
        except (OSError, ValueError, IndexError):
            return False
        return any(f"socket:[{inode}]" in held for inode in found)


def told(pid: int, name: str) -> str:
    """The process that nftables names."""
    return _process(name, pid, command_of(pid) if name_of(pid) == name else "")


def _process(name: str, pid: int, command: str) -> str:
    return f"{name} (pid {pid}{f': {command}' if command else ''})"


def name_of(pid: int) -> str:
    """What the process is called; empty when it has ended, or is a thread of the kernel."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        flags = int(stat.rpartition(")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return ""
    return "" if flags & _KERNEL_THREAD else stat.partition("(")[2].rpartition(")")[0]


def command_of(pid: int) -> str:
    """Its command line, cut short; empty when it has ended."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()[: 4 * _SHOWN]
    except OSError:
        return ""
    text = raw.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def services() -> list[str]:
    """What those that run here are known to do to others' routes and rules: a hint, no proof."""
    running = {name_of(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdecimal()}
    return [said for name, said in SERVICES.items() if name in running]
