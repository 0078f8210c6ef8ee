"""``python -m soaking``, which is what ``scripts/soak`` runs."""

from __future__ import annotations

import sys

from soaking.command import main

if __name__ == "__main__":
    sys.exit(main())
