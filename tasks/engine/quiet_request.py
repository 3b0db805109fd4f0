"""How a message from outside looks in logs, events and Flower: by name and id alone (P1.3, W12).

What a client puts into arguments is not ours to show: it may be anything. What was accepted is a row of
`tenure.job_requests`, what was not is in quarantine, both in PostgreSQL where access is granted and recorded.
"""

from __future__ import annotations

from typing import Any

from celery.worker.request import Request


class QuietRequest(Request):
    """A message whose arguments are nowhere repeated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._argsrepr = "()"
        self._kwargsrepr = "{}"
        headers: dict[str, Any] = self.request_dict
        headers.update(argsrepr="()", kwargsrepr="{}")
