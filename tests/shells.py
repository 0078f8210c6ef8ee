"""A control socket with a daemon's answers, and the command line in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from meshd import cli, control
from meshd.log import EventLog

Json = dict[str, Any]

STATUS: Json = {
    "mesh": "c0ffee00",
    "node": {"id": "1a2b", "name": "a", "sequence": 7, "endpoints": ["192.0.2.1:6179"]},
    "root": "9c1f2ab0",
    "converged": True,
    "agreed": True,
    "peers": {"alive": 2, "suspect": 0, "failed": 1, "left": 0},
    "prefixes": {"local": ["10.1.0.0/24"], "remote": 2},
    "kernel": {"backend": "linux", "in_sync": True, "error": None},
    "pid": 42,
    "uptime_s": 200.5,
}
PEERS = [
    {
        "id": "5e6f70" * 10,
        "name": "b",
        "state": "alive",
        "endpoint": "192.0.2.2:6179",
        "prefixes": ["10.2.0.0/24", "fd00:2::/64"],
        "sequence": 8,
        "rtt_ms": 0.4,
        "since_s": 61,
        "agrees": True,
    }
]
GRANTS = [
    {
        "id": "1a2b3c4d" * 8,
        "name": "b",
        "state": "member",
        "allow": ["10.2.0.0/16"],
        "at": [],
        "limit": None,
        "until": 1_800_000_000,
        "ends_in_days": 12,
        "token_until": None,
        "generation": 0,
        "serial": 7,
        "since": 7,
    }
]
ROUTES: list[Json] = [
    {
        "prefix": "10.2.0.0/24",
        "node": "b",
        "next_hop": "192.0.2.2",
        "device": "net0",
        "state": "installed",
        "reason": "",
    },
    {
        "prefix": "10.3.0.0/24",
        "node": "c",
        "next_hop": None,
        "device": None,
        "state": "refused",
        "reason": "evil\x1b[31m",
    },
]


EXPLANATION: Json = {
    "about": "prefix",
    "prefix": "10.2.0.0/24",
    "local": [],
    "routes": [
        {
            **ROUTES[0],
            "id": "5e6f70" * 10,
            "relation": "exact",
            "rule": "",
            "member": {"state": "alive", "since_s": 61, "reason": ""},
            "grant": {"name": "b", "serial": 7, "allow": ["10.2.0.0/16"]},
            "conflicts": [],
        }
    ],
    "kernel": [],
}


@attrs.define(eq=False)
class Daemon:
    """A control socket with a daemon's answers, in a thread of its own."""

    dir: Path
    asked: list[tuple[str, Json]] = attrs.field(factory=list)
    answers: dict[str, object] = attrs.field(
        factory=lambda: {
            "status": STATUS,
            "peers": PEERS,
            "routes": ROUTES,
            "announce": {"local": ["10.1.0.0/24", "10.7.0.0/24"]},
            "withdraw": {"local": []},
            "reload": {"changed": ["announce"]},
            "leave": {},
            "explain": EXPLANATION,
            "plan": {
                "steps": ["ip route add 10.2.0.0/24"],
                "in_sync": False,
                "changes": [{"step": "ip route add 10.2.0.0/24", "why": "b announces it"}],
                "notes": [],
            },
            "grants": GRANTS,
            "deliver": {"outcomes": ["new"]},
        }
    )
    """What each method returns, or the exception it raises."""
    log: EventLog = attrs.field(factory=EventLog)
    token: trio.lowlevel.TrioToken | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    @contextmanager
    def running(self) -> Iterator[None]:
        ready = threading.Event()
        thread = threading.Thread(target=trio.run, args=(self._serve, ready))
        thread.start()
        assert ready.wait(10)
        try:
            yield
        finally:
            self.soon(self.scope.cancel)
            thread.join()

    def soon(self, action: Callable[[], object]) -> None:
        assert self.token is not None
        with suppress(trio.RunFinishedError):  # A test may have ended it already.
            self.token.run_sync_soon(action)

    async def _serve(self, ready: threading.Event) -> None:
        self.token = trio.lowlevel.current_trio_token()
        with self.scope:
            async with trio.open_nursery() as nursery:
                methods = {name: self._method(name) for name in self.answers}
                path = self.dir / "control.sock"
                await nursery.start(control.serve, path, methods, self.log.subscribe)
                ready.set()

    def _method(self, name: str) -> control.Method:
        async def method(params: Json) -> object:
            self.asked.append((name, params))
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return method


@attrs.define
class Shell:
    """``main`` in this process, with what it printed."""

    dir: Path
    capture: pytest.CaptureFixture[str]

    def __call__(self, *argv: str) -> tuple[int, str, str]:
        code = cli.main(["--dir", str(self.dir), *argv])
        out, err = self.capture.readouterr()
        return code, out, err
