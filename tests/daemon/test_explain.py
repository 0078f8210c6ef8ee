"""``meshd explain``: what it finds of prefixes and nodes, and what people read of it."""

from __future__ import annotations

import ipaddress
from typing import Any

import attrs
import pytest

from meshd import text
from meshd.dataplane.status import KernelStatus
from meshd.errors import Refused, UsageError
from meshd.explain import Scene, explain
from meshd.importer import Importer
from meshd.kernel.memory import Memory
from meshd.kernel.plan import diff
from meshd.kernel.state import ForeignRoute, Interface
from meshd.policy.decide import NOTHING
from meshd.policy.filters import OPEN, Filter, Filters
from protocol.address import Prefix
from protocol.objects import Grant, Revocation
from simulation import Disk, Host, Network

Json = dict[str, Any]


def nets(*texts: str) -> tuple[Prefix, ...]:
    return tuple(map(Prefix.parse, texts))


@attrs.define
class Bench:
    """A mesh in virtual time, looked at from its first node with a kernel in memory."""

    net: Network
    viewer: Host
    kernel: Memory
    filters: Filters = OPEN
    decision: Any = NOTHING

    def scene(self) -> Scene:
        node, now = self.viewer.up, self.viewer.clock()
        importer = Importer(
            node,
            self.filters,
            unix_clock=self.viewer.wall,
            resolvers=lambda: (),
        )
        reading = self.kernel.read()
        self.decision = importer.decide(reading.host, self.decision, now)
        assert self.kernel.apply(diff(self.decision.desired, reading)) == []
        return Scene(node, self.viewer.key, self.decision, KernelStatus(), self.kernel.read(), now)

    def __call__(self, subject: str) -> Json:
        return explain(subject, self.scene())

    def key(self, name: str) -> bytes:
        return self.net.hosts[name].key


def bench(**announced: tuple[tuple[str, ...], tuple[str, ...]]) -> Bench:
    """Nodes by name, each with what it announces and what its grant allows."""
    net = Network(7, cipher=False)
    hosts = [net.add(name, prefixes=prefixes) for name, (prefixes, _) in announced.items()]
    for serial, host in enumerate(hosts, 1):
        grant = Grant.sign(
            net.authority,
            net.mesh,
            node=host.key,
            name=host.name,
            serial=serial,
            allow=nets(*announced[host.name][1]),
            limit=5,
        )
        net.trust(grant)
        host.disk = Disk((grant,))
    for host in hosts:
        net.start(host.name, *([hosts[0].name] if host is not hosts[0] else []))
    net.run_until(lambda: net.agreed(*hosts))
    uplink = Interface("net0", 2, True, (ipaddress.ip_interface(f"{hosts[0].where.address}/8"),))
    return Bench(net, hosts[0], Memory([uplink]))


def four() -> Bench:
    """b's grant is more specific than c's, who announces part of b's prefix; d is alone."""
    return bench(
        a=(("172.16.1.0/24",), ("172.16.0.0/12",)),
        b=(("172.16.2.0/24",), ("172.16.2.0/23",)),
        c=(("172.16.2.128/25", "172.16.4.0/24"), ("172.16.0.0/16",)),
        d=(("172.17.0.0/24",), ("172.17.0.0/16",)),
    )


def rows(answer: Json) -> dict[str, Json]:
    return {row["prefix"]: row for row in answer["routes"]}


# -- prefixes ------------------------------------------------------------------------------------


def test_of_a_prefix_it_tells_origin_grant_conflict_and_what_the_kernel_has() -> None:
    made = four()
    answer = made("172.16.2.0/24")
    assert (answer["about"], answer["prefix"], answer["local"]) == ("prefix", "172.16.2.0/24", [])
    winner, loser = rows(answer)["172.16.2.0/24"], rows(answer)["172.16.2.128/25"]
    hop = str(made.net.hosts["b"].where.address)
    assert (winner["relation"], winner["state"], winner["rule"]) == ("exact", "installed", "")
    assert (winner["node"], winner["next_hop"], winner["member"]["state"]) == ("b", hop, "alive")
    assert winner["grant"] == {
        "name": "b", "serial": 2, "since": 2, "generation": 0,
        "allow": ["172.16.2.0/23"], "at": [], "limit": 5,
        "until": None, "until_utc": None,
    }  # fmt: skip
    assert (loser["relation"], loser["state"], loser["rule"]) == ("inside", "refused", "conflict")
    assert loser["conflict"] == {"id": winner["id"], "prefix": "172.16.2.0/24"}
    # Both sides name the other, with its grant.
    (won,), (lost,) = winner["conflicts"], loser["conflicts"]
    assert (won["wins"], won["node"], won["prefix"]) == (True, "c", "172.16.2.128/25")
    assert (won["grant"], won["reason"]) == (loser["grant"], loser["reason"])
    assert (lost["wins"], lost["node"], lost["prefix"]) == (False, "b", "172.16.2.0/24")
    assert lost["grant"] == winner["grant"]
    assert answer["kernel"] == [
        {
            "prefix": "172.16.2.0/24", "route": f"via {hop} dev net0", "guard": True,
            "excluded": True, "foreign": [],
        },
        {
            "prefix": "172.16.2.128/25", "route": None, "guard": False,
            "excluded": True, "foreign": [],
        },
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "relations"),
    [
        ("172.17.0.0/24", {"172.17.0.0/24": "exact"}),
        ("172.17.0.0/16", {"172.17.0.0/24": "inside"}),
        ("172.17.0.64/26", {"172.17.0.0/24": "covers"}),
        ("172.17.0.9", {"172.17.0.0/24": "covers"}),
    ],
)
def test_what_is_asked_for_may_equal_hold_or_lie_in_what_is_announced(
    asked: str, relations: dict[str, str]
) -> None:
    answer = four()(asked)
    assert {row["prefix"]: row["relation"] for row in answer["routes"]} == relations


def test_what_is_announced_here_is_told_first() -> None:
    answer = four()("172.16.1.0/24")
    assert (answer["local"], answer["routes"]) == (["172.16.1.0/24"], [])
    assert text.explanation(answer) == "172.16.1.0/24 is announced here: local always wins"


def test_a_foreign_route_of_the_same_prefix_is_told() -> None:
    made = four()
    made.kernel.add_foreign(
        ForeignRoute(nets("172.17.0.0/24")[0], ipaddress.ip_address("192.0.0.99"), "net0", 3, 5)
    )
    answer = made("172.17.0.0/24")
    assert rows(answer)["172.17.0.0/24"]["rule"] == "shadowed"
    assert answer["kernel"][0]["foreign"] == ["via 192.0.0.99 dev net0 proto 3 metric 5"]


def test_a_foreign_route_that_leads_nowhere_is_told_as_such() -> None:
    made = four()
    nowhere = ForeignRoute(nets("172.17.0.0/24")[0], None, None, 4, 5, "blackhole")
    made.kernel.add_foreign(nowhere)
    assert made("172.17.0.0/24")["kernel"][0]["foreign"] == ["blackhole proto 4 metric 5"]


def test_a_prefix_that_nobody_announces_is_one_line_with_who_could() -> None:
    with pytest.raises(Refused) as caught:
        four()("172.16.3.0/24")
    assert str(caught.value) == (
        "nobody announces 172.16.3.0/24, anything inside it or over it;"
        " the grants of a, b, c would allow it"
    )
    with pytest.raises(Refused, match=r"; no grant known here allows it$"):
        four()("192.168.0.0/24")


def test_a_prefix_with_a_mistake_in_it_is_told_as_such() -> None:
    with pytest.raises(UsageError, match=r"the network is 172\.17\.0\.0/24"):
        four()("172.17.0.1/24")
    with pytest.raises(UsageError, match="is not a prefix"):
        four()("fd00::zz")


# -- nodes ---------------------------------------------------------------------------------------


def test_of_a_node_it_tells_state_grant_and_what_became_of_its_prefixes() -> None:
    made = four()
    made.filters = Filters(nodes={"c": Filter(deny=nets("172.16.4.0/24"))})
    answer = made("c")
    assert (answer["about"], answer["name"], answer["state"]) == ("node", "c", "alive")
    assert (answer["self"], answer["seen"], answer["reachable"]) == (False, True, True)
    assert answer["id"] == made.key("c").hex()
    assert answer["grant"]["serial"] == 3
    assert answer["announced"] == ["172.16.4.0/24", "172.16.2.128/25"]
    assert {p: row["rule"] for p, row in rows(answer).items()} == {
        "172.16.2.128/25": "conflict",
        "172.16.4.0/24": "denied",
    }


def test_of_a_node_that_failed_it_tells_who_accused_it_and_when() -> None:
    made = four()
    made.scene()
    made.net.kill("d")
    made.net.run_until(lambda: made.net.state("a", "d") == "failed")
    answer = made("d")
    assert answer["state"] == "failed"
    assert {each["by"] for each in answer["accused"]} == {"a", "b", "c"}
    assert all(0 <= each["heard_s"] < 10 for each in answer["accused"])
    assert rows(answer)["172.17.0.0/24"]["rule"] == "failed"
    assert "  accused    of silence by b, heard 0s ago" in text.explanation(answer)


def test_of_a_node_that_fails_again_and_again_it_tells_how_long_others_are_preferred() -> None:
    made = four()
    for _ in range(4):
        made.scene()
        made.net.kill("d")
        made.net.run_until(lambda: made.net.state("a", "d") == "failed")
        made.scene()
        made.net.start("d", "a")
        made.net.run_until(lambda: made.net.state("a", "d") == "alive")
    answer = made("d")
    assert answer["unstable_s"] > 60
    assert "flapping   failed again and again: stable others" in text.explanation(answer)


def test_whether_a_node_is_reached_from_here_is_told_of_one_that_lives() -> None:
    made = four()
    made.viewer.up.members[made.key("d")].reachable = False
    told = text.explanation(made("d"))
    assert "contact    seen since we started, reached by others and not from here, round" in told
    assert "others reach it, we do not: kept for want of another origin" in told
    made.net.kill("d")
    made.net.run_until(lambda: made.net.state("a", "d") == "failed")
    assert "contact    seen since we started, round trip" in text.explanation(made("d"))


def test_a_node_is_found_by_name_id_and_the_start_of_its_id() -> None:
    made = four()
    for subject in ("b", made.key("b").hex(), made.key("b").hex()[:8].upper()):
        assert made(subject)["name"] == "b"


def test_what_is_asked_of_this_node_itself_is_its_own() -> None:
    answer = four()("a")
    assert (answer["self"], answer["state"], answer["announced"]) == (
        True,
        "here",
        ["172.16.1.0/24"],
    )
    assert "state      this node itself" in text.explanation(answer)


def test_a_node_that_never_announced_itself_and_one_that_is_revoked_are_known() -> None:
    made = four()
    idle = made.net.add("idle")
    made.viewer.up.store.merge(idle.disk.records[0])
    assert made("idle")["state"] == "unknown"
    gone = made.key("d")
    made.viewer.up._merge(
        Revocation.sign(made.net.authority, made.net.mesh, node=gone), 0.0, vouched=True
    )
    answer = made(gone.hex()[:8])
    assert (answer["state"], answer["grant"], answer["routes"]) == ("revoked", None, [])


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("e", "no node here is called e, nor does an id begin so; `meshd peers` lists the others"),
        ("zebra\x1b", "no node here is called zebra\\x1b, nor does"),
        ("", "no node here is called , nor does"),
        ("10.1.2", "no node here is called 10.1.2"),
    ],
)
def test_what_nothing_is_called_is_one_line(subject: str, said: str) -> None:
    with pytest.raises(Refused) as caught:
        four()(subject)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_name_that_is_nearly_right_is_guessed() -> None:
    made = bench(alpha=((), ("10.0.0.0/8",)), bravo=((), ("10.0.0.0/8",)))
    with pytest.raises(Refused, match="did you mean bravo"):
        made("brawo")


def test_what_is_ambiguous_names_whom_it_may_mean() -> None:
    made = bench(**{f"n{each}": ((), ("10.0.0.0/8",)) for each in range(20)})
    firsts = [host.key.hex()[0] for host in made.net.hosts.values()]
    double = next(digit for digit in firsts if firsts.count(digit) > 1)
    with pytest.raises(Refused, match=rf"ids begin with {double}: .*; give more digits"):
        made(double)
    twin = made.net.hosts["n2"]
    grant = Grant.sign(
        made.net.authority, made.net.mesh, node=twin.key, name="n1", serial=99, allow=()
    )
    made.viewer.up.store.merge(grant)
    with pytest.raises(Refused, match="2 nodes are called n1: ask by id, which begin "):
        made("n1")


# -- for people ----------------------------------------------------------------------------------


def test_a_prefix_for_people() -> None:
    made = four()
    told = text.explanation(made("172.16.2.0/24"))
    b, c = (made.key(name).hex()[:8] for name in "bc")
    hop = made.net.hosts["b"].where.address
    assert told == (
        f"172.16.2.0/24, by b {b}: installed via {hop}\n"
        "  member    alive for 0s\n"
        "  grant     b, serial 2, may announce inside 172.16.2.0/23,"
        " at most 5 prefixes, without end\n"
        f"  conflict  wins over 172.16.2.128/25 of c {c}:\n"
        "            172.16.2.0/24 belongs to b, whose grant is more specific"
        " (172.16.2.0/23 against 172.16.0.0/16)\n"
        "            that one's grant: c, serial 3, may announce inside 172.16.0.0/16,"
        " at most 5 prefixes, without end\n"
        "\n"
        f"172.16.2.128/25, inside 172.16.2.0/24, by c {c}: refused (conflict)\n"
        "  why       172.16.2.0/24 belongs to b, whose grant is more specific"
        " (172.16.2.0/23 against 172.16.0.0/16)\n"
        "  member    alive for 0s\n"
        "  grant     c, serial 3, may announce inside 172.16.0.0/16,"
        " at most 5 prefixes, without end\n"
        f"  conflict  loses to 172.16.2.0/24 of b {b}:\n"
        "            that one's grant: b, serial 2, may announce inside 172.16.2.0/23,"
        " at most 5 prefixes, without end\n"
        "\n"
        "the kernel has\n"
        f"  172.16.2.0/24    via {hop} dev net0, guarded, excluded from NAT\n"
        "  172.16.2.128/25  no route of ours, no guard, excluded from NAT"
    )


def evil(value: object) -> object:
    """``value`` with every text in it turned into an attack on a terminal."""
    if isinstance(value, dict):
        return {
            key: inner if key in ("about", "relation") else evil(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [evil(inner) for inner in value]
    return f"{value}\x1b[31m\u202e\n" if isinstance(value, str) else value


@pytest.mark.parametrize("subject", ["172.16.2.0/24", "172.16.0.0/12", "c", "d", "a"])
def test_nothing_reaches_a_terminal_unescaped(subject: str) -> None:
    made = four()
    made.net.kill("d")
    made.net.run_until(lambda: made.net.state("a", "d") == "failed")
    hostile = evil(made(subject))
    assert isinstance(hostile, dict)
    lines = text.explanation(hostile).split("\n")
    assert all(line.isprintable() for line in lines)
    assert any("\\x1b" in line for line in lines)
