"""The control socket on real sockets: who may speak, and what a bad client costs."""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from meshd import control
from meshd.control import MAX_FRAME, serve
from meshd.errors import Refused, UsageError
from meshd.log import EventLog

Json = dict[str, Any]


@attrs.define(eq=False)
class Daemon:
    """A server with a few methods, and the log that its watchers see."""

    path: Path
    log: EventLog = attrs.field(factory=EventLog)
    crowd: list[Json] = attrs.field(factory=list)

    async def echo(self, params: Json) -> object:
        self.crowd.append(params)
        return params

    async def usage(self, _: Json) -> object:
        raise UsageError("10.1.0.1/24 has host bits set")

    async def refuse(self, _: Json) -> object:
        raise Refused("no")

    async def much(self, _: Json) -> object:
        return "x" * 8_000_000

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        methods = {
            "echo": self.echo,
            "usage": self.usage,
            "refuse": self.refuse,
            "much": self.much,
        }
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, self.path, methods, self.log.subscribe)
            yield
            nursery.cancel_scope.cancel()

    async def connect(self) -> trio.SocketStream:
        return trio.SocketStream(await trio_connect(self.path))


async def trio_connect(path: Path) -> trio.socket.SocketType:
    connection = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await connection.connect(str(path))
    return connection


async def line(stream: trio.SocketStream) -> Json:
    """The next object that the server sends; fails when it hangs up."""
    held = b""
    while not held.endswith(b"\n"):
        # Looked at first, so that what follows this line stays for the next call.
        data = await stream.socket.recv(65536, socket.MSG_PEEK)
        assert data, "the server hung up"
        held += await stream.socket.recv(data.find(b"\n") + 1 or len(data))
    found: Json = json.loads(held)
    return found


async def ended(stream: trio.SocketStream) -> bool:
    try:
        while await stream.receive_some(65536):
            pass
    except trio.BrokenResourceError:
        pass
    return True


def request(method: str, number: int | None = 1, **params: object) -> bytes:
    body: Json = {"jsonrpc": "2.0", "method": method, "params": params}
    if number is not None:
        body["id"] = number
    return json.dumps(body).encode() + b"\n"


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path / "control.sock")


async def ask(daemon: Daemon, data: bytes) -> Json:
    async with await daemon.connect() as stream:
        await stream.send_all(data)
        return await line(stream)


async def test_a_call_is_answered_with_its_id(daemon: Daemon) -> None:
    async with daemon.serving():
        answer = await ask(daemon, request("echo", 7, prefixes=["10.7.0.0/24"]))
    assert answer == {"jsonrpc": "2.0", "id": 7, "result": {"prefixes": ["10.7.0.0/24"]}}


async def test_many_calls_share_a_connection_and_may_come_in_pieces(daemon: Daemon) -> None:
    async with daemon.serving(), await daemon.connect() as stream:
        data = request("echo", 1, a=1) + request("echo", None, b=2) + request("echo", 3, c=3)
        for at in range(0, len(data), 7):
            await stream.send_all(data[at : at + 7])
            await trio.testing.wait_all_tasks_blocked()
        assert [(await line(stream))["id"] for _ in range(2)] == [1, 3]
    assert daemon.crowd == [{"a": 1}, {"b": 2}, {"c": 3}]


async def test_the_two_families_of_error_have_their_codes(daemon: Daemon) -> None:
    async with daemon.serving():
        usage = await ask(daemon, request("usage"))
        refused = await ask(daemon, request("refuse"))
        unknown = await ask(daemon, request("nonsense"))
    assert usage["error"] == {"code": -32602, "message": "10.1.0.1/24 has host bits set"}
    assert refused["error"] == {"code": 1, "message": "no"}
    assert unknown["error"]["code"] == -32601


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\n",
        b"\xff\xfe\n",
        b"[" * 50000 + b"\n",
        b"9" * 50000 + b"\n",
        b"[]\n",
        b"null\n",
        b'{"jsonrpc":"1.0","id":1,"method":"echo"}\n',
        b'{"jsonrpc":"2.0","id":1,"method":1}\n',
        b'{"jsonrpc":"2.0","id":1,"method":"echo","params":[]}\n',
        b'{"jsonrpc":"2.0","id":{},"method":"echo"}\n',
        b"x" * (MAX_FRAME + 2),
        request("echo", 1, pad="x" * MAX_FRAME),
    ],
)
async def test_garbage_costs_its_sender_the_connection_and_nobody_else_anything(
    daemon: Daemon, data: bytes
) -> None:
    async with daemon.serving(), await daemon.connect() as other:
        async with await daemon.connect() as stream:
            await stream.send_all(data)
            assert (await line(stream))["error"]["code"] in (-32700, -32600)
            assert await ended(stream)
        await other.send_all(request("echo", 2))
        assert (await line(other))["id"] == 2
    assert daemon.crowd == [{}]


async def test_a_frame_of_just_64_kib_is_served(daemon: Daemon) -> None:
    data = request("echo", 1, pad="")
    padded = request("echo", 1, pad="x" * (MAX_FRAME + 1 - len(data)))
    assert len(padded) == MAX_FRAME + 1  # The line's end is not of the frame.
    async with daemon.serving():
        assert "result" in await ask(daemon, padded)


async def test_a_client_that_hangs_up_at_once_or_in_mid_request_is_forgotten(
    daemon: Daemon,
) -> None:
    async with daemon.serving():
        for data in (b"", b"{", request("much")):
            async with await daemon.connect() as stream:
                await stream.send_all(data or b" ")
        assert (await ask(daemon, request("echo")))["id"] == 1


async def test_a_client_that_resets_the_connection_is_forgotten(daemon: Daemon) -> None:
    async with daemon.serving():
        connection = await trio_connect(daemon.path)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await connection.send(request("watch"))
        connection.close()
        assert (await ask(daemon, request("echo")))["id"] == 1


async def test_a_client_that_never_ends_its_request_is_dropped(
    daemon: Daemon, autojump_clock: trio.testing.MockClock
) -> None:
    async with daemon.serving(), await daemon.connect() as stream:
        with trio.move_on_after(control.FRAME_TIMEOUT * 2) as patience:
            async with trio.open_nursery() as nursery:

                async def trickle() -> None:
                    while True:
                        await stream.send_all(b"[")
                        await trio.sleep(control.FRAME_TIMEOUT * 0.3)

                nursery.start_soon(trickle)
                assert await ended(stream)
                nursery.cancel_scope.cancel()
        assert not patience.cancelled_caught


async def test_a_client_that_says_nothing_is_dropped_in_the_end(
    daemon: Daemon, autojump_clock: trio.testing.MockClock
) -> None:
    async with daemon.serving(), await daemon.connect() as stream:
        start = trio.current_time()
        assert await ended(stream)
        assert trio.current_time() - start == pytest.approx(control.IDLE_TIMEOUT)


async def test_a_client_that_does_not_read_its_answer_is_dropped(
    daemon: Daemon, autojump_clock: trio.testing.MockClock
) -> None:
    async with daemon.serving(), await daemon.connect() as stream:
        await stream.send_all(request("much"))
        await trio.sleep(control.WRITE_TIMEOUT + 1)
        with trio.fail_after(1):  # What the kernel holds, and then the end.
            assert await ended(stream)
        assert (await ask(daemon, request("echo")))["id"] == 1


async def test_more_clients_than_allowed_are_closed_and_the_others_served(daemon: Daemon) -> None:
    async with daemon.serving():
        crowd = [await daemon.connect() for _ in range(control.MAX_CLIENTS)]
        for stream in crowd:
            await stream.send_all(request("echo"))
            await line(stream)
        one_more = await daemon.connect()
        assert await ended(one_more)
        await one_more.aclose()
        for stream in crowd:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await ask(daemon, request("echo")))["id"] == 1


# -- watching --------------------------------------------------------------------------------


async def test_a_watcher_gets_events_until_it_goes(daemon: Daemon) -> None:
    async with daemon.serving(), await daemon.connect() as stream:
        await stream.send_all(request("watch", 4))
        assert await line(stream) == {"jsonrpc": "2.0", "id": 4, "result": "watching"}
        daemon.log.emit("peer-alive", name="b")
        event = await line(stream)
        assert (event["method"], event["params"]["event"]) == ("event", "peer-alive")
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert not daemon.log._watchers


async def test_a_watcher_that_does_not_read_is_dropped_and_the_daemon_does_not_wait(
    daemon: Daemon, autojump_clock: trio.testing.MockClock
) -> None:
    async with daemon.serving(), await daemon.connect() as stream:
        await stream.send_all(request("watch"))
        await line(stream)
        for _ in range(3000):
            daemon.log.emit("peer-alive", pad="x" * 1000)
        await trio.sleep(control.WRITE_TIMEOUT + 1)
        assert not daemon.log._watchers
        assert await ended(stream)


# -- the socket file ---------------------------------------------------------------------------


async def test_the_socket_is_for_owner_and_group_and_goes_with_the_daemon(daemon: Daemon) -> None:
    async with daemon.serving():
        found = daemon.path.stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o660
    assert not daemon.path.exists()


async def test_a_stale_socket_is_replaced(daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(daemon.path))
    async with daemon.serving():
        assert (await ask(daemon, request("echo")))["id"] == 1


async def start_second(daemon: Daemon) -> str:
    with pytest.raises(UsageError) as caught:
        await serve(daemon.path, {}, daemon.log.subscribe)
    return str(caught.value)


async def test_a_live_socket_is_not_taken_over(daemon: Daemon) -> None:
    async with daemon.serving():
        assert "another meshd answers on" in await start_second(daemon)
        assert (await ask(daemon, request("echo")))["id"] == 1


async def test_a_file_in_its_place_is_left_alone(daemon: Daemon) -> None:
    daemon.path.write_text("mine")
    assert "is no socket; move it away" in await start_second(daemon)
    assert daemon.path.read_text() == "mine"


async def test_a_path_too_long_for_a_socket_is_one_line(tmp_path: Path) -> None:
    deep = Daemon(tmp_path / ("x" * 100) / "control.sock")
    assert "longer than the 107 bytes" in await start_second(deep)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become other users")
@pytest.mark.parametrize(
    ("uid", "gids", "served"),
    [(0, [], True), (1234, [1235], False), (1234, [1235, 4321], True), (1234, [4321], True)],
)
def test_only_root_us_and_the_sockets_group_may_speak(
    daemon: Daemon, uid: int, gids: list[int], *, served: bool
) -> None:
    daemon.path.parent.chmod(0o755)
    server = control._Server({}, daemon.log.subscribe, 4321)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(daemon.path))
        daemon.path.chmod(0o666)  # So that the credentials, not the mode, decide.
        listener.listen()
        client = os.fork()
        if not client:
            try:
                os.chdir(daemon.path.parent)
                os.setgroups(gids)
                os.setgid(gids[0] if gids else 0)
                os.setuid(uid)
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(daemon.path.name)
                    connection.recv(1)
            finally:
                os._exit(0)
        accepted, _ = listener.accept()
        with trio.socket.from_stdlib_socket(accepted) as peer:
            found = server.may_speak(peer)
        os.waitpid(client, 0)
    assert found is served
