"""The control socket: JSON-RPC 2.0, one object a line, for those who may run this router.

Knows requests and connections, not what a method does.  Whatever a client sends (garbage,
too much, nothing, too slowly) costs it its connection and the daemon nothing: each has its
own bounds below, and no method ever waits for a client to read.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from meshd.errors import INVALID_PARAMS, REFUSED, Refused, UsageError
from meshd.files import failure, make_directory
from meshd.text import to_json

Method = Callable[[dict[str, Any]], Awaitable[object]]
Watch = Callable[[], AbstractContextManager[trio.MemoryReceiveChannel[dict[str, Any]]]]

MAX_FRAME: Final = 65536
"""Bytes of one request. The longest, announce with 1,000 IPv6 prefixes, has about 45,000."""
MAX_CLIENTS: Final = 64
"""Connections at once; one more is closed. Well below the 1,024 files a process may open."""
FRAME_TIMEOUT: Final = 10.0
"""Seconds from the first byte of a request to its last."""
IDLE_TIMEOUT: Final = 300.0
"""Seconds a connection may say nothing (a watcher may for ever)."""
WRITE_TIMEOUT: Final = 5.0
"""Seconds a client may take to read an answer, or a watcher one event."""

MAX_PATH: Final = 107
"""Bytes in sun_path (unix(7)), without its NUL."""

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND = -32700, -32600, -32601
"""JSON-RPC 2.0 section 5.1."""

_SO_PEERGROUPS: Final = 59
"""Linux >= 4.13, asm-generic/socket.h: the peer's supplementary groups."""


async def serve(
    path: Path,
    methods: Mapping[str, Method],
    watch: Watch,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on the socket ``path`` until cancelled; started when clients may connect.

    A method takes its params and returns a JSON value, or raises ``UsageError`` or
    ``Refused``.  ``UsageError`` from here: somebody else answers there, or it cannot be made.
    """
    listener = _listen(path)
    made = os.lstat(path)
    server = _Server(methods, watch, made.st_gid)
    try:
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                try:
                    connection, _ = await listener.accept()
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                        raise
                    await trio.sleep(0.1)  # Until somebody closes a file.
                    continue
                if server.clients < MAX_CLIENTS and server.may_speak(connection):
                    nursery.start_soon(server.talk, trio.SocketStream(connection))
                else:
                    connection.close()
    finally:
        listener.close()
        _unlink_ours(path, made)


def _listen(path: Path) -> trio.socket.SocketType:
    """A listening socket at ``path``, mode 0660; one that nobody answers on is replaced."""
    if len(os.fsencode(path)) > MAX_PATH:
        raise UsageError(
            f"{path} is longer than the {MAX_PATH} bytes a socket's path may have;"
            " choose a shorter --dir"
        )
    make_directory(path.parent, 0o755)
    _clear_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mask makes the mode right from the first moment; nothing else runs meanwhile.
    mask = os.umask(0o117)
    try:
        listener.bind(str(path))
        listener.listen(MAX_CLIENTS)
    except OSError as error:
        listener.close()
        raise failure(path, "make", error) from None
    finally:
        os.umask(mask)
    return trio.socket.from_stdlib_socket(listener)


def _clear_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UsageError(f"{path} is there and is no socket; move it away")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
            except BlockingIOError:
                pass  # Its backlog is full: somebody is there, only busy.
    except FileNotFoundError:
        return
    except OSError as error:
        raise failure(path, "use", error) from None
    raise UsageError(f"another meshd answers on {path}; stop it, or choose another --dir")


def _unlink_ours(path: Path, made: os.stat_result) -> None:
    """Remove the socket unless somebody has put another in its place."""
    try:
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == (made.st_dev, made.st_ino):
            path.unlink()
    except OSError:
        return  # The next start replaces what nobody answers on.


class _Hangup(Exception):
    """This connection is over: the client is gone, too slow or not speaking our language."""


_GONE: Final = (_Hangup, trio.BrokenResourceError, trio.ClosedResourceError)


@attrs.define(eq=False)
class _Server:
    methods: Mapping[str, Method]
    watch: Watch
    group: int
    """The socket's group: its members may speak."""
    clients: int = 0

    def may_speak(self, connection: trio.socket.SocketType) -> bool:
        """Root, our own user, and members of the socket's group, by the kernel's word."""
        if not hasattr(socket, "SO_PEERCRED"):
            return True  # Where there is none, connect(2) itself obeys the socket's mode.
        try:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            _pid, uid, gid = struct.unpack("iII", credentials)
            if uid in (0, os.geteuid()) or gid == self.group:
                return True
            # The most that Python reads: 256 groups. Who is in more gets ERANGE and is refused.
            listed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
        except OSError:
            return False
        return self.group in struct.unpack(f"{len(listed) // 4}I", listed)

    async def talk(self, stream: trio.SocketStream) -> None:
        """One client, from its first request to its end."""
        self.clients += 1
        try:
            async with stream:
                reader = _Reader(stream)
                while (line := await reader.line()) is not None:
                    await self._answer(stream, reader, line)
        except _GONE:
            pass
        finally:
            self.clients -= 1

    async def _answer(self, stream: trio.SocketStream, reader: _Reader, line: bytes) -> None:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            await _send(stream, _error(None, PARSE_ERROR, "not JSON"))
            raise _Hangup from None
        problem = _invalid(request)
        if problem:
            await _send(stream, _error(None, INVALID_REQUEST, problem))
            raise _Hangup
        name, number = request["method"], request.get("id")
        if name == "watch":
            await self._watch(stream, reader, number)
            raise _Hangup
        answer = await self._call(name, request.get("params", {}), number)
        if "id" in request:  # Without one it is a notification, which has no answer.
            await _send(stream, answer)

    async def _call(self, name: str, params: dict[str, Any], number: object) -> dict[str, Any]:
        method = self.methods.get(name)
        if method is None:
            return _error(number, METHOD_NOT_FOUND, f"this daemon knows no {ascii(name)[:40]}")
        try:
            result = await method(params)
        except UsageError as error:
            return _error(number, INVALID_PARAMS, str(error))
        except Refused as error:
            return _error(number, REFUSED, str(error))
        return {"jsonrpc": "2.0", "id": number, "result": result}

    async def _watch(self, stream: trio.SocketStream, reader: _Reader, number: object) -> None:
        """Events until the client goes, or until it is too slow to be waited for."""
        with self.watch() as events:
            await _send(stream, {"jsonrpc": "2.0", "id": number, "result": "watching"})
            async with trio.open_nursery() as nursery:

                async def until_gone() -> None:
                    await reader.drain()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(until_gone)
                try:
                    async for event in events:
                        await _send(stream, {"jsonrpc": "2.0", "method": "event", "params": event})
                except _GONE:
                    pass
                nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class _Reader:
    """Lines from a stream, each bounded in length and time."""

    _stream: trio.SocketStream
    _held: bytearray = attrs.field(factory=bytearray)

    async def line(self) -> bytes | None:
        """The next line without its end; None when the client is done."""
        try:
            with trio.fail_after(IDLE_TIMEOUT):
                if not self._held and not await self._more():
                    return None
            with trio.fail_after(FRAME_TIMEOUT):  # For all of it, however it trickles in.
                return await self._frame()
        except trio.TooSlowError:
            raise _Hangup from None

    async def _frame(self) -> bytes | None:
        while (end := self._held.find(b"\n")) < 0 and len(self._held) <= MAX_FRAME:
            if not await self._more():
                return None
        if not 0 <= end <= MAX_FRAME:
            problem = f"a request longer than {MAX_FRAME} bytes"
            await _send(self._stream, _error(None, INVALID_REQUEST, problem))
            raise _Hangup
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        return line

    async def _more(self) -> bool:
        data = await self._stream.receive_some(MAX_FRAME)
        self._held += data
        return bool(data)

    async def drain(self) -> None:
        """Wait for the client's end; what a watcher says is not listened to."""
        self._held.clear()
        try:
            while await self._stream.receive_some(4096):
                pass
        except trio.BrokenResourceError:
            return


async def _send(stream: trio.SocketStream, message: dict[str, Any]) -> None:
    with trio.move_on_after(WRITE_TIMEOUT):
        await stream.send_all(to_json(message).encode() + b"\n")
        return
    raise _Hangup


def _invalid(request: object) -> str:
    """What makes ``request`` no JSON-RPC 2.0 request of ours, or nothing."""
    if not isinstance(request, dict) or request.get("jsonrpc") != "2.0":
        return "not a JSON-RPC 2.0 object"
    if not isinstance(request.get("method"), str):
        return "method is not text"
    if not isinstance(request.get("params", {}), dict):
        return "params is not an object"
    if not isinstance(request.get("id"), str | int | None):
        return "id is neither text nor a whole number"
    return ""


def _error(number: object, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}}
