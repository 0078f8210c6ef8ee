"""A kernel in memory that refuses what the real one refuses; for tests and rehearsals.

It passes the same contract test as ``linux``.  Besides the port it has the hands of others:
what an administrator, another daemon or a cable can do to a kernel while meshd runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal

import attrs
import trio

from meshd.kernel.executor import carry_out
from meshd.kernel.plan import (
    AddElement,
    AddGuard,
    AddRoute,
    AddUplink,
    BuildTable,
    Failure,
    Flow,
    FlowStep,
    Plan,
    RemoveElement,
    RemoveFilter,
    RemoveGuard,
    RemoveRoute,
    RemoveStray,
    RemoveTable,
    RemoveUplink,
    ReplaceRoute,
    RouteStep,
    TableStep,
    diff,
)
from meshd.kernel.port import Change, Concerns
from meshd.kernel.shape import FILTER, SetName, shape_of
from meshd.kernel.state import (
    GUARD_METRIC,
    ROUTE_METRIC,
    ForeignRoute,
    Host,
    Interface,
    KernelState,
    NextHops,
    Reading,
    Stray,
)
from meshd.kernel.tunnel import (
    DEVICE,
    AddDevice,
    AddForward,
    Tunnel,
    TunnelStep,
    after,
    in_the_way,
)
from protocol.address import Prefix

_PENDING: Final = 64

_Key = tuple[Prefix, int]
"""What a kernel knows a route by: prefix and metric."""
_Sets = Mapping[SetName, frozenset[Prefix]]
_EMPTY: Final[_Sets] = {"local": frozenset(), "mesh": frozenset(), "tunnel": frozenset()}


def connected(interfaces: Iterable[Interface]) -> Iterator[ForeignRoute]:
    """The routes that a kernel makes for the addresses of interfaces that are up."""
    for interface in interfaces:
        for own in interface.addresses:
            if interface.up and own.network.prefixlen < own.network.max_prefixlen:
                metric = 0 if own.version == 4 else 256
                yield ForeignRoute(Prefix.of(own.network), None, interface.name, 2, metric)


class _Refused(Exception):
    """In the words that the linux backend finds for the same refusal."""


class Memory:
    """A ``port.Backend``. ``flows`` may be set; ``dropped`` tells which were forgotten."""

    name = "memory"

    def __init__(
        self,
        interfaces: Iterable[Interface] = (),
        foreign: Iterable[ForeignRoute] = (),
        metric: int = ROUTE_METRIC,
        nat: str = "exempt",
        tunnel_port: int = 0,
    ) -> None:
        self.flows: list[Flow] = []
        self.dropped: list[Flow] = []
        self._metric = metric
        self._shape = shape_of(nat, tunnel_port)
        self._tunnel: Tunnel | None = None
        self._uplinks: frozenset[str] = frozenset()
        self._interfaces = {interface.name: interface for interface in interfaces}
        self._foreign = list(foreign)
        self._routes: dict[_Key, NextHops | None] = {}
        self._sets: _Sets | None = None
        self._damage: tuple[str, ...] = ()
        self._concerns: Concerns = lambda version, first, last: True
        self._listeners: list[trio.MemorySendChannel[Change]] = []
        self._disturbed = True

    def check(self) -> None:
        """Nothing can be missing."""

    def close(self) -> None:
        """Nothing to give back."""

    def read(self) -> Reading:
        self._disturbed = False
        routes: dict[Prefix, NextHops] = {}
        guards: set[Prefix] = set()
        strays: list[Stray] = []
        for (prefix, metric), hops in self._routes.items():
            if metric == GUARD_METRIC and hops is None:
                guards.add(prefix)
            elif metric == self._metric and hops is not None:
                routes[prefix] = hops
            else:
                strays.append(Stray(prefix, metric))
        sets = self._sets or _EMPTY
        return Reading(
            state=KernelState(
                routes,
                frozenset(guards),
                sets["local"],
                sets["mesh"],
                self._uplinks,
                self._tunnel,
                sets["tunnel"],
            ),
            host=Host(
                tuple(self._interfaces.values()),
                (*connected(self._interfaces.values()), *self._foreign),
            ),
            problems=self._damage,
            table=self._sets is not None,
            filtered=self._sets is not None and any(c.name == FILTER for c in self._shape.chains),
            strays=tuple(strays),
            metric=self._metric,
            shape=self._shape,
        )

    def undisturbed(self) -> bool:
        return bool(self._listeners) and not self._disturbed

    def connections(self) -> int:
        return len(self.flows)

    def forget(self, steps: Sequence[FlowStep]) -> list[Failure]:
        return [Failure(s, why) for s in steps if (why := self.drop_flows(s)) is not None]

    def apply(self, plan: Plan) -> list[Failure]:
        return carry_out(plan, self)

    def purge(self) -> list[str]:
        plan = diff(KernelState(), self.read())
        failures = self.apply(plan)
        if failures:
            raise OSError("; ".join(map(str, failures)))
        return [str(step) for step in plan]

    @asynccontextmanager
    async def changes(self, concerns: Concerns) -> AsyncIterator[trio.MemoryReceiveChannel[Change]]:
        send, receive = trio.open_memory_channel[Change](_PENDING)
        self._concerns = concerns
        self._listeners.append(send)
        try:
            with send, receive:
                yield receive
        finally:
            self._listeners.remove(send)

    def hints(self) -> list[str]:
        return []

    # What the executor asks for.

    def write_routes(self, steps: Sequence[RouteStep]) -> Mapping[RouteStep, str]:
        refused: dict[RouteStep, str] = {}
        for step in steps:
            try:
                self._write_route(step)
            except _Refused as refusal:
                refused[step] = str(refusal)
        return refused

    def write_table(self, steps: Sequence[TableStep]) -> Mapping[TableStep, str]:
        refused: dict[TableStep, str] = {}
        after = self._sets
        for step in steps:
            if isinstance(step, AddUplink | RemoveUplink):
                self._uplinks ^= {step.device}
                continue
            try:
                after = _write_table(after, step)
            except _Refused as refusal:
                refused[step] = str(refusal)
        for step in steps:
            if isinstance(step, BuildTable | RemoveTable):
                self._damage = ()
                self._uplinks = step.uplinks if isinstance(step, BuildTable) else frozenset()
        self._sets = after
        return refused

    def write_tunnel(self, steps: Sequence[TunnelStep]) -> Mapping[TunnelStep, str]:
        refused: dict[TunnelStep, str] = {}
        for step in steps:
            try:
                self._write_tunnel(step)
            except _Refused as refusal:
                refused[step] = str(refusal)
        return refused

    def _write_tunnel(self, step: TunnelStep) -> None:
        if isinstance(step, AddDevice):
            if DEVICE in self._interfaces:
                raise _Refused(in_the_way(""))
        elif self._tunnel is None:
            raise _Refused(f"there is no device {DEVICE} of ours")
        elif isinstance(step, AddForward) and (
            step.forward.address.version != self._tunnel.device.local.version
        ):
            raise _Refused("Address family not supported by protocol")
        self._put(after(self._tunnel, [step]))

    def _put(self, tunnel: Tunnel | None) -> None:
        """The device is as ``tunnel`` says, and among the interfaces."""
        self._tunnel = tunnel
        if tunnel is None:
            self._drop(self._interfaces.pop(DEVICE))
            return
        device = tunnel.device
        self._interfaces[DEVICE] = Interface(DEVICE, 1000, device.up, mtu=device.mtu)
        if not device.up:
            self._drop(self._interfaces[DEVICE])

    def drop_flows(self, step: FlowStep) -> str | None:
        takes = step.takes()
        self.dropped += [entry for entry in self.flows if takes(entry)]
        self.flows = [entry for entry in self.flows if not takes(entry)]
        return None

    def _write_route(self, step: RouteStep) -> None:
        match step:
            case AddGuard(prefix=prefix):
                self._add((prefix, GUARD_METRIC), None, "metric")
            case AddRoute(prefix=prefix, next_hops=hops, metric=metric):
                self._check(hops, prefix)
                self._add((prefix, metric), hops, f"metric {metric}")
            case ReplaceRoute(prefix=prefix, next_hops=hops, metric=metric):
                self._check(hops, prefix)
                if (prefix, metric) in self._foreign_keys():
                    raise _Refused(f"a foreign route has this prefix and metric {metric}")
                self._own((prefix, metric))
                self._routes[prefix, metric] = hops
            case RemoveGuard(prefix=prefix):
                del self._routes[self._own((prefix, GUARD_METRIC))]
            case RemoveRoute(prefix=prefix, metric=metric):
                del self._routes[self._own((prefix, metric))]
            case RemoveStray(stray=stray):
                del self._routes[self._own((stray.prefix, stray.metric))]

    def _add(self, key: _Key, hops: NextHops | None, called: str) -> None:
        if key in self._routes or key in self._foreign_keys():
            raise _Refused(f"a foreign route has this prefix and {called}")
        self._routes[key] = hops

    def _own(self, key: _Key) -> _Key:
        if key not in self._routes:
            raise _Refused("it is not there any more")
        return key

    def _foreign_keys(self) -> set[_Key]:
        return {(route.prefix, route.metric) for route in self._foreign}

    def _check(self, hops: NextHops, prefix: Prefix) -> None:
        for hop in hops.hops:
            interface = self._interfaces.get(hop.device)
            if interface is None:
                raise _Refused(f"there is no device {hop.device}")
            if prefix.version == 6 and hop.address.version == 4:
                raise _Refused("an IPv6 route cannot have an IPv4 next hop")
            near = hop.onlink or any(
                route.device == hop.device
                and route.next_hop is None
                and hop.address in route.prefix
                for route in (*connected([interface]), *self._foreign)
            )
            near |= hop.address.version == 6 and hop.address.is_link_local
            if not interface.up or not near:
                raise _Refused(hops.not_on_link())
        everywhere = {own.ip for i in self._interfaces.values() for own in i.addresses}
        if hops.source is not None and hops.source not in everywhere:
            raise _Refused("Invalid source address")

    # What others do.

    def delete_route(self, prefix: Prefix) -> None:
        """Somebody deletes our route by hand; the guard stays."""
        del self._routes[prefix, self._metric]
        self._tell(f"our route {prefix} deleted")

    def flush_ruleset(self) -> None:
        """``nft flush ruleset``."""
        self._sets, self._damage, self._uplinks = None, (), frozenset()
        self._tell("table inet meshd: table deleted")

    def damage_table(self, problem: str) -> None:
        """Somebody edits our chain."""
        self._damage = (*self._damage, problem)
        self._tell("table inet meshd: rule deleted")

    def set_interface(self, interface: Interface) -> None:
        """A link goes up or down or changes its addresses. Down takes the routes along that
        lead nowhere else; where they do, its next hops stay, dead."""
        self._interfaces[interface.name] = interface
        if not interface.up:
            self._drop(interface)
        state = "up" if interface.up else "down"
        self._tell(f"link {interface.name} {state}", "host")

    def set_tunnel(self, tunnel: Tunnel | None) -> None:
        """Somebody deletes our device, changes it, or takes entries away. Down or deleted, its
        routes go; down, its neighbours do."""
        if tunnel is not None and not tunnel.device.up:
            tunnel = attrs.evolve(tunnel, neighbours={})
        self._put(tunnel)
        self._tell(f"{DEVICE} {'deleted' if tunnel is None else 'changed'}")

    def _drop(self, gone: Interface) -> None:
        up = {each.name for each in self._interfaces.values() if each.up} - {gone.name}
        self._routes = {
            key: hops
            for key, hops in self._routes.items()
            if hops is None or any(hop.device in up for hop in hops.hops)
        }

    def add_foreign(self, route: ForeignRoute) -> None:
        self._foreign.append(route)
        self._tell_of(route, "written")

    def remove_foreign(self, route: ForeignRoute) -> None:
        self._foreign.remove(route)
        self._tell_of(route, "deleted")

    def _tell_of(self, route: ForeignRoute, verb: str) -> None:
        self._disturbed = True
        net = route.prefix
        if self._concerns(net.version, net.first, net.last):
            self._tell(f"route of protocol {route.protocol} {net} {verb}", "others")

    def _tell(self, what: str, about: Literal["ours", "host", "others"] = "ours") -> None:
        self._disturbed = True
        for listener in self._listeners:
            with suppress(trio.WouldBlock):
                listener.send_nowait(Change(what, "somebody", about))


def _write_table(
    sets: _Sets | None,
    step: BuildTable | RemoveTable | RemoveFilter | AddElement | RemoveElement,
) -> _Sets | None:
    if isinstance(step, BuildTable):
        built = _EMPTY
        all_three: tuple[tuple[SetName, frozenset[Prefix]], ...]
        all_three = (("local", step.local), ("mesh", step.mesh), ("tunnel", step.admitted))
        for name, prefixes in all_three:
            for prefix in prefixes:
                built = _write_element(built, AddElement(name, prefix))
        return built
    if sets is None:
        raise _Refused("No such file or directory")
    if isinstance(step, RemoveTable):
        return None
    if isinstance(step, RemoveFilter):
        return {**sets, "tunnel": frozenset()}
    return _write_element(sets, step)


def _write_element(sets: _Sets, step: AddElement | RemoveElement) -> _Sets:
    there, prefix = sets[step.name], step.prefix
    if isinstance(step, RemoveElement):
        if prefix not in there:
            raise _Refused("No such file or directory")
        return {**sets, step.name: there - {prefix}}
    if any(map(prefix.overlaps, there)):
        raise _Refused("File exists")
    return {**sets, step.name: there | {prefix}}
