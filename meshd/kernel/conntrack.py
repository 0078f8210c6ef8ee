"""Connection tracking over NETLINK_NETFILTER: dump, pick, delete by tuple.

The kernel does not filter by prefix, so every entry comes by; a table may hold 262,144.
An entry is deleted by its original tuple, zone and id, all copied from the dump as they
were: what has been replaced by a new connection meanwhile has another id and stays.
See linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from typing import Final

from meshd.kernel.netlink import Channel, Message, Part, attribute, attributes, nested
from meshd.kernel.plan import DropFlows, DropTranslated, Flow

_NEW, _GET, _DELETE = (1 << 8 | kind for kind in (0, 1, 2))  # NFNL_SUBSYS_CTNETLINK is 1
_GET_STATS: Final = 1 << 8 | 5  # IPCTNL_MSG_CT_GET_STATS
_ENTRIES: Final = 1  # CTA_STATS_GLOBAL_ENTRIES, of this network namespace
_ORIGINAL, _REPLY, _STATUS, _ID, _ZONE, _STATUS_MASK = 1, 2, 3, 12, 18, 26
_IP: Final = 1  # CTA_TUPLE_IP
_SOURCE_NAT: Final = struct.pack(">I", 1 << 4)  # IPS_SRC_NAT
_VERSION: Final = {2: 4, 10: 6}
_ANY_FAMILY: Final = bytes(4)


def drop(channel: Channel, step: DropTranslated | DropFlows) -> int:
    """Delete the entries that ``step`` takes; how many went. ``OSError`` when one stayed."""
    takes = step.takes()
    ask = _ANY_FAMILY
    if isinstance(step, DropTranslated):
        # Kernels that know the filter leave the untranslated out; older ones list all.
        ask += attribute(_STATUS, _SOURCE_NAT) + attribute(_STATUS_MASK, _SOURCE_NAT)
    doomed: list[Message] = []
    for part in channel.stream(_GET, ask):
        entry = _flow(part)
        if entry is not None and takes(entry):
            doomed.append(_deletion(part))
    refused = channel.request(doomed)
    for refusal in refused.values():
        if refusal.errno != errno.ENOENT:  # it ended by itself
            raise refusal
    return len(doomed) - len(refused)


def count(channel: Channel) -> int:
    """How many entries this network namespace has (8 us); 1 when the kernel does not say.

    Worth asking: the table is one for all namespaces, and a dump walks through all its places, 11
    ms for 262,144 of them, whether or not they hold anything of ours.
    """
    part = channel.get(_GET_STATS, _ANY_FAMILY)
    told = attributes(part.data, part.at + 4, part.end).get(_ENTRIES) if part is not None else None
    return int.from_bytes(told, "big") if told is not None else 1


def translated(channel: Channel) -> Iterator[Flow]:
    """The entries whose source is rewritten; of an older kernel all. Must be exhausted."""
    ask = attribute(_STATUS, _SOURCE_NAT) + attribute(_STATUS_MASK, _SOURCE_NAT)
    for part in channel.stream(_GET, _ANY_FAMILY + ask):
        entry = _flow(part)
        if entry is not None:
            yield entry


def _flow(part: Part) -> Flow | None:
    data, at = part.data, part.at
    version = _VERSION.get(data[at])
    if version is None:
        return None
    size = 4 if version == 4 else 16
    # tuple { ip { source destination } protocol }: ORIGINAL comes first, REPLY behind it,
    # addresses at fixed places. Attribute by attribute would cost four times as much.
    original = at + 4
    (length, kind), (_, inner) = _pair(data, original), _pair(data, original + 4)
    reply = original + ((length + 3) & ~3)
    _, second = _pair(data, reply)
    if (kind, inner, second) != (_ORIGINAL, _IP, _REPLY):
        return None
    source = original + 12
    destination = source + size + 4
    replied = reply + 12 + size + 4
    return Flow(
        version,
        int.from_bytes(data[source : source + size], "big"),
        int.from_bytes(data[destination : destination + size], "big"),
        int.from_bytes(data[replied : replied + size], "big"),
    )


def _pair(data: bytes, at: int) -> tuple[int, int]:
    length, kind = struct.unpack_from("=HH", data, at)
    return length, kind & 0x3FFF


def _deletion(part: Part) -> Message:
    entry = attributes(part.data, part.at + 4, part.end)
    body = bytes([part.data[part.at], 0, 0, 0]) + nested(_ORIGINAL, entry[_ORIGINAL])
    for kind in (_ZONE, _ID):
        if kind in entry:
            body += attribute(kind, entry[kind])
    return Message(_DELETE, 0, body)
