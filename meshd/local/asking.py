"""One asking of a health check. Whatever goes wrong with it is its answer: nothing is raised.

It waits for others and never lets the daemon wait: a program has a process of its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from meshd.kernel.state import Host
from meshd.local.check import HEALTHY, Check
from protocol.address import Endpoint

DYING: Final = 1.0
"""Seconds that a killed program may take to be gone; one that waits for a disk takes longer."""


_PR_CAP_AMBIENT, _CLEAR_ALL = 47, 4


def keep_capabilities() -> None:
    """Programs that are run get none of this process's capabilities, unless it is root.

    Before any thread is made: each has such a set of its own (capabilities(7), "ambient").
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)


async def ask(check: Check, host: Callable[[], Host]) -> str:
    """One answer, in ``check.timeout`` seconds; ``host`` gives what the kernel said last."""
    if check.interface is not None:
        return _look(check.interface, host())
    with trio.move_on_after(check.timeout):
        try:
            if check.tcp is not None:
                return await _connect(check.tcp)
            return await _run(check.command)
        except OSError as error:
            return os.strerror(error.errno) if error.errno else str(error)
    return f"no answer within {check.timeout:g} s"


def _look(name: str, host: Host) -> str:
    found = next((each for each in host.interfaces if each.name == name), None)
    if found is None:
        return f"there is no interface {name}"
    if not found.up:
        return f"{name} is down"
    return HEALTHY if found.carrier else f"{name} has no carrier"


async def _connect(where: Endpoint) -> str:
    family = trio.socket.AF_INET if where.family == 4 else trio.socket.AF_INET6
    with trio.socket.socket(family, trio.socket.SOCK_STREAM) as probe:
        await probe.connect((where.host, where.port))
    return HEALTHY


async def _run(command: tuple[str, ...]) -> str:
    # A session of its own: whatever it starts has its number, and ends with it.
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    try:
        status = await process.wait()
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.move_on_after(DYING) as dying:
            dying.shield = True
            await process.wait()
    if status == 0:
        return HEALTHY
    return f"exit {status}" if status > 0 else f"ended by {signal.Signals(-status).name}"
