"""UDP flows that keep their ports, and a provider who knows a way where there should be none."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import attrs

from netlab import Lab, Namespace
from netlab.traffic import ECHO_PORT, Address


@attrs.frozen
class Datagrams:
    """One UDP flow: the same ports for every datagram."""

    client: socket.socket

    def source_seen(self) -> Address | None:
        """What the far end takes for our address now, or None without an answer."""
        try:
            self.client.send(b"?")
            return ip_address(self.client.recv(256).split()[0].decode())
        except OSError:
            return None


@contextmanager
def datagrams(namespace: Namespace, target: Address) -> Iterator[Datagrams]:
    """A flow from ``namespace`` to an echo server at ``target``."""
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    with namespace.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(0.1)
        client.connect((str(target), ECHO_PORT))
        yield Datagrams(client)


def forward_between_routers(lab: Lab) -> None:
    """Make the default gateway know a way to p2, as a provider might."""
    far = lab.zone(2)
    lab.internet.sysctl(
        {
            "ipv4/ip_forward": 1,
            "ipv6/conf/all/forwarding": 1,
            "ipv4/conf/all/send_redirects": 0,
            "ipv4/conf/net0/send_redirects": 0,
        }
    )
    lab.internet.configure(
        [
            f"route add {far.prefix4} via {far.uplink4.ip}",
            f"route add {far.prefix6} via {far.uplink6.ip}",
        ]
    )
