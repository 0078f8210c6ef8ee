"""The other end of the control socket, for the commands that only talk to it.

Blocking sockets and the standard library, nothing else: these commands start in tens of
milliseconds because neither trio nor cryptography is loaded here.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any, Final

from meshd.errors import INVALID_PARAMS, Refused, UsageError
from meshd.paths import Paths
from meshd.text import escape

CHECK_EVERY: Final = 0.5
"""Seconds between two looks at a condition when no event hastens it: a probe period."""
RETRY_EVERY: Final = 0.1
"""Seconds between two attempts to reach a daemon that is not there yet."""


END_TIMEOUT: Final = 2.0
"""Seconds a daemon that has left may take to end; it takes a few tenths."""


class NoDaemon(Refused):
    """Nobody answers on the control socket, or no longer."""


class Connection:
    """One connection to a daemon. A context manager."""

    def __init__(self, paths: Paths, timeout: float) -> None:
        """Connect; ``NoDaemon`` if nobody is there, ``UsageError`` if we may not.

        ``timeout``: seconds that the daemon may take for anything.
        """
        self._paths = paths
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        self._held = b""
        try:
            self._socket.connect(str(paths.socket))
        except OSError as error:
            self._socket.close()
            if isinstance(error, PermissionError):
                raise UsageError(
                    f"{paths.socket}: permission denied; run as root or as a member of its group"
                ) from None
            raise NoDaemon(self._absent()) from None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """The result of ``method``. ``UsageError`` and ``Refused`` as the daemon raised them."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except TimeoutError:
            raise self._silent() from None
        except OSError:
            pass  # It may have said why before it hung up.
        answer = self._message()
        error = answer.get("error")
        if not isinstance(error, dict):
            return answer.get("result")
        message = escape(error.get("message", "no reason given"))
        raise (UsageError if error.get("code") == INVALID_PARAMS else Refused)(message)

    @property
    def pid(self) -> int:
        """The daemon's process, by the kernel's word; 0 where that cannot be had."""
        try:
            credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        except (OSError, AttributeError):
            return 0
        return int(struct.unpack("iII", credentials)[0])

    def events(self) -> Iterator[dict[str, Any]]:
        """After ``call("watch")``: every event, until the daemon ends (``NoDaemon``)."""
        self._socket.settimeout(None)
        while True:
            message = self._message()
            if message.get("method") == "event" and isinstance(message.get("params"), dict):
                yield message["params"]

    def wait_for_event(self, seconds: float) -> None:
        """After ``call("watch")``: return at the next event, or after ``seconds``."""
        if not self._held and select.select([self._socket], [], [], seconds)[0]:
            self._receive()
        # What happened does not matter here, so many events count as one.
        self._held = b""

    def _message(self) -> dict[str, Any]:
        while b"\n" not in self._held:
            self._receive()
        line, _, self._held = self._held.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise Refused(f"what answers on {self._paths.socket} is no meshd")
        return message

    def _receive(self) -> None:
        try:
            data = self._socket.recv(1 << 20)
        except TimeoutError:
            raise self._silent() from None
        except OSError:
            data = b""
        if not data:
            raise NoDaemon("the daemon ended, or closed the connection; see its log")
        self._held += data

    def _absent(self) -> str:
        where = self._paths.socket
        return f"no daemon answers on {where}; start it: meshd{self._paths.option} run"

    def _silent(self) -> Refused:
        timeout = self._socket.gettimeout() or 0
        return Refused(f"the daemon on {self._paths.socket} did not answer in {timeout:g} s")


@contextlib.contextmanager
def until_it_ends(paths: Paths) -> Iterator[None]:
    """Ask the daemon to end in the block; behind it the daemon has given everything back."""
    handle = -1
    gone = contextlib.suppress(OSError, AttributeError)  # already, or this is not Linux
    with Connection(paths, END_TIMEOUT) as connection, gone:
        handle = os.pidfd_open(connection.pid)
    try:
        yield
        if handle >= 0:
            select.select([handle], [], [], END_TIMEOUT)
    finally:
        if handle >= 0:
            os.close(handle)


def call(
    paths: Paths, method: str, params: dict[str, Any] | None = None, timeout: float = 10.0
) -> Any:
    """One call on a connection of its own."""
    with Connection(paths, timeout) as connection:
        return connection.call(method, params)


def wait(
    paths: Paths, peers: int | None, prefixes: list[str], converged: bool, timeout: float
) -> None:
    """Return when all conditions hold; ``Refused`` says which did not in ``timeout`` seconds.

    ``peers``: this many alive besides this node, at least.  ``prefixes``, in canonical form:
    each is installed in the kernel, or this node's own.  A daemon that is not there yet, or
    goes and comes back, is waited for too.
    """
    deadline = time.monotonic() + timeout
    missing = "no answer from the daemon"
    while True:
        left = deadline - time.monotonic()
        try:
            with Connection(paths, max(left, 0.1)) as events:
                events.call("watch")
                with Connection(paths, max(left, 0.1)) as questions:
                    while missing := _missing(questions, peers, prefixes, converged):
                        left = deadline - time.monotonic()
                        if left <= 0:
                            break
                        events.wait_for_event(min(CHECK_EVERY, left))
                    else:
                        return
        except NoDaemon as absent:
            missing = str(absent)
        left = deadline - time.monotonic()
        if left <= 0:
            raise Refused(f"not within {timeout:g} s: {missing}")
        time.sleep(min(RETRY_EVERY, left))


def _missing(questions: Connection, peers: int | None, prefixes: list[str], converged: bool) -> str:
    """What does not hold yet, in words, or nothing."""
    status = questions.call("status")
    found = []
    if peers is not None and status["peers"]["alive"] < peers:
        found.append(f"{status['peers']['alive']} of {peers} peers alive")
    if converged and not status["converged"]:
        found.append("not converged")
    if prefixes:
        installed = set(status["prefixes"]["local"])
        for route in questions.call("routes"):
            if route["state"] == "installed":
                installed.add(route["prefix"])
        found += [f"{prefix} not installed" for prefix in prefixes if prefix not in installed]
    return ", ".join(found)
