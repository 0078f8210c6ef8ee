"""Routes: those of ours in the table, and how steps are done that speak of guards and metrics.

There are no metrics here: a second route of the same prefix is an equal one, and what two of which
one is ``-reject`` do together is not known.  So the guard of a prefix is in the kernel only while
no gateway route is: a ``-reject`` route, put in before the gateway route goes, and taken out after
one has come.  A prefix is guarded as long as any route of exactly that prefix is there, for then
nothing of it can take a shorter one.  An interface that goes may take a route along; the guard then
comes when that is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from meshd.kernel.illumos import hosts, routes
from meshd.kernel.illumos.hosts import Row
from meshd.kernel.illumos.journal import Journal, Leading, Way
from meshd.kernel.illumos.runner import Done, Runner
from meshd.kernel.plan import (
    AddGuard,
    AddRoute,
    RemoveGuard,
    RemoveRoute,
    RemoveStray,
    ReplaceRoute,
    RouteStep,
)
from meshd.kernel.state import ForeignRoute, Interface, NextHop, NextHops, Stray
from protocol.address import Address, Prefix

FOREIGN = "a foreign route has this prefix"


class Refused(Exception):
    """A step was not done: why, in words."""


@attrs.frozen
class Found:
    """One look at the table and at the interfaces."""

    interfaces: tuple[Interface, ...]
    routes: Mapping[Prefix, NextHops]
    guards: frozenset[Prefix]
    strays: tuple[Stray, ...]
    foreign: tuple[ForeignRoute, ...]

    def default_device(self) -> str | None:
        """Where the default route of IPv4 leads."""
        for route in self.foreign:
            if route.prefix.version == 4 and route.prefix.prefixlen == 0:
                return route.device
        return None


class Routing:
    """Keeps the routes of ``journal`` by ``runner``."""

    def __init__(self, runner: Runner, journal: Journal) -> None:
        self._runner, self._journal = runner, journal
        self._interfaces: tuple[Interface, ...] = ()
        self._rows: dict[Prefix, list[Row]] = {}
        self._made: set[Way] = set()
        """Made by this process: no need to ask whose they are."""

    def read(self) -> Found:
        """``OSError`` when the tools do not answer."""
        self._look()
        rows = self._all()
        ours = [row for row in rows if self._is_ours(row)]
        rejects = {row.prefix for row in rows if self._is_our_reject(row)}
        hops: dict[Prefix, list[NextHop]] = {}
        sources: dict[Prefix, Address | None] = {}
        for row in ours:
            assert row.gateway is not None
            leading = self._journal.ways[row.prefix, row.gateway]
            device = hosts.on_link(self._interfaces, row.gateway) or leading.device
            hops.setdefault(row.prefix, []).append(NextHop(row.gateway, device))
            sources.setdefault(row.prefix, leading.source)
        return Found(
            self._interfaces,
            {prefix: NextHops(tuple(each), sources[prefix]) for prefix, each in hops.items()},
            frozenset(self._journal.guards & self._rows.keys()),
            # Both are there when we died between two commands.
            tuple(Stray(prefix, 0) for prefix in rejects & hops.keys()),
            tuple(
                self._foreign(row)
                for row in rows
                if not self._is_ours(row) and not self._is_our_reject(row)
            ),
        )

    def keeps(self, prefix: Prefix) -> bool:
        """Whether a route of that prefix is ours; from any thread."""
        return prefix in self._journal.rejects or any(
            ours == prefix for ours, _ in tuple(self._journal.ways)
        )

    def _look(self) -> None:
        self._interfaces = hosts.interfaces(self._answer(hosts.IFCONFIG))
        self._rows = {}
        for row in hosts.table(self._answer(hosts.NETSTAT)):
            self._rows.setdefault(row.prefix, []).append(row)

    def _all(self) -> list[Row]:
        return [row for rows in self._rows.values() for row in rows]

    def _answer(self, argv: tuple[str, ...]) -> str:
        done = self._runner.run(argv)
        if done.code:
            raise OSError(done.complaint)
        return done.out

    def _is_ours(self, row: Row) -> bool:
        return (
            not row.leads_nowhere
            and row.gateway is not None
            and (row.prefix, row.gateway) in self._journal.ways
        )

    def _is_our_reject(self, row: Row) -> bool:
        return row.leads_nowhere and row.prefix in self._journal.rejects

    def _foreign(self, row: Row) -> ForeignRoute:
        gateway = row.gateway if "G" in row.flags else None
        device = row.device
        if device is None and gateway is not None:
            device = hosts.on_link(self._interfaces, gateway)
        kind = "unicast"
        if row.leads_nowhere:
            kind = "unreachable" if "R" in row.flags else "blackhole"
        hop = None if kind != "unicast" else gateway
        return ForeignRoute(row.prefix, hop, device, 0, 0, kind)

    # Writing.

    def write(self, steps: Sequence[RouteStep]) -> Mapping[RouteStep, str]:
        """What was refused, in words. ``StateError`` when the journal cannot be written."""
        self._look()
        self._intend(steps)
        refused: dict[RouteStep, str] = {}
        for step in steps:
            try:
                self._write(step)
            except Refused as refusal:
                refused[step] = str(refusal)
        self._settle()
        return refused

    def _intend(self, steps: Iterable[RouteStep]) -> None:
        """Write down what may soon be ours; never what is somebody's already."""
        self._settle(save=False)
        there = {(row.prefix, row.gateway) for row in self._all()}
        for step in steps:
            match step:
                case AddGuard(prefix=prefix):
                    self._journal.guards.add(prefix)
                    self._intend_reject(prefix)
                case (
                    AddRoute(prefix=prefix, next_hops=hops)
                    | ReplaceRoute(prefix=prefix, next_hops=hops)
                ):
                    self._intend_reject(prefix)
                    for hop in hops.hops:
                        way = (prefix, hop.address)
                        if way not in there:
                            self._journal.ways[way] = Leading(hop.device, hops.source)
                case RemoveRoute(prefix=prefix):
                    self._intend_reject(prefix)
                case _:
                    pass
        self._journal.save()

    def _intend_reject(self, prefix: Prefix) -> None:
        if not any(row.leads_nowhere for row in self._of(prefix)):
            self._journal.rejects.add(prefix)

    def _settle(self, *, save: bool = True) -> None:
        """Forget what is not there."""
        rows = self._all()
        there = {(row.prefix, row.gateway) for row in rows if not row.leads_nowhere}
        nowhere = {row.prefix for row in rows if row.leads_nowhere}
        ways = self._journal.ways
        self._journal.ways = {way: to for way, to in ways.items() if way in there}
        self._journal.rejects &= nowhere
        if save:
            self._journal.save()

    def _write(self, step: RouteStep) -> None:
        match step:
            case AddGuard(prefix=prefix):
                if not self._of(prefix):
                    self._put_reject(prefix)
            case RemoveGuard(prefix=prefix):
                self._take_reject(prefix)
                self._journal.guards.discard(prefix)
            case AddRoute(prefix=prefix, next_hops=hops):
                if self._foreigners(prefix):
                    raise Refused(FOREIGN)
                if self._ours(prefix):
                    raise Refused("a route of ours has this prefix already")
                self._lead(prefix, hops)
            case ReplaceRoute(prefix=prefix, next_hops=hops):
                if self._foreigners(prefix):
                    raise Refused(FOREIGN)
                self._lead(prefix, hops)
            case RemoveRoute(prefix=prefix):
                ours = self._ours(prefix)
                if not ours:
                    raise Refused("it is not there any more")
                if prefix in self._journal.guards:
                    self._put_reject(prefix)
                for row in ours:
                    self._take(row)
            case RemoveStray(stray=stray):
                # A reject route that a gateway route stands beside; alone it is a guard.
                if self._ours(stray.prefix):
                    self._take_reject(stray.prefix)

    def _of(self, prefix: Prefix) -> list[Row]:
        return list(self._rows.get(prefix, ()))

    def _add(self, row: Row) -> None:
        self._rows.setdefault(row.prefix, []).append(row)

    def _remove(self, row: Row) -> None:
        self._rows[row.prefix].remove(row)
        if not self._rows[row.prefix]:
            del self._rows[row.prefix]

    def _ours(self, prefix: Prefix) -> list[Row]:
        return [row for row in self._of(prefix) if self._is_ours(row)]

    def _foreigners(self, prefix: Prefix) -> list[Row]:
        return [
            row
            for row in self._of(prefix)
            if not self._is_ours(row) and not self._is_our_reject(row)
        ]

    def _lead(self, prefix: Prefix, hops: NextHops) -> None:
        """Make the gateway routes of ``prefix`` these: new ones first, then the old ones go, and
        last the reject route."""
        self._check(prefix, hops)
        wanted = {hop.address: Leading(hop.device, hops.source) for hop in hops.hops}
        there = {row.gateway: row for row in self._ours(prefix) if row.gateway is not None}
        others = {
            gateway: row
            for gateway, row in there.items()
            if gateway in wanted and self._journal.ways[prefix, gateway].source != hops.source
        }
        if others:
            # The source of a route cannot be had by adding; its traffic stops for a moment.
            self._put_reject(prefix)
            for gateway, row in others.items():
                self._take(row)
                del there[gateway]
            self._journal.ways |= {(prefix, each): wanted[each] for each in others}
            self._journal.save()
        added: list[Row] = []
        try:
            for gateway in wanted:
                if gateway not in there:
                    added.append(self._put(prefix, gateway, hops))
        except Refused:
            for row in added:
                self._take(row)
            raise
        for gateway, row in there.items():
            if gateway not in wanted:
                self._take(row)
        self._take_reject(prefix)

    def _check(self, prefix: Prefix, hops: NextHops) -> None:
        names = {interface.name for interface in self._interfaces}
        for hop in hops.hops:
            if hop.device not in names:
                raise Refused(f"there is no device {hop.device}")
            if hop.address.version != prefix.version:
                if prefix.version == 6:
                    raise Refused("an IPv6 route cannot have an IPv4 next hop")
                raise Refused("this system has no IPv4 routes with IPv6 next hops")
            if hop.onlink:
                raise Refused("this system takes no next hop for on-link that is not")
            if hosts.on_link(self._interfaces, hop.address) != hop.device:
                raise Refused(hops.not_on_link())

    def _put(self, prefix: Prefix, gateway: Address, hops: NextHops) -> Row:
        done = self._runner.run(routes.add(prefix, gateway, hops.source))
        if done.code == routes.EEXIST:
            self._journal.ways.pop((prefix, gateway), None)
            raise Refused(FOREIGN)
        if done.code == routes.ENETUNREACH:
            raise Refused(f"{hops.not_on_link()} (errno {done.code})")
        self._demand(done)
        row = Row(prefix, gateway, None, "UG")
        self._add(row)
        self._made.add((prefix, gateway))
        self._learn(prefix)
        return row

    def _learn(self, prefix: Prefix) -> None:
        """Whether the kernel tells our mark, from the only route of ``prefix``, just made."""
        if self._journal.tells_proto1 is None and len(self._of(prefix)) == 1:
            got = self._get(prefix)
            if got is not None:
                self._journal.tells_proto1 = got.ours

    def _take(self, row: Row) -> None:
        """Delete a route that the journal names, unless it turns out to be another's by now."""
        assert row.gateway is not None
        way = (row.prefix, row.gateway)
        if way in self._made or self._confirmed(row):
            self._demand(self._runner.run(routes.delete(*way)), gone=True)
            self._remove(row)
        self._made.discard(way)
        self._journal.ways.pop(way, None)

    def _put_reject(self, prefix: Prefix) -> None:
        if any(row.leads_nowhere for row in self._of(prefix)):
            return
        self._demand(self._runner.run(routes.add_reject(prefix)))
        self._add(Row(prefix, None, None, "UGR"))
        self._journal.rejects.add(prefix)
        self._learn(prefix)

    def _take_reject(self, prefix: Prefix) -> None:
        for row in [row for row in self._of(prefix) if self._is_our_reject(row)]:
            self._demand(self._runner.run(routes.delete_reject(prefix)), gone=True)
            self._remove(row)
        self._journal.rejects.discard(prefix)

    def _demand(self, done: Done, *, gone: bool = False) -> None:
        if done.code and not (gone and done.code == routes.ESRCH):
            raise Refused(routes.failure(done.code, done.out))

    def _confirmed(self, row: Row) -> bool:
        """Whether the kernel, where it tells, says that the route is ours as the journal does."""
        if self._journal.tells_proto1 is False:
            return True
        got = self._get(row.prefix)
        if got is None or got.gateway != row.gateway:
            return True  # of several routes it told another one
        if got.ours:
            self._journal.tells_proto1 = True
        return got.ours or self._journal.tells_proto1 is None

    def _get(self, prefix: Prefix) -> routes.Got | None:
        done = self._runner.run(routes.get(prefix))
        return None if done.code else routes.got(done.out)
