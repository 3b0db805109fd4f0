"""Tables of every shape are purged of one account's rows: circles, trees, odd names, no key (T11, T19)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.data_map.map import (
    MAIN,
    AccountKeys,
    Category,
    DataMap,
    Delete,
    MappedTable,
    Path,
    Redact,
    Retention,
    table_name,
)
from models.termination.termination import TerminationStep
from models.work import row as work
from tasks.engine.drain import drain
from tasks.ports.context import Estate, Ports
from tasks.purge import tables
from tasks.purge.retentions import END
from tasks.termination.advancing import PURGE
from tests.conftest import drop
from tests.support.rows.company import an_account
from tests.support.rows.purging import a_delivered_termination, counts, everything, failure, passes
from tests.support.rows.terminating import stage

#: Customers 1 and 2; each with circles, trees and chains of its own.
SHOP = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.customer (id int PRIMARY KEY, code text UNIQUE NOT NULL, favourite int);
    CREATE TABLE shop.orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES shop.customer,
                              replaces int REFERENCES shop.orders);
    ALTER TABLE shop.customer ADD FOREIGN KEY (favourite) REFERENCES shop.orders;
    CREATE TABLE shop.line (order_id int NOT NULL REFERENCES shop.orders, "n:%" int, PRIMARY KEY (order_id, "n:%"));
    CREATE TABLE shop.folder (id uuid PRIMARY KEY, owner text NOT NULL, inside uuid NOT NULL REFERENCES shop.folder
                              ON DELETE RESTRICT);
    CREATE TABLE shop."Odd ""%s"" name" (owner text, said text);
    CREATE TABLE shop.remark (id bigserial PRIMARY KEY, owner text, author text NOT NULL, words text);
    CREATE INDEX ON shop.orders (customer); CREATE INDEX ON shop.orders (replaces);
    CREATE INDEX ON shop.customer (favourite);
    CREATE INDEX ON shop.folder (owner); CREATE INDEX ON shop.folder (inside);
    CREATE INDEX ON shop."Odd ""%s"" name" (owner); CREATE INDEX ON shop.remark (owner);
"""
FILL = """
    INSERT INTO shop.customer SELECT c, 'c' || c FROM generate_series(1, 2) AS c;
    INSERT INTO shop.orders SELECT c * 1000 + n, c, CASE WHEN n > 1 THEN c * 1000 + n - 1 END
      FROM generate_series(1, 2) AS c, generate_series(1, 40) AS n;
    -- A younger one that an older one refers to.
    UPDATE shop.orders SET replaces = customer * 1000 + 40 WHERE id % 1000 = 1;
    UPDATE shop.customer SET favourite = id * 1000 + 7;
    INSERT INTO shop.line SELECT id, n FROM shop.orders, generate_series(1, 3) AS n;
    WITH roots AS (SELECT c, gen_random_uuid() AS id FROM generate_series(1, 2) AS c),
         planted AS (INSERT INTO shop.folder SELECT id, 'c' || c, id FROM roots)
    INSERT INTO shop.folder SELECT gen_random_uuid(), 'c' || c, id FROM roots, generate_series(1, 30);
    INSERT INTO shop."Odd ""%s"" name" SELECT 'c' || c, 'x' FROM generate_series(1, 2) AS c, generate_series(1, 9);
    INSERT INTO shop.remark (owner, author, words) SELECT 'c' || c, 'Ann', 'secret' || n
      FROM generate_series(1, 2) AS c, generate_series(1, 25) AS n;
"""
OWNER = "owner = account.ref"
ORDER = "customer = shop.customer.id > code = account.ref"


def mapped(name: str, columns: str, *paths: str, purge: Delete | Redact = Delete(), **more: Any) -> MappedTable:  # noqa: B008
    return MappedTable(
        table_name(name),
        Category.SUBMITTED,
        tuple(map(Path.parse, paths)),
        key=more.pop("key", ()),
        exported=tuple(columns.split()),
        left_out={},
        purge=purge,
        **more,
    )


#: In the wrong order, as somebody may have written it.
TABLES = (
    mapped("shop.line", "order_id n:%", f"order_id = shop.orders.id > {ORDER}"),
    mapped("shop.customer", "id code favourite", "code = account.ref"),
    mapped("shop.orders", "id customer replaces", ORDER),
    mapped("shop.folder", "id owner inside", OWNER),
    mapped('shop."Odd ""%s"" name"', "owner said", OWNER),
    mapped("shop.remark", "id owner author words", OWNER, purge=Redact({"author": "''", "words": "NULL"})),
)
WHOLE = {
    "shop.customer": 1,
    "shop.folder": 31,
    "shop.line": 120,
    'shop."Odd ""%s"" name"': 9,
    "shop.orders": 40,
    "shop.remark": 25,
}


@dataclass(frozen=True)
class Shopkeeper:
    """A company with a shop, and its customer c1, who leaves."""

    #: Where the shop's tables lie.
    place: str
    database: Database
    ports: Ports
    leaving: AccountKeys
    #: Runs SQL as the shop would.
    shop: Callable[..., psycopg.Cursor[Any]]

    def left(self) -> dict[str, int]:
        found = counts(self.ports, self.leaving)[self.place]
        return {name: rows for name, rows in found.items() if name.startswith("shop")}


@pytest.fixture(params=[MAIN, "shop"])
def place(request: pytest.FixtureRequest) -> str:
    """Beside Tenure's own tables, or in a database of its own."""
    return str(request.param)


@pytest.fixture
def shop_url(place: str, database_url: str, template: str) -> Iterator[str]:
    if place == MAIN:
        yield database_url
        return
    name = f"shop_{uuid4().hex}"
    with psycopg.connect(template, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    yield template.rpartition("/")[0] + f"/{name}"
    with psycopg.connect(template, autocommit=True) as connection:
        drop(connection, name)


@pytest.fixture
def keeper(place: str, shop_url: str, ports: Ports) -> Iterator[Shopkeeper]:
    database = Database(shop_url)
    databases = {} if place == MAIN else {place: database}
    company = DataMap(tuple(replace(each, database=place) for each in TABLES))
    with ports.database.transaction() as session:
        an_account(session, ref="c2")
        leaving = AccountKeys(an_account(session, ref="c1", status="frozen").id, "c1")
    with psycopg.connect(shop_url, autocommit=True) as connection:
        connection.execute(SHOP)
        connection.execute(FILL)
        mapped_ports = replace(ports, company=lambda: Estate(company, databases))
        yield Shopkeeper(place, ports.database, mapped_ports, leaving, connection.execute)
    database.engine.dispose()


@pytest.mark.parametrize("batch", [7, 10_000])
def test_circles_trees_and_odd_names(keeper: Shopkeeper, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH", batch)
    others = everything(keeper.ports, keeper.leaving)
    assert keeper.left() == WHOLE
    a_delivered_termination(keeper.ports, keeper.leaving)
    assert drain(PURGE, keeper.ports) == {"steps": 1}, failure(keeper.database)
    assert keeper.left() == {name: rows if name == "shop.remark" else 0 for name, rows in WHOLE.items()}
    assert keeper.shop("SELECT DISTINCT author, words FROM shop.remark WHERE owner = 'c1'").fetchall() == [("", None)]
    assert everything(keeper.ports, keeper.leaving) == others
    seen = {row.store: (row.method, row.removed) for row in passes(keeper.database) if row.store in WHOLE}
    assert seen == {name: ("redacted" if name == "shop.remark" else "deleted", rows) for name, rows in WHOLE.items()}


def refused(keeper: Shopkeeper, estate: Ports) -> str:
    """Why the purge did not begin; nothing went, and it can still be cancelled."""
    before = everything(estate, AccountKeys(uuid4(), "nobody"))
    assert drain(PURGE, estate) == {"steps": 0, "failed": 1}
    assert everything(estate, AccountKeys(uuid4(), "nobody")) == before
    assert passes(keeper.database) == []
    assert stage(keeper.database) == ("failed", "delivered")
    return failure(keeper.database)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("CREATE TABLE shop.rogue (id int)", "shop.rogue (id) is not in the data map"),
        ("ALTER TABLE shop.remark ADD rogue text", "shop.remark has the column rogue"),
        ("INSERT INTO shop.remark (owner, author) VALUES ('c1', 'x')", "shop.remark holds 26 rows and the record 25"),
        ("DELETE FROM shop.line WHERE order_id = 1001", "shop.line holds 117 rows and the record 120"),
        ("UPDATE shop.customer SET favourite = 1007 WHERE id = 2", "rows of shop.customer that are not this account's"),
        ("UPDATE shop.orders SET replaces = 1003 WHERE id = 2005", "rows of shop.orders that are not this account's"),
    ],
)
def test_it_does_not_begin_where_something_is_unknown(keeper: Shopkeeper, change: str, said: str) -> None:
    a_delivered_termination(keeper.ports, keeper.leaving)
    keeper.shop(change)
    assert said in refused(keeper, keeper.ports)


def test_a_table_that_stays_holds_its_parents(keeper: Shopkeeper) -> None:
    keeper.shop("CREATE TABLE shop.bill (id int PRIMARY KEY, customer int NOT NULL REFERENCES shop.customer)")
    bill = mapped("shop.bill", "id customer", ORDER, purge=Redact({"id": "id"}), database=keeper.place)
    company = keeper.ports.company()
    torn = replace(keeper.ports, company=lambda: Estate(company.map + DataMap((bill,)), company.databases))
    a_delivered_termination(torn, keeper.leaving)
    assert "rows of shop.bill stay when an account is purged" in refused(keeper, torn)


def test_what_came_past_the_fence_is_not_deleted_unseen(keeper: Shopkeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that comes in after the count stops the purge; when it is gone, the purge goes on to its end (T11)."""
    monkeypatch.setattr(tables, "BATCH", 5)
    keeper.shop("""
        CREATE FUNCTION shop.echo() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO shop.folder SELECT id, 'c1', id FROM (SELECT lpad('1', 32, '0')::uuid) AS made (id)
            ON CONFLICT DO NOTHING;
            RETURN NULL;
        END $$;
        CREATE TRIGGER echo AFTER UPDATE ON shop.remark FOR EACH STATEMENT EXECUTE FUNCTION shop.echo()""")
    a_delivered_termination(keeper.ports, keeper.leaving)
    assert drain(PURGE, keeper.ports) == {"steps": 0, "failed": 1}
    assert "shop.folder has more rows of the account than the 31" in failure(keeper.database)
    assert stage(keeper.database) == ("failed", "purging")
    keeper.shop("DROP TRIGGER echo ON shop.remark; DELETE FROM shop.folder WHERE id = lpad('1', 32, '0')::uuid")
    with keeper.database.connection() as connection:
        (step,) = connection.execute(text("SELECT id FROM tenure.termination_steps WHERE step = 'purge'")).scalars()
        work.retry(connection, TerminationStep, [step])
    assert drain(PURGE, keeper.ports) == {"steps": 1}, failure(keeper.database)
    assert {row.store: row.removed for row in passes(keeper.database) if row.store in WHOLE} == WHOLE


def test_tables_of_few_rows_go_in_one_transaction(keeper: Shopkeeper) -> None:
    a_delivered_termination(keeper.ports, keeper.leaving)
    assert drain(PURGE, keeper.ports) == {"steps": 1}, failure(keeper.database)
    with keeper.database.connection() as connection:
        written = connection.execute(
            text("SELECT count(*), count(DISTINCT xmin::text) FROM tenure.purge_stores WHERE kind = 'table'")
        ).one()
    # The circle, what is redacted and the account itself go alone; in another database each table does.
    assert written[1] <= written[0] / 2


def test_a_table_that_cannot_go_with_the_others_is_named(keeper: Shopkeeper) -> None:
    """One of several that would go together is refused: those before it go, and the failure is said of this one."""
    keeper.shop("""
        CREATE FUNCTION shop.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation'; END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON shop.folder FOR EACH ROW EXECUTE FUNCTION shop.refuse()""")
    a_delivered_termination(keeper.ports, keeper.leaving)
    assert drain(PURGE, keeper.ports) == {"steps": 0, "failed": 1}
    assert "PostgreSQL refuses to purge shop.folder (SQLSTATE 23514)" in failure(keeper.database)
    assert keeper.left()["shop.folder"] == WHOLE["shop.folder"]
    order = [each.store for each in passes(keeper.database) if each.kind == "table"]
    done = [each.store for each in passes(keeper.database) if each.kind == "table" and each.done_at]
    assert done == order[: order.index("shop.folder")]
    keeper.shop("DROP TRIGGER refuse ON shop.folder")
    with keeper.database.connection() as connection:
        (step,) = connection.execute(text("SELECT id FROM tenure.termination_steps WHERE step = 'purge'")).scalars()
        work.retry(connection, TerminationStep, [step])
    assert drain(PURGE, keeper.ports) == {"steps": 1}, failure(keeper.database)
    assert {row.store: row.removed for row in passes(keeper.database) if row.store in WHOLE} == WHOLE


def test_rows_that_cannot_be_deleted_end_the_purge(keeper: Shopkeeper) -> None:
    keeper.shop("""
        CREATE FUNCTION shop.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER keep BEFORE DELETE ON shop.folder FOR EACH ROW EXECUTE FUNCTION shop.keep()""")
    a_delivered_termination(keeper.ports, keeper.leaving)
    assert drain(PURGE, keeper.ports) == {"steps": 0, "failed": 1}
    assert "Rows of shop.folder are found and cannot be deleted" in failure(keeper.database)


@pytest.mark.timeout(60)
def test_rows_along_an_index_that_cannot_be_deleted_end_the_purge_too(keeper: Shopkeeper) -> None:
    """What leads on from batch to batch comes to the end of the table again and again, and must not go on for ever."""
    keeper.shop("""
        CREATE TABLE shop.note (owner text, id int, PRIMARY KEY (owner, id));
        INSERT INTO shop.note SELECT 'c' || c, n FROM generate_series(1, 2) AS c, generate_series(1, 5) AS n;
        CREATE FUNCTION shop.keep() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RETURN CASE WHEN OLD.id > 3 THEN NULL ELSE OLD END; END $$;
        CREATE TRIGGER keep BEFORE DELETE ON shop.note FOR EACH ROW EXECUTE FUNCTION shop.keep()""")
    company = keeper.ports.company()
    note = DataMap((mapped("shop.note", "owner id", OWNER, database=keeper.place),))
    ports = replace(keeper.ports, company=lambda: Estate(company.map + note, company.databases))
    a_delivered_termination(ports, keeper.leaving)
    assert drain(PURGE, ports) == {"steps": 0, "failed": 1}
    assert "Rows of shop.note are found and cannot be deleted" in failure(keeper.database)
    keeper.shop("DROP TRIGGER keep ON shop.note")
    with keeper.database.connection() as connection:
        (step,) = connection.execute(text("SELECT id FROM tenure.termination_steps WHERE step = 'purge'")).scalars()
        work.retry(connection, TerminationStep, [step])
    assert drain(PURGE, ports) == {"steps": 1}, failure(keeper.database)
    assert {row.store: row.removed for row in passes(keeper.database)}["shop.note"] == 5


def test_a_database_that_is_away_stops_the_purge_before_it_begins(keeper: Shopkeeper) -> None:
    a_delivered_termination(keeper.ports, keeper.leaving)
    nowhere = Database("postgresql://nobody@127.0.0.1:1/nothing", connect_timeout=1)
    company = keeper.ports.company()
    other = replace(TABLES[3], database="elsewhere")
    away = replace(
        keeper.ports,
        company=lambda: Estate(company.map + DataMap((other,)), company.databases | {"elsewhere": nowhere}),
    )
    assert drain(PURGE, away) == {"steps": 0, "handed_back": 1}
    assert "The database elsewhere does not answer" in failure(keeper.database)
    assert passes(keeper.database) == []
    assert stage(keeper.database) == ("delivered", None)


BILLS = """
    CREATE TABLE shop.bill (id int PRIMARY KEY, owner text NOT NULL, dated date, address text, replaces int
                            REFERENCES shop.bill);
    CREATE TABLE shop.bill_line (bill int REFERENCES shop.bill, n int, PRIMARY KEY (bill, n));
    CREATE INDEX ON shop.bill (owner); CREATE INDEX ON shop.bill (replaces);
    INSERT INTO shop.bill SELECT c * 100 + n, 'c' || c, now()::date - n * interval '1 year', 'Street ' || n
      FROM generate_series(1, 2) AS c, generate_series(0, 9) AS n;
    INSERT INTO shop.bill_line SELECT id, n FROM shop.bill, generate_series(1, 3) AS n"""


def retained(keeper: Shopkeeper, *, lines: bool = True) -> Ports:
    """A law keeps bills for seven years from their date, and their lines as long."""
    law = Retention("§ 132 BAO", "P7Y", "dated", {"address": "NULL"})
    long = Retention("§ 132 BAO", "P7Y") if lines else None
    bills = DataMap((
        mapped("shop.bill", "id owner dated address replaces", OWNER, retention=law, database=keeper.place),
        mapped("shop.bill_line", "bill n", f"bill = shop.bill.id > {OWNER}", retention=long, database=keeper.place),
    ))  # fmt: skip
    keeper.shop(BILLS)
    company = keeper.ports.company()
    return replace(keeper.ports, company=lambda: Estate(company.map + bills, company.databases))


def later(keeper: Shopkeeper, years: int) -> None:
    """So many years go by."""
    keeper.shop(f"UPDATE shop.bill SET dated = dated - interval '{years} years'")
    with keeper.database.connection() as connection:
        connection.execute(
            text("UPDATE tenure.retentions SET retained_at = retained_at - :gone, due_at = now()"),
            {"gone": timedelta(days=366 * years)},
        )


def bills(keeper: Shopkeeper, owner: str = "c1") -> tuple[int, int]:
    lines = "SELECT count(*) FROM shop.bill_line JOIN shop.bill ON id = bill WHERE owner = %s"
    counted = [keeper.shop("SELECT count(*) FROM shop.bill WHERE owner = %s", (owner,)), keeper.shop(lines, (owner,))]
    bill, line = [int(each.fetchone()[0]) for each in counted]  # type: ignore[index]
    return bill, line


def test_what_a_law_keeps_stays_and_ends_by_itself(keeper: Shopkeeper) -> None:
    """T8: redacted at once, deleted row by row when its own time is over, and certified."""
    estate = retained(keeper)
    a_delivered_termination(estate, keeper.leaving)
    assert drain(PURGE, estate) == {"steps": 1}, failure(keeper.database)
    assert bills(keeper) == (10, 30)
    assert keeper.shop("SELECT count(address) FROM shop.bill WHERE owner = 'c1'").fetchone() == (0,)
    stores = {row.store: row for row in passes(keeper.database)}
    assert [(stores[f"shop.{name}"].method, stores[f"shop.{name}"].kept) for name in ("bill", "bill_line")] == [
        ("retained", 10), ("retained", 30),
    ]  # fmt: skip

    # Three bills are older than seven years; their lines count from the purge, and hold them.
    drain(END, estate)
    assert bills(keeper) == (10, 30)
    later(keeper, 8)
    while drain(END, estate)["ended"]:
        later(keeper, 0)
    assert bills(keeper) == (0, 0)
    assert bills(keeper, "c2") == (10, 30)
    with keeper.database.connection() as connection:
        kept = connection.execute(text("SELECT state, account_ref, rows, removed FROM tenure.retentions ORDER BY rows"))
        assert [tuple(row) for row in kept] == [("done", None, 10, 10), ("done", None, 30, 30)]
        certified = connection.execute(text("SELECT count(*) FROM tenure.certificates WHERE kind = 'retention'"))
        assert certified.scalar_one() == 2


def test_what_is_kept_must_be_found_again(keeper: Shopkeeper) -> None:
    estate = retained(keeper, lines=False)
    company = estate.company()
    kept = Retention("§ 132 BAO", "P7Y")
    tables_of = [each for each in company.map.tables if each.name.table == "line"]
    law = DataMap((replace(tables_of[0], retention=kept),))
    others = DataMap(tuple(each for each in company.map.tables if each.name.table != "line"))
    torn = replace(estate, company=lambda: Estate(others + law, company.databases))
    a_delivered_termination(torn, keeper.leaving)
    assert "rows of shop.line stay when an account is purged" in refused(keeper, torn)
