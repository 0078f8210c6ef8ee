"""A node whose membership has ended starts, says so, and comes back when it is granted again;
and what its daemon takes from the authority's hand."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio
from hosts import A, Hosts, start

from meshd import membership
from meshd.daemon import Daemon
from meshd.errors import UsageError
from meshd.kernel.memory import Memory
from meshd.log import EventLog
from meshd.params import slot_from, words
from meshd.state import NEXT_AUTHORITY_KEY, StateDirectory, read_key
from meshd.udp import Sockets
from protocol.identity import Authority, Identity, Mesh
from protocol.objects import Grant, Revocation, Successor


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    found = Hosts.under(tmp_path)
    found.init()
    return found


def made(hosts: Hosts) -> Daemon:
    """What ``meshd run`` makes before it opens a socket, and its first announcement."""
    options = start(hosts.a, hosts.clock)

    async def make() -> Daemon:
        log = EventLog(io.StringIO(), "json")
        daemon = Daemon(options, log, Memory(), cast(Sockets, None))
        daemon._announcer.start()
        return daemon

    return trio.run(make)


def test_a_node_that_was_revoked_starts_and_says_so(hosts: Hosts) -> None:
    mesh, me = hosts.book().mesh, start(hosts.a, hosts.clock).identity
    word = Revocation.sign(hosts.authority(), mesh, node=me.public)
    for objects in ([word.raw], [hosts.announced(me), word.raw], [word.raw, b"garbage"]):
        hosts.snapshot(*objects)
        node = made(hosts)._node
        assert (node.grant, node.announcement, node.prefixes) == (None, None, ())
        said = membership.why_ended(node, me.public)
        assert said == "the authority has revoked this node's key"


@attrs.define
class Handover:
    """A succession that has left host ``a`` out."""

    new: Identity
    mesh: Mesh
    successor: Successor
    theirs: Grant

    @classmethod
    def of(cls, hosts: Hosts) -> Handover:
        by = read_key(hosts.a.state / NEXT_AUTHORITY_KEY)
        new, other = (Identity.generate(hosts.world.random_bytes) for _ in range(2))
        authority = Authority(1, new.public, bytes(32))
        mesh = hosts.book().mesh.succeeded_by(authority)
        successor = Successor.sign(by, mesh, made=authority, serial=9, members=[other.public])
        theirs = Grant.sign(
            new, mesh, node=other.public, name="o", serial=9, generation=1, allow=[A]
        )
        return cls(new, mesh, successor, theirs)


def test_a_node_that_a_succession_left_out_comes_back_when_it_is_granted_again(
    hosts: Hosts,
) -> None:
    me = start(hosts.a, hosts.clock).identity.public
    handover = Handover.of(hosts)
    hosts.snapshot(handover.theirs.raw, handover.successor.raw)
    daemon = made(hosts)
    assert (daemon._node.grant, daemon._node.store.generation) == (None, 1)
    said = "the authority of generation 1 has not taken this node over"
    assert membership.why_ended(daemon._node, me) == said
    again = Grant.sign(
        handover.new, handover.mesh, node=me, name="a", serial=10, generation=1, allow=[A]
    )
    daemon._node.hear([again], 1.0)
    daemon._membership.follow()
    assert (daemon._node.grant, daemon._node.prefixes) == (again, (A,))
    kept = StateDirectory(hosts.a.state).read_grant()
    assert kept == (again.raw, handover.successor.raw)
    (hosts.a.state / "snapshot").unlink()
    options = start(hosts.a, hosts.clock)  # the file alone says who the authority is
    assert (options.grant, options.mesh) == (again, handover.mesh)
    node = made(hosts)._node
    assert (node.grant, node.store.pending) == (again, handover.successor)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, 'params must hold "objects", a list of base64 text'),
        ({"objects": [1]}, 'params must hold "objects"'),
        ({"objects": []}, 'params must hold "objects"'),
        ({"objects": ["?"]}, "object 1 is none that this version knows"),
        ({"objects": ["AAAA"]}, "object 1 is none that this version knows: object of unknown"),
    ],
)
def test_what_cannot_be_delivered_is_one_line(params: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        words(params)


def test_only_what_an_authority_signs_can_be_delivered(hosts: Hosts) -> None:
    own = hosts.announced(start(hosts.a, hosts.clock).identity)
    with pytest.raises(UsageError, match="object 1 is no grant, revocation or successor"):
        words({"objects": [base64.b64encode(own).decode()]})


@pytest.mark.parametrize("where", ["x", 7, "00", None, "0" * 26])
def test_a_page_of_records_starts_where_the_last_one_said(where: object) -> None:
    assert slot_from({}) == b""
    assert slot_from({"from": "0" * 24}) == bytes(12)
    with pytest.raises(UsageError, match='"from" must be what "next" was in the answer before'):
        slot_from({"from": where})
