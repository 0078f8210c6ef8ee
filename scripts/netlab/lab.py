"""A lab: router zones on one switch, each with a private zone behind it, in network namespaces.

    private 1 -- router 1 --+
    private 2 -- router 2 --+-- switch -- internet
    private 3 -- router 3 --+

Routers forward, have their default route through `internet`, and translate what leaves them by a
foreign masquerade rule. `internet` knows no private subnet, so what leaks arrives there and goes no
further. With a second uplink the default route lies on an interface and a switch of its own, as on
a router between two networks, and survives when the mesh's uplink goes down. In a routed lab the
second half of the zones is on a switch of its own, and `internet` a plain router between the two:

    private 1 -- router 1 --+
    private 2 -- router 2 --+-- switch -- internet -- switch --+-- router 3 -- private 3

Every object lives in a namespace whose name begins with the lab's, so `down` needs no record of
what `up` did, and leaves nothing behind also when `up` was cut short.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from types import TracebackType

import attrs

from netlab.capture import Capture
from netlab.masquerade import CHOICES, KINDS, masquerade
from netlab.namespace import NAMES, CommandError, Namespace, processes_in

PREFIX = "meshd-lab-"
"""Begins the name of every namespace of every lab."""

_NAME = re.compile(r"[a-z0-9-]{1,32}")
_PLACE = re.compile(rf"{PREFIX}({_NAME.pattern})-(switch|internet|[rp]\d+)")

MAX_ZONES = 1000
"""A Linux bridge has at most 1,024 ports (BR_MAX_PORTS)."""

OUTSIDE4 = IPv4Address("198.51.100.1")
OUTSIDE6 = IPv6Address("2001:db8:ffff::1")
"""A host somewhere beyond the default gateway; RFC 5737 and RFC 3849, for documentation."""

PRIVATE4 = IPv4Network("10.0.0.0/8")
PRIVATE6 = IPv6Network("fd00:6179::/32")
"""All private subnets lie in these."""

INSIDE = "lan0"
UPLINK = "net0"
SECOND = "net1"
"""A router's interfaces: to its private zone, to the mesh's switch, to the second switch."""
BEYOND = "net2"
"""Of `internet`, to the switch that the second half of a routed lab's zones is on."""

# In force before any interface is made, since an interface starts with the defaults of its time.
_HOST = {
    "ipv6/conf/all/accept_dad": 0,  # addresses work at once; nobody else could have them
    "ipv6/conf/default/accept_dad": 0,
    "ipv6/conf/all/forwarding": 0,
    "ipv4/ip_forward": 0,
}
_ROUTER = {**_HOST, "ipv6/conf/all/forwarding": 1, "ipv4/ip_forward": 1}
_SWITCH = {
    "ipv6/conf/default/disable_ipv6": 1,  # a switch says nothing of its own
    "bridge/bridge-nf-call-iptables": 0,
    "bridge/bridge-nf-call-ip6tables": 0,
}


@attrs.frozen
class Segment:
    """One switched network: its bridge, its prefixes, and `internet` as its gateway."""

    bridge: str
    prefix4: IPv4Network
    prefix6: IPv6Network

    @property
    def gateway4(self) -> IPv4Address:
        return self.prefix4[-2]

    @property
    def gateway6(self) -> IPv6Address:
        return self.prefix6[0xFFFF]

    def host4(self, number: int) -> IPv4Interface:
        return IPv4Interface((self.prefix4[number], self.prefix4.prefixlen))

    def host6(self, number: int) -> IPv6Interface:
        return IPv6Interface((self.prefix6[number], self.prefix6.prefixlen))


@attrs.frozen
class Zone:
    """A router and the private zone behind it. Numbers begin with 1."""

    number: int
    nat: str
    """The kind of foreign masquerade on its uplink; one of masquerade.CHOICES."""
    segment: Segment
    """The network of its uplink to the mesh."""
    router: Namespace
    private: Namespace
    uplink4: IPv4Interface
    uplink6: IPv6Interface
    prefix4: IPv4Network
    prefix6: IPv6Network

    @property
    def router4(self) -> IPv4Address:
        """The router's address on its private side, and what the private zone routes through."""
        return self.prefix4[1]

    @property
    def router6(self) -> IPv6Address:
        return self.prefix6[1]

    @property
    def private4(self) -> IPv4Address:
        """The private zone's address."""
        return self.prefix4[2]

    @property
    def private6(self) -> IPv6Address:
        return self.prefix6[2]


class Lab:
    """A lab as a context manager, or by hand with `up` and `down`.

    name: what tells it from other labs on this machine.
    nat: kinds of foreign masquerade (see masquerade.CHOICES), given to the zones in turn.
    loss: percentage of frames that the mesh's switch loses, each way.
    second_uplink: the default route lies on another interface than the mesh's uplink.
    routed: the second half of the zones is on another switch, and `internet` forwards between.

    Raises ValueError for arguments that make no lab, CommandError where the kernel refuses.
    """

    def __init__(
        self,
        zones: int = 3,
        *,
        name: str = "lab",
        nat: Sequence[str] = KINDS,
        loss: float = 0,
        second_uplink: bool = False,
        routed: bool = False,
    ) -> None:
        if not 1 <= zones <= MAX_ZONES:
            raise ValueError(f"a lab has 1 to {MAX_ZONES} zones, not {zones}")
        if not _NAME.fullmatch(name):
            raise ValueError(f"a lab's name has 1 to 32 of a-z, 0-9 and -; not {name!r}")
        if not nat or not set(nat) <= set(CHOICES):
            raise ValueError(f"kinds of masquerade are {', '.join(CHOICES)}; not {', '.join(nat)}")
        self.name = name
        self.loss = loss
        self.second_uplink = second_uplink
        self.routed = routed
        large = zones > 250  # a /24 for documentation is too small: RFC 2544's benchmark range
        self.segment = Segment(
            "mesh",
            IPv4Network("198.18.0.0/16" if large else "192.0.2.0/24"),
            IPv6Network("2001:db8:6179::/64"),
        )
        self.second_segment = Segment(
            "other",
            IPv4Network("198.19.0.0/16" if large else "203.0.113.0/24"),
            IPv6Network("2001:db8:617a::/64"),
        )
        # RFC 6598's shared addresses: no documentation prefix is left.
        self.far_segment = Segment(
            "far",
            IPv4Network("100.64.0.0/16" if large else "100.64.0.0/24"),
            IPv6Network("2001:db8:617b::/64"),
        )
        self._near = (zones + 1) // 2 if routed else zones
        self.switch = self._namespace("switch")
        self.internet = self._namespace("internet")
        self.zones = tuple(
            self._zone(number, kind)
            for number, kind in zip(range(1, zones + 1), itertools.cycle(nat), strict=False)
        )

    def _namespace(self, place: str) -> Namespace:
        return Namespace(f"{PREFIX}{self.name}-{place}")

    def _zone(self, number: int, nat: str) -> Zone:
        segment = self.segment if number <= self._near else self.far_segment
        return Zone(
            number,
            nat,
            segment,
            self._namespace(f"r{number}"),
            self._namespace(f"p{number}"),
            segment.host4(number),
            segment.host6(number),
            IPv4Network((PRIVATE4[(number % 256 << 16) + (number // 256 << 8)], 24)),
            IPv6Network((PRIVATE6[number << 80], 64)),
        )

    def zone(self, number: int) -> Zone:
        return self.zones[number - 1]

    def router(self, number: int) -> Namespace:
        return self.zone(number).router

    def private(self, number: int) -> Namespace:
        return self.zone(number).private

    def place(self, name: str) -> Namespace:
        """The namespace that people call `1` or `r1`, `p1`, `switch`, `internet`; or ValueError."""
        wanted = self._namespace(f"r{name}" if name.isdecimal() else name)
        if wanted not in self.namespaces():
            raise ValueError(
                f"no place {name!r} in lab {self.name}: a number or r1 is a router, p1 the zone "
                f"behind it, up to {len(self.zones)}; and there are switch and internet"
            )
        return wanted

    def namespaces(self) -> list[Namespace]:
        """Every namespace of this lab, whether it is up or not."""
        pairs = ((zone.router, zone.private) for zone in self.zones)
        return [self.switch, self.internet, *itertools.chain.from_iterable(pairs)]

    def _segments(self) -> dict[str, Segment]:
        """All that there are, by the interface of `internet` that is in each."""
        found = {UPLINK: self.segment}
        if self.routed:
            found[BEYOND] = self.far_segment
        if self.second_uplink:
            found[SECOND] = self.second_segment
        return found

    def _uplinks(self, zone: Zone) -> dict[str, Segment]:
        """The segments that a router is in, by its interfaces."""
        found = {UPLINK: zone.segment}
        if self.second_uplink:
            found[SECOND] = self.second_segment
        return found

    # Up and down

    def up(self) -> None:
        """Make everything; after an error or an interrupt nothing is left of it."""
        if self.name in labs():
            raise ValueError(f"lab {self.name} is up already")
        try:
            self._make()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """End every process in the lab's namespaces and remove them; harmless when it is down."""
        remove(self.name)

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.down()

    def _make(self) -> None:
        _batch([f"netns add {namespace.name}" for namespace in self.namespaces()])
        self.switch.sysctl(_SWITCH)
        self.internet.sysctl(_ROUTER if self.routed else _HOST)
        for zone in self.zones:
            zone.router.sysctl(_ROUTER)
            zone.private.sysctl(_HOST)
        _batch(self._links())
        self.switch.configure(self._switch_lines())
        self.internet.configure(self._internet_lines())
        for zone in self.zones:
            zone.router.configure(self._router_lines(zone))
            zone.private.configure(_private_lines(zone))
            masquerade(zone.router, zone.nat, zone.prefix4, zone.prefix6, INSIDE)
        if self.loss:
            self.set_loss(self.loss)

    def _links(self) -> list[str]:
        # Indices that no far end gets: a device whose peer has its own index passes for a physical
        # one, and the kernel lets its carrier, and IPv6 with it, wait for up to a second
        # (net/core/link_watch.c).
        indices = itertools.count(10_000)

        def link(name: str, namespace: Namespace, peer: str, far: Namespace) -> str:
            here, there = f"{name} netns {namespace.name}", f"{peer} netns {far.name}"
            return f"link add {here} index {next(indices)} type veth peer name {there}"

        lines = [link(INSIDE, zone.router, UPLINK, zone.private) for zone in self.zones]
        for device, segment in self._segments().items():
            lines.append(link(device, self.internet, f"{segment.bridge}0", self.switch))
        for zone in self.zones:
            for device, segment in self._uplinks(zone).items():
                port = f"{segment.bridge}{zone.number}"
                lines.append(link(device, zone.router, port, self.switch))
        return lines

    def _switch_lines(self) -> list[str]:
        lines = []
        for segment in self._segments().values():
            # Without snooping: it would hold back neighbour discovery until it has seen a querier.
            lines += [
                f"link add {segment.bridge} type bridge mcast_snooping 0",
                f"link set {segment.bridge} up",
            ]
            there = [z.number for z in self.zones if segment in self._uplinks(z).values()]
            for number in [0, *there]:
                lines.append(f"link set {segment.bridge}{number} master {segment.bridge} up")
        return lines

    def _internet_lines(self) -> list[str]:
        lines = [
            "link set lo up",
            f"addr add {OUTSIDE4}/32 dev lo",
            f"addr add {OUTSIDE6}/128 dev lo",
        ]
        for device, segment in self._segments().items():
            lines += [
                f"addr add {segment.gateway4}/{segment.prefix4.prefixlen} dev {device}",
                f"addr add {segment.gateway6}/{segment.prefix6.prefixlen} dev {device}",
                f"link set {device} up",
            ]
        return lines

    def _router_lines(self, zone: Zone) -> list[str]:
        lines = [
            "link set lo up",
            f"addr add {zone.router4}/{zone.prefix4.prefixlen} dev {INSIDE}",
            f"addr add {zone.router6}/{zone.prefix6.prefixlen} dev {INSIDE}",
            f"link set {INSIDE} up",
        ]
        for device, segment in self._uplinks(zone).items():
            lines += [
                f"addr add {segment.host4(zone.number)} dev {device}",
                f"addr add {segment.host6(zone.number)} dev {device}",
                f"link set {device} up",
            ]
        default = self.second_segment if self.second_uplink else zone.segment
        if self.routed and self.second_uplink:
            other = self.far_segment if zone.segment is self.segment else self.segment
            lines += [
                f"route add {other.prefix4} via {zone.segment.gateway4}",
                f"route add {other.prefix6} via {zone.segment.gateway6}",
            ]
        return [
            *lines,
            f"route add default via {default.gateway4}",
            f"route add default via {default.gateway6}",
        ]

    # What happens to a network

    def cut(self, number: int) -> None:
        """Take the far end of a zone's mesh uplink down, as when a cable is pulled."""
        self.switch.configure([f"link set {self._port(number)} down"])

    def heal(self, number: int) -> None:
        """Undo `cut`."""
        self.switch.configure([f"link set {self._port(number)} up"])

    def _port(self, number: int) -> str:
        """The switch's end of a zone's uplink to the mesh."""
        return f"{self.zone(number).segment.bridge}{number}"

    def set_loss(self, percent: float) -> None:
        """Lose so many of a hundred frames that enter a switch of the mesh; 0 ends it."""
        rules = "add table bridge loss\ndelete table bridge loss\n"
        if percent:
            rules += f"""\
table bridge loss {{
    chain frames {{
        type filter hook prerouting priority -300; policy accept;
        iifname {{ "{self.segment.bridge}*", "{self.far_segment.bridge}*" }} \
            numgen random mod 10000 < {round(percent * 100)} drop
    }}
}}
"""
        self.switch.run(["nft", "-f", "-"], stdin=rules)
        self.loss = percent

    def capture(self, namespace: Namespace, expression: str) -> Capture:
        """See `Capture`: what comes into `namespace` within a `with` block."""
        return Capture(namespace, expression)

    def capture_leaks(self) -> Capture:
        """What arrives at `internet` though it is for, or from, a private subnet."""
        return Capture(self.internet, f"net {PRIVATE4} or net {PRIVATE6}")


def _private_lines(zone: Zone) -> list[str]:
    return [
        "link set lo up",
        f"addr add {zone.private4}/{zone.prefix4.prefixlen} dev {UPLINK}",
        f"addr add {zone.private6}/{zone.prefix6.prefixlen} dev {UPLINK}",
        f"link set {UPLINK} up",
        f"route add default via {zone.router4}",
        f"route add default via {zone.router6}",
    ]


def _batch(lines: Sequence[str]) -> None:
    """Carry out lines of iproute2 where we are, in one process; all, also when one fails."""
    done = subprocess.run(
        ["ip", "-force", "-batch", "-"],
        input="".join(line + "\n" for line in lines),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CommandError(done.stderr.strip())


def labs() -> dict[str, list[Namespace]]:
    """The namespaces of each lab on this machine, by the lab's name."""
    found: dict[str, list[Namespace]] = {}
    for path in sorted(NAMES.glob(f"{PREFIX}*")):
        if place := _PLACE.fullmatch(path.name):
            found.setdefault(place[1], []).append(Namespace(path.name))
    return found


def remove(lab: str) -> None:
    """Remove every namespace of the lab of that name, and end the processes in them."""
    if namespaces := labs().get(lab):
        for pid in processes_in(namespaces):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _batch([f"netns del {namespace.name}" for namespace in namespaces])
