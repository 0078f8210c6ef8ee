"""Serf: a membership without routes, told and listened to over its RPC.

What a node announces is a tag of it (512 bytes at most), and its departure or failure withdraws it.
Every agent's own log, which its RPC streams line by line (`monitor`), says when it knows.  The
RPC's stream of events is not used: the agent holds member events back for a second, to gather them
(CoalescePeriod and QuiescentPeriod, cmd/serf/command/agent/command.go), which would be its loss.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import attrs
import msgpack

from benchmark.holdings import Change, Watch, key
from benchmark.systems.common import Daemon, Running
from netlab import CommandError, Namespace, Zone

PORT: Final = 7946
RPC: Final = ("127.0.0.1", 7373)
"""Its defaults."""

SEEDS: Final = 3
"""Agents that the others join by, again each second until one is there."""

PER_TAG: Final = 20
"""Prefixes: an agent's tags have 512 bytes (memberlist's MetaMaxSize)."""

ANSWER_S: Final = 60.0

LINE: Final = re.compile(r"serf: EventMember(Join|Update|Leave|Failed): r(\d+)\b")


class Rpc:
    """A connection to an agent's RPC: msgpack over TCP (docs/agent/rpc), in its namespace."""

    def __init__(self, place: Namespace) -> None:
        """ConnectionRefusedError when nobody is there."""
        self.socket = place.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._unpacker = msgpack.Unpacker(raw=False, strict_map_key=False)
        self._sequence = 0
        try:
            self.socket.settimeout(ANSWER_S)
            self.socket.connect(RPC)
            self.call("handshake", Version=1)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Rpc:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def call(self, command: str, **body: object) -> float:
        """When the command went out; returns when it was answered, CommandError if by an error."""
        self._sequence += 1
        data: bytes = msgpack.packb({"Command": command, "Seq": self._sequence})
        data += msgpack.packb(body) if body else b""
        began = time.monotonic()
        self.socket.sendall(data)
        while True:
            for each in self._unpacker:  # goes on from here the next time
                if each.get("Seq") == self._sequence:
                    if each["Error"]:
                        raise CommandError(f"serf: {command}: {each['Error']}")
                    return began
            self.receive()

    def receive(self) -> None:
        """Read once; ConnectionError at its end."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("serf: hung up")
        self._unpacker.feed(data)

    def objects(self) -> list[dict[str, Any]]:
        """What has been read and not been looked at."""
        return list(self._unpacker)


@attrs.define(eq=False)
class SerfDaemon(Running):
    """One router's agent."""

    prefixes: dict[IPv4Network, None] = attrs.field(factory=dict)
    """What it announces."""
    watch: SerfWatch | None = None

    def ready(self) -> bool:
        try:
            with Rpc(self.zone.router):
                pass
        except ConnectionRefusedError:
            return False
        if self.watch is not None:
            self.watch.follow(self.zone)
        return True

    def announce(self, prefixes: Sequence[IPv4Network]) -> float:
        self.prefixes |= dict.fromkeys(prefixes)
        return self._tag()

    def withdraw(self, prefixes: Sequence[IPv4Network]) -> float:
        for prefix in prefixes:
            self.prefixes.pop(prefix)
        return self._tag()

    def leave(self) -> float:
        with Rpc(self.zone.router) as rpc:
            began = time.monotonic()
            with contextlib.suppress(ConnectionError):  # it may end before it answers
                began = rpc.call("leave")
        self._ended()
        return began

    def tool(self, prefix: IPv4Network) -> list[str]:
        self.prefixes[prefix] = None
        return ["serf", "tags", "-set", f"p={_tag(self.prefixes)}"]

    def _tag(self) -> float:
        with Rpc(self.zone.router) as rpc:
            return rpc.call("tags", Tags={"p": _tag(self.prefixes)}, DeleteTags=[])


@attrs.define(eq=False)
class SerfWatch:
    """Context manager, see ``holdings.Watch``: what every agent's log says of the others."""

    daemons: Mapping[int, Daemon]
    _lines: dict[int, list[tuple[float, str]]] = attrs.field(factory=dict, init=False)
    _held: dict[int, dict[int, set[bytes]]] = attrs.field(factory=dict, init=False)
    """At whom, of whom, what."""
    _followed: dict[int, int] = attrs.field(factory=dict, init=False)
    """The process whose log it is."""
    _selector: selectors.BaseSelector = attrs.field(factory=selectors.DefaultSelector, init=False)
    _stop: threading.Event = attrs.field(factory=threading.Event, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)
    _new: list[tuple[Rpc, int]] = attrs.field(factory=list, init=False)

    def __enter__(self) -> SerfWatch:
        for number, daemon in self.daemons.items():
            self._lines[number] = []
            self._held[number] = {}
            assert isinstance(daemon, SerfDaemon)
            daemon.watch = self
        self._thread = threading.Thread(target=self._read, name="serf logs")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()
        for key_ in list(self._selector.get_map().values()):
            key_.fileobj.close()  # type: ignore[union-attr]
        for rpc, _ in self._new:
            rpc.socket.close()
        self._selector.close()

    def follow(self, zone: Zone) -> None:
        """From now on, and what the agent remembers: its last 512 lines."""
        process = self.daemons[zone.number].process
        if process is None or self._followed.get(zone.number) == process.pid:
            return
        rpc = Rpc(zone.router)
        rpc.call("monitor", LogLevel="INFO")
        rpc.socket.setblocking(False)
        self._followed[zone.number] = process.pid
        self._new.append((rpc, zone.number))

    def waiting(self, number: int) -> int:
        """See ``Watch``: of lines it is not known what they mean, so there are always enough."""
        return 1_000_000 if self._lines[number] else 0

    def take(self, number: int) -> list[Change]:
        """See ``Watch``. What a member announces is what it has been told to by now."""
        lines = self._lines[number]
        taken = lines[:]
        del lines[: len(taken)]
        found: list[Change] = []
        for when, line in taken:
            match = LINE.search(line)
            if match is None or int(match[2]) == number:
                continue
            daemon = self.daemons[int(match[2])]
            assert isinstance(daemon, SerfDaemon)
            held = self._held[number].setdefault(int(match[2]), set())
            there = match[1] in ("Join", "Update")
            wanted = {key(net) for net in daemon.prefixes} if there else set()
            found += [(when, net, False) for net in held - wanted]
            found += [(when, net, True) for net in wanted - held]
            self._held[number][int(match[2])] = wanted
        return found

    def _read(self) -> None:
        while not self._stop.is_set():
            while self._new:
                rpc, number = self._new.pop(0)
                self._selector.register(rpc.socket, selectors.EVENT_READ, (rpc, number))
                self._note(rpc, number)
            for key_, _ in self._selector.select(0.02):
                self._note(*key_.data)
            time.sleep(0.001)

    def _note(self, rpc: Rpc, number: int) -> None:
        now = time.monotonic()
        try:
            rpc.receive()
        except BlockingIOError:
            pass
        except OSError:  # it has ended
            self._selector.unregister(rpc.socket)
            rpc.socket.close()
        self._lines[number] += [(now, each["Log"]) for each in rpc.objects() if "Log" in each]


@attrs.frozen
class Serf:
    """See ``common.System``."""

    name: str
    packages: dict[str, str] = attrs.field(factory=lambda: {"serf": "serf"})
    protocol: int = 0
    most: int = PER_TAG

    def daemons(
        self, zones: Sequence[Zone], directory: Path, shared: Sequence[IPv4Network] = ()
    ) -> list[Daemon]:
        found: list[Daemon] = []
        for zone in zones:
            own = dict.fromkeys([zone.prefix4])
            argv = ["serf", "agent", f"-node=r{zone.number}", f"-bind={zone.uplink4.ip}:{PORT}",
                    f"-rpc-addr={RPC[0]}:{RPC[1]}", "-tag", f"p={_tag(own)}",
                    "-retry-interval=1s"]  # fmt: skip
            others = [each for each in zones[:SEEDS] if each is not zone]
            argv += [f"-retry-join={each.uplink4.ip}:{PORT}" for each in others]
            found.append(SerfDaemon(zone, directory, argv, own))
        return found

    def watch(self, daemons: Mapping[int, Daemon]) -> Watch:
        return SerfWatch(daemons)

    def version(self) -> str:
        shown = ["dpkg-query", "--show", "--showformat=${Version}", "serf"]
        package = subprocess.run(shown, capture_output=True, text=True, check=False)
        done = subprocess.run(["serf", "version"], capture_output=True, text=True, check=False)
        told = ", ".join(done.stdout.split("\n")[:2])
        return f"Debian's {package.stdout}, which says {told}" if package.stdout else told

    def settings(self) -> str:
        return (
            "membership only: no routes; defaults (profile lan), -retry-join three seeds,"
            " -retry-interval 1s; announces in a tag; seen in each agent's log over its RPC,"
            " for its event stream comes a second later"
        )


def _tag(prefixes: Mapping[IPv4Network, None]) -> str:
    if len(prefixes) > PER_TAG:
        raise ValueError(f"serf: {len(prefixes)} prefixes do not fit the tags of a node")
    return ",".join(map(str, prefixes))
