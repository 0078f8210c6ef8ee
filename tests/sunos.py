"""Members of a mesh that take their host for illumos: fakes of its tools, and a Python without what
only Linux has.

Routes that the fake ``route`` makes are made in the namespace too, so that packets go where the
table says; what NAT would do to them is asked of ``illumosfakes.packet``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import attrs

import illumosfakes
from illumosfakes.command import execute
from illumosfakes.machine import Machine, commands_of, empty, opened
from illumosfakes.packet import source_after
from meshd.kernel.illumos import pool
from netlab import Mesh
from netlab.lab import INSIDE, UPLINK, Zone
from netlab.mesh import Member
from protocol.address import Prefix

WITHOUT = Path(__file__).with_name("withoutepoll.py")


@attrs.define(eq=False)
class SunosMember(Member):
    """What speaks to the kernel is run by such a Python."""

    def argv(self, *arguments: str) -> list[str | Path]:
        command = super().argv(*arguments)
        if arguments[0] in ("run", "purge"):
            command[:1] = [sys.executable, WITHOUT, "--sunos", "meshd"]
        return command


@attrs.define(eq=False)
class SunosHost:
    """The state of one zone's fakes, and its files."""

    zone: Zone
    directory: Path
    form: str

    @property
    def state(self) -> Path:
        return self.directory / "machine"

    @property
    def tools(self) -> Path:
        return self.directory / "bin"

    @property
    def files(self) -> Path:
        return self.directory / "ipf"

    def prepare(self) -> None:
        """The zone as its operator has set it up: addresses, a default route, what form asks."""
        self.files.mkdir(parents=True)
        illumosfakes.install(self.tools, self.state)
        machine = Machine(empty())
        four, six = self.zone.uplink4, self.zone.uplink6
        machine.add_interface(UPLINK, str(four), str(six))
        inside = (f"{self.zone.router4}/24", f"{self.zone.router6}/64")
        machine.add_interface(INSIDE, *inside)
        execute(machine, "route", ["-n", "add", "default", str(self.zone.segment.gateway4)])
        machine.held["mirror"] = True
        if self.form == "ippool":
            execute(machine, "ippool", ["-A", "-m", "13", "-t", "tree"])
            lines = pool.filter_lines(UPLINK, Prefix.of(self.zone.prefix4), 13, "inet")
            execute(machine, "ipf", ["-f", "-"], "\n".join(lines))
            lines = pool.map_lines(UPLINK, Prefix.of(self.zone.prefix4), "inet")
            execute(machine, "ipnat", ["-f", "-"], "\n".join(lines))
        self.state.write_text(json.dumps(machine.held), encoding="utf-8")

    @property
    def config(self) -> str:
        return (
            f'nat = "{self.form}"\n[illumos]\ninterface = "{UPLINK}"\n'
            f'tools = "{self.tools}"\nfiles = "{self.files}"\n'
        )

    def run(self, *argv: str) -> str:
        """Somebody else's hand: one command, in the namespace, that has to work."""
        done = self.zone.router.run([self.tools / argv[0], *argv[1:]])
        return done.stdout

    @contextmanager
    def machine(self) -> Iterator[Machine]:
        with opened(self.state, ["look"]) as machine:
            yield machine

    def leads(self, prefix: object) -> set[str]:
        """The gateways of the routes to that very prefix."""
        with self.machine() as machine:
            return {each["gateway"] for each in machine.routes if each["dest"] == str(prefix)}

    def translated(self, destination: object) -> IPv4Address:
        """The source that a packet of the private zone to ``destination`` would leave with."""
        with self.machine() as machine:
            source = str(self.zone.private4)
            return IPv4Address(source_after(machine, source, str(destination), UPLINK))

    def commands(self) -> list[list[str]]:
        text = commands_of(self.state).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]


class MixedMesh(Mesh):
    """Some of whose members are such hosts, by the number of their zone."""

    hosts: dict[int, SunosHost]

    def of(self, hosts: dict[int, SunosHost]) -> MixedMesh:
        self.hosts = hosts
        for host in hosts.values():
            host.prepare()
        return self

    def _member(self, number: int) -> Member:
        plain = super()._member(number)
        self.config = self.hosts[number].config if number in self.hosts else ""
        if number not in self.hosts:
            return plain
        return SunosMember(plain.zone, plain.directory, plain.name)
