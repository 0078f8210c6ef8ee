"""``python -m simulation``, which is what ``scripts/simulate`` runs."""

from __future__ import annotations

import sys

from simulation.command import main

if __name__ == "__main__":
    sys.exit(main())
