"""What happens next: drawn from a seeded generator and from what is true of the world.  Pure.

A round is some faults at different zones, at most a quarter of which are down or cut off at any
time, so that nobody else loses half of its peers and takes itself for isolated.  The same seed and
number of zones give the same faults in the same order; nothing hangs on how fast the machine is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Final

import attrs

from netlab.kernelview import Network
from soaking.world import Router, World, extras

BREAKING: Final = {"stop": 4, "kill": 4, "cut": 5, "interface-down": 3}
MENDING: Final = {"start": 1, "heal": 1, "interface-up": 1}
PASSING: Final = {
    "announce": 5,
    "withdraw": 4,
    "stop-start": 2,
    "kill-start": 2,
    "blip": 1,
    "bounce": 2,
    "delete-routes": 4,
    "delete-guards": 3,
    "delete-elements": 3,
    "flush": 3,
    "reload": 2,
    "foreign-add": 2,
    "foreign-remove": 2,
}
"""Kinds of fault and how often each is drawn, beside the others that are possible."""

KINDS: Final = (*BREAKING, *MENDING, *PASSING)

PATIENCE: Final = 12
"""Rounds after which what was broken is mended: two minutes at most, far from the ten for which
a router that is cut off holds its routes."""

REST: Final = 25
"""Rounds that a withdrawn subnet is left alone: at a second or two each, more than the 35 s
below which damping lets it through for ever (meshd/policy/damping.py)."""


@attrs.frozen
class Fault:
    """Something that is done to one zone."""

    kind: str
    zone: int
    prefixes: tuple[Network, ...] = ()
    """Which, where it is about some."""
    what: str = ""
    """In words, where that says more."""

    def __str__(self) -> str:
        more = " ".join([*map(str, self.prefixes), self.what])
        return f"{self.kind} r{self.zone} {more}".rstrip()


@attrs.define(eq=False)
class Drawer:
    """Draws rounds."""

    world: World
    rng: Random
    _round: int = 0
    _broken: dict[int, int] = attrs.field(factory=dict)
    """Zone to the round in which it was broken."""
    _withdrawn: dict[Network, int] = attrs.field(factory=dict)

    @property
    def most(self) -> int:
        """So many zones are broken at a time."""
        return max(1, len(self.world.routers) // 4)

    def round(self) -> Iterator[Fault]:
        """The next faults. Each is to be carried out before the next is asked for."""
        self._round += 1
        zones = list(self.world.routers)
        chosen = self.rng.sample(zones, self.rng.randint(1, self.most + 1))
        overdue = [zone for zone, when in self._broken.items() if self._round - when > PATIENCE]
        chosen = list(dict.fromkeys([*overdue, *chosen]))
        for zone in chosen:
            if fault := self._fault(self.world[zone], frozenset(chosen)):
                self._note(fault)
                yield fault

    def _note(self, fault: Fault) -> None:
        if fault.kind in BREAKING:
            self._broken.setdefault(fault.zone, self._round)
        elif fault.kind in MENDING:
            if len(self._ailments(self.world[fault.zone])) == 1:
                self._broken.pop(fault.zone, None)
        elif fault.kind == "withdraw":
            self._withdrawn |= dict.fromkeys(fault.prefixes, self._round)

    @staticmethod
    def _ailments(router: Router) -> list[str]:
        """What would mend it."""
        return [
            mending
            for mending, ill in (
                ("start", not router.running),
                ("heal", not router.cable),
                ("interface-up", not router.up),
            )
            if ill
        ]

    def _fault(self, router: Router, chosen: frozenset[int]) -> Fault | None:
        ailments = self._ailments(router)
        overdue = self._round - self._broken.get(router.number, self._round) > PATIENCE
        if ailments and (overdue or self.rng.random() < 0.6):
            return Fault(self.rng.choice(ailments), router.number)
        weights = dict(PASSING)
        if ailments or len(self.world.impaired()) < self.most:
            weights |= BREAKING
        while weights:
            kind = self.rng.choices(list(weights), list(weights.values()))[0]
            del weights[kind]
            if fault := self._possible(kind, router, chosen):
                return fault
        return None

    def _possible(self, kind: str, router: Router, chosen: frozenset[int]) -> Fault | None:
        """A fault of that kind, if there is one."""
        makers: dict[str, Callable[[Router, frozenset[int]], Fault | None]] = {
            "announce": self._announce,
            "withdraw": self._withdraw,
            "delete-routes": self._delete_routes,
            "delete-guards": self._delete_guards,
            "delete-elements": self._delete_elements,
            "foreign-add": self._foreign_add,
            "foreign-remove": self._foreign_remove,
        }
        if kind in makers:
            return makers[kind](router, chosen)
        possible = {
            "stop": router.running,
            "kill": router.running,
            "cut": router.attached,
            "interface-down": router.attached,
            "stop-start": router.running,
            "kill-start": router.running,
            "blip": router.follows,
            "bounce": router.follows,
            "flush": router.running,
            "reload": router.running,
        }
        return Fault(kind, router.number) if possible[kind] else None

    def _announce(self, router: Router, chosen: frozenset[int]) -> Fault | None:
        rested = [
            prefix
            for prefix in extras(router.zone)
            if prefix not in router.announced
            and self._round - self._withdrawn.get(prefix, -REST) >= REST
        ]
        return self._some("announce", router, rested) if router.running else None

    def _withdraw(self, router: Router, chosen: frozenset[int]) -> Fault | None:
        there = [prefix for prefix in extras(router.zone) if prefix in router.announced]
        return self._some("withdraw", router, there) if router.running else None

    def _delete_routes(self, router: Router, chosen: frozenset[int]) -> Fault | None:
        return self._some("delete-routes", router, self._routed(router, chosen))

    def _delete_guards(self, router: Router, chosen: frozenset[int]) -> Fault | None:
        # Only below routes that stay: elsewhere it would be us who open the leak.
        stay = self._routed(router, chosen) if router.follows else []
        return self._some("delete-guards", router, stay)

    def _delete_elements(self, router: Router, chosen: frozenset[int]) -> Fault | None:
        if not router.running:
            return None
        own = sorted(router.announced, key=str)
        return self._some("delete-elements", router, [*self._routed(router, chosen), *own])

    def _foreign_add(self, router: Router, chosen: frozenset[int]) -> Fault | None:
        prefixes = self._routed(router, chosen) if router.attached else []
        if not prefixes or len(router.foreign) >= 3:
            return None
        prefix = self.rng.choice(prefixes)
        zone = self.world.owner(prefix).zone
        hop = zone.uplink4.ip if prefix.version == 4 else zone.uplink6.ip
        how = self.rng.choice((f"via {hop} dev net0", "", "blackhole"))
        metric = self.rng.choice((50, 141, 143, 4000))
        if not how:  # another subnet of the same zone, which the mesh knows nothing of
            prefix, how = _neighbour(prefix), f"via {hop} dev net0"
        kind, hop_text = ("blackhole ", "") if how == "blackhole" else ("", f" {how}")
        line = f"{kind}{prefix}{hop_text} proto static metric {metric}"
        return Fault("foreign-add", router.number, what=line)

    def _foreign_remove(self, router: Router, chosen: frozenset[int]) -> Fault | None:
        if not router.foreign:
            return None
        return Fault("foreign-remove", router.number, what=self.rng.choice(router.foreign))

    def _routed(self, router: Router, chosen: frozenset[int]) -> list[Network]:
        """What there is a route to, at zones that nothing happens to in this round."""
        found: list[Network] = []
        if not router.up:
            return found
        for other in self.world.routers.values():
            if other is not router and other.follows and other.number not in chosen:
                # Of a router that does not follow only this is known whatever the timing was.
                always: frozenset[Network] = frozenset({other.zone.prefix4, other.zone.prefix6})
                found += sorted(other.announced if router.follows else always, key=str)
        return found

    def _some(self, kind: str, router: Router, prefixes: list[Network]) -> Fault | None:
        if not prefixes:
            return None
        count = self.rng.choice((1, 1, 2, len(prefixes)))
        chosen = self.rng.sample(prefixes, min(count, len(prefixes)))
        return Fault(kind, router.number, tuple(chosen))


def _neighbour(prefix: Network) -> Network:
    """A subnet beside it that nobody announces."""
    step = 1 << (prefix.max_prefixlen - prefix.prefixlen)
    address = int(prefix.network_address) + 50 * step
    return type(prefix)((address, prefix.prefixlen))
