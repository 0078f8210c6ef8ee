"""The command line and what answers it, each in a directory of its own; virtual time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from shells import Daemon, Shell


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


@pytest.fixture
def meshd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


@pytest.fixture
def virtual(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> trio.testing.MockClock:
    """Time is the test's alone: a thread would let it jump while it reads."""

    async def inline(call: Callable[..., Any], *given: object) -> Any:
        await trio.lowlevel.checkpoint()
        return call(*given)

    monkeypatch.setattr(trio.to_thread, "run_sync", inline)
    return autojump_clock
