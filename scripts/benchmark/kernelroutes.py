"""Routes to what lies behind a router, written over netlink without the start of a program."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterable
from ipaddress import IPv4Network
from typing import Final

from netlab import Namespace

RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
NLM_F_REQUEST: Final = 1
NLM_F_ACK: Final = 4
NLM_F_REPLACE: Final = 0x100
NLM_F_CREATE: Final = 0x400
NLMSG_ERROR: Final = 2
RTA_DST: Final = 1
RTA_OIF: Final = 4
RT_TABLE_MAIN: Final = 254
RTPROT_STATIC: Final = 4
RT_SCOPE_LINK: Final = 253
RTN_UNICAST: Final = 1
"""linux/netlink.h, linux/rtnetlink.h"""

AT_ONCE: Final = 500
"""Messages in one send: 22 KB of a socket buffer of 208."""


def change(place: Namespace, prefixes: Iterable[IPv4Network], device: str, *, gone: bool) -> float:
    """Make, or delete, a static route through `device` for each; when the first was sent.

    Returns when the kernel has done the last. OSError says why it refused one.
    """
    with place.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asking:
        index = _index(place, device)
        messages = [_message(net, index, gone) for net in prefixes]
        messages[-1] = _acknowledged(messages[-1])
        began = time.monotonic()
        for at in range(0, len(messages), AT_ONCE):
            asking.send(b"".join(messages[at : at + AT_ONCE]))
        while True:
            answer = asking.recv(65536)
            kind, error = struct.unpack_from("=4xH10xi", answer)
            if kind == NLMSG_ERROR and error:
                raise OSError(-error, os.strerror(-error))
            if kind == NLMSG_ERROR:
                return began


def _index(place: Namespace, device: str) -> int:
    with place.entered():
        return socket.if_nametoindex(device)


def _message(net: IPv4Network, index: int, gone: bool) -> bytes:
    kind = RTM_DELROUTE if gone else RTM_NEWROUTE
    flags = NLM_F_REQUEST | (0 if gone else NLM_F_CREATE | NLM_F_REPLACE)
    body = struct.pack(
        "=8BI", socket.AF_INET, net.prefixlen, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_LINK,
        RTN_UNICAST, 0,
    )  # fmt: skip
    body += struct.pack("=HH4sHHI", 8, RTA_DST, net.network_address.packed, 8, RTA_OIF, index)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


def _acknowledged(message: bytes) -> bytes:
    (flags,) = struct.unpack_from("=H", message, 6)
    return message[:6] + struct.pack("=H", flags | NLM_F_ACK) + message[8:]
