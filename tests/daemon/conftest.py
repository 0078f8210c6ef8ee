"""The command line and what answers it, each in a directory of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from shells import Daemon, Shell


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


@pytest.fixture
def meshd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)
