"""What the main process of a worker last did, in a file for `tenure health worker` (W13).

Whether a worker takes messages, no other process can see: one may answer every question and take nothing. So the main
process notes it where the health check of its machine finds it, whether or not the broker answers. Times are seconds
of the clock that no one can set.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from time import monotonic

from workers.celery.identity import dead, identity

#: Seconds between two notes.
EVERY = 1.0


@dataclass
class Note:
    """The state of one worker. Times are of `monotonic`, which all processes of a machine share."""

    pid: int
    #: As `workers.celery.identity` names the process.
    identity: str
    #: The worker's name, such as `celery@host`.
    name: str
    #: When the broker last answered the question for messages, with one or with none.
    answered: float
    #: Why the broker was last lost; "" while it is there.
    lost: str = ""
    noted: float = 0.0

    @property
    def silent_for(self) -> float:
        """Seconds since the broker answered."""
        return monotonic() - self.answered

    @property
    def old_by(self) -> float:
        """Seconds since this was noted."""
        return monotonic() - self.noted


class Liveness:
    """The note of this process; `begin` names its file, and without it nothing is written."""

    def __init__(self) -> None:
        self._note: Note | None = None
        self._file = Path()

    def begin(self, name: str, folder: Path) -> None:
        """Begin to note, in a folder that `folder_of` made."""
        self._file = folder / f"{os.getpid()}.json"
        self._note = Note(pid=os.getpid(), identity=identity(), name=name, answered=monotonic())
        self.write()

    def broker_answered(self) -> None:
        if self._note is not None:
            self._note.answered = monotonic()
            self._note.lost = ""

    def broker_lost(self, reason: str) -> bool:
        """Note why there is no connection; returns whether that is news."""
        if self._note is None:
            return True
        is_news = self._note.lost != reason
        self._note.lost = reason
        self.write()
        return is_news

    def silent_for(self) -> float:
        """Seconds since the broker answered; 0 before `begin`."""
        return self._note.silent_for if self._note is not None else 0.0

    def write(self, *, is_full: bool = False) -> None:
        """Note the state. A worker all of whose processes are busy asks for no message, and need not."""
        if self._note is None or self._note.pid != os.getpid():
            return
        if is_full and not self._note.lost:
            self._note.answered = monotonic()
        self._note.noted = monotonic()
        with contextlib.suppress(OSError):
            # Replaced as a whole: a reader never sees half a note.
            temporary = self._file.with_suffix(".new")
            temporary.write_text(json.dumps(asdict(self._note)), encoding="utf-8")
            temporary.replace(self._file)

    def end(self) -> None:
        if self._note is not None and self._note.pid == os.getpid():
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)


LIVENESS = Liveness()


def notes(folder: Path) -> Iterator[Note]:
    """The notes of the living workers of this machine that this user runs."""
    for file in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            note = Note(**json.loads(file.read_text(encoding="utf-8")))
            if not dead([note.identity]):
                yield note


def folder_of(database_url: str, broker_url: str) -> Path:
    """The folder of the workers of one installation, to which no other user can write.

    Raises PermissionError where another user made it.
    """
    installation = sha256(f"{database_url}\n{broker_url}".encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"tenure-workers-{os.getuid()}-{installation}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user: remove it.")
    return folder
