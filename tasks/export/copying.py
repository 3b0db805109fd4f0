"""Rows by COPY: PostgreSQL's own CSV with the line ends of RFC 4180, in pieces of about 256 KiB."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import accumulate, pairwise
from typing import Final

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from tasks.failures import Permanent, Transient, Unavailable

PIECE: Final = 1 << 18
_LF: Final = b"\n"
_CRLF: Final = b"\r\n"
#: How long to wait for the socket before the connection is checked again.
_POLL_INTERVAL: Final = timedelta(seconds=1)


def rows(connection: psycopg.Connection, query: str) -> Iterator[tuple[bytes, int]]:
    """The query's rows as CSV without a header, in pieces of whole rows, each with their number.

    Straight from libpq, which hands over one row at a time: that costs half of what the driver's iterator does, and
    here it is the dearest thing that Python does. Nothing is waited for with the interpreter's lock held. Raises
    Unavailable, Transient or Permanent, without a word of what the rows hold.
    """
    pq = connection.pgconn
    try:
        pq.send_query(f"COPY ({query}) TO STDOUT (FORMAT csv)".encode())
        _ready(pq)
        _expect(pq.get_result(), ExecStatus.COPY_OUT)
        yield from _pieces(pq)
        _ready(pq)
        while (result := pq.get_result()) is not None:
            _expect(result, ExecStatus.COMMAND_OK)
    except psycopg.OperationalError as error:
        raise failure(None) from error
    finally:
        if pq.transaction_status == TransactionStatus.ACTIVE:
            _cancel(connection)


def _pieces(pq: PGconn) -> Iterator[tuple[bytes, int]]:
    get = pq.get_copy_data
    held = bytearray()
    # To hold on to the rows themselves would cost twice the time: each is then memory that the cache does not know.
    lengths: list[int] = []
    while True:
        length, row = get(1)
        if length > 0:
            held += row
            lengths.append(length)
            if len(held) < PIECE:
                continue
        if held and length:
            yield _ended(held, lengths), len(lengths)
            held.clear()
            lengths.clear()
        if length == 0:
            _wait(pq)
        elif length < 0:
            return


def _expect(result: PGresult | None, status: ExecStatus) -> None:
    if result is None or result.status != status:
        raise failure(result.error_field(DiagnosticField.SQLSTATE) if result is not None else None)


def _cancel(connection: psycopg.Connection) -> None:
    """Stop a COPY that nobody wants any more, so that the connection can be used, and its snapshot be ended."""
    pq = connection.pgconn
    with suppress(psycopg.Error):
        connection.cancel_safe(timeout=5)
        while pq.get_copy_data(0)[0] > 0:
            """What was on its way."""
    with suppress(psycopg.Error):
        while pq.get_result() is not None:
            """Its end, which says that it was cancelled."""


def _ended(held: bytearray, lengths: list[int]) -> bytes:
    """The rows, each of which ends in LF, with CRLF; a line break within a quoted cell stays what it is."""
    if held.count(_LF) == len(lengths):
        return bytes(held.replace(_LF, _CRLF))
    ends = list(accumulate(lengths))
    with memoryview(held) as view:
        return b"".join([part for begin, end in pairwise([0, *ends]) for part in (view[begin : end - 1], _CRLF)])


def _ready(pq: PGconn) -> None:
    """Wait until a result can be had without waiting."""
    while pq.flush() or pq.is_busy():
        _wait(pq)


def _wait(pq: PGconn) -> None:
    poll = select.poll()
    poll.register(pq.socket, select.POLLIN)
    poll.poll(_POLL_INTERVAL.total_seconds() * 1000)
    pq.consume_input()


def failure(state: bytes | str | None) -> Unavailable | Transient | Permanent:
    """A table that could not be read, by PostgreSQL's SQLSTATE; without one, the connection is lost."""
    code = state.decode() if isinstance(state, bytes) else state
    if code is None or code[:2] in {"08", "53", "57"}:
        return Unavailable(f"PostgreSQL broke off in the middle of the export ({code or 'the connection is lost'}).")
    if code[:2] == "40":
        return Transient(f"PostgreSQL asks for the export to be tried again (SQLSTATE {code}).")
    if code == "42501":
        return Permanent(
            "PostgreSQL does not let this user read all rows (SQLSTATE 42501): grant SELECT on the table, and "
            "BYPASSRLS where it has row-level security, then retry."
        )
    return Permanent(f"PostgreSQL refused to read the table (SQLSTATE {code}): mend the data map, then retry.")
