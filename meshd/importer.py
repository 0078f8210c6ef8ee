"""From the automaton and this host to a decision: what policy is asked, and with which facts.

Holds what only the daemon knows of failed members: whose host answers though its daemon is gone,
and until when its routes wait for it to come back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from meshd.config import Config
from meshd.kernel.state import Host
from meshd.policy.decide import Decision, decide
from meshd.policy.filters import Filters
from meshd.policy.memo import Memo
from meshd.policy.origin import Origin
from meshd.policy.tunnel import Terms
from meshd.resolver import resolvers
from protocol.address import Address, Prefix
from protocol.identity import Mesh
from protocol.members import Member, State
from protocol.node import Node
from protocol.tunnel import hardware_address, network_identifier

RESTART_WINDOW: Final = 30.0
"""Seconds that the routes of a node stay whose daemon is gone and whose host answers: long
enough for an upgrade, counted from the first failure at a sequence (DESIGN 6)."""


def tunnel_terms(config: Config, mesh: Mesh, node: bytes) -> Terms | None:
    """How the node with that key has its tunnel; None: it has none."""
    if not config.vxlan_port:
        return None
    always = config.when == "always"
    return Terms(config.vxlan_port, always, network_identifier(mesh.id), hardware_address(node))


class Importer:
    """Asks policy about all members of ``node``."""

    def __init__(
        self,
        node: Node,
        filters: Filters,
        *,
        multipath: bool = False,
        tunnel: Terms | None = None,
        unix_clock: Callable[[], float] = time.time,
        resolvers: Callable[[], tuple[Address, ...]] = resolvers,
        local: Callable[[], tuple[Prefix, ...]] | None = None,
    ) -> None:
        """``local`` gives what is announced here, where that is not what ``node`` announces."""
        self.filters, self.multipath = filters, multipath
        """The operator's; other values take effect at the next decision."""
        self._node, self._tunnel = node, tunnel
        self._unix_clock, self._resolvers = unix_clock, resolvers
        self._local = local or (lambda: node.prefixes)
        self._memo = Memo()
        self._windows: dict[bytes, tuple[int, float]] = {}
        """Node to (sequence at which it failed first, end of its restart window)."""

    def decide(self, host: Host, previous: Decision, now: float) -> Decision:
        """What the kernel should hold at ``now``, in the automaton's seconds."""
        grants, revoked = self._node.store.grants, self._node.store.revocations
        return decide(
            [
                Origin.of(member, grants[member.key], now, self._why_held(member, now))
                for member in self._node.members.values()
            ],
            self._local(),
            attrs.evolve(host, resolvers=self._resolvers()),
            self._unix_clock(),
            now=now,
            filters=self.filters,
            previous=previous,
            multipath=self.multipath,
            tunnel=self._terms(),
            revoked=revoked,
            expelled=self._node.grant is None,
            memo=self._memo,
        )

    def _terms(self) -> Terms | None:
        own = self._node.announcement
        if self._tunnel is None:
            return None
        return attrs.evolve(self._tunnel, endpoints=own.endpoints if own is not None else ())

    def reached(self) -> Iterable[Address]:
        """Where the members are reached, and our resolvers: what no route of others may hide."""
        for member in self._node.members.values():
            for where in member.announcement.endpoints:
                yield where.address
        yield from self._resolvers()

    def open_window(self, member: Member, now: float) -> float | None:
        """``member``'s daemon is gone and its host answers: when its restart window ends, if one
        begins now. Once per sequence, from the first failure, never prolonged."""
        sequence = member.announcement.sequence
        known, _ = self._windows.get(member.key, (-1, 0.0))
        if known == sequence:
            return None
        self._windows[member.key] = (sequence, now + RESTART_WINDOW)
        return now + RESTART_WINDOW

    def _why_held(self, member: Member, now: float) -> str:
        if member.state is not State.FAILED:
            return ""
        sequence, until = self._windows.get(member.key, (-1, 0.0))
        if sequence == member.announcement.sequence and now < until:
            return "its daemon is gone but its host answers: held for its restart"
        if self._node.holds(member.key):
            return "lost with many others at once: held, for we may be cut off"
        return ""
