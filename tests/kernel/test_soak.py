"""A minute of `scripts/soak`, and that it would see what it looks for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from netlab.lab import labs
from soaking.rounds import Outcome, Settings, soak

pytestmark = pytest.mark.soak

SECONDS = 60.0


def soaked(directory: Path, settings: Settings) -> Outcome:
    """How it went; it is told on standard error, which pytest shows of a failure."""

    def say(what: str) -> None:
        print(what, file=sys.stderr)

    outcome = soak(settings, directory, say)
    assert f"soak{os.getpid()}" not in labs()
    return outcome


def test_a_minute_of_faults_breaks_no_rule(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    outcome = soaked(tmp_path, Settings(zones=8, seconds=SECONDS, seed=seed, rate=300))
    assert outcome.broken == [], f"scripts/soak --zones 8 --seed {seed}"
    assert outcome.seconds >= SECONDS
    assert sum(outcome.faults.values()) >= 20
    assert outcome.answered > 0.5 * outcome.sent > 0
    assert (outcome.leaked, outcome.translated) == (0, 0)


@pytest.mark.parametrize("what", ["guard", "nat", "route"])
def test_what_is_taken_away_for_good_ends_it(tmp_path: Path, what: str) -> None:
    outcome = soaked(
        tmp_path,
        Settings(zones=6, seconds=30, seed=3, rate=500, patience=6, breaks=what),
    )
    text = "\n".join(outcome.broken)
    assert outcome.rounds == 1
    assert ("leaked to the default gateway" in text) == (what == "guard") == bool(outcome.leaked)
    assert (": 10.2.0.2 > " in text) == (what == "nat") == bool(outcome.translated)
    assert "r2: " in text
    assert (tmp_path / "history").read_text().count("--break") == 1
