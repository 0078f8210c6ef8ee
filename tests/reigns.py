"""An authority as its operator holds it: the key in use, and the one that was set aside."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import attrs

from protocol.address import Prefix
from protocol.identity import Authority, Identity, Mesh, key_hash
from protocol.objects import Grant, Revocation, Successor

POOL = (Prefix.parse("10.0.0.0/8"), Prefix.parse("fd00::/8"))


@attrs.frozen
class Reign:
    """One generation's authority."""

    mesh: Mesh
    key: Identity
    aside: Identity
    """Signs nothing but the Successor that ends this reign."""
    generation: int = 0

    def grant(
        self,
        node: bytes,
        name: str,
        serial: int,
        *,
        since: int | None = None,
        allow: Iterable[Prefix] = POOL,
    ) -> Grant:
        """A grant by this authority."""
        return Grant.sign(
            self.key,
            self.mesh,
            node=node,
            name=name,
            serial=serial,
            since=since,
            generation=self.generation,
            allow=allow,
        )

    def renew(self, grants: Iterable[Grant], serial: int) -> list[Grant]:
        """The same grants again, by this authority."""
        return [
            self.grant(each.node, each.name, serial, since=each.since, allow=each.allow)
            for each in grants
        ]

    def revoke(self, node: bytes, *, since: int = 0) -> Revocation:
        """A revocation by this authority."""
        return Revocation.sign(
            self.key, self.mesh, node=node, generation=self.generation, since=since
        )

    def succeed(
        self, members: Iterable[bytes], serial: int, *, seed: str = "", by: Identity | None = None
    ) -> tuple[Reign, Successor]:
        """The next authority and the word that makes it; ``by``: another who tries to."""
        rng = Random(f"{self.generation} {seed}")
        key, aside = (Identity.generate(rng.randbytes) for _ in range(2))
        made = Authority(self.generation + 1, key.public, key_hash(aside.public))
        successor = Successor.sign(
            by or self.aside, self.mesh, made=made, serial=serial, members=members
        )
        return Reign(self.mesh.succeeded_by(made), key, aside, made.generation), successor
