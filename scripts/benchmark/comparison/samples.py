"""A file that only grows: one JSON object a line, each sample as soon as there is one.

A benchmark that is broken off keeps what it has, and one that is told the same file goes on from
there.  What `--json` prints can be read back too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

from benchmark.comparison.job import Sample


class Unreadable(Exception):
    """A file holds something else; the message names it and the line."""


@attrs.define(eq=False)
class Samples:
    """What has been found so far, and about what."""

    found: list[Sample] = attrs.field(factory=list)
    about: dict[str, Any] = attrs.field(factory=lambda: {"systems": {}})
    """Of the machine, and the systems' versions and settings."""
    path: Path | None = None
    """The file that grows with it, if any."""

    @classmethod
    def kept(cls, path: Path) -> Samples:
        """What a file holds, if there is one; what is added goes there too."""
        samples = read([path]) if path.exists() else cls()
        samples.path = path
        return samples

    def add(self, sample: Sample) -> None:
        """One more; on disk when this returns."""
        self.found.append(sample)
        self._append({"sample": sample.as_object()})

    def describe(self, about: dict[str, Any]) -> None:
        """About this machine and the systems; what was known of other systems stays."""
        self.about = _joined(self.about, about)
        self._append({"about": about})

    def _append(self, line: dict[str, Any]) -> None:
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def read(paths: Iterable[Path]) -> Samples:
    """All that some files hold; a sample that is in two of them counts once, as in the last.

    `Unreadable` for a line that is none of ours; a last one without an end is what a sudden end
    leaves, and is passed over.  OSError if a file cannot be read.
    """
    samples = Samples()
    found: dict[Any, Sample] = {}
    for path in paths:
        for number, given in _objects(path):
            try:
                if "about" in given:
                    samples.about = _joined(samples.about, given["about"])
                for each in given.get("samples", [given["sample"]] if "sample" in given else []):
                    sample = Sample.from_object(each)
                    found[sample.case, sample.run] = sample
            except (AttributeError, KeyError, TypeError) as error:
                raise Unreadable(f"{path}:{number}: no sample of this benchmark: {error}") from None
    samples.found = list(found.values())
    return samples


def _objects(path: Path) -> Iterable[tuple[int, Any]]:
    text = path.read_text(encoding="utf-8")
    try:
        return [(1, json.loads(text))]  # what --json has printed, or one line
    except json.JSONDecodeError:
        pass
    lines: Sequence[str] = text.splitlines(keepends=True)
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append((number, json.loads(line)))
        except json.JSONDecodeError as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise Unreadable(f"{path}:{number}: no JSON: {error}") from None
    return found


def _joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    systems = {**old.get("systems", {}), **new.get("systems", {})}
    return {**old, **new, "systems": systems}
