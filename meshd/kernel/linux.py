"""The Linux backend: two netlink conversations and what they add up to.

Needs CAP_NET_ADMIN over the network namespace that it was made in, and no process, library
or file beside the kernel.  What it owns is known by the marks in ``state``; the one thing it
remembers is the last reading's ``shared``, prefixes whose key somebody else stands on.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from meshd.errors import UsageError
from meshd.kernel import conntrack, nftables, rtnetlink, suspects, vxlan, watching
from meshd.kernel.executor import carry_out
from meshd.kernel.netlink import NETFILTER, ROUTE, Channel, Message, Refusal
from meshd.kernel.plan import (
    AddGuard,
    AddRoute,
    Failure,
    FlowStep,
    Plan,
    RemoveGuard,
    RemoveRoute,
    RemoveStray,
    ReplaceRoute,
    RouteStep,
    TableStep,
    diff,
)
from meshd.kernel.port import Change, Concerns
from meshd.kernel.shape import SHAPES, shape_of
from meshd.kernel.state import ROUTE_METRIC, Host, KernelState, Reading
from meshd.kernel.tunnel import TunnelStep, after
from protocol.address import Prefix


class Linux:
    """A ``port.Backend``. ``metric`` is that of our routes, ``nat`` a mode (``shape.SHAPES``);
    ``tunnel_port`` is where our tunnel listens, 0 without one."""

    name = "linux"

    def __init__(
        self, metric: int = ROUTE_METRIC, nat: str = "exempt", tunnel_port: int = 0
    ) -> None:
        self._metric = metric
        self._shape = shape_of(nat, tunnel_port)
        self._tunnelled = bool(tunnel_port)
        self._tunnel = vxlan.Entries()
        self._shared: frozenset[Prefix] = frozenset()
        self._turn, self._flows_turn = threading.RLock(), threading.Lock()
        self._watch: watching.Watch | None = None
        self._route = Channel(ROUTE, strict=True)
        try:
            self._filter, self._flows = Channel(NETFILTER), Channel(NETFILTER)
        except OSError as error:
            self._route.close()
            raise UsageError(
                f"this kernel has no netfilter netlink ({error.strerror}): modprobe nfnetlink"
            ) from None

    def close(self) -> None:
        self._route.close()
        self._filter.close()
        self._flows.close()

    def check(self) -> None:
        with self._turn:
            try:
                refusal = nftables.rehearse(self._filter, self._shape)
            except Refusal as error:
                refusal = error
        if refusal is None:
            return
        if refusal.errno == errno.EPERM:
            raise UsageError(
                "CAP_NET_ADMIN is missing: run meshd as root, or give it that capability alone "
                "(AmbientCapabilities= in a systemd unit, or setpriv)"
            )
        modules = "nf_tables" + " nft_chain_nat nft_nat" * bool(self._shape.chains)
        modules += " nft_masq" * self._shape.masquerades
        raise UsageError(
            f"this kernel cannot keep our nftables table ({refusal.words}): modprobe -a {modules}"
        )

    def read(self) -> Reading:
        with self._turn:
            if self._watch is not None:
                # Before looking: whatever comes from now on may not have been seen.
                self._watch.disturbed = False
            interfaces = rtnetlink.read_interfaces(self._route)
            names = {index: interface.name for index, interface in interfaces.items()}
            found = rtnetlink.read_routes(self._route, names, self._metric)
            shape, unread = self._shape, ""
            try:
                table = nftables.read(self._filter, shape)
            except Refusal as refusal:
                if refusal.errno != errno.EPERM:
                    raise
                # Who may not even read the table cannot plan for it.
                table, shape = nftables.Table(), SHAPES["off"]
                unread = "nftables cannot be read without CAP_NET_ADMIN: it is left out here"
            self._shared = frozenset(found.shared)
            self._tunnel.hold(vxlan.read(self._route))
        return Reading(
            state=KernelState(
                found.routes,
                frozenset(found.guards),
                table.holds("local"),
                table.holds("mesh"),
                frozenset(table.uplinks),
                self._tunnel.held.tunnel,
                table.holds("tunnel"),
            ),
            host=Host(tuple(interfaces.values()), tuple(found.foreign)),
            problems=tuple(table.problems),
            table=table.present,
            filtered=table.filtered,
            strays=tuple(found.strays),
            metric=self._metric,
            others=table.others,
            shape=shape,
            unread=unread,
        )

    def undisturbed(self) -> bool:
        return self._watch is not None and self._watch.undisturbed()

    def apply(self, plan: Plan) -> list[Failure]:
        with self._turn:
            return carry_out(plan, self)

    def purge(self) -> list[str]:
        with self._turn:
            plan = diff(KernelState(), self.read())
            failures = self.apply(plan)
        if failures:
            raise OSError("; ".join(map(str, failures)))
        return [str(step) for step in plan]

    def write_routes(self, steps: Sequence[RouteStep]) -> Mapping[RouteStep, str]:
        refused: dict[RouteStep, str] = {}
        leads = (AddRoute, ReplaceRoute, RemoveRoute)
        ways = {step.next_hops for step in steps if isinstance(step, leads)}
        devices = {hop.device for way in ways for hop in way.hops}
        # Now, for a link made anew since the reading bears the name with another index.
        indices = rtnetlink.read_indices(self._route, devices)
        messages: list[Message] = []
        sent: list[RouteStep] = []
        for step in steps:
            try:
                if isinstance(step, ReplaceRoute) and step.prefix in self._shared:
                    raise Refusal(errno.EEXIST, "")
                messages.append(rtnetlink.encode(step, indices))
                sent.append(step)
            except Refusal as refusal:
                refused[step] = _words(step, refusal)
        try:
            answers = self._route.request(messages)
        except OSError as error:
            return refused | dict.fromkeys(sent, str(error))
        return refused | {sent[i]: _words(sent[i], answers[i]) for i in sorted(answers)}

    def write_table(self, steps: Sequence[TableStep]) -> Mapping[TableStep, str]:
        try:
            return nftables.write(self._filter, steps)
        except OSError as error:
            return dict.fromkeys(steps, str(error))

    def write_tunnel(self, steps: Sequence[TunnelStep]) -> Mapping[TunnelStep, str]:
        held = self._tunnel.held
        # Known beforehand, so that what we hear of our own writing is no news.
        expected = attrs.evolve(held, tunnel=after(held.tunnel, steps))
        self._tunnel.hold(expected)
        try:
            index, refused = vxlan.write(self._route, held.index, steps)
        except OSError as error:
            return dict.fromkeys(steps, str(error))
        self._tunnel.hold(attrs.evolve(expected, index=index))
        return refused

    def drop_flows(self, step: FlowStep) -> str | None:
        try:
            with self._flows_turn:
                conntrack.drop(self._flows, step)
        except OSError as error:
            return f"{error.strerror or error} (modprobe nf_conntrack_netlink)"
        return None

    def connections(self) -> int:
        try:
            with self._turn:
                return conntrack.count(self._filter)
        except OSError:
            return 1

    def forget(self, steps: Sequence[FlowStep]) -> list[Failure]:
        refused = ((step, self.drop_flows(step)) for step in steps)
        return [Failure(step, reason) for step, reason in refused if reason is not None]

    @asynccontextmanager
    async def changes(self, concerns: Concerns) -> AsyncIterator[trio.MemoryReceiveChannel[Change]]:
        ports = frozenset({self._route.portid, self._filter.portid})
        tunnel = self._tunnel if self._tunnelled else None
        self._watch = watching.Watch(ports, concerns, tunnel)
        try:
            async with self._watch.run() as changes:
                yield changes
        finally:
            self._watch = None

    def hints(self) -> list[str]:
        return suspects.services()


def _words(step: RouteStep, refusal: Refusal) -> str:
    """The refusal as an operator would look into it, with the kernel's words where they help."""
    match step, refusal.errno:
        case (AddGuard(), errno.EEXIST):
            return "a foreign route has this prefix and metric"
        case (AddRoute(metric=metric) | ReplaceRoute(metric=metric), errno.EEXIST):
            return f"a foreign route has this prefix and metric {metric}"
        case (
            AddRoute(next_hops=hops) | ReplaceRoute(next_hops=hops),
            errno.ENETUNREACH | errno.EHOSTUNREACH,
        ):
            return f"{hops.not_on_link()} ({refusal.words})"
        case (RemoveRoute() | RemoveStray() | RemoveGuard(), errno.ESRCH):
            return "it is not there any more"
        case _:
            return refusal.words
