"""``vectors [--check]``: write the vector files, or say whether they are current."""

from __future__ import annotations

import argparse
import sys

from vectorset import DIRECTORY, files


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="vectors", description="Write the protocol's test vectors from SPEC.md's rules."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a file is not current"
    )
    check = parser.parse_args().check
    wanted = files()
    present = {path.name for path in DIRECTORY.glob("*.json")}
    stale = sorted(present - wanted.keys())
    for name, text in wanted.items():
        path = DIRECTORY / name
        if name not in present or path.read_text(encoding="ascii") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="ascii")
    for name in stale:
        print(f"vectors: {name}: {'not current' if check else 'changed'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
