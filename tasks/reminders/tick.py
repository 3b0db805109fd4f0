"""Payment reminders: `reminders.plan`, ticked by the clock, writes the letters that are due (P3.1d, B11 to B19).

Letters leave as e-mails (`tasks.mail.send`), after `tasks.reminders.final_check` has looked at them a last time.
"""

from __future__ import annotations

from celery import shared_task

from tasks.engine.task import Tick
from tasks.ports.context import current
from tasks.reminders.plan import TASK, plan


@shared_task(name=TASK, base=Tick)
def plan_reminders() -> dict[str, int]:
    ports = current()
    counts = plan(ports)
    if counts["planned"]:
        ports.wake("emails.send")
    return counts
