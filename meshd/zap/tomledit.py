"""Options set in a TOML text that a person has written: nothing else of it changes. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping


def put(text: str, options: Mapping[str, str], table: str = "") -> str:
    """``text`` with these options, each to its value as TOML, in ``table`` or above all tables."""
    lines = text.splitlines(keepends=True)
    begin, end = _section(lines, table)
    if begin is None:
        lines = _with_newline(lines)
        lines += ["\n"] if lines else []
        lines += [f"[{table}]\n"]
        begin = end = len(lines)
    for key, value in options.items():
        first, last = _assignment(lines[begin:end], key)
        fresh = [f"{key} = {value}\n"]
        if first is None:
            at = end
            while at > begin and not lines[at - 1].strip():
                at -= 1  # ahead of the empty lines that part it from what follows
            lines[:at] = _with_newline(lines[:at])
            lines[at:at] = fresh
            end += 1
        else:
            lines[begin + first : begin + last] = fresh
            end += 1 - (last - first)
    return "".join(lines)


def _with_newline(lines: list[str]) -> list[str]:
    if lines and not lines[-1].endswith("\n"):
        return [*lines[:-1], f"{lines[-1]}\n"]
    return lines


def _section(lines: list[str], table: str) -> tuple[int | None, int]:
    """Where its lines begin and end; None: there is no such table."""
    heads = [at for at, line in enumerate(lines) if re.match(r"\s*\[", line) and _is_head(line)]
    if not table:
        return 0, heads[0] if heads else len(lines)
    for number, at in enumerate(heads):
        if re.match(rf"\s*\[\s*{re.escape(table)}\s*\]", lines[at]):
            following = heads[number + 1 :]
            return at + 1, following[0] if following else len(lines)
    return None, len(lines)


def _is_head(line: str) -> bool:
    """And not a line of an array over several lines."""
    try:
        tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _assignment(lines: list[str], key: str) -> tuple[int | None, int]:
    for first, line in enumerate(lines):
        if re.match(rf"\s*{re.escape(key)}\s*=", line):
            for last in range(first + 1, len(lines) + 1):
                try:
                    tomllib.loads("".join(lines[first:last]))
                except tomllib.TOMLDecodeError:
                    continue
                return first, last
    return None, 0
