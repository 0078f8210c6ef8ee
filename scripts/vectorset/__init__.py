"""The test vectors of the protocol, made from SPEC.md and not from the package.

Nothing here imports ``protocol``: this is SPEC.md written down a second time, as plainly
as possible, so that a vector which the package passes says something about both.
Everything comes from fixed seeds; the same bytes come out on every machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vectorset import addresses, bodies, datagrams, keys, messages, objects, shards, trees

DIRECTORY = Path(__file__).parents[2] / "protocol" / "vectors"

_MAKERS = {
    "addresses.json": addresses.make,
    "codec.json": bodies.make,
    "frames.json": datagrams.make_frames,
    "keys.json": keys.make,
    "messages.json": messages.make,
    "objects.json": objects.make,
    "session.json": datagrams.make_session,
    "shards.json": shards.make,
    "store.json": trees.make_store,
    "tree.json": trees.make_tree,
}


def files() -> dict[str, str]:
    """The text of every vector file, by its name."""
    return {name: _text(maker()) for name, maker in _MAKERS.items()}


def _text(content: dict[str, Any]) -> str:
    """JSON with one case a line, so that a difference shows which case changed."""
    sections = []
    for key, value in content.items():
        if isinstance(value, list):
            rows = ",\n".join("    " + json.dumps(each, ensure_ascii=True) for each in value)
            sections.append(f"  {json.dumps(key)}: [\n{rows}\n  ]")
        else:
            sections.append(f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=True)}")
    return "{\n" + ",\n".join(sections) + "\n}\n"
