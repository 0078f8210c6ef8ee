"""What really passes an interface: tcpdump in a namespace, with nothing lost at its end."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import time
from types import TracebackType
from typing import IO

import attrs

from netlab.namespace import Namespace

MARKER = "127.9.9.9"
"""A datagram to here, on the loopback interface, tells that all before it has been read."""

_FOR_ANOTHER = re.compile(r"\S+ +P ")
"""How tcpdump marks a frame with another host's address, such as one that a switch flooded."""

PATIENCE_S = 10.0
"""tcpdump starts and reads in milliseconds; this is for a machine that is busy with others."""


@attrs.define(eq=False)
class Capture:
    """Context manager: packets that come to `namespace` and match `expression` (pcap-filter(7)).

    After the block `packets` has one line of tcpdump's text for each, oldest first. It raises
    RuntimeError when tcpdump does not start, or lost packets: then an empty list proves nothing.
    """

    namespace: Namespace
    expression: str
    packets: list[str] = attrs.field(factory=list, init=False)
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)

    def __enter__(self) -> Capture:
        expression = f"({self.expression}) or (udp and dst host {MARKER})"
        # -Z root: in a user namespace there is no other user to become.
        command = ["tcpdump", "-Z", "root", "-i", "any", "-Q", "in", "-nntl", "--immediate-mode"]
        self._process = self.namespace.popen(
            [*command, expression], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._process.stderr is not None
        try:
            _read_until(self._process.stderr, b"listening on ")
        except RuntimeError:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._collect()
        finally:
            said = self._end()
        lost = re.search(rb"([1-9]\d*) packets? dropped by kernel", said)
        if error is None and lost:
            raise RuntimeError(f"{self.namespace.name}: tcpdump lost {lost[1].decode()} packets")

    def _collect(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.sendto(b"", (MARKER, 9))
        text = _read_until(self._process.stdout, MARKER.encode()).decode(errors="replace")
        self.packets = [
            line
            for line in text.splitlines()
            if MARKER not in line and not _FOR_ANOTHER.match(line)
        ]

    def _end(self) -> bytes:
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        try:
            return bytes(self._process.communicate(timeout=PATIENCE_S)[1])
        except subprocess.TimeoutExpired:
            self._process.kill()
            return bytes(self._process.communicate()[1])


def _read_until(stream: IO[bytes], wanted: bytes) -> bytes:
    """Everything from `stream` up to the end of the line that has `wanted`."""
    deadline = time.monotonic() + PATIENCE_S
    text = b""
    while not re.search(re.escape(wanted) + rb".*\n", text):
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        # Past the stream's own buffer, which select cannot see into.
        chunk = os.read(stream.fileno(), 65536) if ready else b""
        if not chunk:
            raise RuntimeError(f"tcpdump: {text.decode(errors='replace').strip() or 'no answer'}")
        text += chunk
    return text
