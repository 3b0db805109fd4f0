"""A customer comes back under the ref of one who was purged: nobody's data is taken for another's (T3, T19)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from models.base.unit_of_work import Database
from models.data_map import fence
from models.data_map.map import AccountKeys, Category, DataMap, MappedTable, ObjectPrefix, Path, Retention, table_name
from tasks.client.requests import TerminationsCancel, TerminationsRequest, submit
from tasks.engine.drain import drain
from tasks.failures import Permanent
from tasks.ports.context import Estate, Ports
from tasks.requests.handle import HANDLE
from tasks.termination.advancing import PURGE
from tasks.termination.reissuing import find
from tests.support.rows.company import a_contact, an_account
from tests.support.rows.purging import a_delivered_termination
from tests.support.rows.raw_objects import put_raw
from tests.support.rows.terminating import go_on
from tests.support.time.deadlines import deadline

NOTES = MappedTable(
    table_name("public.notes"), Category.SUBMITTED, (Path.parse("owner = account.ref"),), ("id",), ("id", "owner"), {}
)
UPLOADS = ObjectPrefix("uploads/{account_ref}/", Category.SUBMITTED)
TOMBSTONES = "SELECT count(*) FROM tenure.accounts WHERE status = 'purged' AND ref ~ '^purged:[0-9a-f]{64}$'"


@pytest.fixture
def company(ports: Ports) -> Ports:
    """A company whose own table and objects bear the customers' ref, with a fence before the table."""
    mapped = DataMap((NOTES,), objects=(UPLOADS,))
    with ports.database.connection() as connection:
        connection.execute(text("CREATE TABLE public.notes (id bigserial PRIMARY KEY, owner text)"))
        connection.execute(text("CREATE INDEX ON public.notes (owner)"))
        for statement in fence.statements(mapped):
            connection.exec_driver_sql(statement)
    return replace(ports, company=lambda: Estate(mapped, {}), quiet=timedelta(0))


def do(database: Database, sql: str) -> Any:
    with database.connection() as connection:
        found = connection.execute(text(sql))
        return found.scalar() if found.returns_rows else None


def sign_up(ports: Ports, ref: str = "acme") -> AccountKeys:
    """As the application does it, with a note and an object."""
    with ports.database.transaction() as session:
        account = an_account(session, ref=ref)
        a_contact(session, account, email=f"ada@{ref}.example")
        session.flush()
        session.execute(text("INSERT INTO public.notes (owner) VALUES (:ref)"), {"ref": ref})
    put_raw(ports.objects, f"uploads/{ref}/plan", b"x")
    return AccountKeys(account.id, ref)


def uploads(ports: Ports) -> int:
    return len(list(ports.objects.list("uploads/acme/")))


def leave(ports: Ports) -> None:
    """Asked for, frozen, exported, fetched, purged, verified, certified."""
    with ports.database.transaction() as session:
        submit(session, TerminationsRequest(account="acme", grace_days=0))
    assert drain(HANDLE, ports)["handled"] == 1
    latest = "(SELECT id FROM tenure.terminations ORDER BY id DESC LIMIT 1)"
    for _ in range(9):
        do(
            ports.database,
            "UPDATE tenure.termination_steps SET due_at = now() WHERE state = 'pending' AND step <> 'remind'",
        )
        go_on(ports)
        do(
            ports.database,
            f"UPDATE tenure.terminations SET downloaded_at = now() WHERE id = {latest} AND stage = 'sealed'",
        )
    assert do(ports.database, f"SELECT stage FROM tenure.terminations WHERE id = {latest}") == "certified"


def test_whoever_comes_back_is_a_customer_like_any_other_and_can_leave_again(company: Ports) -> None:
    database = company.database
    sign_up(company)
    leave(company)
    again = sign_up(company)
    assert (do(database, "SELECT count(*) FROM public.notes"), uploads(company)) == (1, 1)
    assert do(database, TOMBSTONES) == 1
    with database.transaction() as session:
        submit(session, TerminationsRequest(account="acme"))
    assert drain(HANDLE, company)["handled"] == 1
    # The first one's last message was not accepted yet, so it is still known by the ref, too.
    with (
        pytest.raises(Permanent, match="more than once: name the termination by its id"),
        database.transaction() as seen,
    ):
        find(seen, "acme")
    # Of the two terminations that which is under way is meant.
    with database.transaction() as session:
        submit(session, TerminationsCancel(account="acme"))
    assert drain(HANDLE, company)["handled"] == 1
    do(
        database,
        "SELECT tenure.release_hold(tenure.place_hold('acme', 'case-1', 'a court asks', 'counsel'), 'counsel')",
    )
    assert do(database, "SELECT count(account_id) FROM tenure.legal_holds") == 1
    assert do(database, "SELECT account_id FROM tenure.legal_holds") == again.id
    leave(company)
    assert (do(database, "SELECT count(*) FROM public.notes"), uploads(company)) == (0, 0)
    assert do(database, TOMBSTONES) == 2
    # What comes late is refused, as of any customer that was purged.
    with pytest.raises(IntegrityError, match="is purged: nothing is written"):
        do(database, "INSERT INTO public.notes (owner) VALUES ('acme')")


def rename(ports: Ports) -> None:
    do(ports.database, "UPDATE tenure.accounts SET ref = 'acme' WHERE ref = 'other'")


@pytest.mark.parametrize("take", [sign_up, rename])
def test_a_ref_is_not_free_before_its_purge_is_certified(company: Ports, take: Callable[[Ports], Any]) -> None:
    """The passes that follow the first one would take what is the new customer's."""
    database = company.database
    with database.transaction() as session:
        an_account(session, ref="other")
    acme = sign_up(company)
    do(database, "UPDATE tenure.accounts SET status = 'frozen' WHERE ref = 'acme'")
    a_delivered_termination(company, acme)
    assert drain(PURGE, replace(company, quiet=timedelta(hours=1)))["steps"] == 1
    assert do(database, TOMBSTONES) == 1
    for _ in range(2):
        with pytest.raises(IntegrityError, match="an earlier account of the same ref is still being purged") as said:
            take(company)
        assert "acme" not in str(said.value).partition("[SQL")[0]
        do(database, "UPDATE tenure.termination_steps SET due_at = now() WHERE state = 'pending'")
        drain(PURGE, company)
    assert do(database, "SELECT stage FROM tenure.terminations") == "verifying"
    go_on(company)
    assert do(database, "SELECT stage FROM tenure.terminations") == "certified"
    take(company)
    assert do(database, "SELECT count(*) FROM tenure.accounts WHERE ref = 'acme' AND status = 'active'") == 1


def test_a_ref_by_which_kept_rows_are_found_is_not_given_to_another(company: Ports) -> None:
    database = company.database
    kept = replace(NOTES, retention=Retention("§ 132 BAO", "P7Y"))
    keeping = replace(company, company=lambda: Estate(DataMap((kept,), objects=(UPLOADS,)), {}))
    sign_up(keeping)
    leave(keeping)
    assert do(database, "SELECT count(*) FROM public.notes") == 1
    with pytest.raises(IntegrityError, match="a law keeps rows of an earlier account of the same ref"):
        sign_up(keeping)


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_whoever_signs_up_while_the_ref_becomes_a_tombstones_is_refused(
    company: Ports, database_url: str, isolation: str
) -> None:
    acme = sign_up(company)
    do(company.database, "UPDATE tenure.accounts SET status = 'frozen' WHERE ref = 'acme'")
    a_delivered_termination(company, acme)
    do(company.database, "UPDATE tenure.terminations SET stage = 'purging', purge_began_at = now()")
    refused: list[str] = []

    def insert() -> None:
        with psycopg.connect(database_url) as connection:
            connection.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
            try:
                connection.execute("INSERT INTO tenure.accounts (ref, name, currency) VALUES ('acme', '', 'EUR')")
            except psycopg.Error as error:
                refused.append(error.sqlstate or "")

    with psycopg.connect(database_url) as purging:
        purging.execute("SELECT set_config('tenure.purging', id::text, true) FROM tenure.accounts")
        purging.execute("UPDATE tenure.accounts SET status = 'purged', ref = tenure.purged_ref(ref)")
        signing_up = threading.Thread(target=insert)
        signing_up.start()
        signing_up.join(0.3)
        assert signing_up.is_alive(), "it waits for what becomes of the ref"
        purging.commit()
    signing_up.join(deadline(10))
    assert refused == [{"READ COMMITTED": "23000", "REPEATABLE READ": "40001"}[isolation]]
