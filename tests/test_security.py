"""docs/security.md names a test for each line of defence: every one of them exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(test_\w+)`", TEXT)))


@cache
def defined_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


@pytest.mark.parametrize(("path", "test"), NAMED, ids=lambda name: name)
def test_a_test_that_is_named_exists(path: str, test: str) -> None:
    assert test in defined_in(path)


def test_every_row_of_what_must_be_survived_says_by_which_test() -> None:
    table = TEXT.partition("## What must be survived")[2]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ][2:]
    lines = [row for row in rows if not row[1].startswith("**")]
    assert len(lines) > 50
    for kind, what, outcome, shown in lines:
        assert kind in {"F", "R", "S", "U"}, what
        assert outcome, what
        assert re.fullmatch(r"(`[\w/]+\.py::test_\w+` ?)+", shown), what


def test_nothing_that_looks_like_a_test_is_named_in_another_way() -> None:
    assert len(re.findall(r"\btest_\w+", TEXT)) == 2 * len(re.findall(r"\.py::test_\w+", TEXT))
