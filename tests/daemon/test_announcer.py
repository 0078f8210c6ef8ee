"""What a node announces follows its interfaces, its grant and its checks, and says what it leaves
out; what an operator changes is all or nothing."""

from __future__ import annotations

import io
import ipaddress
import json
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
from hosts import ADVERTISED, A, B, Hosts, start

from meshd.daemon import Daemon
from meshd.errors import Refused, StateError, UsageError
from meshd.kernel.memory import Memory
from meshd.kernel.state import Interface
from meshd.log import EventLog
from meshd.sequence import Sequence
from meshd.state import StateDirectory
from meshd.udp import Sockets
from meshd.values import Followed, announced, prefix
from protocol.address import Prefix
from protocol.objects import Grant

BR0 = Interface("br0", 3, True, (ipaddress.ip_interface("10.7.0.1/24"),))
UPLINK = Interface("net0", 2, True, (ipaddress.ip_interface("192.0.2.1/24"),))
FOLLOWED = prefix("10.7.0.0/24")


@attrs.define(eq=False)
class Router:
    """A node before it has opened a socket, on a kernel in memory."""

    hosts: Hosts
    kernel: Memory
    said: io.StringIO
    daemon: Daemon

    def look(self) -> bool:
        """As after a notification of the kernel."""
        return self.daemon._announcer.look(self.kernel.read().host)

    @property
    def announced(self) -> set[str]:
        return {str(each) for each in self.daemon._node.prefixes}

    @property
    def sequence(self) -> int:
        own = self.daemon._node.announcement
        assert own is not None
        return own.sequence

    def events(self, *names: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.said.getvalue().splitlines()]
        return [
            {key: each[key] for key in each if key != "time"}
            for each in found
            if each["event"] in names
        ]


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    found = Hosts.under(tmp_path)
    found.init(announce=[A, Followed("br0")], advertise=ADVERTISED)
    return found


def router(hosts: Hosts, *interfaces: Interface) -> Router:
    options = start(hosts.a, hosts.clock)
    said, kernel = io.StringIO(), Memory([UPLINK, *interfaces])
    made = Daemon(options, EventLog(said, "json"), kernel, cast(Sockets, None))
    made._announcer.start()
    return Router(hosts, kernel, said, made)


async def test_who_announces_an_interface_is_answered_by_what_it_has_now(hosts: Hosts) -> None:
    one = router(hosts)
    one.kernel.set_interface(attrs.evolve(BR0, name="br1"))  # and nobody was told of it
    answer = await one.daemon._announce({"prefixes": ["interface:br1"]})
    assert one.announced == {str(A), "10.7.0.0/24"}
    (told,) = cast(dict[str, Any], answer)["asked"]
    assert (told["prefixes"], told["left_out"]) == (["10.7.0.0/24"], [])


async def test_an_interface_that_comes_and_goes_is_followed(hosts: Hosts) -> None:
    one = router(hosts)
    assert one.announced == {str(A)}
    assert one.events("left-out") == [
        {
            "event": "left-out",
            "announce": "interface:br0",
            "reason": "there is no interface of that name yet",
        }
    ]
    one.kernel.set_interface(BR0)
    assert one.look()
    assert one.announced == {str(A), str(FOLLOWED)}
    more = attrs.evolve(BR0, addresses=(*BR0.addresses, ipaddress.ip_interface("fd00:7::1/64")))
    one.kernel.set_interface(more)
    one.look()
    assert one.announced == {str(A), str(FOLLOWED), "fd00:7::/64"}
    one.kernel.set_interface(attrs.evolve(more, up=False))
    one.look()
    assert one.announced == {str(A)}
    told = [(each["event"], each["prefixes"]) for each in one.events("announced", "withdrawn")]
    assert told == [
        ("announced", ["10.7.0.0/24"]),
        ("announced", ["fd00:7::/64"]),
        ("withdrawn", ["10.7.0.0/24", "fd00:7::/64"]),
    ]
    assert {each["source"] for each in one.events("announced")} == {"interface:br0"}
    assert one.events("left-out")[-1]["reason"] == "the interface is down"


async def test_what_does_not_change_costs_no_announcement(hosts: Hosts) -> None:
    one = router(hosts, BR0)
    before = one.sequence
    one.look()
    one.kernel.set_interface(Interface("other0", 9, True))
    one.look()
    assert one.sequence == before
    assert one.events("left-out", "announced", "withdrawn", "moved") == []


async def test_what_an_interface_gets_outside_the_grant_is_left_out_and_told_once(
    hosts: Hosts,
) -> None:
    one = router(hosts, BR0)
    outside = ipaddress.ip_interface("198.51.100.1/24")
    for index in (7, 8):
        one.kernel.set_interface(attrs.evolve(BR0, index=index, addresses=(outside,)))
        one.look()
    assert one.announced == {str(A)}
    (left,) = one.events("left-out")
    assert (left["announce"], left["prefix"]) == ("interface:br0", "198.51.100.0/24")
    assert left["reason"].startswith("outside the grant of a, which allows 10.0.0.0/8, ")


async def test_a_wider_grant_lets_in_what_was_left_out(hosts: Hosts) -> None:
    outside = ipaddress.ip_interface("198.51.100.1/24")
    one = router(hosts, attrs.evolve(BR0, addresses=(outside,)))
    assert one.announced == {str(A)}
    options = one.daemon._options
    wider = Grant.sign(
        hosts.authority(), options.mesh, node=options.identity.public, name="a", serial=2**42,
        allow=[A, Prefix.of(outside.network)],
    )  # fmt: skip
    one.daemon._node.hear([wider], one.daemon._now())
    assert one.look()
    assert one.announced == {str(A), "198.51.100.0/24"}


async def test_status_says_where_a_prefix_comes_from_and_what_is_left_out(hosts: Hosts) -> None:
    docker = Interface("docker0", 4, True, (ipaddress.ip_interface("172.17.0.1/16"),))
    one = router(hosts, BR0, docker)
    one.daemon._announcer.announce([Followed("docker0")])
    told = one.daemon._announcer.told(0.0)
    assert [(each["announce"], each["prefixes"]) for each in told] == [
        ("10.1.0.0/24", ["10.1.0.0/24"]),
        ("interface:br0", ["10.7.0.0/24"]),
        ("interface:docker0", []),
    ]
    (left,) = told[2]["left_out"]
    assert left["prefix"] == "172.17.0.0/16"
    assert left["reason"].startswith("Docker gives docker0 such a subnet on every host")
    assert {each["health"] for each in told} == {None}


async def test_a_thousand_are_announced_and_told_of_without_comparing_each_with_each(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    announcer = router(hosts).daemon._announcer
    many = [prefix(f"10.{64 + (number >> 8)}.{number & 255}.0/24") for number in range(900)]
    compared = 0
    equal = Prefix.__eq__

    def counting(one: Prefix, other: object) -> bool:
        nonlocal compared
        compared += 1
        return bool(equal(one, other))

    monkeypatch.setattr(Prefix, "__eq__", counting)
    announcer.announce(many)
    assert len(announcer.told(0.0)) == len(many) + 2
    announcer.withdraw(many)
    assert compared < 30 * len(many)


async def test_an_interface_is_announced_and_withdrawn_at_run_time_and_that_is_kept(
    hosts: Hosts,
) -> None:
    one = router(hosts, BR0, Interface("br1", 8, True, (ipaddress.ip_interface("10.8.0.1/24"),)))
    announcer = one.daemon._announcer
    announcer.announce([Followed("br1"), B])
    assert one.announced == {str(A), str(B), str(FOLLOWED), "10.8.0.0/24"}
    announcer.withdraw([Followed("br0")])
    assert one.announced == {str(A), str(B), "10.8.0.0/24"}
    kept = StateDirectory(hosts.a.state).read_changes()
    assert (kept.added, kept.withdrawn) == ((Followed("br1"), B), (Followed("br0"),))
    again = router(hosts, BR0, Interface("br1", 8, True, (ipaddress.ip_interface("10.8.0.1/24"),)))
    assert again.announced == one.announced


async def test_what_an_interface_brings_is_withdrawn_with_it_and_not_alone(hosts: Hosts) -> None:
    one = router(hosts, BR0)
    with pytest.raises(Refused, match=r"10\.7\.0\.0/24 comes from interface:br0: withdraw that"):
        one.daemon._announcer.withdraw([FOLLOWED])
    with pytest.raises(Refused, match="interface:br9 is not announced here"):
        one.daemon._announcer.withdraw([announced("interface:br9")])


async def test_an_unhealthy_prefix_is_withdrawn_and_comes_back(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.a.config.write_text(
        hosts.a.config.read_text() + '[health."interface:br0"]\ninterface = "br0"\n'
    )
    one = router(hosts, BR0)
    announcer = one.daemon._announcer
    assert announcer.told(0.0)[1]["health"]["healthy"]
    standing = announcer.health._running[Followed("br0")].standing
    assert standing.note("br0 has no carrier", 1.0)
    announcer.follow()
    assert one.announced == {str(A)}
    told = announcer.told(3.0)[1]
    assert told["health"] == {
        "healthy": False, "since_s": 2.0, "reason": "br0 has no carrier", "asked": 1
    }  # fmt: skip
    assert told["left_out"] == [
        {"prefix": "10.7.0.0/24", "reason": "unhealthy: br0 has no carrier"}
    ]
    assert one.events("left-out") == []  # the check itself tells
    assert [standing.note("", when) for when in (4.0, 5.0)] == [False, True]
    announcer.follow()
    assert one.announced == {str(A), str(FOLLOWED)}


async def test_a_check_runs_for_what_is_wanted_only(hosts: Hosts) -> None:
    tables = (
        '[health."10.7.0.0/24"]\ninterface = "br0"\n[health."10.2.0.0/24"]\ntcp = "10.2.0.2:1"\n'
    )
    hosts.a.config.write_text(hosts.a.config.read_text() + tables)
    one = router(hosts)
    health = one.daemon._announcer.health
    assert set(health._running) == set()
    one.kernel.set_interface(BR0)
    one.look()
    assert set(health._running) == {FOLLOWED}
    one.daemon._announcer.announce([B])
    assert set(health._running) == {FOLLOWED, B}
    one.daemon._announcer.withdraw([B])
    assert set(health._running) == {FOLLOWED}


async def test_a_check_that_gates_nothing_is_warned_of(hosts: Hosts) -> None:
    table = (
        '[health."10.9.0.0/24"]\ntcp = "10.9.0.2:1"\n[health."interface:br0"]\ninterface = "x"\n'
    )
    hosts.a.config.write_text(hosts.a.config.read_text() + table)
    one = router(hosts)
    (warning,) = one.events("warning")
    assert warning["reason"] == (
        '[health."10.9.0.0/24"] gates nothing: 10.9.0.0/24 is not announced here'
    )


async def test_reload_changes_preference_and_interfaces(hosts: Hosts) -> None:
    one = router(hosts, BR0)
    text = hosts.a.config.read_text().replace('"interface:br0"', '"10.9.0.0/24"')
    hosts.a.config.write_text(text + "preference = 7\n")
    answer = await one.daemon._reload({})
    assert answer == {"changed": ["announce", "preference"]}
    own = one.daemon._node.announcement
    assert own is not None
    assert (one.announced, own.preference) == ({str(A), "10.9.0.0/24"}, 7)


async def test_what_cannot_be_announced_is_taken_back_or_tried_again(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = router(hosts, BR0)
    announcer = one.daemon._announcer

    def full(*_: object) -> int:
        raise StateError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Sequence, "next", full)
        with pytest.raises(UsageError, match="no space left"):
            announcer.announce([B])
        assert StateDirectory(hosts.a.state).read_changes().added == ()
        assert B not in announcer.wanted
        one.kernel.set_interface(attrs.evolve(BR0, up=False))
        assert not one.look()
        assert not one.look()
        assert one.announced == {str(A), str(FOLLOWED)}
        (error,) = one.events("error")
        assert error["reason"] == "what changed here is not announced: no space left on device"
    assert one.look()
    assert one.announced == {str(A)}
