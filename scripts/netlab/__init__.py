"""Router zones in network namespaces, for `scripts/lab`, `scripts/demo` and the kernel tests.

Real kernel objects (bridges, veth pairs, routes, nftables, conntrack) and nothing of meshd but its
command: what this package shows is what an operator would see, never meshd's opinion of it. Traffic
stays inside namespaces that the lab made.
"""

from __future__ import annotations

from netlab.capture import Capture
from netlab.lab import Lab, Zone
from netlab.masquerade import KINDS as NAT_KINDS
from netlab.mesh import Member, Mesh
from netlab.namespace import CommandError, Namespace
from netlab.paced import PacedFlow
from netlab.traffic import EchoServer, Flow, ping, source_seen, udp_source_seen
from netlab.until import until

__all__ = [
    "NAT_KINDS",
    "Capture",
    "CommandError",
    "EchoServer",
    "Flow",
    "Lab",
    "Member",
    "Mesh",
    "Namespace",
    "PacedFlow",
    "Zone",
    "ping",
    "source_seen",
    "udp_source_seen",
    "until",
]
