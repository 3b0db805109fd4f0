"""An account of ten times the rows is exported and purged in the same memory (rows P8, P9), in processes of their own.

The sizes are what a test can bear; `make bench ROW=P11-P8` and `ROW=P11-P9` go up to a million rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from benchmarks import export, exporting, purge, purging
from benchmarks.servers import Servers, servers

FEW, MANY = 30_000, 300_000
#: How many times the memory ten times the rows may take.
MOST = 1.2


@pytest.fixture(scope="module")
def started() -> Iterator[Servers]:
    with servers(fast=True) as made:
        yield made


@pytest.mark.timeout(240)
def test_an_export(started: Servers) -> None:
    def peak(rows: int) -> int:
        with started.database() as observer:
            exporting.setup(observer.connection, rows)
            return export.once(started, observer, "ours", rows).memory or 0

    few, many = peak(FEW), peak(MANY)
    assert 0 < many <= MOST * few, f"{few:,} bytes for {FEW:,} rows, {many:,} for {MANY:,}"


@pytest.mark.timeout(240)
def test_a_purge(started: Servers) -> None:
    def peak(rows: int) -> int:
        with started.filled(partial(purging.setup, rows=rows)) as filled:
            return purge.once(started, filled, "ours", rows).memory or 0

    few, many = peak(FEW), peak(MANY)
    assert 0 < many <= MOST * few, f"{few:,} bytes for {FEW:,} rows, {many:,} for {MANY:,}"
