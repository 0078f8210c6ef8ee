"""Where what broke a target is kept, and how it is read again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fuzzing.target import Session, Target, shortened
from meshd import records

FAILURES: Final = Path(".fuzz") / "failures"
"""Below the current directory, as the lab and the tests keep what they make."""

_FORMAT: Final = b"meshd fuzz 1"


def keep(directory: Path, session: Session) -> Path:
    """Write down the inputs that broke ``session``; the file."""
    journal = shortened(session.target, session.journal)
    content = records.dump([_FORMAT, session.target.name.encode(), *journal])
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{session.target.name}-{hashlib.sha256(content).hexdigest()[:12]}"
    path = directory / name
    path.write_bytes(content)
    return path


def load(path: Path) -> tuple[str, Sequence[bytes]]:
    """The target's name and its inputs; ``ValueError`` when ``path`` is no such file."""
    try:
        found = records.load(path.read_bytes())
    except (records.Damaged, OSError) as error:
        raise ValueError(f"{path}: {error}") from None
    if len(found) < 3 or found[0] != _FORMAT:
        raise ValueError(f"{path} holds no inputs that scripts/fuzz has kept")
    return found[1].decode(), found[2:]


def how_to_replay(path: Path) -> str:
    """The command."""
    return f"scripts/fuzz --replay {path}"


def told(target: Target, inputs: int, path: Path, error: BaseException) -> str:
    """What is said of one that broke."""
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"{target.name}: {said}, after {inputs:,} inputs; again: {how_to_replay(path)}"
