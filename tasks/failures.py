"""How work fails. Everything that is none of these is a bug: tried again a few times, then `failed`, and loud."""

from __future__ import annotations


class Failure(Exception):
    """A failure that was foreseen; its text is a sentence without personal data."""


class Transient(Failure):
    """This row may succeed later: back off and try again until the attempts are used up."""


class Unavailable(Failure):
    """A server is away: no row is to blame, none loses an attempt; all go back and are tried when it may be there."""


class Permanent(Failure):
    """Trying again cannot help: record why and stop."""
