"""A decision that remembers the last one says what one says that does not, and judges less."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from origins import GATEWAY, HOST, IDENTITIES, INSIDE, LOCAL, UPLINK, net, origin, surroundings

from meshd.kernel.state import ForeignRoute, Host
from meshd.policy.conflicts import Claim, apart
from meshd.policy.decide import NOTHING, Decision, decide
from meshd.policy.filters import OPEN, Filter, Filters
from meshd.policy.ground import Ground
from meshd.policy.memo import Memo
from meshd.policy.origin import Origin
from meshd.policy.tunnel import Terms
from protocol.address import Prefix, endpoint
from protocol.tunnel import hardware_address

# Any history.

NETS = (
    *("10.2.0.0/16", "10.2.1.0/24", "10.2.1.128/25", "10.3.0.0/24", "10.3.1.0/24", "10.4.0.0/24"),
    *("fd00:2::/48", "fd00:2::/64", "fd00:3::/64", "10.1.0.0/24", "192.0.2.0/24", "8.0.0.0/8"),
    *("203.0.113.0/24", "127.0.0.0/16", "10.5.0.0/24", "10.6.0.0/16"),
)
ALLOWED = (
    ("10.0.0.0/8", "fc00::/7", "0.0.0.0/0"),
    ("10.2.1.0/24", "10.3.0.0/24", "10.0.0.0/8"),
    ("10.2.0.0/16", "fd00:2::/64", "fd00:3::/64"),
)
MADE = [
    [
        origin(
            number,
            allow=allow,
            serial=9,
            since=since,
            limit=limit,
            until=until,
            at=at,
            endpoints=where,
        )
        for allow in ALLOWED
        for since, limit, until, at, where in (
            (number, 0, 0, (), None),
            (7 - number, 3, 0, ("192.0.2.0/24", "2001:db8::/32"), None),
            (number, 0, 10**9, ("192.0.2.0/24",), ("192.0.2.77",)),
            (number, 0, 0, (), ("203.0.113.9", "2001:db8::9")),
        )
    ]
    for number in range(5)
]
"""By node, what its grant and its announcement may be."""

TERMS = Terms(6180, False, 7, hardware_address(b"us"), (endpoint("192.0.2.1", 6179),))
FOREIGN = (
    ForeignRoute(net("10.3.0.0/24"), ipaddress.ip_address("192.0.2.99"), "net0", 3, 5),
    ForeignRoute(net("203.0.113.0/24"), None, "net0", 3, 0),
)
HOSTS = (
    HOST,
    surroundings(UPLINK, INSIDE, foreign=[GATEWAY, FOREIGN[0]]),
    surroundings(UPLINK, INSIDE, foreign=[GATEWAY, *FOREIGN]),
    surroundings(attrs.evolve(UPLINK, up=False), INSIDE),
    attrs.evolve(HOST, resolvers=(ipaddress.ip_address("10.4.0.53"),)),
)
FILTERS = (
    OPEN,
    Filters(Filter(deny=(net("10.2.1.0/24"),))),
    Filters(Filter(allow=(net("10.0.0.0/8"),), limit=2)),
    Filters(limit=4),
    Filters(nodes={"n1": Filter(refuse=True), IDENTITIES[2].public.hex(): Filter(limit=1)}),
)


@attrs.define
class World:
    """All that a decision is asked with; one thing of it changes at a time."""

    rng: Random
    origins: list[Origin] = attrs.field(factory=list)
    local: tuple[Prefix, ...] = LOCAL
    host: Host = HOST
    now: float = 0.0
    unix: float = 0.0
    more: dict[str, Any] = attrs.field(factory=dict)

    def change(self) -> None:
        rng = self.rng
        self.now += rng.choice((0.1, 1.0, 30.0))
        match rng.choice(("origin", "origin", "origin", "origin", "host", "more", "nothing")):
            case "origin":
                self.change_origin(rng.randrange(len(MADE)))
            case "host":
                self.host = rng.choice(HOSTS)
                self.local = rng.choice((LOCAL, LOCAL[:1], ()))
            case "more":
                self.unix = rng.choice((0.0, 0.0, 2e9))
                self.more = {
                    "filters": rng.choice(FILTERS),
                    "multipath": rng.random() < 0.5,
                    "tunnel": rng.choice((None, TERMS, attrs.evolve(TERMS, always=True))),
                    "revoked": rng.choice((set(), {IDENTITIES[1].public})),
                    "expelled": rng.random() < 0.1,
                }
            case _:
                pass

    def change_origin(self, number: int) -> None:
        rng, key = self.rng, IDENTITIES[number].public
        old = next((each for each in self.origins if each.key == key), None)
        self.origins = [each for each in self.origins if each.key != key]
        made = rng.choice(MADE[number])
        if old is not None and rng.random() < 0.7:
            made = old
        if rng.random() < 0.6:
            found = set(made.prefixes) ^ {net(rng.choice(NETS)) for _ in range(rng.randint(1, 3))}
            made = made._replace(prefixes=tuple(sorted(found)))
        if rng.random() < 0.4:
            state: Any = rng.choice(("alive", "alive", "suspect", "failed", "left"))
            failed_for = rng.choice((1.0, 1e5)) if state == "failed" else 0.0
            made = made._replace(
                state=state,
                failed_for=failed_for,
                seen=rng.random() < 0.8,
                reachable=rng.random() < 0.8,
                held="held for a while" if state == "failed" and rng.random() < 0.5 else "",
                why="silent",
            )
        if rng.random() < 0.9:
            self.origins.append(made)
            rng.shuffle(self.origins)

    def decide(self, previous: Decision, memo: Memo | None) -> Decision:
        return decide(
            # As a caller makes them: anew each time.
            [each._replace(prefixes=(*each.prefixes,)) for each in self.origins],
            self.local,
            attrs.evolve(self.host),
            self.unix,
            now=self.now,
            previous=previous,
            memo=memo,
            **self.more,
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_came_before_a_memo_changes_nothing_that_is_decided(seed: int) -> None:
    world, memo = World(Random(seed)), Memo()
    remembered = anew = NOTHING
    for _ in range(40):
        world.change()
        remembered, anew = world.decide(remembered, memo), world.decide(anew, None)
        assert remembered == anew


# What is judged again.


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Prefix]:
    """The prefixes that were held against this host's ground, in turn."""
    found: list[Prefix] = []
    refuses = Ground.refuses

    def counting(self: Ground, prefix: Prefix) -> object:
        found.append(prefix)
        return refuses(self, prefix)

    monkeypatch.setattr(Ground, "refuses", counting)
    return found


def taken(found: list[Prefix]) -> list[Prefix]:
    again, found[:] = list(found), []
    return again


def many(first: int, count: int) -> tuple[Prefix, ...]:
    return tuple(
        Prefix(4, (10 << 24) + (2 << 16) + (n << 8), 24) for n in range(first, first + count)
    )


def mesh(*sizes: int) -> list[Origin]:
    """A node for each of ``sizes``, with so many prefixes."""
    found = []
    for number, size in enumerate(sizes):
        found.append(origin(number)._replace(prefixes=many(100 * number, size)))
    return found


Decide = Callable[[list[Origin]], Decision]


@pytest.fixture
def deciding() -> Decide:
    memo, last = Memo(), [NOTHING]

    def again(origins: list[Origin]) -> Decision:
        again_made = [each._replace() for each in origins]
        last[0] = decide(again_made, LOCAL, HOST, 0.0, previous=last[0], memo=memo)
        return last[0]

    return again


def test_one_prefix_more_is_one_judgement_however_many_there_are(
    judged: list[Prefix], deciding: Decide
) -> None:
    nodes = mesh(90, 90, 90)
    deciding(nodes)
    assert len(taken(judged)) == 270
    more = (*nodes[1].prefixes, net("10.9.0.0/24"))
    nodes[1] = nodes[1]._replace(prefixes=more)
    assert len(deciding(nodes).desired.routes) == 271
    assert taken(judged) == [net("10.9.0.0/24")]
    nodes[1] = nodes[1]._replace(prefixes=more[1:])
    assert len(deciding(nodes).desired.routes) == 270
    assert taken(judged) == []


def test_a_node_that_is_suspected_fails_or_comes_back_is_not_judged_again(
    judged: list[Prefix], deciding: Decide
) -> None:
    nodes = mesh(90, 90)
    deciding(nodes)
    taken(judged)
    for state in ("suspect", "failed", "alive"):
        nodes[1] = nodes[1]._replace(state=state)
        deciding(nodes)
    assert taken(judged) == []


def test_where_nothing_has_changed_the_very_same_state_is_wanted(
    deciding: Decide, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = mesh(90, 90, 90)
    first = deciding(nodes)
    chosen = 0

    def counting(claims: list[Claim]) -> object:
        nonlocal chosen
        chosen += len(claims)
        return apart(claims)

    monkeypatch.setattr("meshd.policy.choice.apart", counting)
    again = deciding(nodes)
    assert again.desired is first.desired
    assert again.routes is first.routes
    assert chosen == 0


def test_what_is_known_of_a_node_is_forgotten_with_it_and_what_is_known_of_all_is_not() -> None:
    memo, made = Memo(), []

    def make(value: int) -> int:
        made.append(value)
        return value

    def ask() -> None:
        for node in (b"", b"a", b"b"):
            assert memo.again("what", node, make, 1) == 1

    memo.only(frozenset({b"a", b"b"}))
    ask()
    ask()
    assert len(made) == 3
    memo.only(frozenset({b"a"}))
    ask()
    assert len(made) == 4
    assert memo.again("what", b"a", make, 2) == 2
    assert memo.again("other", b"a", make, 2) == 2
    assert made[4:] == [2, 2]
