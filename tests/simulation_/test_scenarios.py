"""Every scenario at a small size: it measures what it says, and breaks no invariant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.case import Case, Outcome, Run
from simulation.measure import median, quantile
from simulation.scenarios import SCENARIOS, perform
from simulation.traffic import GROUPS, NAMES

ROOT = Path(__file__).parents[2]

SECONDS = {
    "partition": 60.0,
    "churn": 30.0,
    "idle": 20.0,
    "stall": 120.0,
    "oneway": 60.0,
    "stutter": 30.0,
    "bad": 30.0,
}
"""Less than the scenario's own, where that is long."""


def performed(
    name: str, nodes: int = 10, loss: float = 0.0, seconds: float | None = None
) -> Outcome:
    seconds = seconds or SECONDS.get(name, SCENARIOS[name].seconds)
    outcome = perform(Case(name, nodes, loss, 1, seconds, explicit=True))
    assert outcome.failure == ""
    assert outcome.values.keys() == SCENARIOS[name].measures.keys()
    return outcome


@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_comes_to_an_end_and_withdraws_nobody(name: str, loss: float) -> None:
    outcome = performed(name, loss=loss)
    assert None not in outcome.values.values()
    assert not outcome.values.get("withdrawn")


@pytest.mark.parametrize("name", ["update", "crash", "idle"])
def test_a_scenario_above_the_size_of_real_ciphers_is_the_same(name: str) -> None:
    outcome = performed(name, nodes=66, seconds=4.0)
    assert len(outcome.curve) == outcome.of
    assert not outcome.values.get("withdrawn")


def test_an_update_is_at_its_origin_at_once_and_everywhere_at_last() -> None:
    outcome = performed("update", nodes=20, seconds=1.0)
    assert outcome.curve[0] < 0.001
    assert outcome.curve[-1] == outcome.values["everywhere"]
    assert outcome.of == 20
    assert (outcome.values["wire ratio"] or 0) > (outcome.values["ratio"] or 0) > 1


def test_an_idle_mesh_costs_a_probe_and_an_ack_each_way() -> None:
    outcome = performed("idle")
    assert outcome.values["rate"] == pytest.approx(4 * (71 + 28), rel=0.02)
    # Two datagrams in and two out a period of half a second: 4 x 70 us.
    assert outcome.values["work"] == pytest.approx(0.28, rel=0.02)


MENDED = {"partition": 15.0, "churn": 20.0, "stall": 30.0, "oneway": 15.0}
"""Seconds of the scenario's own phase that are enough for what comes after it."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_after_each_scenario_the_living_are_alive_everywhere_and_the_rules_hold(name: str) -> None:
    # Rules are kept each second meanwhile, and the referee's after each datagram.
    case = Case(name, 20, 0.02, 2, MENDED.get(name, 5.0), explicit=True)
    run = Run(case, SCENARIOS[name].truthful)
    SCENARIOS[name].run(run)
    network = run.network
    network.heal()
    for host in network.running():
        host.resume()
    run.rules.settle()


def test_rules_are_kept_while_a_small_case_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(Case("idle", 5, 0.0, 1, 5.0), True)
    run.warm()
    checked: list[float] = []
    monkeypatch.setattr(type(run.rules), "check", lambda rules: checked.append(rules.network.now))
    run.network.run(5)
    assert len(checked) == 5


HISTORIES = """
from simulation.case import Case, Run
from simulation.scenarios import SCENARIOS
for name in SCENARIOS:
    run = Run(Case(name, 8, 0.1, 3, 5.0, explicit=True), SCENARIOS[name].truthful)
    run.network.digest_history()
    SCENARIOS[name].run(run)
    print(name, run.network.history, run.values)
"""


def test_every_scenario_has_one_history_for_a_seed_whatever_the_hash_seed() -> None:
    def histories(hash_seed: str) -> list[str]:
        environment = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}",
        }
        command = [sys.executable, "-c", HISTORIES]
        run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return run.stdout.splitlines()

    first = histories("1")
    assert len(first) == len(SCENARIOS)
    assert histories("2") == first


def test_the_same_case_has_the_same_outcome() -> None:
    assert performed("deaths", loss=0.1) == performed("deaths", loss=0.1)


def test_a_case_names_the_command_that_makes_it_again() -> None:
    case = Case("idle", 12, 0.1, 7, 30.0, network="wan", explicit=True)
    assert case.replay == (
        "scripts/simulate --scenario idle --nodes 12 --loss 0.1 --network wan --seconds 30 --seed 7"
    )


def test_quantiles_are_nearest_ranks() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert (quantile(values, 0.2), quantile(values, 0.21), quantile(values, 1.0)) == (1, 2, 5)
    assert quantile(values, 0.99) == 5
    assert (median(values), median(values[:4])) == (3, 3)


def test_a_changed_prefix_of_a_thousand_does_not_bring_the_thousand_again() -> None:
    outcome = performed("shards", nodes=20)
    assert 100 < (outcome.values["shards"] or 0) < 1000
    assert outcome.curve[-1] == outcome.values["in force"]
    assert outcome.of == 20


def test_a_run_tells_each_virtual_second_how_far_it_is_and_is_no_other_run_for_it() -> None:
    told: list[str] = []
    case = Case("idle", 5, 0.1, 1, 3.0, explicit=True)
    assert perform(case, told.append) == perform(case)
    assert told[-3:] == [f"{second} virtual seconds" for second in range(len(told) - 3, len(told))]
    assert len(told) > 3


def test_every_kind_of_datagram_belongs_to_one_group() -> None:
    kinds = [kind for group in GROUPS.values() for kind in group]
    assert sorted(kinds) == [each for each, name in enumerate(NAMES) if "type" not in name]
