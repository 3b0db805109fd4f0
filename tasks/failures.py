"""How work fails. Everything that is none of these is a bug: tried again a few times, then `failed`, and loud."""

from __future__ import annotations

from traceback import walk_tb

#: Where an error came out of one of these, the line that called it says more than theirs.
LIBRARIES = frozenset({"sqlalchemy", "psycopg", "botocore", "kombu", "redis"})


class Failure(Exception):
    """A failure that was foreseen; its text is a sentence without personal data."""


class Transient(Failure):
    """This row may succeed later: back off and try again until the attempts are used up."""


class Unavailable(Failure):
    """A server is away: no row is to blame, none loses an attempt; all go back and are tried when it may be there."""


class Permanent(Failure):
    """Trying again cannot help: record why and stop."""


class Bug(Exception):
    """What nobody foresaw, as Celery may log it: kind and place, and nothing that a library said of a value."""


def describe(error: Exception) -> str:
    """An error as rows and logs keep it: of a bug only kind and place, since what a library says may quote a value."""
    if isinstance(error, Failure):
        return str(error)
    return f"{type(error).__name__} at {place(error)}"


def place(error: BaseException) -> str:
    """File, line and function where it was raised, or where the library was called that raised it."""
    frames = list(walk_tb(error.__traceback__))
    telling = [each for each in frames if str(each[0].f_globals.get("__name__")).partition(".")[0] not in LIBRARIES]
    if not frames:
        return "an unknown place"
    frame, line = (telling or frames)[-1]
    file = "/".join(frame.f_code.co_filename.rsplit("/", 2)[-2:])
    return f"{file}:{line} in {frame.f_code.co_name}"
