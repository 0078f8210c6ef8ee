"""Links: which changes of this host's interfaces let somebody answer who was silent."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface

import attrs

from meshd.kernel.state import Interface
from meshd.links import Links

NET = Interface(
    "net0", 2, True, (IPv4Interface("192.0.2.1/24"), IPv6Interface("2001:db8::1/64"))
)  # fmt: skip
UNPLUGGED = attrs.evolve(NET, carrier=False)
DOWN = attrs.evolve(NET, up=False)
V6 = NET.addresses[1].ip


def opened(before: tuple[Interface, ...], after: tuple[Interface, ...]) -> bool:
    links = Links()
    links.opened(before)
    return links.opened(after)


def test_a_cable_that_is_in_again_a_switch_that_is_on_and_an_address_that_was_given() -> None:
    bare = attrs.evolve(NET, addresses=NET.addresses[:1])
    tentative = attrs.evolve(NET, tentative=frozenset((V6,)))
    for before in ((UNPLUGGED,), (DOWN,), (bare,), (tentative,), ()):
        assert opened(before, (NET,))
    replaced = attrs.evolve(NET, index=3)
    assert opened((NET,), (replaced,))


def test_what_goes_away_or_stays_as_it_was_lets_nobody_answer() -> None:
    other = Interface("net1", 5, True)
    for after in ((NET,), (UNPLUGGED,), (DOWN,), (), (NET, other)):
        assert not opened((NET,), after)
    assert not opened((UNPLUGGED,), (UNPLUGGED,))
