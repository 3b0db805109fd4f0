"""How work fails. Everything that is none of these is a bug: tried again a few times, then `failed`, and loud."""

from __future__ import annotations

from datetime import timedelta
from traceback import walk_tb

#: Where an error came out of one of these, the line that called it says more than theirs.
LIBRARIES = frozenset({"sqlalchemy", "psycopg", "botocore", "kombu", "redis"})


class Failure(Exception):
    """A failure that was foreseen; its text is a sentence without personal data."""


class Transient(Failure):
    """This row may succeed later: back off and try again until the attempts are used up."""


class Unavailable(Failure):
    """A server is away: no row is to blame, none loses an attempt; all go back and are tried when it may be there.

    `wait` is how long the rows rest; None leaves that to the drain.
    """

    def __init__(self, why: str, *, wait: timedelta | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class Barred(Unavailable):
    """A server is there and refuses us, not the row: a wrong password, a quota, a relay that is closed to us."""


class Doubtful(Unavailable):
    """A server broke off over this row, or refused it. The server or the row is to blame: the row's neighbours tell.

    Where they get through, the row has failed, and is tried again by its schedule; where they do not, none has.
    `about_us` says that the server spoke of the sender: of a quota, say, or of a relay that is closed to it.
    """

    def __init__(self, why: str, *, about_us: bool = False) -> None:
        super().__init__(why)
        self.about_us = about_us


class Permanent(Failure):
    """Trying again cannot help: record why and stop."""


class Unsuitable(Permanent):
    """This transport cannot take this row, ever; another one may."""


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
