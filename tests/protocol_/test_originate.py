"""What is to be announced stands in the announcement, or in shards, or is refused whole."""

from __future__ import annotations

from random import Random

import pytest

from protocol.address import Endpoint, Prefix
from protocol.identity import Identity, Mesh
from protocol.node import Node
from protocol.objects import Grant
from protocol.shards import Shard, cut, shard_hash

RNG = Random(1)
MAKER, NEXT, ME = (Identity.generate(RNG.randbytes) for _ in range(3))
MESH = Mesh.founded_by(MAKER.public, NEXT.public)
WHERE = [Endpoint("192.0.2.1", 6179)]


def nets(count: int) -> list[Prefix]:
    return [Prefix.parse(f"10.{n >> 8}.{n & 255}.0/24") for n in range(count)]


def fresh() -> Node:
    """A node that has announced nothing yet, whose sequences are unix milliseconds."""
    pool = [Prefix.parse("10.0.0.0/8")]
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
def test_what_does_not_fit_the_announcement_is_cut_into_shards(count: int) -> None:
    node = fresh()
    node.announce(0.0, prefixes=nets(count), endpoints=WHERE)
    own = node.announcement
    assert own is not None
    if own.shards:
        assert count > 135
        assert own.prefixes == ()
        assert [shard_hash(raw) for raw in node.shards] == list(own.shards)
    else:
        assert count <= 145
        assert own.prefixes == tuple(nets(count))
    assert node.prefixes == tuple(nets(count))


def test_what_fits_again_stands_in_the_announcement_again() -> None:
    node = fresh()
    node.announce(0.0, prefixes=nets(1000), endpoints=WHERE)
    assert node.announcement is not None
    assert len(node.shards) == len(node.announcement.shards) > 0
    node.announce(1.0, prefixes=nets(10))
    assert node.announcement.prefixes == tuple(nets(10))
    assert node.announcement.shards == ()
    assert len(node.shards) == 0


def test_who_leaves_announces_neither_prefixes_nor_shards() -> None:
    node = fresh()
    node.announce(0.0, prefixes=nets(1000), endpoints=WHERE)
    node.leave(1.0)
    assert node.announcement is not None
    assert (node.announcement.prefixes, node.announcement.shards) == ((), ())
    assert node.prefixes == ()


def test_too_many_are_refused_with_the_number_that_fits_and_nothing_has_changed() -> None:
    node = fresh()
    for most in (0, 10, 1000):
        if most:
            node.announce(0.0, prefixes=nets(most), endpoints=WHERE)
        before, held = node.announcement, list(node.shards)
        with pytest.raises(ValueError, match=r"1001 prefixes are more.*first 1000 would fit"):
            node.announce(1.0, prefixes=nets(1001))
        assert node.announcement is before
        assert list(node.shards) == held


def test_a_default_route_is_refused_in_shards_too() -> None:
    node = fresh()
    with pytest.raises(ValueError, match="default route announced"):
        node.announce(0.0, prefixes=[Prefix.parse("0.0.0.0/0"), *nets(500)])
    assert node.announcement is None


def test_the_tunnels_port_is_announced_and_stays_when_something_else_changes() -> None:
    node = fresh()
    node.announce(0.0, prefixes=nets(1), endpoints=WHERE, tunnel=6180)
    node.announce(1.0, prefixes=nets(2))
    assert node.announcement is not None
    assert node.announcement.tunnel == 6180
    node.announce(2.0, tunnel=0)
    assert node.announcement.tunnel == 0


def test_a_set_is_cut_once_for_an_announcement_and_not_at_all_where_it_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuts: list[int] = []

    def counting(prefixes: tuple[Prefix, ...]) -> tuple[Shard, ...]:
        cuts.append(len(prefixes))
        return cut(prefixes)

    monkeypatch.setattr("protocol.originate.cut", counting)
    node = fresh()
    node.announce(0.0, prefixes=nets(1000), endpoints=WHERE)
    node.announce(1.0, prefixes=nets(1000))  # says so already
    node.announce(2.0, prefixes=nets(100))
    assert cuts == [1000, 1000]
