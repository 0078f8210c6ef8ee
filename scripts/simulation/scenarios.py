"""All scenarios by name, and how one is performed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Final

from simulation import cutting, failing, lasting, spreading
from simulation.case import Case, Outcome, Run, Scenario
from simulation.referee import InvariantBroken

SCENARIOS: Final[dict[str, Scenario]] = {
    **spreading.SCENARIOS,
    **failing.SCENARIOS,
    **cutting.SCENARIOS,
    **lasting.SCENARIOS,
}


def perform(case: Case, tell: Callable[[str], None] | None = None) -> Outcome:
    """Run one case; an invariant that breaks is in the outcome, with the seed.

    ``tell`` is told each virtual second how far it is: nothing of that is in the outcome.
    """
    scenario = SCENARIOS[case.scenario]
    gc.disable()  # the automaton makes no cycles, and looking for them among millions takes long
    try:
        run = Run(case, scenario.truthful, tell=tell)
        scenario.run(run)
        return run.outcome()
    except InvariantBroken as broken:
        return Outcome(case, failure=str(broken))
    finally:
        gc.enable()
