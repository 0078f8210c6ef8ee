"""Which endpoints to announce when the operator named none.

One of each family: the source address that the kernel uses towards a seed, else the only
address that is not inside what is announced, else the one announced so far while it is still
ours.  Where several would do, none is guessed: Calico's users suffer from first-found
addresses on docker0 (calico#3194, calicoctl#343).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable

from meshd.kernel.state import Host
from protocol.address import Address, Endpoint, Family, Prefix, endpoint


def advertised(
    given: tuple[Endpoint, ...],
    seeds: Iterable[Endpoint],
    host: Host,
    announced: Iterable[Prefix],
    port: int,
    current: Iterable[Endpoint] = (),
) -> tuple[Endpoint, ...]:
    """The endpoints to announce, at most one a family.

    ``given`` are the operator's, ``current`` those announced so far.
    """
    if given:
        return given
    seeds, announced, current = tuple(seeds), tuple(announced), tuple(current)
    found: list[Endpoint] = []
    for family in _FAMILIES:
        address = _towards([seed for seed in seeds if seed.family == family])
        if address is None:
            address = _only_outside(host, announced, family)
        if address is None:
            # A second address makes none of the two wrong: what others use goes on working.
            address = _still_ours(host, current, family)
        if address is not None:
            found.append(endpoint(address, port))
    return tuple(found)


_FAMILIES: tuple[Family, ...] = (4, 6)


def _towards(seeds: Iterable[Endpoint]) -> str | None:
    for seed in seeds:
        kind = socket.AF_INET if seed.family == 4 else socket.AF_INET6
        with contextlib.suppress(OSError), socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect(seed)  # UDP: the kernel chooses a route and sends nothing
            return str(probe.getsockname()[0]).partition("%")[0]
    return None


def _only_outside(host: Host, announced: tuple[Prefix, ...], family: Family) -> str | None:
    candidates: dict[Address, None] = {}
    for interface in host.interfaces:
        for own in interface.addresses:
            address = own.ip
            if (
                interface.up
                and address.version == family
                and not (address.is_loopback or address.is_link_local)
                and not any(address in prefix for prefix in announced)
            ):
                candidates[address] = None
    return str(next(iter(candidates))) if len(candidates) == 1 else None


def _still_ours(host: Host, current: Iterable[Endpoint], family: Family) -> str | None:
    own = {str(each.ip) for interface in host.interfaces if interface.up
           for each in interface.addresses}  # fmt: skip
    return next((each.host for each in current if each.family == family and each.host in own), None)
