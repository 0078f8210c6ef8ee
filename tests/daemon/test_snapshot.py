"""What a node knows goes through its snapshot to its next life: objects, and their shards."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from random import Random

from meshd.daemon import _remembered, _split
from meshd.state import StateDirectory
from protocol.address import endpoint
from protocol.identity import Identity, Mesh
from protocol.node import Node
from protocol.objects import Grant, Record

RNG = Random(1)
MAKER, NEXT, ME = (Identity.generate(RNG.randbytes) for _ in range(3))
MESH = Mesh.founded_by(MAKER.public, NEXT.public)
POOL = [ipaddress.ip_network("10.0.0.0/8")]
GRANT = Grant.sign(MAKER, MESH, node=ME.public, name="me", serial=1, allow=POOL)


def node(records: Iterable[Record], shards: Iterable[bytes]) -> Node:
    return Node(
        MESH, ME, records, shards=shards, next_sequence=lambda above: above + 1, rng=Random(2),
        now=0.0,
    )  # fmt: skip


def test_shards_survive_in_the_snapshot(tmp_path: Path) -> None:
    nets = [ipaddress.ip_network(f"10.1.{number}.0/24") for number in range(250)]
    first = node([GRANT], ())
    first.announce(0.0, prefixes=nets, endpoints=[endpoint("192.0.2.1", 6179)])
    state = StateDirectory(tmp_path)
    state.write_snapshot(_remembered(first))
    records, shards = _split(state.read_snapshot())
    again = node(records, shards)
    assert again.prefixes == first.prefixes == tuple(nets)
    assert list(again.shards) == list(first.shards)


def test_what_cannot_be_read_in_a_snapshot_is_left_out() -> None:
    records, shards = _split([b"garbage", b"\0", b"\0garbage", b"", GRANT.raw, b"\x06"])
    assert records == [GRANT]
    assert list(node(records, shards).shards) == []
