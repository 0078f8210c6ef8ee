"""A zone of fakes with an illumos backend that can die and come back: its disk, its tools."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Final

from zonebox import Zone, ZoneRunner

from meshd.kernel.illumos import blocks, pool
from meshd.kernel.illumos.backend import Illumos
from meshd.kernel.illumos.options import Options
from meshd.kernel.plan import diff
from meshd.kernel.state import KernelState, NextHops
from protocol.address import Prefix

SOURCE: Final = Prefix.parse("10.1.0.0/24")
B, C, SIX = Prefix.parse("10.2.0.0/24"), Prefix.parse("10.3.0.0/24"), Prefix.parse("fd02::/64")
FORMS: Final = ("ippool", "ipnat")


def via(gateway: str, source: str | None = "10.1.0.1") -> NextHops:
    where = ip_address(gateway)
    own = ip_address(source) if source and where.version == 4 else None
    return NextHops.via(where, "pnic0", own)


def state(*prefixes: Prefix, gateway: str = "192.0.2.2") -> KernelState:
    """All of these joined."""
    routes = {each: via(gateway if each.version == 4 else "2001:db8::2") for each in prefixes}
    nets = frozenset(prefixes)
    return KernelState(routes, nets, frozenset({SOURCE, Prefix.parse("fd01::/64")}), nets)


NOTHING: Final = KernelState(local=state().local)
"""What a node holds that knows nobody."""


class Host:
    """A zone with a daemon that can die: its disk, its tools, and a backend on them."""

    def __init__(self, directory: Path, form: str, *, prepared: bool = True) -> None:
        self.form, self.directory = form, directory
        self.files, self.state = directory / "ipf", directory / "state"
        self.files.mkdir(parents=True)
        self.state.mkdir()
        self.zone = Zone()
        self.zone.do("route -n add default 192.0.2.1")
        if form == "ippool" and prepared:
            self.prepare()
        self.start()

    def prepare(self) -> None:
        """What docs/illumos.md asks of the operator."""
        self.zone.run("ippool -A -m 13 -t tree")
        self.load_rules()
        self.load_maps()

    def load_rules(self, number: int = 13, command: str = "ipf -f -") -> None:
        """The two of ipf.conf."""
        self.zone.do(command, "\n".join(pool.filter_lines("pnic0", SOURCE, number, "inet")))

    def load_maps(self) -> None:
        """The two of ipnat.conf."""
        self.zone.do("ipnat -f -", "\n".join(pool.map_lines("pnic0", SOURCE, "inet")))

    def start(self, form: str | None = None, **options: object) -> None:
        """A new process, with other options if there are some."""
        self.form = form or self.form
        self.runner = ZoneRunner(self.zone)
        chosen = Options(**{"files": str(self.files), **options})  # type: ignore[arg-type]
        self.backend = Illumos(self.form, chosen, self.state, self.runner)

    def boot(self) -> None:
        """As /lib/svc/method/ipfilter does it: pool, rules, lines, each from its file; a new
        process then."""
        machine = self.zone.machine
        machine.held["routes"] = [each for each in machine.routes if each["dest"] == "0.0.0.0/0"]
        machine.held["pools"], machine.held["nat"], machine.held["filters"] = [], [], [[], []]
        if (self.files / "ippool.conf").exists():
            self.zone.do(f"ippool -f {self.files / 'ippool.conf'}")
        if self.form == "ippool":
            self.prepare()
        if (self.files / "ipnat.conf").exists():
            self.zone.do(f"ipnat -f {self.files / 'ipnat.conf'}")
        self.start()

    def apply(self, desired: KernelState) -> dict[str, str]:
        """One round of the reconciler; why what failed."""
        failures = self.backend.apply(diff(desired, self.backend.read()))
        return {str(failure.step).splitlines()[0]: failure.reason for failure in failures}

    def reach(self, desired: KernelState) -> None:
        assert self.apply(desired) == {}
        self.holds(desired)

    def agrees(self, desired: KernelState) -> None:
        """There is nothing to be done, as the backend sees it."""
        reading = self.backend.read()
        assert reading.state == desired
        assert (reading.problems, reading.strays) == ((), ())
        assert not diff(desired, reading)

    def holds(self, desired: KernelState) -> None:
        """And as the zone's own table has it, where no other daemon is."""
        self.agrees(desired)
        for prefix in (B, C, SIX):
            wanted = {"::1" if prefix.version == 6 else "127.0.0.1"}
            if prefix in desired.routes:
                wanted = {str(hop.address) for hop in desired.routes[prefix].hops}
            assert self.leads(prefix) == (wanted if prefix in desired.guards else set())

    def sources(self) -> list[str]:
        """Of packets to B, to C and abroad, by TCP and ICMP alike."""
        found = []
        for destination in ("10.2.0.7", "10.3.0.7", "8.8.8.8"):
            tcp, icmp = (self.zone.source(destination, proto=each) for each in ("tcp", "icmp"))
            assert tcp == icmp
            found.append(tcp)
        return found

    def leads(self, prefix: Prefix) -> set[str]:
        """Gateways of the routes of that very prefix."""
        here = [each for each in self.zone.machine.routes if each["dest"] == str(prefix)]
        return {each["gateway"] for each in here}

    def file(self) -> Path:
        return self.files / ("ippool.conf" if self.form == "ippool" else "ipnat.conf")


OWN, PUBLIC = "10.1.0.5", "192.0.2.9"
REJECT = {"127.0.0.1"}

FOREIGN_FILE: Final = "# the operator's\nrdr pnic0 192.0.2.9/32 port 80 -> 10.1.0.5 port 80 tcp\n"


def with_foreigners(host: Host) -> list[object]:
    """What is somebody else's, in everything that we write to; and how it looks."""
    host.zone.do("route -n add 10.77.0.0/16 192.0.2.7")
    host.zone.do("route -n add 10.78.0.0/16 127.0.0.1 -reject")
    if host.form == "ippool":
        host.zone.do("ippool -a -m 13 -i 10.99.0.0/24")
    else:
        host.zone.do("ipnat -f -", "map pnic0 from 10.1.0.0/24 to 10.99.0.0/24 -> 0/0\n")
    host.file().write_text(FOREIGN_FILE, encoding="latin-1")
    return foreigners(host)


def foreigners(host: Host) -> list[object]:
    """All that is not of the mesh: routes, entries of the pool, lines, and text of the file."""
    machine = host.zone.machine
    ours = {"10.2.0.0/24", "10.3.0.0/24", "fd02::/64"}
    nodes = [each for each in (machine.pool("13") or {"nodes": []})["nodes"] if each not in ours]
    lines = [
        rule for rule in machine.nat
        if not rule["not"] and (rule["to"] is None or rule["to"] not in ours)
    ]  # fmt: skip
    routes = [route for route in machine.routes if route["dest"] not in ours]
    text = host.file().read_text(encoding="latin-1")
    ahead, _, after = blocks.split(text, str(host.state))
    return [routes, nodes, lines, ahead + after]
