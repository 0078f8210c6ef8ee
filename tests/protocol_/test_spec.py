"""SPEC.md says what the code does: its tables of timers, bounds, objects and messages."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import attrs
import pytest

import protocol
from protocol import messages, tuning
from protocol.objects import Accusation, Announcement, Grant, Revocation, Successor
from protocol.tuning import Tuning

assert protocol.__file__ is not None
TEXT = (Path(protocol.__file__).parent / "SPEC.md").read_text(encoding="utf-8")


def table(first: str) -> list[list[str]]:
    """The rows of the table whose head begins with the column ``first``."""
    _, _, rest = TEXT.partition(f"\n| {first} |")
    lines = rest.split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(("column", "preset"), [(1, Tuning.lan()), (2, Tuning.wan())])
def test_every_timer_stands_in_the_table_with_its_value(column: int, preset: Tuning) -> None:
    stated = {row[0]: float(row[column]) for row in table("timer")}
    assert stated == attrs.asdict(preset)
    assert all(row[3] for row in table("timer")), "a timer without a source"


def test_every_bound_stands_in_the_table_with_its_value() -> None:
    stated = {row[0]: int(row[1]) for row in table("bound")}
    for name, value in stated.items():
        module, _, constant = name.partition(".")
        assert getattr(importlib.import_module(f"protocol.{module}"), constant) == value, name
    constants = {f"tuning.{name}" for name in vars(tuning) if name.isupper()}
    assert constants <= stated.keys()
    assert all(row[2] for row in table("bound")), "a bound without a source"


def test_every_kind_of_object_stands_in_the_table_with_its_limit() -> None:
    stated = [(int(row[0]), row[1], int(row[3])) for row in table("kind")]
    kinds = (Grant, Revocation, Announcement, Successor, Accusation)
    assert stated == [(kind.KIND, kind.DOMAIN, kind.LIMIT) for kind in kinds]


def test_every_message_stands_in_the_table_with_its_type() -> None:
    stated = {int(row[0]): row[1] for row in table("type")}
    names = {kind: found.__name__.upper() for kind, found in messages._TYPES.items()}
    assert stated == names | {messages.AskEvidence.TYPE: "EVIDENCE"}


def test_every_vector_file_is_named_and_exists() -> None:
    named = set(re.findall(r"`(\w+\.json)`", TEXT))
    assert protocol.__file__ is not None
    present = {path.name for path in (Path(protocol.__file__).parent / "vectors").glob("*.json")}
    assert named == present


def test_every_domain_string_stands_in_the_text() -> None:
    for domain in ("mesh", "boot", "members", "seal", "shard", "slot", "vni", "mac"):
        assert f'"meshd/1 {domain}\\0"' in TEXT
