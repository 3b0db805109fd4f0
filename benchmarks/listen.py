"""The limit of P2: a process that is told by PostgreSQL itself, and then claims and finishes with nothing in between.

python -m benchmarks.listen DATABASE_URL       # says "ready", works until it is ended
"""

from __future__ import annotations

import sys
from uuid import uuid4

import psycopg

from benchmarks.limit import CLAIM, FINISH


def main(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor(binary=True) as cursor:
        connection.execute("LISTEN tenure_work")
        print("ready", flush=True)
        while True:
            for _ in connection.notifies(timeout=1, stop_after=1):
                """Only that there was one counts, as it does for the relay."""
            token = uuid4()
            ids = [row[0] for row in cursor.execute(CLAIM, {"token": token, "batch": 100}, prepare=True)]
            if ids:
                cursor.execute(FINISH, {"ids": ids, "token": token}, prepare=True)


if __name__ == "__main__":
    main(sys.argv[1])
