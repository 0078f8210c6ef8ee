"""The roll: everybody of whom an authority has spoken, and what is true of each now.

Pure.  One source is what the mesh holds, the other the ledger, where there is one: what was
given but not used yet stands in no store, and a store may hold what the ledger does not
know of.  What ``meshd grants`` shows is this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal

import attrs

from meshd.authority.ledger import Entry
from protocol import identity
from protocol.objects import Grant, Revocation

State = Literal["member", "invited", "unused", "ended", "revoked", "lapsed"]

DAY: Final = 86_400


@attrs.frozen
class Standing:
    """One node, as an authority's words leave it."""

    node: bytes = attrs.field(repr=identity.short_id)
    grant: Grant | None
    """Its newest; None when only its revocation is known here."""
    state: State
    """member; invited: its token was not used yet; unused: nor will it be, its time is over;
    ended: its grant's date is past; revoked; lapsed: the present authority did not renew it."""
    valid_until: int = 0
    """Until when its token may be used; 0: there is none."""

    @property
    def name(self) -> str:
        return self.grant.name if self.grant is not None else ""

    @property
    def holds_name(self) -> bool:
        """Its name is not free for another."""
        return self.state in ("member", "invited")


def standings(
    grants: Mapping[bytes, Grant],
    revocations: Mapping[bytes, Revocation],
    given: Mapping[bytes, Entry],
    *,
    generation: int,
    has_joined: Callable[[bytes], bool | None],
    unix_now: float,
) -> list[Standing]:
    """All of whom ``grants`` and ``revocations`` (newest of each node, of mesh and ledger)
    speak, by name; ``given``: what the ledger says of tokens; ``generation``: whose word
    counts. ``has_joined``: None where nobody can tell, and then it is better believed."""
    found = []
    for node in dict.fromkeys((*grants, *revocations)):
        grant, revocation = grants.get(node), revocations.get(node)
        valid_until = given[node].valid_until if node in given else 0
        state: State
        if revocation is not None and revocation.generation >= max(
            generation, grant.generation if grant is not None else 0
        ):
            state = "revoked"
        elif grant is None or grant.generation < generation:
            state = "lapsed"
        elif 0 < grant.until < unix_now:
            state = "ended"
        elif not valid_until or has_joined(node):
            state = "member"
        elif valid_until > unix_now:
            state = "invited"
        else:
            state = "unused" if has_joined(node) is False else "member"
        found.append(Standing(node, grant, state, valid_until))
    return sorted(found, key=lambda each: (each.name, each.node))


def as_json(found: Iterable[Standing], unix_now: float) -> list[dict[str, Any]]:
    """``grants --json``: fields are added freely and never renamed."""
    return [_row(each, unix_now) for each in found]


def ends_in_days(until: int, unix_now: float) -> int | None:
    """Whole days that are left, rounded up: 0 when it has ended; None without an end."""
    return max(0, math.ceil((until - unix_now) / DAY)) if until else None


def _row(each: Standing, unix_now: float) -> dict[str, Any]:
    grant = each.grant
    return {
        "id": each.node.hex(),
        "name": each.name,
        "state": each.state,
        "allow": [str(prefix) for prefix in grant.allow] if grant else [],
        "at": [str(prefix) for prefix in grant.at] if grant else [],
        "limit": grant.limit or None if grant else None,
        "until": grant.until or None if grant else None,
        "ends_in_days": ends_in_days(grant.until, unix_now) if grant else None,
        "token_until": each.valid_until if each.state == "invited" else None,
        "generation": grant.generation if grant else None,
        "serial": grant.serial if grant else None,
        "since": grant.since if grant else None,
    }
