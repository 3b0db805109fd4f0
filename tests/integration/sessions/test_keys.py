"""Sessions in Redis whose account the data map knows: a freeze ends them, a hold keeps what they held (S6, T9)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models.base.base import Base
from models.base.unit_of_work import Database
from models.data_map.map import AccountKeys, Category, RedisKeys, own_map
from models.sessions.owner import Named
from models.termination.termination import Step
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tasks.ports.sessions import SessionStore
from tasks.sessions import sweep
from tests.integration.sessions.test_owners import freeze, hold, listens
from tests.integration.termination.test_legal_holds import beside, place, release, someone_waits
from tests.support.rows.company import an_account
from tests.support.rows.terminating import a_termination, go_on, stage, steps
from tests.support.servers.processes import eventually
from tests.support.time.deadlines import deadline
from workers.adapters.sessions import redis as redis_sessions
from workers.adapters.sessions.keys import Matcher, expression
from workers.adapters.sessions.redis import RedisSessions
from workers.services import relay
from workers.settings.settings import Settings
from workers.wiring import bootstrap

DAY = 86_400_000
PATTERN = "session:{account_ref}:*"
MAP = """
    [[redis]]
    pattern = "%s"
    category = "P2.1a"
    address_from = "SESSIONS_URL"
    left_out = "it ends within a day"
"""


@pytest.fixture
def store(
    database: Database, settings: Settings, valkey: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SessionStore]:
    """With two live sessions of each account, and one of nobody. Its address is written in another way in the map."""
    address = settings.broker_url
    monkeypatch.setenv("SESSIONS_URL", address)
    (tmp_path / "datamap.toml").write_text(MAP % PATTERN, encoding="utf-8")
    toml = f'[[store]]\nname = "cache"\nkind = "redis"\nurl = "{address}?socket_timeout=20"\nprefix = "session:"\n'
    chosen = msgspec.structs.replace(settings, session_stores=toml, datamap=str(tmp_path / "datamap.toml"))
    with database.transaction() as session:
        for ref in ("held*[1]", "leaving", "other"):
            an_account(session, ref=ref)
            for name in ("1", "2"):
                valkey.set(f"session:{ref}:{name}", f"{ref} {name}", px=DAY // 2)
    valkey.set("session:nobody", "x", px=DAY // 2)
    valkey.set("sessions-of:leaving", "x")
    (made,) = bootstrap.session_stores(chosen, database)
    made.check()
    yield made
    made.close()


def left(valkey: redis.Redis) -> set[str]:
    return {str(key) for key in valkey.scan_iter("session*")}


ALL = {f"session:{ref}:{name}" for ref in ("held*[1]", "leaving", "other") for name in "12"} | {
    "session:nobody",
    "sessions-of:leaving",
}
LEAVING = {"session:leaving:1", "session:leaving:2"}
HELD = {"session:held*[1]:1", "session:held*[1]:2"}


def kept(database: Database) -> list[Any]:
    with database.connection() as connection:
        return list(
            connection.execute(
                text("""
                    SELECT ref, store, key_sha256, type, value FROM tenure.held_session_keys
                      JOIN tenure.accounts ON accounts.id = account_id ORDER BY value""")
            )
        )


def first_seen(valkey: redis.Redis, ago: int) -> None:
    """Set back the clock by which the keys were seen first; in milliseconds."""
    seconds, micros = valkey.time()  # type: ignore[misc]
    for mark in valkey.zrange("tenure:sessions:cache", 0, -1):  # type: ignore[union-attr]
        valkey.zadd("tenure:sessions:cache", {mark: seconds * 1000 + micros // 1000 - ago})


def test_what_a_hold_names_is_kept_and_still_ends_after_a_day(
    database: Database, valkey: redis.Redis, store: SessionStore
) -> None:
    hold(database, "held*[1]")
    assert store.sweep(lambda: False).gone == 0
    # Its user goes on, and what the session holds later is what is kept.
    assert left(valkey) == ALL
    valkey.set("session:held*[1]:1", "held, and a basket", px=DAY // 2)
    store.sweep(lambda: False)
    assert [(row.ref, row.store, row.type, bytes(row.value)) for row in kept(database)] == [
        ("held*[1]", "cache", "string", b"held*[1] 2"),
        ("held*[1]", "cache", "string", b"held, and a basket"),
    ]
    # The key, by which one is signed in, is not in the database; its hash is.
    assert {bytes(row.key_sha256) for row in kept(database)} == {sha256(key.encode()).digest() for key in HELD}
    # One is signed out, the other one's day is over.
    valkey.delete("session:held*[1]:1")
    first_seen(valkey, DAY)
    assert store.sweep(lambda: False).gone == len(ALL) - 2
    assert left(valkey) == {"sessions-of:leaving"}
    assert len(kept(database)) == 2


def test_a_session_that_is_over_when_the_hold_is_seen_is_copied_before_it_goes(
    database: Database, valkey: redis.Redis, store: SessionStore
) -> None:
    store.sweep(lambda: False)
    first_seen(valkey, DAY)
    hold(database, "held*[1]")
    store.sweep(lambda: False)
    assert left(valkey) == {"sessions-of:leaving"}
    assert [bytes(row.value) for row in kept(database)] == [b"held*[1] 1", b"held*[1] 2"]


def test_what_changes_after_the_copy_is_not_ended_before_it_is_copied_again(
    database: Database, valkey: redis.Redis, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.sweep(lambda: False)
    first_seen(valkey, DAY)
    hold(database, "held*[1]")
    original = redis_sessions.held_session_key.keep

    def keep(*arguments: Any) -> None:
        original(*arguments)
        valkey.set("session:held*[1]:1", "changed", keepttl=True)

    monkeypatch.setattr(redis_sessions.held_session_key, "keep", keep)
    store.sweep(lambda: False)
    assert left(valkey) == {"session:held*[1]:1", "sessions-of:leaving"}
    monkeypatch.undo()
    store.sweep(lambda: False)
    assert left(valkey) == {"sessions-of:leaving"}
    assert [bytes(row.value) for row in kept(database)] == [b"changed", b"held*[1] 2"]


def test_what_is_no_string_can_be_restored(database: Database, valkey: redis.Redis, store: SessionStore) -> None:
    valkey.delete(*HELD)
    valkey.hset("session:held*[1]:1", mapping={"user": "Zoë", "basket": "3"})
    hold(database, "held*[1]")
    store.sweep(lambda: False)
    (row,) = kept(database)
    assert row.type == "hash"
    valkey.restore("copy", 0, bytes(row.value))  # type: ignore[arg-type]
    assert valkey.hgetall("copy") == {"user": "Zoë", "basket": "3"}


def test_a_copy_that_cannot_be_kept_leaves_the_session(
    database: Database, valkey: redis.Redis, store: SessionStore
) -> None:
    store.sweep(lambda: False)
    first_seen(valkey, DAY)
    hold(database, "held*[1]")
    with database.connection() as connection:
        # Seen at COMMIT, when all else of the transaction is done.
        connection.execute(
            text("""
                CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN RAISE EXCEPTION USING ERRCODE = ''disk_full''; END'""")
        )
        connection.execute(
            text("""
                CREATE CONSTRAINT TRIGGER full_disk AFTER INSERT ON tenure.held_session_keys
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION full_disk()""")
        )
    with pytest.raises(DBAPIError):
        store.sweep(lambda: False)
    assert left(valkey) >= HELD
    assert kept(database) == []


def test_a_released_hold_lets_the_copies_go(database: Database, ports: Ports, store: SessionStore) -> None:
    with database.connection() as connection:
        case = place(connection, "held*[1]")
    everything = replace(ports, session_stores=[store])
    sweep.sweep(everything)
    assert len(kept(database)) == 2
    with database.connection() as connection:
        release(connection, case)
    sweep.sweep(everything)
    assert kept(database) == []


def test_a_freeze_ends_them_and_nobody_elses(database: Database, valkey: redis.Redis, store: SessionStore) -> None:
    freeze(database)
    assert store.sweep(lambda: False).gone == 2
    assert left(valkey) == ALL - LEAVING
    assert kept(database) == []


def test_a_frozen_account_that_is_held_is_signed_out_and_kept(
    database: Database, valkey: redis.Redis, store: SessionStore
) -> None:
    hold(database, "leaving")
    freeze(database)
    assert store.sweep(lambda: False).gone == 2
    assert left(valkey) == ALL - LEAVING
    assert [bytes(row.value) for row in kept(database)] == [b"leaving 1", b"leaving 2"]


def ready_to_freeze(database: Database, ref: str = "leaving") -> None:
    with database.transaction() as session:
        account: UUID = session.execute(text("SELECT id FROM tenure.accounts WHERE ref = :r"), {"r": ref}).scalar_one()
        a_termination(session, account, Step.FREEZE, stage="requested")
        session.execute(text("UPDATE tenure.terminations SET stage = 'grace'"))


@pytest.mark.parametrize("held", [False, True])
def test_the_step_that_freezes_ends_them_before_the_export(
    database: Database, ports: Ports, valkey: redis.Redis, store: SessionStore, held: bool
) -> None:
    if held:
        hold(database, "leaving")
    ready_to_freeze(database)
    go_on(replace(ports, session_stores=[store]))
    assert steps(database)["freeze"] == "done"
    assert left(valkey) == ALL - LEAVING
    assert len(kept(database)) == 2 * held


def test_a_store_that_is_away_makes_the_export_wait(
    database: Database, ports: Ports, valkey: redis.Redis, store: SessionStore, settings: Settings
) -> None:
    """Its sessions may be read again when it is back."""
    (away,) = bootstrap.session_stores(
        msgspec.structs.replace(
            settings,
            session_stores='[[store]]\nname = "far"\nkind = "redis"\nurl = "redis://127.0.0.1:1/0"\nprefix = "sess:"',
        ),
        database,
    )
    ready_to_freeze(database)
    go_on(replace(ports, session_stores=[away]))
    assert (stage(database)[0], steps(database)) == ("frozen", {"freeze": "pending"})
    with database.connection() as connection:
        said = connection.execute(text("SELECT last_error, attempts FROM tenure.termination_steps")).one()
        assert said == ("Session store 'far' does not answer (ConnectionError).", 0)
        connection.execute(text("UPDATE tenure.termination_steps SET due_at = now()"))
    go_on(replace(ports, session_stores=[store]))
    assert steps(database)["freeze"] == "done"
    assert left(valkey) == ALL - LEAVING


def test_when_the_record_is_made_what_comes_is_left_to_the_purge(
    database: Database, ports: Ports, valkey: redis.Redis, store: SessionStore
) -> None:
    """A row more would be a row that the record lacks (T11)."""
    hold(database, "leaving")
    ready_to_freeze(database)
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.accounts SET status = 'frozen' WHERE ref = 'leaving'"))
        for each in ("frozen", "exporting"):
            connection.execute(text("UPDATE tenure.terminations SET stage = :stage"), {"stage": each})
    store.sweep(lambda: False)
    assert left(valkey) == ALL
    assert kept(database) == []


def test_a_pattern_that_finds_a_neighbours_sessions_is_refused(
    database: Database, valkey: redis.Redis, store: SessionStore
) -> None:
    with database.transaction() as session:
        an_account(session, ref="leaving:too")
    valkey.set("session:leaving:too:1", "theirs")
    freeze(database)
    before = left(valkey)
    with pytest.raises(Permanent, match=r"would also find what belongs to another account"):
        store.sweep(lambda: False)
    assert left(valkey) == before


def test_a_class_in_a_pattern_is_refused() -> None:
    with pytest.raises(Permanent, match="instead"):
        expression("session:[ab]:{account_ref}")


def test_a_hold_waits_for_the_batch_that_ends_them(
    database: Database, valkey: redis.Redis, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is seen, or comes when there is nothing left that it could keep."""
    store.sweep(lambda: False)
    first_seen(valkey, DAY)
    waited: list[Any] = []
    original = RedisSessions._end_or_cut

    def end_or_cut(self: RedisSessions, keys: Any, *arguments: Any, **named: Any) -> tuple[int, int]:
        if keys and not waited:
            waited.append(beside(lambda: hold(database, "held*[1]")))
            assert someone_waits(database)
        return original(self, keys, *arguments, **named)

    monkeypatch.setattr(RedisSessions, "_end_or_cut", end_or_cut)
    store.sweep(lambda: False)
    waited[0].join(timeout=deadline(30))
    assert left(valkey) == {"sessions-of:leaving"}


def test_a_hold_wakes_the_sweep(database: Database, ports: Ports, store: SessionStore) -> None:
    stop = Event()
    thread = Thread(target=relay.run, args=(ports, (), stop.is_set))
    thread.start()
    try:
        eventually(lambda: listens(database), "the relay listens", seconds=20)
        hold(database, "held*[1]")
        woken = ports.wake.woken  # type: ignore[attr-defined]
        eventually(lambda: sweep.TASK in woken, "the sweep is woken", seconds=20)
    finally:
        stop.set()
        thread.join(timeout=deadline(30))


def test_the_copies_are_in_the_record_and_go_with_the_purge() -> None:
    (mapped,) = (each for each in own_map(Base).tables if each.name.table == "held_session_keys")
    assert "value" in mapped.exported


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pattern=st.text("ab*?\\^-é\n.+(|", min_size=1, max_size=8),
    keys=st.lists(st.text("ab*?\\^-é\n.+(|", min_size=1, max_size=8), min_size=1, max_size=8),
)
def test_a_key_matches_as_redis_says(valkey: redis.Redis, pattern: str, keys: list[str]) -> None:
    valkey.flushall()
    for key in keys:
        valkey.set(key, "x")
    found = set(valkey.scan_iter(match=pattern, count=1000))
    mapped = RedisKeys(pattern, Category.MACHINE)
    named = Named(AccountKeys(uuid4(), "a"), held=True, ends=False, recorded=False)
    matcher = Matcher([mapped], [named])
    assert {key for key in set(keys) if matcher(key.encode()) is not None} == found
