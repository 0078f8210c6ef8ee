"""Netlink: messages in, messages out, and nothing of what they mean.

One ``Channel`` is one socket and one conversation at a time.  Requests are sent many at a
time and answered by exception only: netlink handles a message inside ``sendto`` and always
reports a refusal, so only the last one of a batch asks for an acknowledgement, which says
that all before it were handled (netlink(7); RFC 3549 section 2.3.2.2).
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple

ROUTE: Final = 0  # NETLINK_ROUTE
NETFILTER: Final = 12  # NETLINK_NETFILTER

REQUEST: Final = 0x1
ACK: Final = 0x4
DUMP: Final = 0x300
REPLACE: Final = 0x100
EXCL: Final = 0x200
CREATE: Final = 0x400
APPEND: Final = 0x800

_ERROR: Final = 2
_DONE: Final = 3
_DUMP_INTERRUPTED: Final = 0x10
_CAPPED: Final = 0x100
_WITH_WORDS: Final = 0x200
_WORDS: Final = 1  # NLMSGERR_ATTR_MSG

_SOL_NETLINK: Final = 270
_EXT_ACK: Final = 11
_CAP_ACK: Final = 10
_STRICT: Final = 12
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_SO_ATTACH_FILTER: Final = 26

_BPF_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_BPF_JUMP_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_BPF_RETURN: Final = 0x06  # BPF_RET | BPF_K

_HEADER: Final = struct.Struct("=IHHII")
PORT_AT: Final = 12
"""Where the header has the port of who asked (nlmsg_pid)."""
_WORD: Final = struct.Struct("=I")
_ATTRIBUTE: Final = struct.Struct("=HH")
NESTED: Final = 0x8000
_TYPE_MASK: Final = 0x3FFF

_RECEIVE: Final = 1 << 16
"""The kernel fills at most 32 KiB of a dump at a time (NLMSG_GOODSIZE's cap)."""
_BATCH: Final = 128
"""Requests in one send. If all are refused the answers, about 0.8 KiB of socket memory
each, still fit the default receive buffer of 208 KiB."""
_BUFFER: Final = 8 << 20
"""Send buffer: 20,000 IPv6 prefixes, the most that policy imports, at 112 octets each are
2.2 MB and must go in one piece. The buffer is only accounted, not allocated."""
_DUMP_TRIES: Final = 3


class Refusal(OSError):
    """The kernel refused a request: ``words`` are its own where it has some."""

    def __init__(self, number: int, words: str) -> None:
        super().__init__(number, words)
        self.words = words


class Message(NamedTuple):
    """One netlink message: its type, its flags and what follows the header."""

    kind: int
    flags: int
    body: bytes


class Part(NamedTuple):
    """One message of a dump: the body is ``data[at:end]``."""

    kind: int
    data: bytes
    at: int
    end: int


def attribute(kind: int, payload: bytes) -> bytes:
    """Length, type and payload, padded to four octets."""
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds others (linux/netlink.h, NLA_F_NESTED)."""
    return attribute(kind | NESTED, b"".join(attributes))


def attributes(data: bytes, at: int = 0, end: int | None = None) -> dict[int, bytes]:
    """Type to payload; of a type that repeats, the last."""
    return dict(each_attribute(data, at, end))


def each_attribute(data: bytes, at: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Type and content of each attribute between two offsets."""
    stop = len(data) if end is None else end
    while at + 4 <= stop:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4 or at + length > stop:
            raise ValueError("netlink attribute longer than its message")
        yield kind & _TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3


class Channel:
    """A request socket in the network namespace of the thread that makes it."""

    def __init__(self, family: int, *, strict: bool = False) -> None:
        """``strict``: rtnetlink filters its dumps by what the request's header says."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
        self._socket.bind((0, 0))
        self.portid: int = self._socket.getsockname()[0]
        """How the kernel names the origin of a change in its notifications."""
        self._sequence = 0
        self._interrupted = False
        for option in (_EXT_ACK, _CAP_ACK, *([_STRICT] if strict else [])):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        enlarge(self._socket, send=True)

    def close(self) -> None:
        self._socket.close()

    def get(self, kind: int, body: bytes) -> Part | None:
        """The one object asked for, or None when there is no such object."""
        sequence = self._send([Message(kind, 0, body)], ack_last=False)
        for part, _ in self._receive(sequence):
            if part.kind != _ERROR:
                return part
            refusal = _refusal(part)
            if refusal is not None and refusal.errno == errno.ENOENT:
                return None
            if refusal is not None:
                raise refusal
        raise AssertionError("a request was neither answered nor refused")

    def dump(self, kind: int, body: bytes) -> list[Part]:
        """All objects of a kind; none when there is nothing that could hold some.

        What changes meanwhile may be missing after a few tries: the writes that follow are
        exact, and a notification leads to the next read.
        """
        listed: list[Part] = []
        for _ in range(_DUMP_TRIES):
            listed = list(self.stream(kind, body))
            if not self._interrupted:
                break
        return listed

    def stream(self, kind: int, body: bytes) -> Iterator[Part]:
        """As ``dump``, one by one and in one try, for what would not fit into memory. Must be
        exhausted before the next request."""
        sequence = self._send([Message(kind, DUMP, body)], ack_last=False)
        self._interrupted = False
        while True:
            data = self._socket.recv(_RECEIVE)
            at = 0
            while at + 16 <= len(data):
                length, answer, flags, number, _ = _HEADER.unpack_from(data, at)
                part = Part(answer, data, at + 16, at + length)
                at += (length + 3) & ~3
                if number != sequence:
                    continue
                self._interrupted |= bool(flags & _DUMP_INTERRUPTED)
                if answer in (_DONE, _ERROR):
                    refusal = _refusal(part)
                    if refusal is not None and refusal.errno != errno.ENOENT:
                        raise refusal
                    return
                yield part

    def request(self, messages: Sequence[Message]) -> dict[int, Refusal]:
        """Do ``messages`` in order; which were refused, by index."""
        refused: dict[int, Refusal] = {}
        for start in range(0, len(messages), _BATCH):
            batch = messages[start : start + _BATCH]
            first = self._send(batch, ack_last=True)
            refused.update(
                (start + index, refusal) for index, refusal in self._answers(first, len(batch))
            )
        return refused

    def transact(self, messages: Sequence[Message]) -> dict[int, Refusal]:
        """Send ``messages`` in one piece, as nfnetlink wants its batches; the refusals.

        There is no acknowledgement to wait for: all answers are there when the send is done.
        """
        first = self._send(messages, ack_last=False)
        refused: dict[int, Refusal] = {}
        while True:
            try:
                data = self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return refused
            for part, sequence in _parts(data):
                refusal = _refusal(part) if part.kind == _ERROR else None
                if refusal is not None and 0 <= sequence - first < len(messages):
                    refused[sequence - first] = refusal

    def _send(self, messages: Sequence[Message], *, ack_last: bool) -> int:
        first = self._sequence + 1
        self._sequence += len(messages)
        pieces: list[bytes] = []
        for index, (kind, flags, body) in enumerate(messages):
            ack = ACK if ack_last and index == len(messages) - 1 else 0
            header = _HEADER.pack(16 + len(body), kind, flags | REQUEST | ack, first + index, 0)
            pieces += (header, body, bytes(-len(body) % 4))
        self._socket.sendto(b"".join(pieces), (0, 0))
        return first

    def _receive(self, first: int) -> Iterator[tuple[Part, int]]:
        """Answers to requests from ``first`` on; older ones belong to a call that raised."""
        while True:
            for part, sequence in _parts(self._socket.recv(_RECEIVE)):
                if sequence >= first:
                    yield part, sequence

    def _answers(self, first: int, count: int) -> Iterator[tuple[int, Refusal]]:
        for part, sequence in self._receive(first):
            if part.kind == _ERROR:
                refusal = _refusal(part)
                if refusal is not None:
                    yield sequence - first, refusal
                if sequence - first == count - 1:
                    return


def enlarge(netlink: socket.socket, *, send: bool) -> None:
    """As much room as transactions or bursts of events want, or what one may have."""
    forced = _SO_SNDBUFFORCE if send else _SO_RCVBUFFORCE
    plain = socket.SO_SNDBUF if send else socket.SO_RCVBUF
    try:
        netlink.setsockopt(socket.SOL_SOCKET, forced, _BUFFER)
    except PermissionError:  # in a user namespace of its own: up to net.core.[rw]mem_max
        netlink.setsockopt(socket.SOL_SOCKET, plain, _BUFFER)


def hear_only(events: socket.socket, at: int, words: Collection[int], *, others: bool) -> None:
    """Let ``events`` hear only messages whose four octets from ``at`` on, in this host's order, are
    one of ``words``; or, with ``others``, none of them.

    What the kernel drops for it neither fills the queue nor wakes the process (socket(7),
    SO_ATTACH_FILTER; classic BPF over the whole message).
    """
    lines = [(_BPF_LOAD_WORD, 0, 0, at)]
    for left, word in zip(range(len(words), 0, -1), words, strict=True):
        swapped = int.from_bytes(_WORD.pack(word), "big")  # loads are big-endian
        lines.append((_BPF_JUMP_IF_EQUAL, left, 0, swapped))
    lines += [(_BPF_RETURN, 0, 0, 0xFFFF if take else 0) for take in (others, not others)]
    program = array.array("B", b"".join(struct.pack("=HBBI", *line) for line in lines))
    address, size = program.buffer_info()
    fprog = struct.pack("@HP", size // 8, address)  # struct sock_fprog
    events.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def parts(data: bytes) -> Iterator[tuple[Part, int]]:
    """The messages of a notification, each with the portid of the change's origin."""
    at = 0
    while at + 16 <= len(data):
        length, kind, _, _, portid = _HEADER.unpack_from(data, at)
        yield Part(kind, data, at + 16, min(at + length, len(data))), portid
        at += max(16, (length + 3) & ~3)


def _parts(data: bytes) -> Iterator[tuple[Part, int]]:
    """The messages of an answer, each with its sequence number."""
    at = 0
    while at + 16 <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
        yield Part(kind, data, at + 16, at + length), sequence
        at += (length + 3) & ~3


def _refusal(part: Part) -> Refusal | None:
    """What an NLMSG_ERROR or NLMSG_DONE says; None when all went well."""
    (error,) = struct.unpack_from("=i", part.data, part.at)
    if error >= 0:
        return None
    _, _, flags, _, _ = _HEADER.unpack_from(part.data, part.at - 16)
    words = os.strerror(-error)
    if part.kind == _ERROR and flags & _WITH_WORDS:
        (refused,) = struct.unpack_from("=I", part.data, part.at + 4)
        at = part.at + 4 + (16 if flags & _CAPPED else (refused + 3) & ~3)
        text = attributes(part.data, at, part.end).get(_WORDS)
        if text:
            words = text.rstrip(b"\0").decode("utf-8", "replace")
    return Refusal(-error, words)
