"""Traffic between zones: servers that tell a client which source address they see.

Nothing here starts a process (but `ping`): sockets are opened inside a namespace and used from
the caller's thread, servers run in one thread each.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import TracebackType

import attrs

from netlab.namespace import Namespace

Address = IPv4Address | IPv6Address

ECHO_PORT = 7
"""RFC 862"""

DISCARD_PORT = 9
"""RFC 863"""

_SEQUENCE = struct.Struct("!Q")


def _family(address: Address) -> socket.AddressFamily:
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
        listener = self.namespace.socket(_family(address), kind)
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
        self._socket = self.namespace.socket(_family(self.address), socket.SOCK_STREAM)
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


@attrs.define(eq=False)
class PacedFlow:
    """Context manager: UDP datagrams with sequence numbers from one namespace to another, one way.

    `rate` datagrams a second (after a stall of this machine at most 50 ms of them at once) go to
    `address`, which must be one of `target`'s. Counts can be read at any time, and are final after
    the block, which ends with a wait of at most a second for what is on its way.
    """

    source: Namespace
    target: Namespace
    address: Address
    rate: int = 1000
    port: int = DISCARD_PORT
    sent: int = attrs.field(default=0, init=False)
    """Datagrams handed to the kernel, those that it refused included."""
    received: int = attrs.field(default=0, init=False)
    """Of these, how many came; one that came twice counts once."""
    translated: int = attrs.field(default=0, init=False)
    """Of those that came, how many under another address or port than they left with."""
    outage_s: float = attrs.field(default=0.0, init=False)
    """The longest time between two that came, while this flow ran."""
    _missing: set[int] = attrs.field(factory=set, init=False)
    _expected: int = attrs.field(default=0, init=False)
    _last: float = attrs.field(default=0.0, init=False)
    _stop: threading.Event = attrs.field(factory=threading.Event, init=False)
    _sockets: tuple[socket.socket, socket.socket] = attrs.field(init=False)
    _threads: list[threading.Thread] = attrs.field(factory=list, init=False)

    @property
    def lost(self) -> int:
        """How many were sent and have not come; those on their way among them."""
        return self.sent - self.received

    def __enter__(self) -> PacedFlow:
        family = _family(self.address)
        with contextlib.ExitStack() as stack:
            sender = stack.enter_context(self.source.socket(family, socket.SOCK_DGRAM))
            receiver = stack.enter_context(self.target.socket(family, socket.SOCK_DGRAM))
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            receiver.bind((str(self.address), self.port))
            receiver.settimeout(0.05)
            sender.connect((str(self.address), self.port))
            stack.pop_all()
        self._sockets = sender, receiver
        self._last = time.monotonic()
        for task in (self._receive, self._send):
            self._threads.append(threading.Thread(target=task, name=f"flow {self.address}"))
            self._threads[-1].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in reversed(self._threads):
            thread.join()
        for each in self._sockets:
            each.close()

    def _send(self) -> None:
        sender, due = self._sockets[0], time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            due = max(due, now - 0.05)
            while due <= now:
                with contextlib.suppress(OSError):  # no route, or an error of one before it
                    sender.send(_SEQUENCE.pack(self.sent))
                self.sent += 1
                due += 1 / self.rate
            time.sleep(max(0.0, due - time.monotonic()))

    def _receive(self) -> None:
        sender, receiver = self._sockets
        left_as = sender.getsockname()[:2]
        patience = float("inf")
        while self.lost or not self._stop.is_set():
            if self._stop.is_set():
                patience = min(patience, time.monotonic() + 1)
            now = time.monotonic()
            if now > patience:
                break
            with contextlib.suppress(TimeoutError):
                data, where = receiver.recvfrom(64)
                (number,) = _SEQUENCE.unpack(data)
                self._note(number, translated=where[:2] != left_as)
        if self.lost:  # what is missing at the end is an outage too, without the wait for it
            self.outage_s = max(self.outage_s, time.monotonic() - 1 - self._last)

    def _note(self, number: int, *, translated: bool) -> None:
        now = time.monotonic()
        if number >= self._expected:
            self._missing.update(range(self._expected, number))
            self._expected = number + 1
        elif number in self._missing:
            self._missing.discard(number)
        else:
            return
        self.received += 1
        self.translated += translated
        self.outage_s = max(self.outage_s, now - self._last)
        self._last = now


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
    family = _family(address)
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
