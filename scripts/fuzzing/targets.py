"""All targets by name."""

from __future__ import annotations

from typing import Final

from fuzzing import automaton, control, parsers
from fuzzing.target import Target

TARGETS: Final[dict[str, Target]] = {
    target.name: target for module in (automaton, parsers, control) for target in module.TARGETS
}
