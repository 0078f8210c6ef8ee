"""Kernels, daemons and wires, held against the world.

Kernels are read with `ip -j` and `nft -j`; daemons are asked only whether they say of themselves
what is so.  A rule that is broken is a line of text for people.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Final

import attrs

from netlab import Capture, CommandError, Mesh, Namespace
from netlab.kernelview import difference, holdings
from soaking.traffic import Traffic, Translated
from soaking.world import Router, World

SETTLE_S: Final = 45.0
"""For everything that was done in a round; most of it takes milliseconds, a silent host some
seconds, and this machine may be busy with others."""

PAUSE_S: Final = 0.1
"""Between two looks at a kernel that is not yet as it should be."""

KEPT_S: Final = 8.0
"""A route that should wait for its daemon may be away for so long by another hand, and no longer:
after the restart window it would look right."""

EXCUSED_S: Final = 1.0
"""A datagram that was translated while the exclusion was gone may arrive so long after: its
connection is forgotten after the set is whole, and this reader has a turn to wait."""


@attrs.define(eq=False)
class Checker:
    """What is looked at after each round."""

    mesh: Mesh
    world: World
    traffic: Traffic
    leaks: Capture
    patience: float
    """Seconds for all to settle; SETTLE_S."""
    restored: Callable[[int], None]
    """Told of each zone whose kernel is as it should be."""
    _excuses: dict[int, list[tuple[float, float]]] = attrs.field(factory=dict)
    """Zone to when its exclusion was gone by a hand that is not meshd's."""
    _dropped: dict[int, float] = attrs.field(factory=dict)
    """Zone to since when a route is gone there that should wait for its daemon."""
    excused: int = 0
    _judged: int = 0

    def excuse(self, number: int) -> None:
        """From now until its kernel is settled, what is behind a zone may be translated."""
        self._excuses.setdefault(number, []).append((time.monotonic(), float("inf")))

    def settle(self) -> list[str]:
        """Wait until all is as it should be; what is not, if that takes too long, and at once what
        must never be."""
        until = time.monotonic() + self.patience
        return self._kernels(until) or self._daemons(until) or self._wires()

    def _wires(self) -> list[str]:
        """What was seen that must never be."""
        found = [f"leaked to the default gateway: {line}" for line in self.leaks.packets[:10]]
        if not self.traffic.flows:
            found.append("the soak's own traffic has ended: what it shows is worth nothing")
        fresh, self._judged = (
            self.traffic.translated[self._judged :],
            len(self.traffic.translated),
        )
        wrong = [each for each in fresh if not self._is_excused(each)]
        self.excused += len(fresh) - len(wrong)
        return found + [f"translated: {each}" for each in wrong[:10]]

    def _is_excused(self, translated: Translated) -> bool:
        return any(
            begin <= translated.when <= end
            for number, spans in self._excuses.items()
            if translated.source in (self.world[number].zone.private4,
                                     self.world[number].zone.private6)
            for begin, end in spans
        )  # fmt: skip

    def _kernels(self, until: float) -> list[str]:
        waiting = dict(self.world.routers)
        lines: list[str] = []
        while waiting:
            lines = []
            for number, router in list(waiting.items()):
                wrong = self._kernel(router)
                if wrong:
                    lines += [f"r{number}: {line}" for line in wrong]
                else:
                    del waiting[number]
                    self._settled(number)
            early = [
                f"r{number}: a route went before the restart window's end"
                for number, since in self._dropped.items()
                if time.monotonic() - since > KEPT_S
            ]
            if wrong := early + self._wires():
                return lines + wrong
            if time.monotonic() > until:
                break
            if waiting:
                time.sleep(PAUSE_S)
        return lines

    def _kernel(self, router: Router) -> list[str]:
        try:
            found = holdings(router.zone.router)
        except (CommandError, json.JSONDecodeError) as error:  # it changed while it was read
            return [str(error)]
        now = time.monotonic()
        wrong = difference(found, self.world.wanted(router, found, now))
        if self.world.dropped(router, found, now):
            self._dropped.setdefault(router.number, now)
        else:
            self._dropped.pop(router.number, None)
        if not wrong:
            self.world.learn(router, found, now)
        return wrong

    def _settled(self, number: int) -> None:
        now = time.monotonic()
        self._excuses[number] = [
            (begin, min(end, now + EXCUSED_S)) for begin, end in self._excuses.get(number, [])
        ]
        self.restored(number)

    def _daemons(self, until: float) -> list[str]:
        waiting = [router for router in self.world.routers.values() if router.running]
        while True:
            wrong = {router.number: self._daemon(router) for router in waiting}
            waiting = [router for router in waiting if wrong[router.number]]
            if not waiting or time.monotonic() > until:
                return [f"r{number}: {line}" for number, line in wrong.items() if line]
            time.sleep(PAUSE_S)

    def _daemon(self, router: Router) -> str:
        """What its status says that is not so; empty if all is well."""
        member = self.mesh[router.number]
        if not member.running:
            return "its daemon has ended"
        try:
            status = member.ask("status")
        except (OSError, CommandError) as error:
            return f"its control socket: {error}"
        kernel = status["kernel"]
        if not kernel["in_sync"] or kernel["error"]:
            return f"status says of the kernel: {kernel}"
        if router.follows:
            others = sum(other.follows for other in self.world.routers.values()) - 1
            if not status["converged"] or status["peers"]["alive"] != others:
                told = {key: status[key] for key in ("converged", "peers")}
                return f"status says {told}, and {others} others are there"
        return ""


def keep_state(router: Namespace) -> str:
    """A kernel as text, for whoever wants to know what went wrong."""
    parts = []
    for command in (["ip", "-d", "route", "show", "table", "all"],
                    ["ip", "-6", "-d", "route", "show", "table", "all"],
                    ["ip", "addr"], ["nft", "list", "ruleset"],
                    ["conntrack", "-L"]):  # fmt: skip
        with contextlib.suppress(CommandError):
            parts.append(f"# {' '.join(command)}\n{router.run(command).stdout}")
    return "\n".join(parts)
