"""``meshd doctor``: looks, judges, prints; 0 when nothing would break the mesh, 1 when something
would."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Iterable
from typing import Final

from meshd import text
from meshd.doctor.checks import examine
from meshd.doctor.finding import Finding
from meshd.doctor.gather import gather
from meshd.errors import UsageError
from meshd.paths import Paths

SOUND, BROKEN = 0, 1

_LABEL: Final = 10
"""Columns: `unchecked` and a blank."""


def run(options: argparse.Namespace, paths: Paths) -> int:
    """All checks; ``--json`` prints a list of findings. ``UsageError`` elsewhere than on Linux."""
    if not hasattr(socket, "AF_NETLINK"):
        raise UsageError(
            "doctor looks at Linux; here `meshd status` and the log name what is missing, and"
            " docs/illumos.md has the rest"
        )
    findings = examine(gather(paths))
    if options.json:
        print(text.to_json([finding.as_json() for finding in findings]))
    else:
        print(layout(findings))
    return BROKEN if any(finding.level == "error" for finding in findings) else SOUND


def layout(findings: Iterable[Finding]) -> str:
    """A paragraph for each finding that wants something done, a line for each other one."""
    found = list(findings)
    names = max((len(each.check) for each in found), default=0)
    blocks: list[str] = []
    for each in found:
        head = f"{each.level:<{_LABEL}} {each.check:<{names}}  {text.escape(each.finding)}"
        told = [head]
        if each.level in ("error", "warning"):
            indent = " " * (_LABEL + 1)
            told.append(f"{indent}why: {text.escape(each.why)}")
            told += [f"{indent}  {text.escape(line)}" for line in each.fix.splitlines()]
            told.append("")
        blocks.append("\n".join(told))
    return "\n".join(blocks).rstrip("\n")
