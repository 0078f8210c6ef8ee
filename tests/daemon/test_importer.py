"""With which facts policy is asked: the host's, the store's, the operator's."""

from __future__ import annotations

import ipaddress

import attrs

from meshd import report
from meshd.dataplane.status import KernelStatus
from meshd.importer import RESTART_WINDOW, Importer
from meshd.kernel.memory import Memory
from meshd.kernel.state import Interface
from meshd.policy.decide import NOTHING, Decision
from meshd.policy.filters import OPEN, Filter, Filters
from protocol.address import Address
from protocol.objects import Revocation
from simulation import Host, Network


@attrs.define
class Bench:
    """Three nodes in virtual time; the first imports from the others."""

    net: Network = attrs.field(factory=lambda: Network(3, cipher=False))
    hosts: list[Host] = attrs.field(init=False)
    importer: Importer = attrs.field(init=False)
    resolvers: tuple[Address, ...] = ()
    previous: Decision = NOTHING

    def __attrs_post_init__(self) -> None:
        self.hosts = self.net.mesh_of(3)
        viewer = self.hosts[0]
        self.importer = Importer(
            viewer.up, OPEN, unix_clock=viewer.wall, resolvers=lambda: self.resolvers
        )

    def decide(self, now: float | None = None) -> Decision:
        viewer = self.hosts[0]
        where = ipaddress.ip_interface(f"{viewer.where.address}/8")
        host = Memory([Interface("net0", 2, True, (where,))]).read().host
        at = viewer.clock() if now is None else now
        self.previous = self.importer.decide(host, self.previous, at)
        return self.previous

    def rules(self) -> dict[str, str]:
        return {row.name: row.rule for row in self.decide().routes}


def test_all_members_are_judged_and_what_the_operator_changes_takes_effect_at_once() -> None:
    made = Bench()
    assert made.rules() == {"n2": "", "n3": ""}
    made.importer.filters = Filters(nodes={"n3": Filter(refuse=True)})
    assert made.rules() == {"n2": "", "n3": "denied"}
    made.importer.filters = OPEN
    assert made.rules() == {"n2": "", "n3": ""}


def test_the_resolvers_of_the_moment_are_asked_for() -> None:
    made = Bench()
    prefix = made.hosts[1].prefixes[0]
    made.resolvers = (prefix.network_address + 53,)
    assert made.rules() == {"n2": "resolver", "n3": ""}
    made.resolvers = ()
    assert made.rules() == {"n2": "", "n3": ""}


def test_who_is_revoked_itself_imports_nothing() -> None:
    made = Bench()
    made.decide()
    viewer = made.hosts[0]
    made.net.trust(word := Revocation.sign(made.net.authority, made.net.mesh, node=viewer.key))
    viewer.up._merge(word, viewer.clock(), vouched=True)
    assert set(made.rules().values()) == {"self-revoked"}
    assert not made.previous.desired.guards


def test_a_restart_window_is_opened_once_for_a_sequence_and_holds_the_routes_meanwhile() -> None:
    made = Bench()
    made.decide()
    made.net.kill("n3", refuses=True)
    made.net.run_until(lambda: made.net.state("n1", "n3") == "failed")
    viewer, member = made.hosts[0], made.hosts[0].up.members[made.hosts[2].key]
    now = viewer.clock()
    until = made.importer.open_window(member, now)
    assert until == now + RESTART_WINDOW
    assert made.importer.open_window(member, now + 5) is None
    assert {r.name: r.rule for r in made.decide(until - 1).routes}["n3"] == "held"
    assert {r.name: r.rule for r in made.decide(until + 1).routes}["n3"] == "failed"


def test_a_row_for_programs_has_the_rule_and_how_long_it_is_held_back() -> None:
    made = Bench()
    row = (
        made.decide()
        .routes[0]
        ._replace(state="standby", rule="damped", reason="held back", until=200.0)
    )
    told = report.route(row, KernelStatus(), 70.0)
    assert (told["rule"], told["held_s"]) == ("damped", 130.0)
    assert told["reason"] == "held back, for 2m10s yet"
    assert report.route(row, KernelStatus(), 300.0)["held_s"] == 0.0


def test_what_the_kernel_would_not_take_is_told_of_the_row_that_went_there_only() -> None:
    made = Bench()
    row = made.decide().routes[0]
    status = KernelStatus(failed={row.prefix: "No buffer space available"})
    told = report.route(row, status, 0.0)
    assert (told["state"], told["rule"]) == ("refused", "kernel")
    assert told["reason"] == "No buffer space available"
    loser = row._replace(state="refused", rule="conflict", reason="belongs to another")
    assert report.route(loser, status, 0.0)["reason"] == "belongs to another"
