"""Carries a fault out on the lab, as an operator, another program or a cable would, and tells the
world.  What meshd has to put right is put right by meshd; only foreign rules are ours to restore.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import attrs

from netlab import Mesh
from netlab.kernelview import GUARD_METRIC, METRIC, Network
from netlab.lab import INSIDE, UPLINK
from netlab.masquerade import masquerade
from soaking.faults import Fault
from soaking.world import Router, Ways, World

BLIP_S: Final = 0.4
"""A cable that is out for less than the shortest suspicion (0.6 s): nobody is to notice."""


@attrs.define(eq=False)
class Doer:
    """Does things to the routers of a mesh."""

    mesh: Mesh
    world: World
    before: dict[int, Ways]
    """Each router's ways when all was settled last."""
    bare: set[int] = attrs.field(factory=set)
    """Zones whose foreign masquerade is to be restored when meshd's table is back."""

    def do(self, fault: Fault) -> None:
        """Carry ``fault`` out; returns when it is done, not when anybody has noticed."""
        router = self.world[fault.zone]
        deeds: dict[str, Callable[[Router, Fault], None]] = {
            "stop": self._stop,
            "kill": self._kill,
            "start": self._start,
            "stop-start": self._stop_start,
            "kill-start": self._kill_start,
            "cut": self._cut,
            "heal": self._heal,
            "blip": self._blip,
            "interface-down": self._down,
            "interface-up": self._up,
            "bounce": self._bounce,
            "announce": self._announce,
            "withdraw": self._withdraw,
            "delete-routes": self._delete_routes,
            "delete-guards": self._delete_guards,
            "delete-elements": self._delete_elements,
            "flush": self._flush,
            "reload": self._reload,
            "foreign-add": self._foreign_add,
            "foreign-remove": self._foreign_remove,
        }
        deeds[fault.kind](router, fault)

    def restore(self, number: int) -> None:
        """The foreign rules of a zone after ``flush``, when its own table stands again."""
        if number in self.bare:
            self.bare.discard(number)
            self._masquerade(self.world[number])

    # Daemons

    def _stop(self, router: Router, fault: Fault) -> None:
        self.mesh[router.number].stop()
        self.world.end(router, self.before[router.number], time.monotonic())

    def _kill(self, router: Router, fault: Fault) -> None:
        self.mesh[router.number].kill()
        self.world.end(router, self.before[router.number], time.monotonic(), killed=True)

    def _start(self, router: Router, fault: Fault) -> None:
        self.mesh[router.number].start()
        self.world.start(router, time.monotonic())

    def _stop_start(self, router: Router, fault: Fault) -> None:
        self._stop(router, fault)
        self._start(router, fault)

    def _kill_start(self, router: Router, fault: Fault) -> None:
        self._kill(router, fault)
        self._start(router, fault)

    def _announce(self, router: Router, fault: Fault) -> None:
        self.mesh[router.number].command("announce", *map(str, fault.prefixes))
        self.world.announce(router, fault.prefixes, time.monotonic())

    def _withdraw(self, router: Router, fault: Fault) -> None:
        self.mesh[router.number].command("withdraw", *map(str, fault.prefixes))
        self.world.withdraw(router, fault.prefixes, time.monotonic())

    # Links

    def _cut(self, router: Router, fault: Fault) -> None:
        self.world.part(router, self.before[router.number], time.monotonic(), down=False)
        self.mesh.lab.cut(router.number)

    def _heal(self, router: Router, fault: Fault) -> None:
        self.mesh.lab.heal(router.number)
        self.world.join(router, time.monotonic())

    def _blip(self, router: Router, fault: Fault) -> None:
        self.mesh.lab.cut(router.number)
        time.sleep(BLIP_S)
        self.mesh.lab.heal(router.number)

    def _down(self, router: Router, fault: Fault) -> None:
        self.world.part(router, self.before[router.number], time.monotonic(), down=True)
        router.zone.router.configure([f"link set {UPLINK} down"])

    def _up(self, router: Router, fault: Fault) -> None:
        router.zone.router.configure(self._raise(router))
        self.world.join(router, time.monotonic())

    def _bounce(self, router: Router, fault: Fault) -> None:
        router.zone.router.configure([f"link set {UPLINK} down", *self._raise(router)])

    @staticmethod
    def _raise(router: Router) -> list[str]:
        # The kernel forgets IPv6 addresses when an interface goes down, and IPv4 ones not.
        address = f"addr replace {router.zone.uplink6} dev {UPLINK} nodad"
        return [f"link set {UPLINK} up", address]

    # What is meshd's, by somebody's hand

    def _delete_routes(self, router: Router, fault: Fault) -> None:
        lines = [f"route del {prefix} proto 142 metric {METRIC}" for prefix in fault.prefixes]
        _force(router, lines)
        for prefix in fault.prefixes:
            self.world.forget_route(router, prefix)

    def _delete_guards(self, router: Router, fault: Fault) -> None:
        lines = [f"route del unreachable {net} metric {GUARD_METRIC}" for net in fault.prefixes]
        _force(router, lines)

    def _delete_elements(self, router: Router, fault: Fault) -> None:
        for prefix in fault.prefixes:
            name = "local" if prefix in router.announced else "mesh"
            what = f"delete element inet meshd {name}{prefix.version} {{ {prefix} }}"
            router.zone.router.run(["nft", what], check=False)

    # Other programs

    def _flush(self, router: Router, fault: Fault) -> None:
        router.zone.router.run(["nft", "flush", "ruleset"])
        self.bare.add(router.number)

    def _reload(self, router: Router, fault: Fault) -> None:
        router.zone.router.run(["nft", "flush", "ruleset"])
        self._masquerade(router)

    @staticmethod
    def _masquerade(router: Router) -> None:
        zone = router.zone
        masquerade(zone.router, zone.nat, zone.prefix4, zone.prefix6, INSIDE)

    def _foreign_add(self, router: Router, fault: Fault) -> None:
        router.foreign.append(fault.what)
        _force(router, [f"route add {fault.what}"])

    def _foreign_remove(self, router: Router, fault: Fault) -> None:
        router.foreign.remove(fault.what)
        _force(router, [f"route del {fault.what}"])


def _force(router: Router, lines: list[str]) -> None:
    """Lines of iproute2, all, also where one fails: what is to go may be gone already."""
    router.zone.router.run(["ip", "-force", "-batch", "-"], stdin="\n".join(lines), check=False)


BREAKS: Final = ("guard", "route", "nat")
"""What `--break` takes out for good, to show that the soak would notice."""

VICTIM: Final = 2
"""The zone at which that is done."""


def break_for_good(doer: Doer, what: str) -> str:
    """Take something away where no daemon runs that could put it back, and tell the world nothing.

    Returns what was done, in words.
    """
    victim = doer.world[VICTIM]
    if victim.running:
        doer.do(Fault("kill", VICTIM))
    if what == "guard" and victim.attached:
        doer.do(Fault("interface-down", VICTIM))  # or the guards are under routes
    other = doer.world[1].zone
    nets: tuple[Network, ...] = (other.prefix4, other.prefix6)
    if what == "guard":
        _force(victim, [f"route del unreachable {net} metric {GUARD_METRIC}" for net in nets])
    elif what == "route":
        _force(victim, [f"route del {net} proto 142 metric {METRIC}" for net in nets])
    else:
        victim.zone.router.run(["nft", "delete table inet meshd"])
    return f"--break {what} at r{VICTIM}"
