"""All scenarios by name, and how one is performed."""

from __future__ import annotations

import gc
from typing import Final

from simulation import failing, lasting, spreading
from simulation.case import Case, Outcome, Run, Scenario
from simulation.referee import InvariantBroken

SCENARIOS: Final[dict[str, Scenario]] = {
    **spreading.SCENARIOS,
    **failing.SCENARIOS,
    **lasting.SCENARIOS,
}


def perform(case: Case) -> Outcome:
    """Run one case; an invariant that breaks is in the outcome, with the seed."""
    scenario = SCENARIOS[case.scenario]
    gc.disable()  # the automaton makes no cycles, and looking for them among millions takes long
    try:
        run = Run(case, scenario.truthful)
        scenario.run(run)
        return run.outcome()
    except InvariantBroken as broken:
        return Outcome(case, failure=str(broken))
    finally:
        gc.enable()
