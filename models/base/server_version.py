"""Which versions of PostgreSQL Tenure runs on."""

from __future__ import annotations

import psycopg

#: The first that has `uuidv7()` and virtual generated columns.
OLDEST = 18


def too_old(address: str, *, connect_timeout: int = 5) -> str | None:
    """Return what is wrong with the server's version, as a sentence; None if it is supported or does not answer.

    It connects without the settings of our other connections, which an old server refuses without a word of its
    version. `connect_timeout` is in seconds.
    """
    try:
        with psycopg.connect(address, connect_timeout=connect_timeout) as connection:
            version = connection.info.server_version // 10_000
    except psycopg.OperationalError:
        return None
    if version >= OLDEST:
        return None
    return (
        f"The server at TENURE_DATABASE_URL is PostgreSQL {version}, and Tenure needs {OLDEST} or later: upgrade it, or"
        " name another one."
    )
