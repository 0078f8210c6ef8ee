"""``python -m benchmark``, which is what ``scripts/bench`` runs."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    try:
        from benchmark.command import main
    except KeyboardInterrupt:
        sys.exit(130)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # before `main` takes it, and after
    sys.exit(main())
