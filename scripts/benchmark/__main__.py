"""``python -m benchmark``, which is what ``scripts/bench`` runs."""

from __future__ import annotations

import sys

from benchmark.command import main

if __name__ == "__main__":
    sys.exit(main())
