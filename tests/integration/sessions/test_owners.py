"""Sessions in other programs' tables whose account the data map knows: freeze and legal hold reach them (S6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.data_map import fence as data_map_fence
from tasks.ports.context import Ports
from tasks.ports.sessions import SessionStore
from tasks.sessions import sweep
from tests.integration.termination.test_legal_holds import beside, place, someone_waits
from tests.support.rows.company import an_account
from tests.support.servers.processes import eventually
from tests.support.time.deadlines import deadline
from workers.adapters.sessions import sql
from workers.services import relay
from workers.settings.settings import Settings
from workers.wiring import bootstrap

#: A row is its account's by the user, and one belongs to nobody.
SHOP = """
    CREATE SCHEMA web;
    CREATE TABLE web.users (id int PRIMARY KEY, customer text NOT NULL);
    CREATE INDEX ON web.users (customer);
    CREATE TABLE web.session (sid text PRIMARY KEY, user_id int REFERENCES web.users, expire timestamptz NOT NULL);
    CREATE INDEX ON web.session (user_id);
    INSERT INTO web.users VALUES (1, 'held"{,}\\'), (2, 'leaving'), (3, 'other');
    INSERT INTO web.session
    SELECT customer || ' ' || name, users.id, now() + ends
      FROM web.users, (VALUES ('over', interval '-1 hour'), ('live', interval '1 hour')) AS made (name, ends);
    INSERT INTO web.session VALUES ('nobody over', NULL, now() - interval '1 hour'), ('nobody live', NULL, now());
    UPDATE web.session SET expire = now() + interval '1 hour' WHERE sid = 'nobody live';
"""
MAP = """
    [[table]]
    name = "web.users"
    category = "P2.1b"
    paths = ["customer = account.ref"]
    key = ["id"]
    exported = ["id", "customer"]

    [[table]]
    name = "web.session"
    category = "P2.1a"
    paths = ["user_id = web.users.id > customer = account.ref"]
    key = ["sid"]
    exported = ["sid", "user_id", "expire"]
"""
STORE = '[[store]]\nname = "web"\nkind = "sql"\ntable = "web.session"\nkey = "sid"\nexpires = "expire"\n'
ALL = {f"{who} {what}" for who in ('held"{,}\\', "leaving", "other", "nobody") for what in ("over", "live")}
Shop = Callable[..., SessionStore]


@pytest.fixture
def shop(database: Database, settings: Settings, tmp_path: Path) -> Shop:
    """Makes the shop's store, in the database of Tenure or by an address, in the order of index or key."""
    with database.transaction() as session:
        for ref in ('held"{,}\\', "leaving", "other"):
            an_account(session, ref=ref)
    (tmp_path / "datamap.toml").write_text(MAP, encoding="utf-8")

    def make(*, indexed: bool = False, toml: str = STORE, fenced: bool = False) -> SessionStore:
        with database.connection() as connection:
            connection.exec_driver_sql(SHOP.replace("%", "%%"))
            if indexed:
                connection.execute(text("CREATE INDEX ON web.session (expire)"))
        chosen = msgspec.structs.replace(settings, session_stores=toml, datamap=str(tmp_path / "datamap.toml"))
        if fenced:
            fence(database, chosen)
        (made,) = bootstrap.session_stores(chosen, database)
        made.check()
        return made

    return make


def fence(database: Database, settings: Settings) -> None:

    with database.connection() as connection:
        for statement in data_map_fence.statements(bootstrap.company(settings).map):
            connection.connection.cursor().execute(statement)


def freeze(database: Database, ref: str = "leaving") -> None:
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.accounts SET status = 'frozen' WHERE ref = :ref"), {"ref": ref})


def hold(database: Database, ref: str = 'held"{,}\\') -> None:
    with database.connection() as connection:
        place(connection, ref)


def left(database: Database) -> set[str]:
    with database.connection() as connection:
        return set(connection.scalars(text("SELECT sid FROM web.session")))


@pytest.mark.parametrize("indexed", [True, False])
def test_a_hold_keeps_what_is_over_and_a_freeze_ends_what_is_live(
    database: Database, shop: Shop, indexed: bool
) -> None:
    web = shop(indexed=indexed, fenced=True)
    hold(database)
    freeze(database)
    assert web.sweep(lambda: False).gone == 4
    assert left(database) == {'held"{,}\\ over', 'held"{,}\\ live', "other live", "nobody live"}
    # What a hold keeps breaks no promise; nothing else is over.
    assert web.left().outlasting == 0
    oldest = web.left().oldest_at
    with database.connection() as connection:
        assert oldest is not None
        now = connection.execute(text("SELECT now()")).scalar_one()
        assert (now - oldest).total_seconds() < 24 * 3600
        connection.execute(text("SELECT tenure.release_hold(id, 'counsel') FROM tenure.legal_holds"))
    assert web.sweep(lambda: False).gone == 1
    assert left(database) == {'held"{,}\\ live', "other live", "nobody live"}


def test_a_frozen_account_that_is_held_keeps_all(database: Database, shop: Shop) -> None:
    web = shop(fenced=True)
    hold(database, "leaving")
    freeze(database)
    web.sweep(lambda: False)
    assert {"leaving over", "leaving live"} <= left(database)


def test_what_the_record_holds_is_left_to_the_purge(database: Database, shop: Shop) -> None:
    """Between export and purge nothing of a frozen account goes: the purge has to find what the record says (T11)."""
    web = shop(fenced=True)
    freeze(database)
    with database.connection() as connection:
        connection.execute(
            text("""
                INSERT INTO tenure.terminations (account_id, requested_by, ends_at, cancel_until)
                SELECT id, 'sql', now(), now() FROM tenure.accounts WHERE ref = 'leaving'""")
        )
        for stage in ("grace", "frozen", "exporting"):
            connection.execute(text("UPDATE tenure.terminations SET stage = :stage"), {"stage": stage})
    web.sweep(lambda: False)
    assert left(database) == {"leaving over", "leaving live", 'held"{,}\\ live', "other live", "nobody live"}


def test_a_store_of_which_nobody_knows_whose_it_is_is_swept_by_age_alone(
    database: Database, settings: Settings, shop: Shop
) -> None:
    shop()
    (unmapped,) = bootstrap.session_stores(msgspec.structs.replace(settings, session_stores=STORE), database)
    hold(database)
    freeze(database)
    unmapped.check()
    assert unmapped.sweep(lambda: False).gone == 4
    assert left(database) == {each for each in ALL if each.endswith("live")}


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_hold_waits_for_the_batch_that_deletes(
    database: Database, database_url: str, shop: Shop, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the store's connection is another one than Tenure's."""

    web = shop(toml=f'{STORE}url = "{database_url}"\n' if elsewhere else STORE)
    waited: list[bool] = []
    seen: list[set[str]] = []

    def in_the_middle(_task: str, place_: str) -> None:
        if place_ == "before_batch_commit" and not waited:
            waited.append(True)
            threads.append(beside(lambda: hold(database)))
            waited.append(someone_waits(database))
            seen.append(left(database))

    threads: list[Any] = []
    monkeypatch.setattr(sql, "failpoint", in_the_middle)
    web.sweep(lambda: False)
    threads[0].join(timeout=deadline(30))
    assert waited == [True, True]
    assert seen == [ALL]
    assert left(database) == {each for each in ALL if each.endswith("live")}
    web.close()


def test_a_sweep_of_everything_reaches_them_and_counts_them(database: Database, ports: Ports, shop: Shop) -> None:

    web = shop()
    freeze(database)
    assert sweep.sweep(replace(ports, session_stores=[web]))["web"] == 5


def test_a_freeze_wakes_the_sweep_at_once(database: Database, ports: Ports, shop: Shop) -> None:
    """The relay hears of it; nobody waits for the clock."""
    shop()
    stop = Event()
    thread = Thread(target=relay.run, args=(ports, (), stop.is_set))
    thread.start()
    try:
        woken = ports.wake.woken  # type: ignore[attr-defined]
        eventually(lambda: listens(database), "the relay listens", seconds=20)
        freeze(database)
        # A poll would not find it.
        eventually(lambda: sweep.TASK in woken, "the sweep is woken", seconds=20)
    finally:
        stop.set()
        thread.join(timeout=deadline(30))


def listens(database: Database) -> bool:
    with database.connection() as connection:
        return bool(
            connection.execute(
                text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name"),
                {"name": relay.APPLICATION_NAME},
            ).scalar_one()
        )
