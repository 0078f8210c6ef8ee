"""What the tests of the illumos backend share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from zonehost import FORMS, Host


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What dies here is a process and never the machine."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(params=FORMS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    return Host(tmp_path, request.param)
