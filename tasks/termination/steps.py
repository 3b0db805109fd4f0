"""Which function does which step of a termination, in one table (T1).

A step that is not in it is refused in a sentence: a worker of another version has it.
"""

from __future__ import annotations

from collections.abc import Mapping

from models.termination.termination import Step
from tasks.cases.case import StepFunction
from tasks.certificates import certifying
from tasks.purge import purging, verifying
from tasks.termination import beginning, delivering, exporting, freezing, retiring

STEPS: Mapping[Step, StepFunction] = {
    Step.ANNOUNCE: beginning.announce,
    Step.BEGIN: beginning.begin,
    Step.FREEZE: freezing.freeze,
    Step.EXPORT: exporting.make_record,
    Step.NOTIFY: delivering.notify,
    Step.REMIND: delivering.remind,
    Step.DELIVER: delivering.deliver,
    Step.PURGE: purging.purge,
    Step.PURGE_AGAIN: purging.purge_again,
    Step.VERIFY: verifying.verify,
    Step.CERTIFY: certifying.certify,
    Step.FORGET: retiring.forget,
    Step.RETIRE_ARCHIVE: retiring.retire_archive,
}
