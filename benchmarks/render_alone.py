"""The limit of P3: every second statement as a PDF, from documents in memory, and nothing else.

python -m benchmarks.render_alone 0|1 GO    # says "ready", waits for the file GO, renders
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from time import process_time, sleep

from sqlalchemy import select

from benchmarks.processes import peak
from models.base.unit_of_work import Database
from models.billing.statement import Statement
from tasks.billing.statements import load
from workers.settings.settings import settings


def main(half: int, go: Path) -> None:
    with Database(settings().database_url).snapshot() as session:
        ids = session.scalars(select(Statement.id).order_by(Statement.id)).all()[half::2]
        items = list(load(session, ids).values())
    for item in items[:3]:
        item.pdf()
    print("ready", flush=True)
    while not go.exists():
        sleep(0.001)
    used = process_time()
    made = sum(item.pdf().startswith(b"%PDF-") for item in items)
    print(f"done {made} {peak(os.getpid())} {process_time() - used}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
