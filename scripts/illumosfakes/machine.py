"""What a zone holds between two commands: interfaces, routes, pools, NAT and filter rules.

Plain dicts and lists, kept as JSON in one file that is locked while a command runs. Beside it
stand two files that only grow: NAME.events, what a routing socket would tell, and NAME.commands,
what was run.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any, Final

EPERM: Final = 1
ENOENT: Final = 2
ESRCH: Final = 3
EIO: Final = 5
EBUSY: Final = 16
EEXIST: Final = 17
EINVAL: Final = 22
EADDRNOTAVAIL: Final = 126
ENETUNREACH: Final = 128
"""illumos numbers (sys/errno.h): the exit codes of ``route`` are these."""

WORDS: Final = {
    EPERM: "Not owner",
    ENOENT: "No such file or directory",
    ESRCH: "No such process",
    EIO: "I/O error",
    EBUSY: "Device busy",
    EEXIST: "File exists",
    EINVAL: "Invalid argument",
    EADDRNOTAVAIL: "Cannot assign requested address",
    ENETUNREACH: "Network is unreachable",
}
"""strerror(3) there."""

Table = dict[str, Any]


class Machine:
    """One zone. ``pid`` is the process that a routing message names."""

    def __init__(self, held: Table | None = None, pid: int = 0) -> None:
        self.held: Table = held if held is not None else empty()
        self.pid = pid
        self.events: list[str] = []
        """Routing messages of this command, as ``route monitor`` prints them."""

    @property
    def interfaces(self) -> dict[str, Table]:
        return self.held["interfaces"]  # type: ignore[no-any-return]

    @property
    def routes(self) -> list[Table]:
        return self.held["routes"]  # type: ignore[no-any-return]

    @property
    def pools(self) -> list[Table]:
        return self.held["pools"]  # type: ignore[no-any-return]

    @property
    def nat(self) -> list[Table]:
        return self.held["nat"]  # type: ignore[no-any-return]

    @property
    def filters(self) -> list[Table]:
        """The active set."""
        return self.held["filters"][self.held["active"]]  # type: ignore[no-any-return]

    @property
    def inactive(self) -> list[Table]:
        return self.held["filters"][1 - self.held["active"]]  # type: ignore[no-any-return]

    def pool(self, name: str) -> Table | None:
        return next((pool for pool in self.pools if pool["name"] == name), None)

    def references(self, name: str) -> int:
        """Rules of either set that were resolved to this pool when they were loaded."""
        rules = [rule for each in self.held["filters"] for rule in each]
        return sum(
            rule[side].get("pool") == name and rule[side]["resolved"]
            for rule in rules
            for side in ("from", "to")
        )

    def on_link(self, address: str) -> str | None:
        """The interface that is up and has ``address`` in its subnet."""
        where = ip_address(address)
        for name, interface in self.interfaces.items():
            networks = [ip_interface(text).network for text in interface["addresses"]]
            if interface["up"] and any(where in network for network in networks):
                return name
        return None

    def add_interface(self, name: str, *addresses: str, up: bool = True) -> None:
        index = self.interfaces[name]["index"] if name in self.interfaces else self.next_index()
        self.interfaces[name] = {"index": index, "up": up, "addresses": list(addresses)}

    def next_index(self) -> int:
        return 1 + max((each["index"] for each in self.interfaces.values()), default=0)

    def link(self, name: str, *, up: bool) -> None:
        """``ifconfig NAME up|down``. Down takes the routes through it along (UNKNOWN)."""
        self.interfaces[name]["up"] = up
        if not up:
            gone = [
                route
                for route in self.routes
                if route["through"] == name
                and "REJECT" not in route["flags"]
                and "BLACKHOLE" not in route["flags"]
            ]
            self.held["routes"] = [route for route in self.routes if route not in gone]
        state = "<UP,RUNNING>" if up else "<RUNNING>"
        self.tell(
            f"RTM_IFINFO: iface status change: len 128, if# {self.interfaces[name]['index']},"
            f" flags:{state}\nsockaddrs: <IFP>\n {name}"
        )

    def tell(self, message: str) -> None:
        self.events.append(f"got message of size 200\n{message}\n")


def empty() -> Table:
    """A zone with nothing but its loopback."""
    lo0 = {"index": 1, "up": True, "addresses": ["127.0.0.1/8", "::1/128"]}
    return {
        "interfaces": {"lo0": lo0},
        "routes": [],
        "pools": [],
        "nat": [],
        "filters": [[], []],
        "active": 0,
        "enabled": True,
        "privileged": True,
        "mirror": False,
        "sent": 0,
    }


@contextmanager
def opened(state: Path, argv: list[str]) -> Iterator[Machine]:
    """The machine in file ``state``, alone with it; written back if the block ends well."""
    with open(f"{state}.lock", "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        held = json.loads(state.read_text(encoding="utf-8")) if state.exists() else empty()
        before = json.dumps(held)
        machine = Machine(held, os.getpid())
        yield machine
        if (after := json.dumps(machine.held)) != before:
            temporary = state.with_name(f"{state.name}.new")
            temporary.write_text(after, encoding="utf-8")
            os.replace(temporary, state)
        _append(events_of(state), "".join(machine.events))
        _append(commands_of(state), json.dumps(argv) + "\n")


def _append(path: Path, text: str) -> None:
    if text:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)


def events_of(state: Path) -> Path:
    """Where the messages of the routing socket are kept."""
    return state.with_name(f"{state.name}.events")


def commands_of(state: Path) -> Path:
    """Where every command that was run is kept."""
    return state.with_name(f"{state.name}.commands")


def network(text: str) -> str:
    """The canonical prefix, host bits masked."""
    return str(ip_network(text, strict=False))
