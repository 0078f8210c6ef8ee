"""For all tests: a run in the background is a run like any other."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control starts its background jobs so, and they hand it down to the
    # programs that the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
