"""BEGIN: the contract is over, and the time of grace begins (T3).

Due when the contract ends. Nothing happens to the account yet: what follows is the freeze, when the grace is over.
"""

from __future__ import annotations

from models.termination import Stage, Step
from tasks.drain import Held
from tasks.termination.case import Case, Next, StepResult


def begin(case: Case, _held: Held) -> StepResult:
    return StepResult(stage=Stage.GRACE, steps=(Next(Step.FREEZE, due=case.termination.cancel_until),))
