"""For all tests: a run in the background is a run like any other, and no clock decides."""

from __future__ import annotations

import signal

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control starts its background jobs so, and they hand it down to the
    # programs that the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
