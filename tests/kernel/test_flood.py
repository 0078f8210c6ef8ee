"""A stranger on the switch sends a member as much as it can: the mesh does not notice.

The daemons have priority over the sender and over whatever else this machine does, so what is
lost, they lose. `scripts/bench --scenario flood` measures the same for longer, at even terms.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmark.flood import RATES, SETTLE_S, Result, flood
from netlab import Lab, Mesh
from netlab.kernelview import expected, holdings, settle
from protocol.tuning import Tuning

NewLab = Callable[..., Lab]
NewMesh = Callable[[Lab], Mesh]

PRIORITY = -15
"""setpriority(2): a fair share of 97 % beside one busy process of the usual priority."""

SECONDS = 2.0
"""Of flooding: forty times what the receive buffer holds of it."""


@pytest.fixture(scope="module")
def mesh(shared_lab: NewLab, shared_mesh: NewMesh) -> Mesh:
    """Three members; the fourth router is a stranger's."""
    mesh = shared_mesh(shared_lab(4))
    mesh.found(1)
    mesh.join(2)
    mesh.join(3)
    mesh.converge()
    return mesh


def flooded(mesh: Mesh, kind: str, rate: float, least: float) -> Result:
    """What a flood did to the first member; it must have cost nobody a probe, peer or route."""
    zones = mesh.lab.zones[:3]
    for zone in zones:
        settle(zone.router, expected(zone, zones))
    attacker = mesh.lab.router(4)
    result = flood(mesh, attacker, kind, seconds=SECONDS, rate=rate, nice=PRIORITY)
    assert result.rate > least, "the sender was kept from sending"
    for zone in zones:
        assert holdings(zone.router) == expected(zone, zones)
    assert (result.failed, result.routes_lost) == (0, 0), result
    # What finds the buffer full is lost, be it noise or a probe: so many of all of them.
    assert result.share_overrun < 0.05, result
    # One may be under way while they are counted, and of 30 that is 3 %.
    assert result.probes_lost <= 1 + 0.05 * result.probes, result
    return result


def test_noise_by_the_ten_thousand_costs_nobody_a_probe_a_peer_or_a_route(mesh: Mesh) -> None:
    flooded(mesh, "random", RATES["random"], least=2000)


def test_forged_hellos_by_the_thousand_are_checked_at_a_bounded_rate_and_cost_nobody_else(
    mesh: Mesh,
) -> None:
    # Twice what is asked for elsewhere, so that what may be checked is far from all of it.
    result = flooded(mesh, "signatures", 2 * RATES["signatures"], least=3000)
    tuning = Tuning.lan()
    longest = result.seconds + SETTLE_S
    assert result.checked <= tuning.stranger_verify_burst + longest * tuning.stranger_verify_rate
    assert 0 < result.checked < 0.9 * result.sent
    assert result.unchecked > 0
