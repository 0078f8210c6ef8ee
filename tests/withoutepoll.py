"""Runs Python as illumos would have it: without epoll.

    python tests/withoutepoll.py -m pytest tests/daemon
    python tests/withoutepoll.py --sunos meshd run
    python tests/withoutepoll.py --sunos -c 'print(1)'

What is missing there is taken away before anything else is imported. Then meshd is imported, as
its console script does, and trio, while ``sys.platform`` says sunos5. With --sunos what else is
Linux's goes too (error queues, credentials of the peer, netlink), and the name stays.
"""

from __future__ import annotations

import importlib
import os
import runpy
import select
import socket
import sys
from types import ModuleType


def take_away(module: ModuleType, *names: str) -> None:
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
        if name in getattr(module, "__all__", ()):
            module.__all__.remove(name)


def main(argv: list[str]) -> int:
    platform, pidfd_open = sys.platform, os.pidfd_open
    take_away(select, "epoll", *(name for name in dir(select) if name.startswith("EPOLL")))
    take_away(os, "pidfd_open")
    whole = argv[0] == "--sunos"
    if whole:
        take_away(socket, "SO_PEERCRED", "MSG_ERRQUEUE", "AF_NETLINK")
    sys.platform = "sunos5"
    importlib.import_module("meshd")
    importlib.import_module("trio")
    assert sys.platform == "sunos5"
    if not whole:
        sys.platform, os.pidfd_open = platform, pidfd_open
    kind, name, *rest = argv[whole:]
    sys.argv = [name, *rest]
    if kind == "meshd":
        from meshd.cli import main as command  # noqa: PLC0415

        return command([name, *rest])
    if kind == "-c":
        exec(compile(name, "-c", "exec"), {"__name__": "__main__"})
        return 0
    runpy.run_module(name, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
