"""What really passes an interface: a packet socket in a namespace, and tcpdump's expressions.

tcpdump compiles the expression, and no more: it cannot capture in a user namespace, where it finds
no other user to become, and it would have to be waited for at both ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import subprocess
from ipaddress import ip_address
from types import TracebackType

import attrs

from netlab.namespace import CommandError, Namespace

ETH_P_ALL = 3
ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33
SOL_PACKET = 263
PACKET_STATISTICS = 6
"""linux/if_ether.h, asm-generic/socket.h, linux/socket.h, linux/if_packet.h"""

BUFFER = 32 << 20
"""Bytes of packets that wait to be read; some 40,000 small ones, for nobody reads meanwhile."""

PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}
"""IANA's protocol numbers"""


@attrs.define(eq=False)
class Capture:
    """Context manager: IP packets that are sent to `namespace` and match `expression`.

    expression: as pcap-filter(7) has it; CommandError if it is not one. Raises RuntimeError at the
    end of the block when packets were lost, for then an empty list proves nothing.
    """

    namespace: Namespace
    expression: str
    _packets: list[str] = attrs.field(factory=list, init=False)
    _socket: socket.socket = attrs.field(init=False)

    def __enter__(self) -> Capture:
        program = _compiled(self.expression)
        every = socket.htons(ETH_P_ALL)
        self._socket = self.namespace.socket(socket.AF_PACKET, socket.SOCK_DGRAM, every)
        try:
            with contextlib.suppress(PermissionError):  # in a user namespace: the default will do
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            code = ctypes.create_string_buffer(program, len(program))
            descriptor = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, descriptor)
            self._socket.setblocking(False)
            self._read()
            self._packets.clear()  # it was open before it had the filter
        except OSError:
            self._socket.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._socket:
            self._read()
            statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        _, lost = struct.unpack("@II", statistics)
        if lost and error is None:
            raise RuntimeError(f"{self.namespace.name}: the capture lost {lost} packets")

    @property
    def packets(self) -> list[str]:
        """A line for each packet so far: `UDP 192.0.2.1.6179 > 192.0.2.2.6179`."""
        if self._socket.fileno() >= 0:
            self._read()
        return self._packets

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, (_, protocol, kind, _, _) = self._socket.recvfrom(65536)
                # A frame for another host is there only because a switch that has forgotten
                # where that host is floods it to every port.
                theirs = kind in (socket.PACKET_OUTGOING, socket.PACKET_OTHERHOST)
                if not theirs and protocol in (ETH_P_IP, ETH_P_IPV6):
                    self._packets.append(_described(data))


def _compiled(expression: str) -> bytes:
    """The filter as an array of struct sock_filter, for packets that begin with their IP header."""
    command = ["tcpdump", "-y", "RAW", "-ddd", expression]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandError(done.stderr.strip())
    lines = done.stdout.splitlines()[1:]  # the first says how many follow
    return b"".join(struct.pack("@HBBI", *map(int, line.split())) for line in lines)


def _described(packet: bytes) -> str:
    version = packet[0] >> 4
    if version == 4:
        header, number, addresses = (packet[0] & 15) * 4, packet[9], packet[12:20]
    else:
        header, number, addresses = 40, packet[6], packet[8:40]
    half = len(addresses) // 2
    ends = [str(ip_address(addresses[:half])), str(ip_address(addresses[half:]))]
    if number in (socket.IPPROTO_TCP, socket.IPPROTO_UDP) and len(packet) >= header + 4:
        ports = struct.unpack_from("!HH", packet, header)
        ends = [f"{end}.{port}" for end, port in zip(ends, ports, strict=True)]
    return f"{PROTOCOLS.get(number, f'protocol {number}')} {ends[0]} > {ends[1]}"
