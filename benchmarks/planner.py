"""`python -m benchmarks.planner`: plan what has closed; prints the seconds, peak of memory and CPU that it took."""

from __future__ import annotations

import os
from time import monotonic, process_time

from benchmarks.processes import peak
from tasks.billing.statement_plan import plan
from workers.app import app
from workers.settings.settings import settings
from workers.wiring import bootstrap


def main() -> None:
    ports = bootstrap.ports(settings(), app)
    with ports.database.connection():
        pass
    begun, used = monotonic(), process_time()
    plan(ports)
    print(f"planned {monotonic() - begun} {peak(os.getpid())} {process_time() - used}", flush=True)


if __name__ == "__main__":
    main()
