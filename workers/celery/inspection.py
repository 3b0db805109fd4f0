"""Every message is looked at before Celery acts on it, because Celery trusts what it is sent (W5, W21).

A body of another shape, or an id that is no text, ends its main process; `eta` parks a message in a worker's memory,
`expires` drops it, `timelimit` kills its process, `shadow` writes any text into logs and Flower, `callbacks` publish
more. So of a message's headers only its task and ids go on. Both of Celery's protocols are read; what is left has the
form of the second.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from kombu.utils.json import loads

from tasks.client.requests import KINDS
from workers.celery.transport import RAW
from workers.celery.unpacking import MOST_BYTES, MOST_LEVELS, CannotUnpackError, decompressed, is_deeper

ID_LENGTH = 200
JSON = "application/json"
#: What a message may name as its encoding. Other codecs of Python's unpack, or take long.
ENCODINGS = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "binary"})
TOO_DEEP = f"The body is nested too deeply: at most {MOST_LEVELS} levels of lists and objects are read."
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
        payload = _read(message)
        if isinstance(payload, list) and len(payload) == 3:
            args, kwargs, embed = payload
            fields = message.headers
        elif isinstance(payload, dict):
            fields = payload | message.headers
            args, kwargs, embed = payload.get("args", []), payload.get("kwargs", {}), payload
        else:
            shape = "[args, kwargs, {}] or an object with task, id, args and kwargs"
            raise CannotUnpackError(f"The body is not that of a Celery message: it must be {shape}.")
        kind = _named(fields)
        reason = _wrong(fields, args, kwargs, embed, tasks)
        if reason is not None:
            return Refusal(kind, reason)
        body = json.dumps([_plain(args), {name: _plain(value, name) for name, value in kwargs.items()}, {}])
    except CannotUnpackError as error:
        return Refusal(_named(message.headers), str(error))
    message.headers = {"lang": "py", "task": kind, "id": fields["id"], "argsrepr": "()", "kwargsrepr": "{}"} | {
        name: fields[name] for name in ("root_id", "parent_id") if _is_id(fields.get(name))
    }
    message.body = body.encode()
    message.content_type, message.content_encoding = JSON, "utf-8"
    message._decoded_cache = None
    return None


def _read(message: Any) -> Any:
    """The body's JSON. Raises CannotUnpackError, before anything is unpacked beyond its bounds."""
    if message.content_type == RAW:
        length = message.headers.get("bytes")
        if isinstance(length, int):
            raise CannotUnpackError(
                f"The message has {length:,} bytes, and at most {MOST_BYTES:,} are read: its beginning is kept here."
            )
        raise CannotUnpackError("Only JSON is read here, in the envelope of a Celery message, and this has none.")
    if message.content_type != JSON:
        named = f'says that it is "{message.content_type[:80]}"' if message.content_type else "does not say what it is"
        raise CannotUnpackError(f"Only JSON is read here, and the message {named}.")
    if str(message.content_encoding or "utf-8").lower() not in ENCODINGS:
        raise CannotUnpackError(
            f'Only JSON in UTF-8 is read here, and the message is in "{message.content_encoding[:80]}".'
        )
    body = decompressed(message.body or b"", message.properties.get("compression"))
    try:
        payload = loads(body.decode())
    except UnicodeDecodeError:
        raise CannotUnpackError("Only JSON is read here, and the body is not in UTF-8.") from None
    except json.JSONDecodeError as error:
        raise CannotUnpackError(
            f"Only JSON is read here, and the body is none from character {error.pos} on."
        ) from None
    except RecursionError:
        raise CannotUnpackError(TOO_DEEP) from None
    except (ValueError, TypeError, AttributeError, ArithmeticError):
        raise CannotUnpackError(
            "The body's JSON holds a value that cannot be read: a number of thousands of digits, or a type of Celery's "
            "own whose value is none of that type."
        ) from None
    if is_deeper(payload):
        raise CannotUnpackError(TOO_DEEP)
    return payload


def _plain(value: Any, argument: str | None = None) -> Any:
    """The value as JSON without Celery's own types: dates and UUIDs become the text that requests take."""
    if isinstance(value, dict):
        return {name: _plain(inner, argument or name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, argument) for inner in value]
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, UUID) or (isinstance(value, date) and not isinstance(value, datetime)):
        return str(value)
    where = f'The argument "{argument[:80]}"' if argument is not None else "An argument without a name"
    raise CannotUnpackError(
        f"{where} is of the type {type(value).__name__}, which no request takes: send text, a whole number, true or "
        "false, a date or a UUID."
    )


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
