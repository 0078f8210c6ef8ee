"""Traffic between zones: servers that tell a client which source address they see.

Nothing here starts a process (but `ping`): sockets are opened inside a namespace and used from
the caller's thread, servers run in one thread each.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import TracebackType

import attrs

from netlab.namespace import Namespace

Address = IPv4Address | IPv6Address

ECHO_PORT = 7
"""RFC 862"""


def family_of(address: Address) -> socket.AddressFamily:
    """Of a socket to it."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


@attrs.define(eq=False)
class EchoServer:
    """Context manager: a TCP and UDP echo service in `namespace` on each of `addresses`.

    A TCP client first gets one line with the source address and port that the server sees, then
    its own bytes back; a UDP client gets that line for each datagram.
    """

    namespace: Namespace
    addresses: tuple[Address, ...]
    port: int = ECHO_PORT
    _selector: selectors.BaseSelector = attrs.field(factory=selectors.DefaultSelector, init=False)
    _wake: tuple[socket.socket, socket.socket] = attrs.field(factory=socket.socketpair, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)

    def __enter__(self) -> EchoServer:
        self._selector.register(self._wake[1], selectors.EVENT_READ, None)
        try:
            for address in self.addresses:
                self._listen(address, socket.SOCK_STREAM, self._accept)
                self._listen(address, socket.SOCK_DGRAM, self._answer)
        except OSError:
            self._close()
            raise
        self._thread = threading.Thread(target=self._serve, name=f"echo {self.namespace.name}")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._thread is not None
        self._wake[0].send(b"x")
        self._thread.join()
        self._close()

    def _listen(
        self,
        address: Address,
        kind: socket.SocketKind,
        handler: Callable[[socket.socket], None],
    ) -> None:
        listener = self.namespace.socket(family_of(address), kind)
        self._selector.register(listener, selectors.EVENT_READ, handler)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), self.port))
        if kind is socket.SOCK_STREAM:
            listener.listen()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                try:
                    key.data(key.fileobj)
                except OSError:  # the client's end of it: reset, unreachable
                    self._drop(key.fileobj)  # type: ignore[arg-type]

    def _accept(self, listener: socket.socket) -> None:
        connection, source = listener.accept()
        self._selector.register(connection, selectors.EVENT_READ, self._echo)
        connection.sendall(f"{source[0]} {source[1]}\n".encode())

    def _echo(self, connection: socket.socket) -> None:
        data = connection.recv(65536)
        if data:
            connection.sendall(data)
        else:
            self._drop(connection)

    def _answer(self, bound: socket.socket) -> None:
        source = bound.recvfrom(65536)[1]
        bound.sendto(f"{source[0]} {source[1]}\n".encode(), source)

    def _drop(self, connection: socket.socket) -> None:
        if connection.type is socket.SOCK_STREAM:
            self._selector.unregister(connection)
            connection.close()

    def _close(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._wake[0].close()
        self._selector.close()


@attrs.define(eq=False)
class Flow:
    """One TCP connection from `namespace` to an echo server; a context manager.

    Connecting and every exchange take at most `timeout` seconds, and raise OSError otherwise.
    """

    namespace: Namespace
    address: Address
    port: int = ECHO_PORT
    timeout: float = 3.0
    _socket: socket.socket = attrs.field(init=False)
    source: Address = attrs.field(init=False)
    """What the far end took for our address."""

    def __attrs_post_init__(self) -> None:
        self._socket = self.namespace.socket(family_of(self.address), socket.SOCK_STREAM)
        try:
            self._socket.settimeout(self.timeout)
            self._socket.connect((str(self.address), self.port))
            line = b""
            while not line.endswith(b"\n"):
                line += self._receive(1)
        except OSError:
            self._socket.close()
            raise
        self.source = _source(line)

    def exchange(self, payload: bytes) -> None:
        """Send `payload` and read it back; at most a socket buffer's worth (64 KiB) at a time."""
        self._socket.sendall(payload)
        echoed = b""
        while len(echoed) < len(payload):
            echoed += self._receive(len(payload) - len(echoed))
        if echoed != payload:
            raise ConnectionError("the echo differs from what was sent")

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def __enter__(self) -> Flow:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _receive(self, count: int) -> bytes:
        data = self._socket.recv(count)
        if not data:
            raise ConnectionError("closed by the far end")
        return data


def _source(line: bytes) -> Address:
    return ip_address(line.split()[0].decode())


def source_seen(
    namespace: Namespace, address: Address, *, port: int = ECHO_PORT, timeout: float = 3.0
) -> Address:
    """The source address that a TCP echo server at `address` sees for us; OSError without one."""
    with Flow(namespace, address, port, timeout) as flow:
        return flow.source


def udp_source_seen(
    namespace: Namespace,
    address: Address,
    *,
    port: int = ECHO_PORT,
    source_port: int = 0,
    timeout: float = 3.0,
) -> Address:
    """The same over UDP, with one datagram; `source_port` repeats a flow, 0 begins a new one."""
    family = family_of(address)
    with namespace.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        client.bind(("", source_port))
        client.connect((str(address), port))
        client.send(b"?")
        return _source(client.recv(256))


def ping(namespace: Namespace, address: Address, *, count: int = 1, timeout: int = 2) -> bool:
    """Whether all of `count` echo requests, 200 ms apart, are answered within `timeout` seconds."""
    command = ["ping", "-n", "-q", "-i", "0.2", "-c", str(count), "-W", str(timeout), str(address)]
    done = namespace.run(command, check=False)
    return done.returncode == 0 and f"{count} received" in done.stdout
