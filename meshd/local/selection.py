"""From what an operator wants announced to what is: by interfaces, grant and health. Pure.

What is named outright was checked when it was named, and stands.  What an interface brings along
may change at any time, so nothing of it is fatal: what cannot be announced is left out, and the
selection says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import attrs

from meshd.kernel.state import Host, Interface
from meshd.policy.prefixes import Nets, outermost
from meshd.values import Announced, Followed
from protocol.address import Address, Prefix
from protocol.objects import Grant

_DOCKERS: Final = tuple(
    (Prefix.parse(base), length)
    for base, length in (
        ("172.17.0.0/16", 16), ("172.18.0.0/16", 16), ("172.19.0.0/16", 16), ("172.20.0.0/14", 16),
        ("172.24.0.0/14", 16), ("172.28.0.0/14", 16), ("192.168.0.0/16", 20),
    )
)  # fmt: skip
"""Where Docker takes a bridge's subnet from that has none configured, and of which length: the
first that no route of the host overlaps, docker0 before all others (moby,
libnetwork/ipamutils/utils.go)."""


@attrs.frozen
class LeftOut:
    """Something that is wanted and not announced."""

    source: Announced
    prefix: Prefix | None
    """None: nothing at all comes from that interface."""
    reason: str
    unhealthy: bool = False


@attrs.frozen
class Selection:
    """What is announced, and what is not."""

    prefixes: Mapping[Prefix, Announced] = attrs.field(factory=dict)
    """Each with what asks for it, in the order of the operator's list."""
    left_out: tuple[LeftOut, ...] = ()


def candidates(wanted: Iterable[Announced], host: Host) -> dict[Prefix, Announced]:
    """All that could be announced, whatever stands against it."""
    interfaces = {interface.name: interface for interface in host.interfaces}
    found: dict[Prefix, Announced] = {}
    for item in wanted:
        if not isinstance(item, Followed):
            found.setdefault(item, item)
        elif item.interface in interfaces and interfaces[item.interface].up:
            for prefix in _subnets(interfaces[item.interface], host):
                found.setdefault(prefix, item)
    return found


def select(
    wanted: Iterable[Announced],
    host: Host,
    grant: Grant,
    *,
    reached_at: Iterable[Address] = (),
    unhealthy: Mapping[Announced, str] | None = None,
) -> Selection:
    """What to announce of ``wanted`` under ``grant``.

    ``reached_at``: our own addresses for the mesh, which no subnet may hold that is only found;
    ``unhealthy``: what its check says no to, by the name that the check bears, and why.
    """
    wanted, unhealthy = tuple(wanted), unhealthy or {}
    reached_at = tuple(reached_at)
    found = candidates(wanted, host)
    # What is named wins over the interface that has it too, and is as it is found without one.
    following = any(isinstance(item, Followed) for item in wanted)
    if following:
        found |= {item: item for item in wanted if not isinstance(item, Followed)}
    left = [LeftOut(item, None, why) for item, why in _without_any(wanted, host)]
    well: dict[Prefix, Announced] = {}
    for prefix, source in found.items():
        ill = unhealthy.get(prefix, unhealthy.get(source)) if unhealthy else None
        if isinstance(source, Followed) and (
            why := _refuses(prefix, source.interface, grant, reached_at)
        ):
            left.append(LeftOut(source, prefix, why))
        elif ill is not None:
            left.append(LeftOut(source, prefix, ill, unhealthy=True))
        else:
            well[prefix] = source
    outer = outermost(well)
    nets = Nets(outer if len(outer) < len(well) else ())
    kept: dict[Prefix, Announced] = {}
    # What is named has its place first: it was checked against the same limit.
    for prefix, source in sorted(well.items(), key=lambda each: isinstance(each[1], Followed)):
        if prefix not in outer:
            left.append(LeftOut(source, prefix, f"inside {nets.containing(prefix)}"))
        elif grant.limit and len(kept) >= grant.limit:
            told = f"the grant allows {grant.limit} prefixes, and they are used"
            left.append(LeftOut(source, prefix, told))
        else:
            kept[prefix] = source
    return Selection({prefix: kept[prefix] for prefix in well if prefix in kept}, tuple(left))


def _without_any(wanted: Iterable[Announced], host: Host) -> Iterator[tuple[Announced, str]]:
    """The interfaces that bring nothing along, and why."""
    interfaces = {interface.name: interface for interface in host.interfaces}
    for item in wanted:
        if not isinstance(item, Followed):
            continue
        interface = interfaces.get(item.interface)
        if interface is None:
            yield item, "there is no interface of that name yet"
        elif not interface.up:
            yield item, "the interface is down"
        elif not any(True for _ in _subnets(interface, host)):
            yield item, "the interface has no subnet"


def _subnets(interface: Interface, host: Host) -> Iterator[Prefix]:
    """The connected networks of an interface that is up: those that hosts there can be reached in.

    An address whose network has no route (``noprefixroute``, the near end of a point-to-point
    pair) has none; one of full length is a network of its own, such as a service's on ``lo``.
    """
    connected = {
        route.prefix
        for route in host.foreign
        if route.device == interface.name and route.next_hop is None and route.kind == "unicast"
    }
    for own in interface.addresses:
        net = Prefix.of(own.network)
        whole = net.prefixlen == net.max_prefixlen
        if not (own.is_link_local or own.is_loopback) and (whole or net in connected):
            yield net


def _refuses(
    prefix: Prefix, interface: str, grant: Grant, reached_at: Iterable[Address]
) -> str | None:
    """Why a subnet that was only found is not announced."""
    if _is_dockers_choice(prefix, interface):
        return (
            "Docker gives docker0 such a subnet on every host by itself;"
            " name it in announce if this one is meant"
        )
    for address in reached_at:
        if address in prefix:
            return f"it holds {address}, where the mesh reaches this host"
    if not any(allowed.covers(prefix) for allowed in grant.allow):
        allow = ", ".join(map(str, grant.allow)) or "nothing"
        return f"outside the grant of {grant.name}, which allows {allow}"
    return None


def _is_dockers_choice(prefix: Prefix, interface: str) -> bool:
    base, length = _DOCKERS[0]
    if (prefix.prefixlen, base.covers(prefix)) == (length, True):
        return True
    return interface == "docker0" and any(
        prefix.prefixlen == length and base.covers(prefix) for base, length in _DOCKERS
    )
