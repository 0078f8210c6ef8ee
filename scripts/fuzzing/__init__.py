"""Hostile input by the million: what may not raise does not, whatever is put in.

A ``Target`` takes octets and raises only when a rule is broken; what it refuses, it refuses in
the documented way and says nothing.  ``scripts/test`` drives all of them for a moment with
hypothesis, ``scripts/fuzz`` for as long as it is told, with mutations of genuine input or
guided by coverage.  ``world`` is a node in the middle of everything, ``targets`` names them all.
"""

from fuzzing.target import Broken, Target
from fuzzing.targets import TARGETS

__all__ = ["TARGETS", "Broken", "Target"]
