"""The control socket's server, with the methods of a real daemon behind it.

Each input is what one client says, from its first octet to its end.  The clock jumps to the
next thing that is due, so a client that is too slow costs the fuzzer nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final, cast

import trio
import trio.testing

from fuzzing.target import Broken, Feed, Target
from meshd import control, founding, values
from meshd.daemon import Daemon
from meshd.errors import INVALID_PARAMS, REFUSED
from meshd.founding import World
from meshd.kernel.memory import Memory
from meshd.log import EventLog
from meshd.paths import Paths
from meshd.startup import Additions, prepare
from meshd.udp import Sockets

_CODES: Final = (
    control.PARSE_ERROR, control.INVALID_REQUEST, control.METHOD_NOT_FOUND, INVALID_PARAMS, REFUSED
)  # fmt: skip
_NOW: Final = 1_800_000_000.0


class _NoSockets:
    counters: Final[dict[str, int]] = {}


@contextmanager
def _opened() -> Iterator[Feed]:
    with tempfile.TemporaryDirectory() as name:
        paths = Paths.under(Path(name) / "node")
        world = World(lambda: _NOW, Random(4).randbytes)
        founding.init(
            paths, world, name="fuzz", announce=[values.prefix("10.1.0.0/24")],
            advertise=(values.advertised("192.0.2.1"),),
        )  # fmt: skip
        options = prepare(paths, Additions(), "text", lambda: _NOW)
        try:
            yield _Server(options).feed
        finally:
            options.lock.release()


class _Server:
    def __init__(self, options: Any) -> None:
        self._options = options
        self._daemon: Daemon | None = None
        self._clock = 0.0

    def feed(self, data: bytes) -> None:
        """One client's whole life."""
        clock = trio.testing.MockClock(autojump_threshold=0)
        clock.jump(self._clock)  # where the client before it left off: time does not go back
        trio.run(self._serve, data, clock=clock)

    async def _serve(self, data: bytes) -> None:
        if self._daemon is None:
            log = EventLog()
            self._daemon = Daemon(self._options, log, Memory(), cast("Sockets", _NoSockets()))
            self._daemon._announcer.start()
        daemon = self._daemon
        daemon._node.datagrams_to_send()
        daemon._node.events()
        server = control._Server(daemon._methods(), daemon._log.subscribe, os.getegid())
        ours, theirs = trio.socket.socketpair()
        answer = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.talk, trio.SocketStream(theirs))
            async with trio.SocketStream(ours) as stream:
                with contextlib.suppress(trio.BrokenResourceError):  # it hung up on us
                    await stream.send_all(data)
                ours.shutdown(socket.SHUT_WR)
                with contextlib.suppress(trio.BrokenResourceError):
                    while piece := await stream.receive_some(65536):
                        answer += piece
        self._clock = trio.current_time()
        if server.clients:
            raise Broken("a client that is gone is counted")
        for line in answer.splitlines():
            _check(json.loads(line))


def _check(answer: Any) -> None:
    if answer.get("jsonrpc") != "2.0" or ("result" in answer) == ("error" in answer):
        raise Broken(f"no answer of JSON-RPC: {answer}")
    error = answer.get("error")
    if error is not None and (error["code"] not in _CODES or not error["message"].isprintable()):
        raise Broken(f"no error of ours: {answer}")


def _seeds() -> list[bytes]:
    params: list[Any] = [
        {}, {"prefixes": []}, {"prefixes": ["10.2.0.0/24"]}, {"prefixes": "10.2.0.0/24"}, [], None,
        {"prefixes": ["10.2.0.1/24", "::/0", "0.0.0.0/0"]}, {"prefixes": [1, None, {}, ["x"]]},
        {"prefixes": [f"10.3.{each}.0/24" for each in range(40)]}, {"prefixes": ["\x1b[2J\u202e"]},
    ]  # fmt: skip
    methods = (
        "status", "peers", "routes", "plan", "announce", "withdraw", "reload", "leave", "watch", "x"
    )  # fmt: skip
    found = [
        json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": given}).encode()
        for number, method in enumerate(methods)
        for given in params
    ]
    found += [b"GET / HTTP/1.1\r\n", b"[" * 3000, b'{"jsonrpc": "2.0"}', b"", b"\n\n", b"9" * 5000]
    return [each + b"\n" for each in found] + [found[0] + b"\n" + found[1] + b"\n", found[3]]


TARGETS: Final = (
    Target(
        "control", "what a client of the control socket says, to a whole daemon", _opened, _seeds
    ),
)
