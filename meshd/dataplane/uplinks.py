"""Which interfaces lead out: those whose traffic is translated where meshd is the NAT."""

from __future__ import annotations

from typing import Final

from meshd.kernel.state import Host

HALF: Final = 1
"""Longest prefix of a default route: VPNs put two halves over the real one (OpenVPN's ``def1``)."""


def uplinks(host: Host, present: frozenset[str]) -> frozenset[str]:
    """The interfaces that carry a default route of the main table, in either family.

    ``present`` are those of the reading before.  One of them stays while it is down, and all of
    them while there is no default route at all: a connection that begins between the return of a
    route and our noticing it would be untranslated for as long as it lasts.
    """
    found = {
        route.device
        for route in host.foreign
        if route.prefix.prefixlen <= HALF and route.device is not None
    }
    if not found:
        return present
    down = {interface.name for interface in host.interfaces if not interface.up}
    return frozenset(found | (present & down))
