"""Property tests here: the same examples every time, and no clock that makes them fail."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("protocol", max_examples=80, derandomize=True, deadline=None)
settings.load_profile("protocol")
