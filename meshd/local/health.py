"""Asks the checks that gate announcements, each in a task of its own, and keeps their standing.

A check runs as long as what it gates is wanted.  One that a reload does not change goes on as if
nothing had been; one that is changed begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import trio

from meshd.kernel.state import Host
from meshd.local.asking import ask
from meshd.local.check import Check, Standing
from meshd.log import EventLog
from meshd.values import Announced


@attrs.define(eq=False)
class _Running:
    standing: Standing
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


class Health:
    """The checks of one node; ``changed`` is called when one changes its mind."""

    def __init__(
        self, log: EventLog, *, host: Callable[[], Host], changed: Callable[[], None]
    ) -> None:
        self._log, self._host, self._changed = log, host, changed
        self._running: dict[Announced, _Running] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def unhealthy(self) -> dict[Announced, str]:
        """What is gated now, and the complaint."""
        return {
            target: f"unhealthy: {running.standing.reason}"
            for target, running in self._running.items()
            if not running.standing.healthy
        }

    def want(self, checks: Mapping[Announced, Check]) -> None:
        """Ask these from now on, and no others."""
        for target, running in list(self._running.items()):
            if checks.get(target) != running.standing.check:
                running.scope.cancel()
                del self._running[target]
        for target, check in checks.items():
            if target not in self._running:
                self._running[target] = _Running(Standing(check))
                self._start(target)

    async def run(self) -> None:
        """Ask until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for target in self._running:
                self._start(target)
            await trio.sleep_forever()

    def told(self, target: Announced, now: float) -> dict[str, Any] | None:
        """What ``status --json`` says of the check that gates ``target``, if there is one."""
        if target not in self._running:
            return None
        standing = self._running[target].standing
        return {
            "healthy": standing.healthy,
            "since_s": round(now - standing.since, 1) if standing.since else None,
            "reason": standing.reason or None,
            "asked": standing.asked,
        }

    def _start(self, target: Announced) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._keep_asking, target, self._running[target])

    async def _keep_asking(self, target: Announced, running: _Running) -> None:
        standing = running.standing
        check = standing.check
        with running.scope:
            while True:
                due = trio.current_time() + check.interval
                if standing.note(await ask(check, self._host), trio.current_time()):
                    self._tell(target, standing)
                    self._changed()
                await trio.sleep_until(due)

    def _tell(self, target: Announced, standing: Standing) -> None:
        if standing.healthy:
            self._log.emit("health-up", announce=str(target), reason="announced again")
        else:
            reason = f"{standing.reason}: withdrawn"
            self._log.emit("health-down", announce=str(target), reason=reason)
