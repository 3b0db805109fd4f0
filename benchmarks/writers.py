"""Writers that each insert a request a transaction, as a busy web tier does.

python -m benchmarks.writers DATABASE_URL WRITERS SECONDS PAUSE    # says "ready", then "commits 12345"

Each writer waits for PAUSE seconds between two transactions; with 0 they commit as fast as they can.
"""

from __future__ import annotations

import sys
from threading import Barrier, Thread
from time import monotonic, sleep

import psycopg

INSERT = "INSERT INTO tenure.job_requests (kind, args) VALUES ('benchmarks.noop', '{}')"


def main(url: str, writers: int, seconds: float, pause: float) -> None:
    counts = [0] * writers
    together = Barrier(writers + 1)

    def write(number: int) -> None:
        with psycopg.connect(url, autocommit=True, application_name="web tier") as connection:
            connection.execute(INSERT, prepare=True)
            together.wait()
            ends = monotonic() + seconds
            while monotonic() < ends:
                connection.execute(INSERT, prepare=True)
                counts[number] += 1
                sleep(pause)

    threads = [Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    together.wait()
    print("ready", flush=True)
    for thread in threads:
        thread.join()
    print(f"commits {sum(counts)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
