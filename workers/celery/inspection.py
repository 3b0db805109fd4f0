"""Every message is looked at before Celery acts on it, because Celery trusts what it is sent (W5, W21).

A body of another shape, or an id that is no text, ends its main process; `eta` parks a message in a worker's memory,
`expires` drops it, `timelimit` kills its process, `shadow` writes any text into logs and Flower, `callbacks` publish
more. So of a message's headers only its task and ids go on. Both of Celery's protocols are read; what is left has the
form of the second.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kombu.utils.json import dumps

from tasks.client.requests import KINDS

ID_LENGTH = 200
#: What would make one message into several.
CANVAS = ("chain", "chord", "callbacks", "errbacks")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a message goes into quarantine, in a sentence, and which task it named."""

    kind: str | None
    reason: str


def examine(message: Any, tasks: Collection[str]) -> Refusal | None:
    """Make the message safe for Celery, or say why not; a refused message is left as it came."""
    try:
        payload = message.payload
    # Any decoder's own error; and json's, where the nesting is too deep.
    except Exception:
        told = str(message.content_type)[:80]
        return Refusal(_named(message.headers), f"Only JSON is read here, and the message says that it is {told}.")
    if isinstance(payload, list) and len(payload) == 3:
        args, kwargs, embed = payload
        fields = message.headers
    elif isinstance(payload, dict):
        fields = payload | message.headers
        args, kwargs, embed = payload.get("args", []), payload.get("kwargs", {}), payload
    else:
        shape = "[args, kwargs, {}] or an object with task, id, args and kwargs"
        return Refusal(_named(message.headers), f"The body is not that of a Celery message: it must be {shape}.")
    kind = _named(fields)
    reason = _wrong(fields, args, kwargs, embed, tasks)
    if reason is not None:
        return Refusal(kind, reason)
    message.headers = {"lang": "py", "task": kind, "id": fields["id"], "argsrepr": "()", "kwargsrepr": "{}"} | {
        name: fields[name] for name in ("root_id", "parent_id") if _is_id(fields.get(name))
    }
    if embed is payload:
        message.body = dumps([args, kwargs, {}]).encode()
        message.content_type, message.content_encoding = "application/json", "utf-8"
        message._decoded_cache = None
    return None


def _wrong(fields: Mapping[str, Any], args: Any, kwargs: Any, embed: Any, tasks: Collection[str]) -> str | None:
    task = fields.get("task")
    if task is None:
        return "This is not a task message: it names no task."
    if not isinstance(task, str) or task not in tasks:
        name = f' "{task[:ID_LENGTH]}"' if isinstance(task, str) else " that is not called by a text"
        return f"There is no request{name}. One can ask for {', '.join(sorted(KINDS))}."
    checks = (
        (_is_id(fields.get("id")), f"The message's id must be text of 1 to {ID_LENGTH} characters."),
        (
            isinstance(args, list) and isinstance(kwargs, dict) and isinstance(embed, dict | None),
            "The message's arguments must be a list, and an object of those that have a name.",
        ),
        (
            not isinstance(embed, dict) or not any(embed.get(name) for name in CANVAS),
            f"A message is one request here: send it without {', '.join(CANVAS)}.",
        ),
        (
            fields.get("eta") is None,
            "A request is done as soon as it can be: send it without eta or countdown, when its time has come.",
        ),
    )
    return next((reason for right, reason in checks if not right), None) or _expired(fields.get("expires"))


def _expired(expires: Any) -> str | None:
    """A request is a row within moments, so one that has not expired by now never will."""
    if expires is None:
        return None
    try:
        moment = datetime.fromisoformat(expires)
    except (TypeError, ValueError):
        return "The message's expires must be a date and time in ISO 8601."
    if (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) <= datetime.now(UTC):
        return "The message expired before a worker received it."
    return None


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= ID_LENGTH


def _named(fields: Mapping[str, Any]) -> str | None:
    task = fields.get("task")
    return task[:ID_LENGTH] if isinstance(task, str) else None
