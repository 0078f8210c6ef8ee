"""What the benchmark sees kernels and wires by, shown what it is to see."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

from benchmark.events import Counter, Events
from benchmark.install import alone
from netlab import Lab, PacedFlow, until
from netlab.lab import labs

NewLab = Callable[..., Lab]


def test_what_a_kernel_tells_of_its_routes_and_tables_is_seen_as_it_happens(
    new_lab: NewLab,
) -> None:
    router = new_lab(2, nat=["none"]).router(1)
    nets = [IPv4Network((0x0A400000 + number * 32, 28)) for number in range(300)]
    with Events((router,)) as events:
        began = time.monotonic()
        come = Counter(events, router, "added", set(nets), protocol=142)
        lines = [f"route add {net} via 192.0.2.2 proto 142 metric 142" for net in nets]
        # Neither a guard nor somebody else's route is what is waited for.
        router.configure([f"route add unreachable {nets[0]} proto 142 metric 4294967294",
                          f"route add {nets[1]} via 192.0.2.2 proto static"])  # fmt: skip
        assert not events.wait(lambda: len(come.missing) < len(nets) or come.done(), 0.1)
        router.configure(lines)
        assert events.wait(come.done, 5)
        assert began < come.last < time.monotonic()

        gone = Counter(events, router, "deleted", {nets[7]})
        assert not gone.done()
        router.configure([f"route del {nets[7]} proto 142"])
        assert events.wait(gone.done, 5)

        router.run(["nft", "add table inet meshd; add table inet other"])
        router.run(["nft", "flush ruleset"])

        def seen() -> list[tuple[str, str]]:
            return [(event.what, event.name) for event in events.tables(router)]

        assert events.wait(lambda: len(seen()) == 4, 5)
        assert sorted(seen()) == [(what, name) for what in ("added", "deleted")
                                  for name in ("meshd", "other")]  # fmt: skip


def test_a_paced_flow_shows_where_datagrams_arrive_and_for_how_long_none_did(
    new_lab: NewLab,
) -> None:
    lab = new_lab(3)
    source, near, far = lab.router(1), lab.router(2), lab.router(3)
    address = IPv4Address("10.200.0.1")
    for router in (near, far):
        router.configure([f"addr add {address}/32 dev lo"])
    source.configure([f"route add {address} via {lab.zone(2).uplink4.ip}"])
    with PacedFlow(source, (near, far), address) as flow:
        until(lambda: len(flow.arrivals) > 50, 5, "it arrives")
        began = time.time()
        lab.cut(2)
        time.sleep(0.3)
        source.configure([f"route replace {address} via {lab.zone(3).uplink4.ip}"])
        until(lambda: len(flow.since(began, far.name)) > 50, 5, "it arrives at the other")
        outage = flow.outage(began)
    assert 0.3 < outage < 5
    assert {each.place for each in flow.arrivals} == {near.name, far.name}
    assert len({each.number for each in flow.arrivals}) == len(flow.arrivals) < flow.sent


def test_the_floor_and_the_backend_alone_are_measured_and_leave_nothing() -> None:
    said: list[str] = []
    before = set(labs())
    batch, backend = alone(60, 2, said.append)
    assert len(said) == len(batch.values) == len(backend.values) == 2
    assert all(value > 0 for value in (*batch.values, *backend.values))
    assert backend.floor == batch.what
    assert set(labs()) - before == set()
