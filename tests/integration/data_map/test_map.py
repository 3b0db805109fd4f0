"""One account's rows, found in real tables (T5)."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.exc import DataError, ProgrammingError

from models.base.base import Base
from models.base.unit_of_work import Database
from models.data_map.map import (
    AccountKeys,
    Category,
    MappedTable,
    Path,
    belongs,
    own_map,
    relation,
    table_name,
    written_out,
)
from tests.support.rows.company import a_contact, an_account, an_entry

ANY_ID = UUID("01a00000-0000-7000-8000-000000000000")

SHOP = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.customer (id int PRIMARY KEY, code text UNIQUE NOT NULL);
    CREATE TABLE shop."Order%" (shop int, number int, customer int REFERENCES shop.customer, gift_for int,
                                PRIMARY KEY (shop, number));
    CREATE TABLE shop.line (id int PRIMARY KEY, shop int, number int, customer int,
                            FOREIGN KEY (shop, number) REFERENCES shop."Order%");
    INSERT INTO shop.customer VALUES (1, 'a%b'), (2, 'o''neil'), (3, 'a%');
    INSERT INTO shop."Order%" VALUES (1, 1, 1, NULL), (1, 2, 2, 1), (2, 1, 3, NULL), (2, 2, NULL, NULL);
    INSERT INTO shop.line VALUES (10, 1, 1, 9), (11, 1, 1, 9), (12, 1, 2, 9), (13, 2, 1, 9), (14, 2, 2, 9),
                                 (15, NULL, NULL, 9);
"""
ORDER = "customer = shop.customer.id > code = account.ref"
GIFT = "gift_for = shop.customer.id > code = account.ref"
LINE = f'(shop, number) = shop."Order%".(shop, number) > {ORDER}'


def mapped(name: str, *paths: str) -> MappedTable:
    return MappedTable(
        table_name(name), Category.SUBMITTED, tuple(map(Path.parse, paths)), key=("id",), exported=("id",), left_out={}
    )


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (mapped("shop.customer", "code = account.ref"), {"a%b": 1, "o'neil": 1, "a%": 1, "x' OR true --": 0}),
        (mapped('shop."Order%"', ORDER), {"a%b": 1, "o'neil": 1, "a%": 1}),
        (mapped('shop."Order%"', ORDER, GIFT), {"a%b": 2, "o'neil": 1, "a%": 1}),
        (mapped("shop.line", LINE), {"a%b": 2, "o'neil": 1, "a%": 1, "nobody": 0}),
    ],
)
def test_a_path_finds_the_rows_of_one_account(database: Database, table: MappedTable, expected: dict[str, int]) -> None:
    with database.connection() as connection:
        connection.exec_driver_sql(SHOP.replace("%", "%%"))
        for ref, rows in expected.items():
            account = AccountKeys(ANY_ID, ref)
            found = select(func.count()).select_from(relation(table.name)).where(belongs(table, account))
            assert connection.execute(found).scalar_one() == rows, ref
            # As COPY takes it, with the value in the text.
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            with driver.cursor().copy(f"COPY ({written_out(found)}) TO STDOUT") as copied:
                assert [row[0] for row in copied.rows()] == [str(rows)], ref


def test_a_step_over_a_column_that_is_not_there_fails_and_never_takes_the_outer_tables(database: Database) -> None:
    # shop.line has a column `customer`; the table in between has none of that name in this path.
    wrong = mapped("shop.line", "customer = shop.customer.customer > code = account.ref")
    with database.connection() as connection:
        connection.exec_driver_sql(SHOP.replace("%", "%%"))
        with pytest.raises(ProgrammingError, match=r"hop_1\.customer does not exist"), connection.begin_nested():
            connection.execute(delete(relation(wrong.name)).where(belongs(wrong, AccountKeys(ANY_ID, "a%b"))))


def test_a_key_of_the_wrong_type_is_an_error_and_not_an_empty_result(database: Database) -> None:
    by_number = mapped("shop.customer", "id = account.ref")
    with database.connection() as connection:
        connection.exec_driver_sql(SHOP.replace("%", "%%"))
        count = select(func.count()).select_from(relation(by_number.name))
        assert connection.execute(count.where(belongs(by_number, AccountKeys(ANY_ID, "2")))).scalar_one() == 1
        with pytest.raises(DataError), connection.begin_nested():
            connection.execute(count.where(belongs(by_number, AccountKeys(ANY_ID, "acme"))))


def test_tenures_own_rows_are_found_for_their_account_alone(database: Database) -> None:
    with database.transaction() as session:
        one, other = an_account(session), an_account(session)
        for account, entries in ((one, 3), (other, 2)):
            a_contact(session, account)
            for _ in range(entries):
                an_entry(session, account, 100)
    counts: dict[str, int] = {}
    with database.connection() as connection:
        for table in own_map(Base).tables:
            found = select(func.count()).select_from(relation(table.name))
            rows = connection.execute(found.where(belongs(table, AccountKeys(one.id, one.ref)))).scalar_one()
            counts[table.name.table] = rows
    assert {name: rows for name, rows in counts.items() if rows} == {
        "accounts": 1,
        "contacts": 1,
        "ledger_entries": 3,
    }
