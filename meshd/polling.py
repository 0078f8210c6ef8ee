"""``select.epoll`` made of ``select.poll``, for a Python that has none: that of illumos.

Its distributions all build CPython without epoll (the kernel's is "not quite the same as the Linux
implementation": OmniOS, disable_epoll.patch; cpython#138850), and trio knows epoll, kqueue and IOCP
only (trio#1437).  Few of its methods are used, each wait anew (EPOLLONESHOT), and poll does that
with a list that is handed over at each call: for the two dozen descriptors of a daemon that is
nothing.

Two things beside it.  trio asks for kqueue's functions wherever ``sys.platform`` is neither linux
nor win32 nor android, so that name is lent to it while it is imported, and what it imports of the
standard library is loaded before under the right one.  And as "linux" it would call pidfd_open(2)
by its Linux number where ``os`` has no such function; it is given one that refuses, and waits for
children in a thread.

Used only where Python has neither epoll nor kqueue; the tests take epoll away on Linux.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import math
import os
import select
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

ONESHOT: Final = 1 << 30
"""EPOLLONESHOT, as Linux has it; poll knows no such bit."""

LOADED_FIRST: Final = ("asyncio", "ctypes.util", "platform", "selectors", "socket", "ssl",
                       "subprocess", "uuid")  # fmt: skip
"""Modules that look at ``sys.platform`` while they are loaded, of those that trio may load."""


class Epoll:
    """As much of ``select.epoll`` as trio asks for."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._masks: dict[int, int] = {}

    def close(self) -> None:
        self._masks.clear()

    def register(self, fd: Any, eventmask: int) -> None:
        """``OSError`` as epoll_ctl(2): EBADF, EEXIST."""
        number = fd if isinstance(fd, int) else fd.fileno()
        fcntl.fcntl(number, fcntl.F_GETFD)  # poll(2) would tell only later
        if number in self._masks:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        self._set(number, eventmask)

    def modify(self, fd: int, eventmask: int) -> None:
        """``OSError`` as epoll_ctl(2): EBADF, ENOENT."""
        fcntl.fcntl(fd, fcntl.F_GETFD)
        if fd not in self._masks:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._set(fd, eventmask)

    def unregister(self, fd: int) -> None:
        if self._masks.pop(fd, None) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._forget(fd)

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        """What is ready, after at most ``timeout`` seconds. What is told once is asked no more."""
        del maxevents  # a bound of epoll's memory; what there is more of would come next time
        found = []
        for fd, events in self._poll.poll(math.ceil(timeout * 1000)):
            mask = self._masks.get(fd, 0)
            if events & select.POLLNVAL or mask & ONESHOT:
                self._forget(fd)
            if events & select.POLLNVAL:
                # Closed behind our back: epoll would have forgotten it by itself.
                self._masks.pop(fd, None)
            else:
                found.append((fd, events))
        return found

    def _set(self, fd: int, mask: int) -> None:
        self._masks[fd] = mask
        wanted = mask & (select.POLLIN | select.POLLOUT)
        if wanted or not mask & ONESHOT:
            self._poll.register(fd, wanted)
        else:
            # Asked for nothing, poll would still tell of errors and hang-ups, without end.
            self._forget(fd)

    def _forget(self, fd: int) -> None:
        with contextlib.suppress(KeyError):  # told once before
            self._poll.unregister(fd)


class _AsLinux(Loader):
    """Loads one module while ``sys.platform`` says linux."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        for name in LOADED_FIRST:
            importlib.import_module(name)
        platform, lent = sys.platform, not hasattr(os, "pidfd_open")
        sys.platform = "linux"
        if lent:
            os.pidfd_open = _no_pidfd
        try:
            self._loader.exec_module(module)
        finally:
            sys.platform = platform
            if lent:
                del os.pidfd_open


def _no_pidfd(pid: int, flags: int = 0) -> int:
    del pid, flags
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


class _Finder(MetaPathFinder):
    """Finds trio, once."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del target
        if name != "trio":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _AsLinux(spec.loader)
        return spec


def stand_in() -> None:
    """Give ``select`` an epoll and let trio be imported; nothing where there is one already, or
    kqueue. Comes before trio does."""
    if hasattr(select, "epoll") or hasattr(select, "kqueue") or not hasattr(select, "poll"):
        return
    select.epoll = Epoll  # type: ignore[assignment, misc]
    select.EPOLLIN, select.EPOLLOUT = select.POLLIN, select.POLLOUT  # type: ignore[misc]
    select.EPOLLONESHOT = ONESHOT  # type: ignore[misc]
    sys.meta_path.insert(0, _Finder())
