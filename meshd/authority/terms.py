"""What a grant allows, as its options say it."""

from __future__ import annotations

import attrs

from meshd import values
from meshd.errors import UsageError
from protocol.address import Prefix
from protocol.errors import Rejected
from protocol.identity import Identity, Mesh
from protocol.objects import Grant, check_name


@attrs.frozen
class GrantTerms:
    """The options of ``init``, ``invite``, ``grant`` and ``renew``."""

    allow: tuple[Prefix, ...] = ()
    """Empty: anything in the pool."""
    at: tuple[Prefix, ...] = ()
    limit: int = 0
    until: int = 0

    @classmethod
    def of(cls, grant: Grant) -> GrantTerms:
        """Those that ``grant`` was given on."""
        return cls(grant.allow, grant.at, grant.limit, grant.until)

    def checked(self, pool: tuple[Prefix, ...], now: float) -> GrantTerms:
        """Ready to be signed: with ``pool`` where nothing else is allowed, and not over yet."""
        if self.until and self.until <= now:
            raise UsageError(f"--until {values.moment(self.until)} is past; give a later date")
        return self if self.allow else attrs.evolve(self, allow=pool)

    def sign(
        self,
        authority: Identity,
        mesh: Mesh,
        node: bytes,
        name: str,
        serial: int,
        since: int | None = None,
    ) -> Grant:
        """The grant, by the mesh's newest authority; ``since``: of one that renews another.

        ``UsageError`` when it would be too long for a datagram.
        """
        try:
            return Grant.sign(
                authority,
                mesh,
                node=node,
                name=name,
                serial=serial,
                generation=mesh.generation,
                since=since,
                allow=self.allow,
                at=self.at,
                limit=self.limit,
                until=self.until,
            )
        except Rejected as rejected:
            raise UsageError(f"{rejected.reason}; use fewer or larger --allow and --at") from None


def node_name(text: str) -> str:
    """``text`` if it is a node name, else ``UsageError``."""
    try:
        return check_name(text)
    except Rejected:
        raise UsageError(
            f"{values.shown(text)} is no node name; use 1 to 63 of a-z, 0-9, - and .,"
            " with a letter or digit at both ends"
        ) from None
