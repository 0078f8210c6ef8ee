"""A network namespace of one test's own, for its thread, and the programs that fill it."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000
"""linux/sched.h; Python has no unshare before 3.12."""


def run(command: str, text: str | None = None) -> str:
    """What ``command`` (split at blanks, ``text`` on its input) prints; it must succeed."""
    done = subprocess.run(command.split(), input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@contextmanager
def own_namespace() -> Iterator[None]:
    """A fresh, empty network namespace for this thread; it goes with the block."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(home, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(home)
