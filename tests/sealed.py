"""What is sealed is sent: the counters of sealed datagrams as they pass a switch.

Each datagram of one session has the next counter (SPEC.md 4.2), in the clear.  One that was sealed
and never reached the wire is a gap, whatever its sender believes.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from types import TracebackType

import attrs

from netlab import Namespace
from netlab.capture import BUFFER, ETH_P_ALL, ETH_P_IP, ETH_P_IPV6, SO_RCVBUFFORCE

_HEAD = struct.Struct("!BB8s8sQ")
"""version, type, sender key id, recipient key id, counter"""
_VERSION, _SEALED = 1, 2
_UDP = 17


@attrs.define(eq=False)
class SealedCounters:
    """Context manager: sealed datagrams on the switch in namespace ``switch`` meanwhile."""

    switch: Namespace
    seen: dict[tuple[bytes, bytes], set[int]] = attrs.field(factory=dict)
    """(sender's key id, recipient's) to counters."""
    _socket: socket.socket = attrs.field(init=False)

    def __enter__(self) -> SealedCounters:
        every = socket.htons(ETH_P_ALL)
        self._socket = self.switch.socket(socket.AF_PACKET, socket.SOCK_DGRAM, every)
        with contextlib.suppress(PermissionError):  # in a user namespace: the default will do
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        self._socket.setblocking(False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._socket, contextlib.suppress(BlockingIOError):
            while True:
                data, (_, protocol, _, _, _) = self._socket.recvfrom(2048)
                if protocol in (ETH_P_IP, ETH_P_IPV6):
                    self._note(data, 20 if protocol == ETH_P_IP else 40)

    def _note(self, packet: bytes, header: int) -> None:
        number = packet[9] if header == 20 else packet[6]
        if number == _UDP and len(packet) >= header + 8 + _HEAD.size:
            version, kind, sender, recipient, counter = _HEAD.unpack_from(packet, header + 8)
            if (version, kind) == (_VERSION, _SEALED):
                self.seen.setdefault((sender, recipient), set()).add(counter)

    def gaps(self) -> dict[str, list[int]]:
        """Counters that were skipped between the first and the last seen, by the two key ids."""
        return {
            f"{sender.hex()} to {recipient.hex()}": missing
            for (sender, recipient), found in self.seen.items()
            if (missing := sorted(set(range(min(found), max(found))) - found))
        }
