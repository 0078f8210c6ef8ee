"""`meshd run --observe`: in the mesh, without a hand on the kernel, and without a capability."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from netlab import Lab, Mesh, ping, until
from netlab.kernelview import Deletions, Holdings, expected, foreign, holdings, settle

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]


@pytest.fixture(scope="module")
def mesh(shared_lab: NewLab, shared_mesh: NewMesh) -> Mesh:
    mesh = shared_mesh(shared_lab(2))
    mesh.found(1)
    mesh.join(2, run=["--observe"])
    mesh[2].wait("--peers", "1", "--converged")
    return mesh


def test_an_observer_changes_nothing_and_attracts_nothing_and_plans_all(mesh: Mesh) -> None:
    first, second = mesh.lab.zones
    observer = mesh[2]
    before = foreign(second.router)
    with Deletions(second.router) as deleted:
        mesh[1].command("announce", "10.88.0.0/24")
        until(lambda: "10.88.0.0/24" in observer.command("plan").stdout, 5, "it is planned")
        mesh[1].command("withdraw", "10.88.0.0/24")
        until(lambda: "10.88.0.0/24" not in observer.command("plan").stdout, 5, "and not any more")
    assert holdings(second.router) == Holdings()
    assert foreign(second.router) == before
    assert deleted.seen == []
    # The other side routes nothing to it.
    assert holdings(first.router) == expected(first, (first,))
    assert not ping(first.private, second.private4, timeout=1)

    status = observer.json("status")
    assert (status["kernel"]["observing"], status["kernel"]["in_sync"]) == (True, False)
    assert status["prefixes"]["local"] == []
    assert "only observed" in observer.command("status").stdout
    plan = observer.json("plan")
    assert plan["in_sync"] is False
    steps = {each["step"].splitlines()[0]: each["why"] for each in plan["changes"]}
    route = f"ip route add {first.prefix4} via {first.uplink4.ip} dev net0"
    (why,) = [why for step, why in steps.items() if step.startswith(route)]
    assert why == "r1 announces it; the kernel has no route of ours to it"
    assert f"elements = {{ {second.prefix4} }}" in "\n".join(
        plan["steps"]
    )  # its own, as it would be
    assert observer.events("kernel-pending")
    assert observer.events("kernel-changed", "kernel-repaired", "kernel-error") == []
    refused = observer.command("announce", "10.89.0.0/24", check=False)
    assert (refused.returncode, "--observe" in refused.stderr) == (1, True)


def test_without_any_capability_it_observes_all_but_nftables(mesh: Mesh) -> None:
    first, second = mesh.lab.zones
    observer = mesh[2]
    observer.stop()
    # What is left of root without capabilities may read its own files and nothing else.
    observer.start("--observe", under=["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
    observer.wait("--peers", "1", "--converged")
    assert observer.process is not None
    assert _capabilities(observer.process.pid) == 0
    plan = observer.json("plan")
    assert any("nftables cannot be read without CAP_NET_ADMIN" in note for note in plan["notes"])
    assert any(f"ip route add {first.prefix4} via" in step for step in plan["steps"])
    assert not any("nft " in step for step in plan["steps"])
    # It notices what happens to routes.
    second.router.configure([f"route add {first.prefix4} via {first.uplink4.ip} metric 7"])
    until(
        lambda: "shadowed" in {row["state"] for row in observer.json("routes")}, 5, "it is noticed"
    )
    second.router.configure([f"route del {first.prefix4} via {first.uplink4.ip} metric 7"])


def _capabilities(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    raise AssertionError(f"no capabilities of {pid}")


def test_what_an_earlier_daemon_left_stays_through_observing_and_leaving(mesh: Mesh) -> None:
    first, second = mesh.lab.zones
    observer, both = mesh[2], (first, second)
    observer.stop()
    observer.start()
    mesh.converge()
    for zone in both:
        settle(zone.router, expected(zone, both))
    observer.stop()
    with Deletions(second.router) as deleted:
        observer.start("--observe")
        observer.wait("--peers", "1", "--converged")
        assert observer.json("status")["kernel"]["in_sync"] is True
        assert "nothing to do" in observer.command("plan").stdout
        # It announces nothing any more, and the other lets go of it.
        settle(first.router, expected(first, (first,)))
        observer.command("leave")
        assert observer.exit_status() == 0
    assert deleted.seen == []
    assert holdings(second.router) == expected(second, both)
    observer.command("purge")
    assert holdings(second.router) == Holdings()
