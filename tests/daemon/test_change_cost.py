"""What one change of the mesh costs a daemon on a real kernel, as counts and not as time."""

from __future__ import annotations

import io
import os
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
import trio
from ownnamespace import own_namespace, run

from meshd.dataplane.reconciler import Reconciler
from meshd.kernel.linux import Linux
from meshd.kernel.netlink import NETFILTER, ROUTE, Channel
from meshd.kernel.plan import diff
from meshd.kernel.state import KernelState, NextHops, Reading
from meshd.log import EventLog
from meshd.policy.decide import Decision
from protocol.address import Prefix

pytestmark = pytest.mark.kernel

HOP = NextHops.via(ip_address("192.0.2.2"), "net0")

QUIET = """table inet quiet {
    chain sent {
        type filter hook output priority raw;
        notrack
    }
}"""


@pytest.fixture
def linux() -> Iterator[Linux]:
    if os.geteuid() != 0:
        pytest.skip("needs root for a network namespace")
    with own_namespace():
        run("ip link add net0 type bridge")
        # What the kernel says by itself (IGMP, as ever when a link comes up) is no connection.
        run("nft -f -", QUIET)
        run("ip link set net0 addrgenmode none up")
        run("ip addr add 192.0.2.1/24 dev net0")
        backend = Linux()
        yield backend
        backend.close()


def state(number: int) -> KernelState:
    prefixes = frozenset(Prefix.parse(f"10.{each}.0.0/24") for each in range(2, number + 2))
    local = frozenset({Prefix.parse("10.1.0.0/24")})
    return KernelState(dict.fromkeys(prefixes, HOP), prefixes, local, prefixes)


async def test_a_prefix_that_comes_or_goes_takes_five_requests_no_reading_no_thread_no_process(
    linux: Linux, monkeypatch: pytest.MonkeyPatch
) -> None:
    desired = state(3)
    asked: list[str] = []
    send, read = Channel._send, Linux.read

    def sending(channel: Channel, messages: list[object], *, ack_last: bool) -> int:
        family = channel._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
        asked.append({ROUTE: "route", NETFILTER: "netfilter"}[family])
        return send(channel, messages, ack_last=ack_last)  # type: ignore[arg-type]

    def reading(backend: Linux) -> Reading:
        asked.append("reading")
        return read(backend)

    reconciler = Reconciler(
        linux,
        lambda reading: Decision(desired, ()),
        log=EventLog(io.StringIO(), "json"),
        settled=lambda: None,
    )
    async with trio.open_nursery() as nursery:
        reconciler.in_sync_with_mesh()
        await nursery.start(reconciler.run)
        await trio.sleep(0.3)  # what it has done itself is told, and the pause after that is over
        assert linux.undisturbed()
        with monkeypatch.context() as patch:
            patch.setattr(Channel, "_send", sending)
            patch.setattr(Linux, "read", reading)
            for what in (trio.to_thread, subprocess):
                patch.setattr(what, "run_sync" if what is trio.to_thread else "Popen", None)
            desired = state(4)
            reconciler.act()
            # The guard; its element; which device; the route; are there connections?
            assert asked == ["route", "netfilter", "route", "route", "netfilter"]
            await trio.sleep(0.3)
            asked.clear()
            desired = state(3)
            reconciler.act()
            # Which device; the route; the element; are there connections? the guard.
            assert asked == ["route", "route", "netfilter", "netfilter", "route"]
            await trio.sleep(0.3)
            assert len(asked) == 5, "and nothing afterwards"
        nursery.cancel_scope.cancel()
    assert linux.read().state == state(3)


async def test_a_thousand_prefixes_take_as_many_requests_as_batches(
    linux: Linux, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefixes = frozenset(Prefix.parse(f"10.{n >> 8}.{n & 255}.0/24") for n in range(512, 1512))
    desired = KernelState(dict.fromkeys(prefixes, HOP), prefixes, frozenset(), prefixes)
    sent = 0
    send = Channel._send

    def sending(channel: Channel, messages: list[object], *, ack_last: bool) -> int:
        nonlocal sent
        sent += 1
        return send(channel, messages, ack_last=ack_last)  # type: ignore[arg-type]

    plan = diff(desired, linux.read())
    monkeypatch.setattr(Channel, "_send", sending)
    assert linux.apply(plan) == []
    # 8 batches of 128 guards, as many of routes, one transaction; a device; is there a table?
    assert sent <= 8 + 8 + 3
    monkeypatch.undo()
    assert linux.read().state == desired
