"""The tunnel as a kernel holds it: one VXLAN device, and who is behind it. Values, and their diff.

The device is known for ours by its name, its kind and its alias together; another one of that
name is never touched.  What is on it (permanent neighbours, forwarding entries) is ours with it.
Nothing is learned from frames and none goes to all: a frame for somebody not entered ends here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import attrs

from protocol.address import Address

DEVICE: Final = "meshd0"

ALIAS: Final = "meshd: subnets of members on other links"
"""IFLA_IFALIAS. Ours is a VXLAN device of that name whose alias begins with MARK."""

MARK: Final = "meshd"

OVERHEAD: Final = {4: 50, 6: 70}
"""Octets that VXLAN takes of the underlay's MTU: the outer IP header, UDP (8), VXLAN (8) and the
inner Ethernet header (14). RFC 7348 section 5; VXLAN_HEADROOM in include/net/vxlan.h."""


class Forward(NamedTuple):
    """Where frames for a hardware address go: a forwarding entry."""

    hardware: bytes
    address: Address
    """Outer destination,"""
    port: int
    """... and its UDP port."""


@attrs.frozen
class Device:
    """A VXLAN device. The first three fields cannot be changed while it exists."""

    identifier: int
    """VNI"""
    port: int
    """UDP, where it listens."""
    local: Address
    """Outer source; its family is that of all that it sends and takes."""
    hardware: bytes
    mtu: int
    up: bool = True
    flaws: tuple[str, ...] = ()
    """What else differs from how we make it, and so asks for another."""

    def replaces(self, other: Device) -> bool:
        """It cannot be had by changing ``other``."""
        same = (self.identifier, self.port, self.local, self.flaws)
        return same != (other.identifier, other.port, other.local, other.flaws)


@attrs.frozen
class Tunnel:
    """The device with its entries."""

    device: Device
    neighbours: Mapping[Address, bytes] = attrs.field(factory=dict)
    """Next hop to hardware address."""
    forwarding: frozenset[Forward] = frozenset()

    def __str__(self) -> str:
        device = self.device
        lines = [
            f"tunnel {DEVICE} id {device.identifier} local {device.local} port {device.port}"
            f" address {device.hardware.hex(':')} mtu {device.mtu}"
        ]
        lines += [f"neighbour {a} {h.hex(':')}" for a, h in _by_address(self.neighbours)]
        lines += [
            f"forward {h.hex(':')} {a} port {p}" for h, a, p in sorted(self.forwarding, key=_key)
        ]
        return "\n".join(lines)


# -- steps ---------------------------------------------------------------------------------------


@attrs.frozen
class AddDevice:
    """Make the device, with nobody behind it, and set it up."""

    device: Device

    def __str__(self) -> str:
        device = self.device
        return "\n".join(
            (
                f"ip link add {DEVICE} address {device.hardware.hex(':')} mtu {device.mtu}"
                f" type vxlan id {device.identifier} local {device.local}"
                f" dstport {device.port} nolearning",
                f'ip link set {DEVICE} alias "{ALIAS}"',
                f"ip link set {DEVICE} addrgenmode none",
                f"ip link set {DEVICE} up",
            )
        )


@attrs.frozen
class ChangeDevice:
    """Give it back what somebody changed, or follow the underlay's MTU."""

    device: Device
    was: Device
    """Only what differs is written: a hardware address that is set, be it to itself, costs all
    neighbours (``neigh_changeaddr``)."""

    @property
    def readdressed(self) -> bool:
        return self.device.hardware != self.was.hardware

    def found(self) -> list[str]:
        """What was not as it should be."""
        told = [f"had the address {self.was.hardware.hex(':')}"] if self.readdressed else []
        told += [f"had an MTU of {self.was.mtu}"] if self.device.mtu != self.was.mtu else []
        return [*told, "was down"] if self.device.up and not self.was.up else told

    def __str__(self) -> str:
        words = [f"address {self.device.hardware.hex(':')}"] if self.readdressed else []
        words += [f"mtu {self.device.mtu}"] if self.device.mtu != self.was.mtu else []
        words += ["up"] if self.device.up and not self.was.up else []
        return f"ip link set {DEVICE} {' '.join(words)}"


@attrs.frozen
class RemoveDevice:
    """Take it away, and with it all that is on it."""

    why: str = ""

    def __str__(self) -> str:
        return f"ip link del {DEVICE}" + (f"  # {self.why}" if self.why else "")


@attrs.frozen
class AddNeighbour:
    """Say whose the address of a next hop is; also in place of what somebody else said."""

    address: Address
    hardware: bytes

    def __str__(self) -> str:
        hardware = self.hardware.hex(":")
        return f"ip neigh replace {self.address} lladdr {hardware} dev {DEVICE} nud permanent"


@attrs.frozen
class RemoveNeighbour:
    """Take the entry of a next hop away."""

    address: Address

    def __str__(self) -> str:
        return f"ip neigh del {self.address} dev {DEVICE}"


@attrs.frozen
class AddForward:
    """Say where frames for a hardware address go; in place of where they went."""

    forward: Forward

    def __str__(self) -> str:
        return f"bridge fdb replace {_written(self.forward)} self permanent"


@attrs.frozen
class RemoveForward:
    """Take a forwarding entry away."""

    forward: Forward

    def __str__(self) -> str:
        return f"bridge fdb del {_written(self.forward)} self"


def in_the_way(what: str) -> str:
    """Why the device cannot be made: ``what`` bears its name and is somebody else's."""
    named = what or "a device"
    return (
        f"{named} that is not ours is called {DEVICE}:"
        f" rename it (ip link set {DEVICE} name OTHER) or delete it"
    )


DeviceStep = AddDevice | ChangeDevice | RemoveDevice
EntryStep = AddNeighbour | RemoveNeighbour | AddForward | RemoveForward
TunnelStep = DeviceStep | EntryStep


class Steps(NamedTuple):
    """A diff, in the parts between which other steps stand."""

    removal: tuple[RemoveDevice, ...] = ()
    """Behind routes that go."""
    making: tuple[TunnelStep, ...] = ()
    """Before routes that come."""
    sweeping: tuple[EntryStep, ...] = ()
    """Behind those."""


def steps(desired: Tunnel | None, actual: Tunnel | None) -> Steps:
    """What leads from ``actual`` to ``desired``."""
    if desired is None:
        return Steps(removal=(RemoveDevice(),)) if actual is not None else Steps()
    removal: tuple[RemoveDevice, ...] = ()
    making: list[TunnelStep] = []
    if actual is not None and desired.device.replaces(actual.device):
        removal, actual = (RemoveDevice(_difference(desired.device, actual.device)),), None
    if actual is None:
        making.append(AddDevice(desired.device))
        actual = Tunnel(desired.device)
    elif desired.device != actual.device:
        change = ChangeDevice(desired.device, actual.device)
        making.append(change)
        if change.readdressed:
            actual = attrs.evolve(actual, neighbours={})
    there, wanted = actual.neighbours, desired.neighbours
    making += [AddNeighbour(a, h) for a, h in _by_address(wanted) if there.get(a) != h]
    new, old = desired.forwarding - actual.forwarding, actual.forwarding - desired.forwarding
    making += [AddForward(each) for each in sorted(new, key=_key)]
    replaced = {each.hardware for each in new}
    sweeping: list[EntryStep] = [
        RemoveNeighbour(address) for address, _ in _by_address(there) if address not in wanted
    ]
    sweeping += [RemoveForward(e) for e in sorted(old, key=_key) if e.hardware not in replaced]
    return Steps(removal, tuple(making), tuple(sweeping))


def adopted(desired: Tunnel | None, actual: Tunnel | None) -> Tunnel | None:
    """``desired`` with all that ``actual`` has besides, where both can be."""
    if desired is None or actual is None:
        return desired or actual
    ours = {forward.hardware for forward in desired.forwarding}
    family = desired.device.local.version
    forwarding = {
        each
        for each in actual.forwarding
        if each.hardware not in ours and each.address.version == family
    }
    neighbours = {**actual.neighbours, **desired.neighbours}
    return Tunnel(desired.device, neighbours, desired.forwarding | forwarding)


def after(tunnel: Tunnel | None, done: Iterable[TunnelStep]) -> Tunnel | None:
    """What there is when ``done`` are done."""
    for step in done:
        if isinstance(step, AddDevice):
            tunnel = Tunnel(step.device)
        elif isinstance(step, RemoveDevice) or tunnel is None:
            tunnel = None
        else:
            tunnel = _after(tunnel, step)
    return tunnel


def _after(tunnel: Tunnel, step: ChangeDevice | EntryStep) -> Tunnel:
    neighbours, forwarding = dict(tunnel.neighbours), tunnel.forwarding
    match step:
        case ChangeDevice(device=device):
            return Tunnel(device, {} if step.readdressed else neighbours, forwarding)
        case AddNeighbour(address=address, hardware=hardware):
            neighbours[address] = hardware
        case RemoveNeighbour(address=address):
            neighbours.pop(address, None)
        case AddForward(forward=forward):
            others = {each for each in forwarding if each.hardware != forward.hardware}
            forwarding = frozenset((*others, forward))
        case RemoveForward(forward=forward):
            forwarding -= {forward}
    return Tunnel(tunnel.device, neighbours, forwarding)


def _difference(desired: Device, actual: Device) -> str:
    if actual.flaws:
        return actual.flaws[0]
    for name in ("identifier", "port", "local"):
        wanted, found = getattr(desired, name), getattr(actual, name)
        if wanted != found:
            return f"{name} is {found}, not {wanted}"
    return ""


def _by_address(neighbours: Mapping[Address, bytes]) -> Iterator[tuple[Address, bytes]]:
    for address in sorted(neighbours, key=lambda each: (each.version, int(each))):
        yield address, neighbours[address]


def _key(forward: Forward) -> tuple[bytes, int, int, int]:
    return forward.hardware, forward.address.version, int(forward.address), forward.port


def _written(forward: Forward) -> str:
    hardware, address, port = forward
    return f"{hardware.hex(':')} dev {DEVICE} dst {address} port {port}"
