"""The limit of P1: what PostgreSQL gives to a process that does nothing but claim and finish, in two transactions.

    python -m benchmarks.limit DATABASE_URL BATCH GO    # says "ready", waits for the file GO, works until all is done

The same table, indexes and token as Tenure's, without Celery, SQLAlchemy, a lease or an opinion: psycopg with prepared
statements and binary values, each transaction one statement and one round trip.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from time import process_time, sleep
from uuid import uuid4

import psycopg

from benchmarks.processes import peak

CLAIM = """
    UPDATE tenure.job_requests AS row
       SET state = 'running', claim_token = %(token)s, claimed_by = 'limit', attempts = attempts + 1,
           lease_until = clock_timestamp() + interval '60 s'
     WHERE row.id = ANY (ARRAY(
             SELECT id FROM tenure.job_requests
              WHERE state = 'pending' AND crashes = 0 AND due_at <= now()
              ORDER BY due_at, id LIMIT %(batch)s FOR UPDATE SKIP LOCKED))
    RETURNING row.id"""
FINISH = """
    UPDATE tenure.job_requests SET state = 'done', finished_at = clock_timestamp(), lease_until = NULL
     WHERE id = ANY (%(ids)s) AND claim_token = %(token)s AND state = 'running'"""


def main(url: str, batch: int, go: Path) -> None:
    done, used = 0, 0.0
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor(binary=True) as cursor:
        print("ready", flush=True)
        while not go.exists():
            sleep(0.001)
        used = process_time()
        while True:
            token = uuid4()
            cursor.execute(CLAIM, {"token": token, "batch": batch}, prepare=True)
            ids = [row[0] for row in cursor.fetchall()]
            if not ids:
                break
            cursor.execute(FINISH, {"ids": ids, "token": token}, prepare=True)
            done += cursor.rowcount
    print(f"done {done} peak {peak(os.getpid())} cpu {process_time() - used}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
