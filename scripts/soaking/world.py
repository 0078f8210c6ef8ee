"""What every kernel should hold, from what was done to the mesh and from the design alone.  Pure.

No daemon is asked.  Each router has a *way* for every prefix of the others: the route, only the
guard (and the exclusion that goes with it), or nothing; and where the design leaves it open which,
more than one is allowed.  The rules, all of DESIGN 6:

- Who is attached and runs knows what is announced.  To who is attached and runs there is a route.
- A daemon that has gone while its host answers keeps its routes for the restart window, 30 s;
  then only the guard stays.
- A host that is cut off leaves the guard behind, at once.
- Who is cut off itself learns nothing, and guards all that it had.  Having lost most of its peers
  within 10 s it is isolated and holds the routes, for at most 10 min; but where ticks come late
  it suspects itself and loses them over a longer time, the first not held.  That is counted.
- An interface that is down has no routes; the guards stand.
- Where no daemon runs the kernel stays as it is, but for what the kernel itself takes away.
- A daemon that ends while it carries a change out leaves it half done, in an order that never
  leaks: a prefix that comes or goes may have its guard alone, or that and the exclusion.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Final

import attrs

from netlab import Zone
from netlab.kernelview import Holdings, Network, expected

RESTART_WINDOW_S: Final = 30.0
"""Routes of a node whose daemon is gone and whose host answers stay for so long (DESIGN 6),
from when it was found to be gone."""

KEPT_S: Final = RESTART_WINDOW_S - 4
"""... by the clock of who ended it, safely within: the window begins later than that."""

LATE_S: Final = 15.0
"""To notice what happened and act on it, on a machine that is busy with others: a probe, the
longest suspicion, what is braked for 5 s because much happens at once."""

ISOLATION_CALM_S: Final = 10.0
"""Who was isolated holds routes for so long after most are back (protocol/isolation.py)."""

SAVED_S: Final = 4.0
"""What a daemon heard so long before it was killed is in its snapshot: it is written a second
after a change (meshd/snapshot.py), and telling and hearing of it takes its time."""

EXTRAS: Final = 2
"""More subnets of each family behind every router, announced and withdrawn as it comes."""


class Way(enum.Enum):
    """How a kernel deals with a prefix of another zone."""

    ABSENT = "nothing"
    BARE = "the guard alone, for it was coming or going when its daemon ended"
    GUARD = "the guard"
    ROUTE = "a route"


ROUTE = frozenset({Way.ROUTE})
GUARD = frozenset({Way.GUARD})
EITHER = ROUTE | GUARD
HALFWAY = GUARD | {Way.BARE}

Ways = dict[Network, frozenset[Way]]


def extras(zone: Zone) -> tuple[Network, ...]:
    """The subnets of a zone that are announced only now and then."""
    found: list[Network] = []
    for number in range(1, EXTRAS + 1):
        found.append(IPv4Network((zone.prefix4.network_address + (100 + number << 8), 24)))
        found.append(IPv6Network((zone.prefix6.network_address + (number << 64), 64)))
    return tuple(found)


@attrs.define(eq=False)
class Router:
    """One zone's router: what was done to it, when, in seconds of the caller's clock."""

    zone: Zone
    announced: frozenset[Network]
    """By its daemon, or by the one that ran last."""
    told: frozenset[Network]
    """What the others have heard of that."""
    running: bool = True
    cable: bool = True
    up: bool = True
    ended: float = -math.inf
    """When its daemon ended last."""
    started: float = -math.inf
    parted: float = -math.inf
    """When it was cut off last."""
    returned: float = -math.inf
    ways: Ways = attrs.field(factory=dict)
    """Of what it knows, while it does not follow the mesh: in the kernel of a router without
    daemon, in the table of one that is cut off."""
    held: frozenset[Network] = frozenset()
    """What it had routes to when it was cut off, and might hold."""
    unheld: frozenset[Network] = frozenset()
    """... and does not."""
    remembered: frozenset[Network] = frozenset()
    """Announced or withdrawn so shortly before its daemon was killed that its snapshot may have
    them, whatever its kernel has."""
    foreign: list[str] = attrs.field(factory=list)
    """Routes of somebody else, as `ip route` is told them."""

    @property
    def number(self) -> int:
        return self.zone.number

    @property
    def attached(self) -> bool:
        """The switch reaches it."""
        return self.cable and self.up

    @property
    def follows(self) -> bool:
        """It runs and hears the others."""
        return self.running and self.attached


@attrs.define(eq=False)
class World:
    """All routers, and what is true of them."""

    routers: dict[int, Router]
    unheld: int = 0
    """Routes that routers which were cut off, and are no more, had not held."""
    changed: dict[Network, float] = attrs.field(factory=dict)
    """When each was announced or withdrawn last."""

    @classmethod
    def of(cls, zones: Iterable[Zone]) -> World:
        """A mesh that has converged: everybody announces its own two subnets."""
        found = {}
        for zone in zones:
            own: frozenset[Network] = frozenset({zone.prefix4, zone.prefix6})
            found[zone.number] = Router(zone, own, own)
        return cls(found)

    def __getitem__(self, number: int) -> Router:
        return self.routers[number]

    def impaired(self) -> list[Router]:
        return [router for router in self.routers.values() if not router.follows]

    def owner(self, prefix: Network) -> Router:
        """Behind whose router ``prefix`` lies."""
        return next(
            router
            for router in self.routers.values()
            if prefix in (router.zone.prefix4, router.zone.prefix6, *extras(router.zone))
        )

    # What should be

    def ways(self, router: Router, now: float) -> Ways:
        """What ``router``'s kernel may do with every prefix at ``now``; else it has none."""
        found = self._followed(router, now) if router.follows else dict(router.ways)
        if not router.up:  # the kernel dropped the routes, and there is no next hop
            found = {prefix: _grounded(ways) for prefix, ways in found.items()}
        return found

    def _followed(self, router: Router, now: float) -> Ways:
        found: Ways = {}
        for other in self.routers.values():
            if other is not router:
                ways = self._way(router, other, now)
                found |= dict.fromkeys(other.announced if other.follows else other.told, ways)
        return found

    def _way(self, router: Router, other: Router, now: float) -> frozenset[Way]:
        if other.follows:
            return ROUTE
        # Who was away or down meanwhile may know more or less of how the other went.
        unsettled = max(router.started, router.returned)
        if now < unsettled + RESTART_WINDOW_S + ISOLATION_CALM_S + LATE_S and (
            unsettled > min(other.ended if not other.running else math.inf,
                            other.parted if not other.attached else math.inf) - LATE_S
        ):  # fmt: skip
            return EITHER
        if other.running:
            return GUARD
        if now > other.ended + RESTART_WINDOW_S + LATE_S:
            return GUARD
        return ROUTE if self._kept(other, now) else EITHER

    @staticmethod
    def _kept(other: Router, now: float) -> bool:
        """Its daemon went from a host that answers, and nothing else had happened to it."""
        before = max(other.returned, other.started)
        return (
            not other.running
            and other.attached
            and before < other.ended - LATE_S
            and now < other.ended + KEPT_S
        )

    def dropped(self, router: Router, found: Holdings, now: float) -> list[str]:
        """Subnets whose route should wait for a daemon to come back and is gone already."""
        if not router.follows:
            return []
        routed = {route.prefix for route in found.routes}
        return [
            str(prefix)
            for prefix, ways in self._followed(router, now).items()
            if ways == ROUTE and str(prefix) not in routed and self._kept(self.owner(prefix), now)
        ]

    def wanted(self, router: Router, found: Holdings, now: float) -> Holdings:
        """What ``router``'s kernel should hold, as near to ``found`` as may be."""
        remote, unreachable, bare = [], [], []
        for prefix, ways in self.ways(router, now).items():
            held = _held(str(prefix), found)
            way = held if held in ways else max(ways, key=lambda each: each is Way.ROUTE)
            if way is Way.ROUTE:
                remote.append((prefix, self.owner(prefix).zone))
            elif way is Way.GUARD:
                unreachable.append(prefix)
            elif way is Way.BARE:
                bare.append(prefix)
        own = sorted(router.announced, key=lambda net: (net.version, int(net.network_address)))
        return expected(
            router.zone, (), local=own, remote=remote, unreachable=unreachable, bare=bare
        )

    def learn(self, router: Router, found: Holdings, now: float) -> None:
        """``found`` is as it should be: what was open of a kernel that rests is settled."""
        if router.follows:
            return
        routed = {route.prefix for route in found.routes}
        for prefix, ways in list(router.ways.items()):
            here = _held(str(prefix), found)
            if here is Way.ABSENT:
                # One that has just been started may still put it there, out of its snapshot.
                if not router.running or now > router.started + LATE_S:
                    del router.ways[prefix]
            elif not router.running:
                # Down, it shows nothing of what will be there again.
                router.ways[prefix] = frozenset({here})
            else:
                router.ways[prefix] = ways - {Way.ABSENT}
        if router.running and router.up:
            router.unheld = frozenset(net for net in router.held if str(net) not in routed)

    def knows(self, router: Router, prefix: Network, now: float) -> bool:
        """Packets from behind ``router`` to ``prefix`` meet a route or a guard."""
        ways = self.ways(router, now).get(prefix, frozenset({Way.ABSENT}))
        return Way.ABSENT not in ways

    # What happens

    def lose_touch(self, router: Router, before: Mapping[Network, frozenset[Way]], now: float
                   ) -> None:  # fmt: skip
        """``router`` follows the mesh no more from now on.

        before: its ways when all was settled last; what has happened since it may have heard.
        """
        after = self._followed(router, now)
        nothing = frozenset({Way.ABSENT})
        router.ways = {
            prefix: before.get(prefix, nothing) | after.get(prefix, nothing)
            for prefix in {**before, **after}
        }

    def end(self, router: Router, before: Ways, now: float, *, killed: bool = False) -> None:
        """Its daemon is gone; ``killed``: without having saved what it heard last."""
        if router.follows:
            self.lose_touch(router, before, now)
            for prefix, ways in router.ways.items():
                if Way.ABSENT in ways and len(ways) > 1:
                    router.ways[prefix] = ways | HALFWAY
        elif not router.up:
            router.ways = {prefix: _grounded(ways) for prefix, ways in router.ways.items()}
        router.running, router.ended = False, now
        router.held = frozenset()
        recent = (net for net, when in self.changed.items() if when > now - SAVED_S)
        router.remembered = frozenset(recent) - router.announced if killed else frozenset()

    def start(self, router: Router, now: float) -> None:
        """Its daemon runs again."""
        router.running, router.started = True, now
        if not router.attached:  # nobody tells it otherwise
            for prefix in router.remembered:
                router.ways[prefix] = router.ways.get(prefix, frozenset()) | EITHER | {Way.ABSENT}
        router.remembered = frozenset()
        self._tell(router)

    def part(self, router: Router, before: Ways, now: float, *, down: bool) -> None:
        """It is cut off: by its cable, or because its interface is ``down``."""
        if router.follows:
            self.lose_touch(router, before, now)
            had = (prefix for prefix, ways in router.ways.items() if ways == ROUTE)
            router.held = frozenset(had) if not down else frozenset()
            router.ways = {prefix: ways | EITHER for prefix, ways in router.ways.items()}
        elif down:
            router.ways = {prefix: _grounded(ways) for prefix, ways in router.ways.items()}
        router.cable, router.up = router.cable and down, router.up and not down
        router.parted = now

    def join(self, router: Router, now: float) -> None:
        """It is back."""
        router.cable = router.up = True
        router.returned = now
        self.unheld += len(router.unheld)
        router.held = router.unheld = frozenset()
        self._tell(router)

    def announce(self, router: Router, prefixes: Iterable[Network], now: float) -> None:
        router.announced |= frozenset(prefixes)
        self.changed |= dict.fromkeys(prefixes, now)
        self._tell(router)

    def withdraw(self, router: Router, prefixes: Iterable[Network], now: float) -> None:
        router.announced -= frozenset(prefixes)
        self.changed |= dict.fromkeys(prefixes, now)
        self._tell(router)

    def forget_route(self, router: Router, prefix: Network) -> None:
        """Somebody deleted it, and no daemon runs there to repair it."""
        if not router.running:
            router.ways[prefix] = _grounded(router.ways[prefix])

    def _tell(self, router: Router) -> None:
        if router.follows:
            router.told = router.announced


def _held(prefix: str, found: Holdings) -> Way:
    """How a kernel deals with a prefix of another zone."""
    if any(route.prefix == prefix for route in found.routes):
        return Way.ROUTE
    if prefix not in found.guards:
        return Way.ABSENT
    excluded = any(prefix in nets for name, nets in found.sets.items() if name.startswith("mesh"))
    return Way.GUARD if excluded else Way.BARE


def _grounded(ways: frozenset[Way]) -> frozenset[Way]:
    """The same without an interface to lead routes through."""
    return frozenset(Way.GUARD if way is Way.ROUTE else way for way in ways)
