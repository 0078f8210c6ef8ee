"""An announcement that would not fit is refused before anything of ours has changed."""

from __future__ import annotations

import ipaddress
from random import Random

import pytest

from protocol.address import Endpoint, Prefix
from protocol.identity import Identity, Mesh
from protocol.node import Node
from protocol.objects import Grant

RNG = Random(1)
MAKER, NEXT, ME = (Identity.generate(RNG.randbytes) for _ in range(3))
MESH = Mesh.founded_by(MAKER.public, NEXT.public)
WHERE = [Endpoint("192.0.2.1", 6179)]


def nets(count: int) -> list[Prefix]:
    return [ipaddress.ip_network(f"10.{n >> 8}.{n & 255}.0/24") for n in range(count)]


def fresh() -> Node:
    """A node that has announced nothing yet, whose sequences are unix milliseconds."""
    pool = [ipaddress.ip_network("10.0.0.0/8")]
    grant = Grant.sign(MAKER, MESH, node=ME.public, name="me", serial=1, allow=pool)
    return Node(
        MESH,
        ME,
        [grant],
        next_sequence=lambda above: max(above + 1, 1_700_000_000_000),
        rng=Random(2),
        now=0.0,
    )


@pytest.mark.parametrize("count", range(125, 150))
def test_the_first_announcement_fits_or_is_refused_with_the_number_that_does(count: int) -> None:
    node = fresh()
    try:
        node.announce(0.0, prefixes=nets(count), endpoints=WHERE)
    except ValueError as error:
        most = int(str(error).split()[-2])
        assert most < count
        assert node.announcement is None
        node.announce(0.0, prefixes=nets(most), endpoints=WHERE)
        count = most
    assert node.announcement is not None
    assert len(node.announcement.prefixes) == count
    with pytest.raises(ValueError, match="do not fit one announcement"):
        node.announce(1.0, prefixes=nets(200))
    assert len(node.announcement.prefixes) == count
