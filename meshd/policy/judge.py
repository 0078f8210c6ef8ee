"""The rules for the prefixes of one node, before any other node's are looked at. Pure.

By the node itself, by its grant, by this host's ground and by the operator's word, in that order;
limits, flapping, conflicts and next hops come after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from meshd.policy.filters import Filters, screen
from meshd.policy.ground import Ground
from meshd.policy.origin import Origin
from meshd.policy.refusal import Refusal, Rule
from protocol.address import Prefix
from protocol.objects import Grant

BY_OPERATOR: Final[tuple[Rule, ...]] = ("denied", "not-allowed")
"""Rules of the config's table ``[import]``; they come after the limits, and all others before."""

Verdict = Refusal | Prefix
"""Why a prefix is not taken; or that it may be, by this prefix of its node's grant: the longest
that covers it."""


@attrs.frozen(eq=False)
class Applicant:
    """A node that wants its prefixes imported, with what follows from itself alone."""

    origin: Origin
    outright: Refusal | None
    """Why nothing at all of it is taken."""

    @classmethod
    def of(cls, origin: Origin, expelled: bool, revoked: bool, ended: bool) -> Applicant:
        """``expelled``: this host is no member any more; ``revoked``: that node is not;
        ``ended``: its grant has run out."""
        return cls(origin, _unauthorised(origin, expelled, revoked, ended))


def _unauthorised(origin: Origin, expelled: bool, revoked: bool, ended: bool) -> Refusal | None:
    if expelled:
        return Refusal("self-revoked", "this host is a member no more: it imports nothing")
    if revoked:
        return Refusal("revoked", "its node is revoked")
    if ended:
        return Refusal("grant-ended", "its grant has ended")
    at = origin.grant.at
    for where in origin.announcement.endpoints if at else ():
        if not any(where.address in net for net in at):
            within = ", ".join(map(str, at))
            return Refusal(
                "underlay",
                f"its underlay address {where.address} is outside its grant, which says {within}",
            )
    return None


class Judge:
    """Says of any prefix of one node whether it may come in, and remembers what it said last."""

    def __init__(
        self, node: bytes, grant: Grant, outright: Refusal | None, ground: Ground, filters: Filters
    ) -> None:
        """``outright``: why nothing at all of it is taken, if so."""
        self._grant, self._outright, self._ground = grant, outright, ground
        self._allow = sorted(grant.allow, key=lambda net: net.prefixlen, reverse=True)
        screens = [screen(*each) for each in filters.of(node, grant.name)]
        self._screens = [each for each in screens if each.has_rules]
        self._said: dict[Prefix, Verdict] = {}

    def verdicts(self, prefixes: Iterable[Prefix]) -> Mapping[Prefix, Verdict]:
        """Of each of ``prefixes``, in their order; only those are judged that were not among the
        last."""
        said = self._said
        self._said = {
            prefix: said[prefix] if prefix in said else self._verdict(prefix) for prefix in prefixes
        }
        return self._said

    def welcomes(self, prefix: Prefix) -> bool:
        """Nothing stands against it but limits, conflicts and next hops."""
        return isinstance(self._said.get(prefix) or self._verdict(prefix), Prefix)

    def _verdict(self, prefix: Prefix) -> Verdict:
        if self._outright is not None:
            return self._outright
        for net in self._allow:
            if net.covers(prefix):
                break
        else:
            allowed = ", ".join(map(str, self._grant.allow)) or "nothing"
            return Refusal("outside-grant", f"outside its grant, which allows {allowed}")
        refused = self._ground.refuses(prefix)
        if refused is not None:
            return refused
        for each in self._screens:
            refused = each.refuses(prefix)
            if refused is not None:
                return refused
        return net
