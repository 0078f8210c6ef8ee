"""The node's sockets on loopback: what arrives is handed over, what goes wrong ends nothing."""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from meshd.errors import UsageError
from meshd.udp import BATCH, Sockets
from protocol.address import Endpoint


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@attrs.define
class Bench:
    sockets: Sockets
    port: int
    received: list[tuple[bytes, Endpoint]] = attrs.field(factory=list)
    unreachable: list[Endpoint] = attrs.field(factory=list)
    news: trio.Event = attrs.field(factory=trio.Event)

    def take(self, data: bytes, source: Endpoint) -> None:
        self.received.append((data, source))
        self.tell()

    def refuse(self, where: Endpoint) -> None:
        self.unreachable.append(where)
        self.tell()

    def tell(self) -> None:
        self.news.set()
        self.news = trio.Event()

    async def send(self, data: bytes, to: Endpoint) -> None:
        assert self.sockets.send(data, to, self.refuse)

    async def until(self, number: int) -> None:
        with trio.fail_after(5):
            while len(self.received) + len(self.unreachable) < number:
                await self.news.wait()


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    port = free_port()
    made = Bench(Sockets(port), port)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.sockets.receive, made.take, made.refuse, lambda: None)
            await trio.lowlevel.checkpoint()
            yield made
            nursery.cancel_scope.cancel()
    finally:
        made.sockets.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_datagram_arrives_with_its_source_in_both_families(host: str) -> None:
    async with bench() as made:
        where = Endpoint(host, made.port)
        await made.send(b"hello", where)
        await made.until(1)
        assert made.received == [(b"hello", where)]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_host_that_refuses_is_told_with_the_endpoint_that_was_sent_to(host: str) -> None:
    async with bench() as made:
        nobody = Endpoint(host, free_port())
        await made.send(b"hello", nobody)
        await made.until(1)
        assert made.unreachable == [nobody]


async def test_a_dead_peer_costs_no_datagram_to_the_others() -> None:
    async with bench() as made:
        nobody, ourselves = Endpoint("127.0.0.1", free_port()), Endpoint("127.0.0.1", made.port)
        for number in range(50):
            await made.send(b"dead", nobody)
            await made.send(bytes([number]), ourselves)
        with trio.fail_after(5):
            while len(made.received) < 50:
                await made.news.wait()
        assert [data for data, _ in made.received] == [bytes([number]) for number in range(50)]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_to_confirm_a_neighbour_sends_nothing(host: str) -> None:
    async with bench() as made:
        where = Endpoint(host, made.port)
        made.sockets.confirm(where)
        made.sockets.confirm(Endpoint(host, free_port()))
        await made.send(b"after", where)
        await made.until(1)
        assert (made.received, made.unreachable) == ([(b"after", where)], [])


async def test_empty_and_oversized_datagrams_are_handed_over_as_what_they_are() -> None:
    async with bench() as made:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for size in (0, 1, 1200, 65_507):
                stranger.sendto(bytes(size), ("127.0.0.1", made.port))
        await made.until(4)
        assert [len(data) for data, _ in made.received] == [0, 1, 1200, 1201]


async def test_what_cannot_be_sent_is_counted_and_forgotten() -> None:
    async with bench() as made:
        await made.send(b"x", Endpoint("255.255.255.255", 9))  # EACCES without SO_BROADCAST
        assert made.sockets.counters["send EACCES"] == 3
        await made.send(b"y", Endpoint("127.0.0.1", made.port))
        await made.until(1)
        assert made.received[0][0] == b"y"


def test_a_port_in_use_is_one_line_that_names_it() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 0))
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"^UDP port {port} is in use .*config$"):
            Sockets(port)


async def test_a_flood_is_taken_in_turns_between_which_others_run() -> None:
    async with bench() as made:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for _ in range(8 * BATCH):
                stranger.sendto(b"noise", ("127.0.0.1", made.port))
        seen = [len(made.received)]
        with trio.fail_after(5):
            while seen[-1] < 8 * BATCH:
                await trio.lowlevel.checkpoint()
                seen.append(len(made.received))
        steps = [after - before for before, after in itertools.pairwise(seen)]
        # trio shuffles who runs first in each pass: we are never more than two turns behind.
        assert max(steps) <= 2 * BATCH


async def test_an_error_that_no_call_reported_is_read_all_the_same() -> None:
    async with bench() as made:
        nobody = Endpoint("127.0.0.1", free_port())
        plain = made.sockets._sockets[4]
        plain.sendto(b"hello", nobody)
        assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        # From here on no call fails, and epoll(7) wakes us until the queue is empty.
        await made.until(1)
        assert made.unreachable == [nobody]
