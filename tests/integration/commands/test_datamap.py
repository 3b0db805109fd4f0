"""`tenure datamap`: what is found, what does not pass, and what is refused (T6, T7, T9)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import psycopg
import pytest
from sqlalchemy import Connection, text

from models.base.base import Base
from models.base.unit_of_work import Database
from models.data_map import check, discovery, fence, live_catalogue
from models.data_map import file as data_map_file
from models.data_map.check import Finding
from models.data_map.map import AccountKeys, DataMap, Name, belongs, own_map, relation
from tasks.failures import Permanent
from tests.integration.conftest import Run
from tests.support.rows.company import an_account
from workers.settings.settings import Settings
from workers.wiring import bootstrap

CHINOOK = Path(__file__).parents[4] / "shared" / "data" / "chinook.sql"
CATALOGUE = {"album", "artist", "employee", "genre", "media_type", "playlist", "playlist_track", "track"}


def compared(database: Database, company: DataMap | None = None) -> list[Finding]:
    with database.connection() as connection:
        whole = own_map(Base) + (company or DataMap(()))
        return check.compare(whole, {"main": live_catalogue.read(connection)})


def test_tenures_own_map_and_the_migrated_database_agree(database: Database) -> None:
    """T7: in every test run. What it says of a new table or column is what is to be written."""
    assert [str(each) for each in compared(database)] == []


ROGUES: list[tuple[str, str]] = [
    ("CREATE TABLE tenure.rogue (id int PRIMARY KEY)", "tenure.rogue lies in Tenure's own schema and is in no model"),
    ("CREATE TABLE public.rogue (id int, note text)", "public.rogue (id, note) is not in the data map"),
    ("CREATE MATERIALIZED VIEW public.v AS SELECT 1 AS a", "the materialized view public.v (a) is not in the data map"),
    ("ALTER TABLE tenure.contacts ADD nickname text", "tenure.contacts has the column nickname (text), of which the"),
    ("ALTER TABLE tenure.contacts DROP name", "tenure.contacts has no column name, which the data map names"),
    ("DROP TABLE tenure.submitted_records", "tenure.submitted_records is in the data map and not in the database"),
    (
        "ALTER TABLE tenure.submitted_records ALTER kind TYPE money USING NULL",
        "kind of tenure.submitted_records is of the type money, whose text does not say what it holds",
    ),
    (
        "ALTER TABLE tenure.submitted_records ALTER kind TYPE oid[] USING NULL",
        "kind of tenure.submitted_records is of the type oid[], whose text does not say what it holds",
    ),
    (
        "ALTER TABLE tenure.submitted_records ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "row-level security hides rows of tenure.submitted_records",
    ),
]
SLOW: list[tuple[str, str]] = [
    (
        "ALTER TABLE tenure.contacts DROP CONSTRAINT uq_contacts_account_id_email",
        "tenure.contacts has no index on account_id, by which the rows of tenure.contacts are found",
    ),
    (
        "DROP INDEX tenure.ix_email_messages_contact_id",
        "tenure.email_messages has no index on its foreign key contact_id: for each row of tenure.contacts that a "
        "purge deletes, PostgreSQL reads the whole of tenure.email_messages, about 1,000 times slower",
    ),
    ("ALTER TABLE tenure.usage_events DROP CONSTRAINT pk_usage_events", "has no index on account_id"),
]


def test_a_rogue_table_and_column_do_not_pass(database: Database) -> None:
    """The meta-test of T7: each rogue by itself, undone after it."""
    for statement, said in [*ROGUES, *SLOW]:
        with database.engine.connect() as connection:
            # Triggers and views that depend on a column are no part of this.
            connection.execute(text(statement.replace("DROP name", "DROP name CASCADE").replace("records", "records")))
            live = live_catalogue.read(connection)
            found = check.compare(own_map(Base), {"main": live})
            connection.rollback()
        telling = [each for each in found if said in each.sentence]
        assert telling, (statement, [str(each) for each in found])
        assert all(each.stops for each in telling) is ((statement, said) in ROGUES), statement


@pytest.fixture
def chinook(database: Database) -> Database:
    with database.connection() as connection:
        cursor = connection.connection.cursor()
        cursor.execute("CREATE SCHEMA chinook; SET search_path = chinook")
        cursor.execute(CHINOOK.read_bytes())
        cursor.execute("RESET search_path")
    return database


def decided(proposal: str) -> str:
    """As somebody would edit it: what no key leads to is the catalogue, but for the employees."""
    tables, _, undecided = proposal.partition("# No foreign key")
    names = [line.strip().partition(",")[0] for line in undecided.splitlines() if line.strip().startswith('"')]
    names.remove('"chinook.employee"')
    return (
        f'{tables}\n[[shared]]\ntables = [{", ".join(names)}]\nreason = "the catalogue"\n'
        '[[ignored]]\ntables = ["chinook.employee"]\nreason = "the company\'s own staff"\n'
    )


def test_chinook_is_discovered_decided_checked_and_fenced(chinook: Database, tenure: Run, tmp_path: Path) -> None:
    """T6: invoices and their lines by foreign keys from the customer; the catalogue is listed for a decision."""
    file = tmp_path / "datamap.toml"
    proposed = tenure("datamap", "discover", "--customers", "chinook.customer")
    assert proposed.returncode == 0, proposed.stderr
    assert "3 tables belong to customers, 8 are to be decided" in proposed.stderr
    assert "looks personal" in next(line for line in proposed.stdout.splitlines() if "chinook.employee" in line)

    file.write_text(proposed.stdout)
    undecided = tenure("datamap", "check", "--map", str(file))
    assert (undecided.returncode, undecided.stdout) == (2, "")
    assert "chinook.album and 7 more are still undecided" in undecided.stderr

    file.write_text(decided(proposed.stdout))
    checked = tenure("datamap", "check", TENURE_DATAMAP=str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    again = tenure("datamap", "discover", "--customers", "chinook.customer", "--map", str(file))
    assert (again.returncode, again.stdout) == (0, "")
    assert "nothing to propose" in again.stderr
    assert tenure("datamap", "fence", "--map", str(file)).stdout.count("CREATE OR REPLACE TRIGGER") == 3 * 4
    assert "3 tables are fenced" in tenure("datamap", "fence", "--map", str(file), "--apply").stdout

    company = data_map_file.load(file).map
    assert [str(each.name) for each in company.tables] == [
        "chinook.customer",
        "chinook.invoice",
        "chinook.invoice_line",
    ]
    assert [str(path) for each in company.tables for path in each.paths] == [
        "customer_id = account.ref",
        "customer_id = account.ref",
        "invoice_id = chinook.invoice.invoice_id > customer_id = account.ref",
    ]
    assert {each.name.table for each in company.unmapped} == CATALOGUE
    # All and only the rows of one customer, and every column of them.
    with chinook.connection() as connection:
        account = AccountKeys(connection.execute(text("SELECT uuidv7()")).scalar_one(), "5")
        counts = [
            len(connection.execute(relation(each.name, *each.exported).select().where(belongs(each, account))).all())
            for each in company.tables
        ]
        expected = connection.execute(
            text("""
                SELECT 1, (SELECT count(*) FROM chinook.invoice WHERE customer_id = 5),
                       (SELECT count(*) FROM chinook.invoice_line JOIN chinook.invoice USING (invoice_id)
                         WHERE customer_id = 5)""")
        ).one()
        assert counts == list(expected)
        assert counts[2] > 30
        connection.execute(text("CREATE TABLE chinook.rogue (id int); ALTER TABLE chinook.invoice ADD note text"))
    unclassified = tenure("datamap", "check", "--map", str(file), "--json")
    assert unclassified.returncode == 1
    assert {each["table"]: each["stops"] for each in json.loads(unclassified.stdout)} == {
        "chinook.rogue": True,
        "chinook.invoice": True,
    }


def test_what_cannot_be_done_is_a_sentence(tenure: Run, tmp_path: Path) -> None:
    for arguments, environment, said in (
        (("discover", "--customers", "public.customer"), {}, "there is no table public.customer in the database"),
        (("discover", "--customers", "customer"), {}, '"customer" names no table: write schema.table'),
        (("discover", "--customers", "tenure.counters"), {}, "say which column holds the key that is ref"),
        (("discover", "--customers", "tenure.accounts", "--ref", "no"), {}, "tenure.accounts has no column no"),
        (("discover", "--customers", "a.b", "--database", "shop"), {}, 'no database "shop" in datamap.toml'),
        (("check",), {"TENURE_DATAMAP": str(tmp_path / "none.toml")}, "cannot be read: No such file"),
        (("fence",), {}, "maps no table of this database"),
    ):
        done = tenure("datamap", *arguments, **environment)
        assert said in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_tenures_bucket_is_not_named_as_one_of_the_companys(settings: Settings, tmp_path: Path) -> None:
    """By its name, prefixes that may stand in no other bucket than one's own would lie in it."""
    file = tmp_path / "datamap.toml"
    file.write_text(f'[[objects]]\nprefix = "{{account_ref}}/"\ncategory = "P2.1c"\nbucket = "{settings.s3_bucket}"\n')
    with pytest.raises(Permanent, match="which is Tenure's own: leave the name out"):
        bootstrap.company(msgspec.structs.replace(settings, datamap=str(file)))


SHOP = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.customer (id int PRIMARY KEY, code text UNIQUE NOT NULL, password_hash text, photo oid,
                                referred_by int REFERENCES shop.customer);
    CREATE TABLE shop.ticket (id int PRIMARY KEY, customer_id int NOT NULL REFERENCES shop.customer);
    CREATE TABLE shop.ordered (id int PRIMARY KEY, "Customer Code" text NOT NULL REFERENCES shop.customer (code));
    CREATE TABLE shop.comment (id int PRIMARY KEY, ticket_id int REFERENCES shop.ticket,
                               order_id int REFERENCES shop.ordered, parent_id int REFERENCES shop.comment,
                               author_id int REFERENCES shop.customer);
    CREATE TABLE shop.attachment (comment_id int REFERENCES shop.comment, n int, PRIMARY KEY (comment_id, n));
    CREATE TABLE shop.loose (customer_id int, email text);
    CREATE TABLE shop.campaign (id int PRIMARY KEY, best int REFERENCES shop.customer);
    CREATE TABLE shop.parted (id int, customer_id int NOT NULL REFERENCES shop.customer, at date, PRIMARY KEY (id, at))
        PARTITION BY RANGE (at);
    CREATE TABLE shop.parted_2019 PARTITION OF shop.parted FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
"""


def shop(connection: Connection, known: DataMap | None = None) -> discovery.Discovery:
    live = live_catalogue.read(connection)
    return discovery.discover(live, Name("shop", "customer"), "code", known=known)


def test_every_way_to_a_customer_is_found_shortest_first(database: Database) -> None:
    with database.connection() as connection:
        connection.execute(text(SHOP))
        found = shop(connection)
        toml = discovery.as_toml(found)
    paths = {each.name.table: [str(path) for path in each.paths] for each in found.proposed}
    customer = "shop.customer.id > code = account.ref"
    assert paths == {
        "customer": ["code = account.ref"],
        "ticket": [f"customer_id = {customer}"],
        "ordered": ['"Customer Code" = account.ref'],
        # Its author may be empty: then its ticket or its order says whose it is; that it answers another says nothing.
        "comment": [
            f"author_id = {customer}",
            'order_id = shop.ordered.id > "Customer Code" = account.ref',
            f"ticket_id = shop.ticket.id > customer_id = {customer}",
        ],
        "attachment": [f"comment_id = shop.comment.id > author_id = {customer}"],
        "campaign": [f"best = {customer}"],
        "parted": [f"customer_id = {customer}"],
    }
    order = [each.name.table for each in found.proposed]
    assert order.index("customer") < order.index("ticket") < order.index("comment") < order.index("attachment")
    assert [each.name.table for each in found.undecided] == ["loose"]
    assert "# looks personal: customer_id, email" in toml
    assert set(found.proposed[0].left_out) == {"password_hash", "photo"}
    # What was printed is what is read, but for what is to be decided.
    tables = toml.partition("# No foreign key")[0]
    assert data_map_file.parse(tables).map.tables == tuple(found.proposed)


def test_slow_and_dangling_foreign_keys_are_found(database: Database) -> None:
    with database.connection() as connection:
        connection.execute(text(SHOP))
        toml = discovery.as_toml(shop(connection)).partition("# No foreign key")[0]
    campaign = next(block for block in toml.split("[[table]]") if "shop.campaign" in block)
    toml = toml.replace(f"[[table]]{campaign}", "")
    toml += '\n[[shared]]\ntables = ["shop.campaign", "shop.loose"]\nreason = "marketing"\n'
    found = [str(each) for each in compared(database, data_map_file.parse(toml).map)]
    assert any(
        "shop.campaign is under [[shared]] in the data map, yet its column best refers" in each for each in found
    )
    for slow in (
        "shop.ticket has no index on its foreign key customer_id",
        "shop.ordered has no index on its foreign key Customer Code",
        "shop.parted has no index on its foreign key customer_id",
        "shop.comment has no index on author_id, by which the rows of shop.attachment are found",
    ):
        assert any(slow in each for each in found), (slow, found)
    assert any("Run CREATE INDEX CONCURRENTLY ON shop.ticket (customer_id)" in each for each in found)
    # As they say, and then they are silent.
    with database.connection() as connection:
        connection.execute(
            text("""
                CREATE INDEX ON shop.ticket (customer_id); CREATE INDEX ON shop.parted (customer_id);
                CREATE INDEX ON shop.ordered ("Customer Code"); CREATE INDEX ON shop.campaign (best);
                CREATE INDEX ON shop.comment (author_id); CREATE INDEX ON shop.comment (ticket_id);
                CREATE INDEX ON shop.comment (order_id) WHERE order_id IS NOT NULL;
                CREATE INDEX ON shop.comment (parent_id); CREATE INDEX ON shop.customer (referred_by);
                ALTER TABLE shop.campaign DROP CONSTRAINT campaign_best_fkey""")
        )
    assert [str(each) for each in compared(database, data_map_file.parse(toml).map)] == []


def test_a_path_over_what_is_not_there_stops_everything(database: Database) -> None:
    with database.connection() as connection:
        connection.execute(text(SHOP))
    for path, said in (
        ("owner_id = shop.customer.id > code = account.ref", "names the column owner_id, which shop.ticket has not"),
        ("customer_id = shop.client.id > code = account.ref", "leads over shop.client, which is not in the database"),
        ("customer_id = shop.customer.nr > code = account.ref", "names the column nr, which shop.customer has not"),
        ("customer_id = shop.customer.id > ref = account.ref", "names the column ref, which shop.customer has not"),
    ):
        entry = (
            f'[[table]]\nname = "shop.ticket"\ncategory = "P2.1c"\nexported = ["id", "customer_id"]\npaths = ["{path}"]'
        )
        found = compared(database, data_map_file.parse(entry).map)
        assert any(said in each.sentence and each.stops for each in found), (path, [str(each) for each in found])


def test_another_database_is_checked_as_well(database: Database, template: str, tenure: Run, tmp_path: Path) -> None:
    address = template.rpartition("/")[0] + "/other_shop"
    with psycopg.connect(template, autocommit=True) as connection:
        connection.execute("CREATE DATABASE other_shop")
    try:
        with psycopg.connect(address) as connection:
            connection.execute("CREATE TABLE public.customer (id int PRIMARY KEY); CREATE TABLE public.rogue (id int)")
        file = tmp_path / "datamap.toml"
        file.write_text('[databases.shop]\naddress_from = "SHOP_URL"\n')
        shown = tenure(
            "datamap",
            "discover",
            "--customers",
            "public.customer",
            "--database",
            "shop",
            "--map",
            str(file),
            SHOP_URL=address,
        )
        assert shown.returncode == 0, shown.stderr
        with file.open("a") as opened:
            opened.write("\n" + shown.stdout.partition("# No foreign key")[0])
        checked = tenure("datamap", "check", "--map", str(file), SHOP_URL=address)
        assert checked.returncode == 1
        assert "[shop] public.rogue (id) is not in the data map" in checked.stdout
        for wrong, said in (
            ({}, 'SHOP_URL, which names the database "shop", is not set'),
            ({"SHOP_URL": "nonsense"}, 'the database "shop" (SHOP_URL) has no address of PostgreSQL'),
            ({"SHOP_URL": "postgresql://127.0.0.1:1/x"}, 'the database "shop" (SHOP_URL) cannot be used'),
        ):
            done = tenure("datamap", "check", "--map", str(file), **wrong)
            assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
    finally:
        with psycopg.connect(template, autocommit=True) as connection:
            connection.execute("DROP DATABASE other_shop WITH (FORCE)")


@pytest.fixture
def fenced(database: Database) -> Database:
    """The shop with two customers of Tenure's and one that Tenure does not know, and its fence."""
    with database.transaction() as session:
        an_account(session, ref="acme")
        an_account(session, ref="other")
    with database.connection() as connection:
        connection.execute(text(SHOP))
        connection.execute(text("INSERT INTO shop.customer VALUES (1, 'acme'), (2, 'other'), (3, 'walk-in')"))
        connection.execute(text("INSERT INTO shop.ticket SELECT id * 10, id FROM shop.customer"))
        company = data_map_file.parse(discovery.as_toml(shop(connection)).partition("# No foreign key")[0])
        for _ in range(2):
            for statement in fence.statements(company.map):
                connection.connection.cursor().execute(statement.encode())
    return database


def test_names_that_are_words_of_sql_are_fenced_and_what_is_to_be_run_runs(database: Database) -> None:
    with database.transaction() as session:
        an_account(session, ref="acme")
    with database.connection() as connection:
        connection.exec_driver_sql("""
            CREATE SCHEMA "order";
            CREATE TABLE "order"."user" (id int PRIMARY KEY, "select" text);
            CREATE TABLE "order"."Odd ""one's"" table" (id int PRIMARY KEY, "user" int REFERENCES "order"."user");
        """)
        live = live_catalogue.read(connection)
        found = discovery.discover(live, Name("order", "user"), "select")
        company = data_map_file.parse(discovery.as_toml(found).partition("# No foreign key")[0]).map
        for statement in fence.statements(company):
            connection.exec_driver_sql(statement)
        findings = check.compare(company, {"main": live})
        to_run = {each.sentence.partition("Run ")[2] for each in findings} - {""}
        assert len(to_run) == 2
        for statement in to_run:
            connection.exec_driver_sql(statement.replace("CONCURRENTLY ", ""))
        connection.exec_driver_sql("""INSERT INTO "order"."user" VALUES (1, 'acme')""")
        freeze(connection)
        for statement in (
            """INSERT INTO "order"."user" VALUES (2, 'acme')""",
            """INSERT INTO "order"."Odd ""one's"" table" VALUES (1, 1)""",
        ):
            with pytest.raises(Exception, match="nothing is written for it any more"), connection.begin_nested():
                connection.exec_driver_sql(statement)


def freeze(connection: Connection, status: str = "frozen") -> None:
    connection.execute(text("SELECT FROM tenure.accounts WHERE ref = 'acme' FOR UPDATE"))
    connection.execute(text("UPDATE tenure.accounts SET status = :status WHERE ref = 'acme'"), {"status": status})


def test_what_is_written_for_a_frozen_or_purged_account_is_refused(fenced: Database) -> None:
    def purge(connection: Connection) -> None:
        connection.execute(
            text("UPDATE tenure.accounts SET status = 'purged', ref = tenure.purged_ref(ref) WHERE ref = 'acme'")
        )

    refused = (
        "INSERT INTO shop.ticket VALUES (11, 1)",
        "INSERT INTO shop.ticket VALUES (12, 2), (13, 1)",
        "INSERT INTO shop.comment (id, ticket_id) VALUES (1, 10)",
        "UPDATE shop.ticket SET id = 14 WHERE customer_id = 1",
        "UPDATE shop.ticket SET customer_id = 1 WHERE customer_id = 2",
        "UPDATE shop.ticket SET customer_id = 2 WHERE customer_id = 1",
        "UPDATE shop.customer SET code = 'free' WHERE id = 1",
        "DELETE FROM shop.ticket WHERE customer_id = 1",
        """INSERT INTO shop.ordered VALUES (1, 'acme')""",
    )
    passed = (
        "INSERT INTO shop.ticket VALUES (21, 2), (22, 3)",
        "UPDATE shop.ticket SET id = id + 100 WHERE customer_id > 1",
        "DELETE FROM shop.ticket WHERE customer_id = 99",
        "INSERT INTO shop.comment (id) VALUES (2)",
    )
    freezings: tuple[Callable[[Connection], None], ...] = (freeze, purge)
    for freezing in freezings:
        with fenced.engine.connect() as connection:
            for statement in refused:
                with connection.begin_nested() as savepoint:
                    connection.execute(text(statement))
                    savepoint.rollback()
            freezing(connection)
            for statement in refused:
                with (
                    pytest.raises(Exception, match="nothing is written for it any more") as said,
                    connection.begin_nested(),
                ):
                    connection.execute(text(statement))
                assert "acme" not in str(said.value).partition("CONTEXT")[0]
            for statement in passed:
                connection.execute(text(statement))
            # The purge itself says whom it purges.
            connection.execute(
                text(
                    "SELECT set_config('tenure.purging', id::text, true) FROM tenure.accounts WHERE status <> 'active'"
                )
            )
            assert connection.execute(text("DELETE FROM shop.ticket WHERE customer_id = 1")).rowcount == 1
            connection.rollback()


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_no_row_of_fifty_writers_comes_in_after_the_freeze(fenced: Database, database_url: str, isolation: str) -> None:
    """Each either commits before the freeze, and is in what an export then sees, or is refused."""
    begin = threading.Barrier(51)
    outcomes: list[str] = []

    def write(number: int) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            begin.wait()
            for attempt in range(400):
                try:
                    with connection.transaction():
                        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
                        connection.execute("SELECT pg_sleep(random() / 50)")
                        connection.execute("INSERT INTO shop.ticket VALUES (%s, 1)", [1000 + number * 1000 + attempt])
                        connection.execute("SELECT pg_sleep(random() / 50)")
                    outcomes.append("written")
                except psycopg.errors.IntegrityConstraintViolation:
                    outcomes.append("refused")
                    return
                except psycopg.errors.SerializationFailure:
                    outcomes.append("not serialized")

    writers = [threading.Thread(target=write, args=(number,)) for number in range(50)]
    for writer in writers:
        writer.start()
    begin.wait()
    with psycopg.connect(database_url, autocommit=True) as connection:
        while "written" not in outcomes:
            pass
        with connection.transaction():
            connection.execute("SELECT FROM tenure.accounts WHERE ref = 'acme' FOR UPDATE")
            connection.execute("UPDATE tenure.accounts SET status = 'frozen' WHERE ref = 'acme'")
        exported = connection.execute("SELECT count(*) FROM shop.ticket WHERE customer_id = 1").fetchone()
        for writer in writers:
            writer.join()
        left = connection.execute("SELECT count(*) FROM shop.ticket WHERE customer_id = 1").fetchone()
    assert exported == left
    assert left == (outcomes.count("written") + 1,)
    assert outcomes.count("refused") > 0


def test_a_freeze_that_forgot_to_lock_waits_for_writers_all_the_same(fenced: Database, database_url: str) -> None:
    done = threading.Event()

    def freeze_now() -> None:
        with psycopg.connect(database_url) as connection:
            connection.execute("UPDATE tenure.accounts SET status = 'frozen' WHERE ref = 'acme'")
        done.set()

    with psycopg.connect(database_url) as writer:
        writer.execute("INSERT INTO shop.ticket VALUES (11, 1)")
        freezing = threading.Thread(target=freeze_now)
        freezing.start()
        assert not done.wait(0.5)
        writer.commit()
    freezing.join()
    assert done.is_set()
