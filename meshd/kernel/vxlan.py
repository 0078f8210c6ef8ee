"""Our VXLAN device, its neighbours and its forwarding entries over NETLINK_ROUTE.

What a message says, and how one is made; what they are for stands in ``tunnel``.  Only a device
that ``tunnel.MARK`` shows to be ours is read or written.  See drivers/net/vxlan/vxlan_core.c,
net/core/neighbour.c and ``rtnl_fdb_add``; linux/if_link.h, linux/neighbour.h.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import attrs

from meshd.kernel.netlink import (
    CREATE,
    EXCL,
    REPLACE,
    Channel,
    Message,
    Part,
    Refusal,
    attribute,
    attributes,
    hear_only,
    nested,
)
from meshd.kernel.tunnel import (
    ALIAS,
    DEVICE,
    MARK,
    AddDevice,
    AddForward,
    AddNeighbour,
    ChangeDevice,
    Device,
    Forward,
    RemoveDevice,
    RemoveForward,
    RemoveNeighbour,
    Tunnel,
    TunnelStep,
    in_the_way,
)
from protocol.address import Address

GROUP: Final = 3
"""RTNLGRP_NEIGH: neighbours, and forwarding entries as those of family AF_BRIDGE."""

_NEW_LINK, _DEL_LINK, _GET_LINK, _SET_LINK = 16, 17, 18, 19
_NEW_NEIGHBOUR, _DEL_NEIGHBOUR, _GET_NEIGHBOUR = 28, 29, 30

_LINK: Final = struct.Struct("=BxHiII")  # struct ifinfomsg
_NEIGHBOUR: Final = struct.Struct("=BxxxiHBB")  # struct ndmsg
_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct("=I")
_AF: Final = {4: 2, 6: 10}
_AF_INET6: Final = 10
_AF_BRIDGE: Final = 7

_UP: Final = 1  # IFF_UP
_ADDRESS, _NAME, _MTU, _LINK_INFO, _ALIAS, _AF_SPEC = 1, 3, 4, 18, 20, 26  # IFLA_*
_KIND, _DATA = 1, 2  # IFLA_INFO_*
_IDENTIFIER, _LOCAL, _LEARNING, _PORT, _LOCAL6 = 1, 4, 7, 15, 17  # IFLA_VXLAN_*
_GENERATE, _NONE = 8, 1  # IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE

_FLAWS: Final[tuple[tuple[int, bytes, str], ...]] = (
    (_LEARNING, b"\0", "it learns from frames"),
    (2, b"", "it has a default remote"),  # GROUP
    (16, b"", "it has a default remote"),  # GROUP6
    (3, b"", "it is bound to a device"),  # LINK
    (11, b"\0", "it answers for others"),  # PROXY
    (25, b"\0", "it takes every VNI"),  # COLLECT_METADATA
    (18, b"\1", "it sends without UDP checksums"),  # UDP_CSUM
    (19, b"\0", "it sends without UDP checksums"),  # UDP_ZERO_CSUM6_TX
    (20, b"\0", "it takes frames without UDP checksums"),  # UDP_ZERO_CSUM6_RX
)
"""IFLA_VXLAN_*, what it is in ours (empty: not there), and what anything else means."""

_PERMANENT: Final = 0x80  # NUD_PERMANENT
_SELF: Final = 0x02  # NTF_SELF
_DST, _HARDWARE, _DST_PORT, _IF_INDEX = 1, 2, 6, 8  # NDA_*

_INDEX_AT: Final = 16 + 4
"""Where a notice of an entry has ndm_ifindex, behind the netlink header."""


@attrs.frozen
class Found:
    """What one reading found under the device's name."""

    index: int = 0
    """Of ours; 0: there is none."""
    tunnel: Tunnel | None = None
    foreign: str = ""
    """What bears its name instead, in words."""


@attrs.frozen
class _Link:
    """What bears the device's name."""

    index: int
    kind: str
    marked: bool
    up: bool
    about: Mapping[int, bytes]
    data: Mapping[int, bytes]

    def device(self, *, up: bool) -> Device:
        """A VXLAN device as what we want of one."""
        local = self.data.get(_LOCAL) or self.data.get(_LOCAL6)
        flaws = [what for number, right, what in _FLAWS if self.data.get(number, b"") != right]
        return Device(
            _U32.unpack(self.data[_IDENTIFIER])[0],
            _U16.unpack(self.data[_PORT])[0],
            ipaddress.ip_address(local) if local else ipaddress.IPv4Address(0),
            self.about.get(_ADDRESS, b""),
            _U32.unpack(self.about[_MTU])[0],
            up,
            tuple(dict.fromkeys(flaws)),
        )


def _look(channel: Channel) -> _Link | None:
    try:
        part = channel.get(_GET_LINK, _header() + attribute(_NAME, DEVICE.encode() + b"\0"))
    except Refusal as refusal:
        if refusal.errno == errno.ENODEV:
            return None
        raise
    assert part is not None
    _, _, index, flags, _ = _LINK.unpack_from(part.data, part.at)
    about = attributes(part.data, part.at + _LINK.size, part.end)
    info = attributes(about.get(_LINK_INFO, b""))
    return _Link(
        index,
        info.get(_KIND, b"").rstrip(b"\0").decode("ascii", "replace"),
        about.get(_ALIAS, b"").startswith(MARK.encode()),
        bool(flags & _UP),
        about,
        attributes(info.get(_DATA, b"")),
    )


def read(channel: Channel) -> Found:
    """Our device with all that is on it; nothing of another's."""
    link = _look(channel)
    if link is None:
        return Found()
    if link.kind != "vxlan":
        return Found(foreign=f"a {link.kind or 'physical'} device")
    if not link.marked:
        return Found(foreign=f"a VXLAN device whose alias does not begin with {MARK}")
    device = link.device(up=link.up)
    neighbours = dict(_neighbours(channel, link.index))
    forwarding = frozenset(_forwarding(channel, link.index, device.port))
    return Found(link.index, Tunnel(device, neighbours, forwarding))


def _neighbours(channel: Channel, index: int) -> Iterator[tuple[Address, bytes]]:
    ask = _NEIGHBOUR.pack(0, 0, 0, 0, 0) + attribute(_IF_INDEX, _U32.pack(index))
    for part in channel.dump(_GET_NEIGHBOUR, ask):
        family, found, state, _, _ = _NEIGHBOUR.unpack_from(part.data, part.at)
        # Those that the kernel makes for itself (multicast, or in search) are not permanent.
        if found == index and family in _AF.values() and state == _PERMANENT:
            about = attributes(part.data, part.at + _NEIGHBOUR.size, part.end)
            yield ipaddress.ip_address(about[_DST]), about.get(_HARDWARE, b"")


def _forwarding(channel: Channel, index: int, port: int) -> Iterator[Forward]:
    for part in channel.dump(_GET_NEIGHBOUR, _NEIGHBOUR.pack(_AF_BRIDGE, index, 0, 0, 0)):
        forward = _forward(part, index, port)
        if forward is not None:
            yield forward


def _forward(part: Part, index: int, port: int) -> Forward | None:
    family, found, _, flags, _ = _NEIGHBOUR.unpack_from(part.data, part.at)
    if family != _AF_BRIDGE or found != index or not flags & _SELF:
        return None
    about = attributes(part.data, part.at + _NEIGHBOUR.size, part.end)
    if _DST not in about or _HARDWARE not in about:
        return None
    address = ipaddress.ip_address(about[_DST])
    # Told only where it is not the device's own.
    other = about.get(_DST_PORT)
    return Forward(about[_HARDWARE], address, _U16.unpack(other)[0] if other else port)


def write(
    channel: Channel, index: int, steps: Sequence[TunnelStep]
) -> tuple[int, dict[TunnelStep, str]]:
    """Do ``steps``; the device's index from then on (0: there is none), and the refused.

    ``index`` is that of our device: entries are written to it and to no other that bears its name.
    """
    refused: dict[TunnelStep, str] = {}
    messages: list[Message] = []
    sent: list[TunnelStep] = []
    for step in steps:
        try:
            match step:
                case AddDevice(device=device):
                    index = _make(channel, device)
                case ChangeDevice():
                    _only(channel, _change(index, step))
                case RemoveDevice():
                    _remove(channel, index)
                    index = 0
                case _:
                    messages.append(_entry(step, index))
                    sent.append(step)
        except Refusal as refusal:
            refused[step] = _words(step, refusal, channel)
    for number, answer in sorted(channel.request(messages).items()):
        if not _is_gone(sent[number], answer):
            refused[sent[number]] = _words(sent[number], answer, channel)
    return index, refused


def _make(channel: Channel, device: Device) -> int:
    """The index of the device made. What could not be finished is taken away again."""
    family = _LOCAL if device.local.version == 4 else _LOCAL6
    data = nested(
        _DATA,
        attribute(_IDENTIFIER, _U32.pack(device.identifier)),
        attribute(family, device.local.packed),
        attribute(_LEARNING, b"\0"),
        attribute(_PORT, _U16.pack(device.port)),
    )
    body = b"".join(
        (
            _header(),
            attribute(_NAME, DEVICE.encode() + b"\0"),
            attribute(_ADDRESS, device.hardware),
            attribute(_MTU, _U32.pack(device.mtu)),
            nested(_LINK_INFO, attribute(_KIND, b"vxlan\0"), data),
        )
    )
    for refusal in channel.request([Message(_NEW_LINK, CREATE | EXCL, body)]).values():
        if refusal.errno != errno.EEXIST:
            raise refusal
    link = _look(channel)
    # The mark comes second, for a kernel takes none with the making: a process that was killed
    # between the two left this very device behind, down and without it.
    if link is None or link.kind != "vxlan" or link.marked or link.device(up=True) != device:
        raise Refusal(errno.EEXIST, os.strerror(errno.EEXIST))
    index = link.index
    try:
        mark = attribute(_ALIAS, ALIAS.encode())
        _only(channel, Message(_SET_LINK, 0, _header(index) + mark))
        # A kernel without IPv6 refuses it, and has no link-local address to leave out.
        generate = nested(_AF_INET6, attribute(_GENERATE, bytes([_NONE])))
        channel.request([Message(_SET_LINK, 0, _header(index) + nested(_AF_SPEC, generate))])
        _only(channel, Message(_SET_LINK, 0, _header(index, up=True)))
    except OSError:
        _remove(channel, index)
        raise
    return index


def _remove(channel: Channel, index: int) -> None:
    for refusal in channel.request([Message(_DEL_LINK, 0, _header(index))]).values():
        if refusal.errno != errno.ENODEV:  # somebody was faster
            raise refusal


def _change(index: int, step: ChangeDevice) -> Message:
    body = _header(index, up=step.device.up)
    if step.readdressed:
        body += attribute(_ADDRESS, step.device.hardware)
    if step.device.mtu != step.was.mtu:
        body += attribute(_MTU, _U32.pack(step.device.mtu))
    return Message(_SET_LINK, 0, body)


def _header(index: int = 0, *, up: bool = False) -> bytes:
    flags = _UP if up else 0
    return _LINK.pack(0, 0, index, flags, flags)


def _only(channel: Channel, message: Message) -> None:
    for refusal in channel.request([message]).values():
        raise refusal


def _entry(step: TunnelStep, index: int) -> Message:
    if not index:
        raise Refusal(errno.ENODEV, f"there is no device {DEVICE} of ours")
    match step:
        case AddNeighbour(address=address, hardware=hardware):
            body = _about(_AF[address.version], index, address, hardware)
            return Message(_NEW_NEIGHBOUR, CREATE | REPLACE, body)
        case RemoveNeighbour(address=address):
            return Message(_DEL_NEIGHBOUR, 0, _about(_AF[address.version], index, address, b""))
        case AddForward(forward=forward):
            return Message(_NEW_NEIGHBOUR, CREATE | REPLACE, _about_forward(index, forward))
        case RemoveForward(forward=forward):
            return Message(_DEL_NEIGHBOUR, 0, _about_forward(index, forward))
        case _:
            raise AssertionError(step)


def _about(family: int, index: int, address: Address, hardware: bytes, flags: int = 0) -> bytes:
    body = _NEIGHBOUR.pack(family, index, _PERMANENT, flags, 0)
    body += attribute(_DST, address.packed)
    return body + attribute(_HARDWARE, hardware) if hardware else body


def _about_forward(index: int, forward: Forward) -> bytes:
    body = _about(_AF_BRIDGE, index, forward.address, forward.hardware, _SELF)
    return body + attribute(_DST_PORT, _U16.pack(forward.port))


def _is_gone(step: TunnelStep, refusal: Refusal) -> bool:
    """What was to go is not there any more."""
    return isinstance(step, RemoveNeighbour | RemoveForward) and refusal.errno == errno.ENOENT


def _words(step: TunnelStep, refusal: Refusal, channel: Channel) -> str:
    match step, refusal.errno:
        case AddDevice(device=device), errno.EEXIST:
            foreign = read(channel).foreign
            if foreign:
                return in_the_way(foreign)
            vni = f"another device has VNI {device.identifier} at UDP port {device.port}"
            return f"{vni}: delete it, or set tunnel_port here"
        case AddDevice(), errno.EADDRINUSE:
            return "somebody else has that UDP port: set tunnel_port here"
        case AddDevice(), errno.EOPNOTSUPP:
            return "this kernel has no VXLAN: modprobe vxlan"
        case _:
            return refusal.words


class Entries:
    """What is known of our device, and how others' changes to what is on it are heard."""

    def __init__(self) -> None:
        self.held = Found()
        self._events: socket.socket | None = None

    def hold(self, found: Found) -> None:
        """From now on this is there."""
        before, self.held = self.held, found
        if self._events is not None and found.index != before.index:
            self._listen(self._events)

    def _listen(self, events: socket.socket) -> None:
        """Entries of a busy host's other devices are not even to wake the process."""
        hear_only(events, _INDEX_AT, [self.held.index], others=False)

    @contextmanager
    def hear(self, events: socket.socket) -> Iterator[None]:
        """``events`` is subscribed to GROUP; the device may change meanwhile."""
        self._listen(events)
        self._events = events
        try:
            yield
        finally:
            self._events = None

    def describe(self, part: Part) -> str | None:
        """A notification of GROUP in words; None when it is about what is held already, as after
        our own writing: the kernel does not say who wrote a forwarding entry."""
        family, index, state, _, _ = _NEIGHBOUR.unpack_from(part.data, part.at)
        known = self.held.tunnel
        if index != self.held.index:
            return None
        gone = part.kind == _DEL_NEIGHBOUR
        verb = "deleted" if gone else "written"
        if family == _AF_BRIDGE:
            port = known.device.port if known is not None else 0
            forward = _forward(part, index, port)
            there: Collection[Forward] = known.forwarding if known is not None else ()
            if forward is None or (forward in there) != gone:
                return None
            return f"{DEVICE}: forwarding entry of {forward.hardware.hex(':')} {verb}"
        if family not in _AF.values():
            return None
        about = attributes(part.data, part.at + _NEIGHBOUR.size, part.end)
        address = ipaddress.ip_address(about[_DST])
        # The kernel makes entries for itself too, of others and never permanent.
        ours = known is not None and address in known.neighbours
        if not ours and (gone or state != _PERMANENT):
            return None
        return f"{DEVICE}: neighbour {address} {verb}"
