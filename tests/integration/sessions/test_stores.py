"""Sessions that other programs keep (S5): written by their real libraries, swept to the second, never by mistake."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Barrier, Thread
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import redis
from sqlalchemy import create_engine, text

from models.base.unit_of_work import Database
from tasks.failures import Permanent, Unavailable
from tasks.ports.context import Ports
from tasks.ports.sessions import SessionStore
from tasks.sessions import sweep
from tests.support.time.deadlines import deadline
from workers.observe.promises.report import Installation, Verdict, sessions_end_after_a_day
from workers.settings import session_stores
from workers.settings.settings import Settings, SettingsError, parse
from workers.wiring import bootstrap

DAY = 86_400_000


def run(program: str, *arguments: str) -> str:
    """A program of another company, in a process of its own: what it says."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=deadline(60),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def store(settings: Settings, database: Database, toml: str) -> SessionStore:
    """The one store that the settings name."""
    (made,) = bootstrap.session_stores(msgspec.structs.replace(settings, session_stores=f"[[store]]\n{toml}"), database)
    return made


def left(database: Database, table: str, column: str) -> list[str]:
    with database.connection() as connection:
        return sorted(str(key) for key in connection.scalars(text(f"SELECT {column} FROM {table}")))


def swept(made: SessionStore) -> int:
    made.check()
    done = made.sweep(lambda: False)
    assert done.finished
    return done.gone


# Tables, as their libraries write them.

DJANGO = """
import sys, django
from django.conf import settings
from urllib.parse import urlsplit
at = urlsplit(sys.argv[1])
settings.configure(
    INSTALLED_APPS=["django.contrib.sessions"], USE_TZ=True, SECRET_KEY="x", SESSION_COOKIE_AGE=86400,
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": at.path[1:], "USER": at.username,
                           "PASSWORD": at.password, "HOST": at.hostname, "PORT": at.port,
                           "OPTIONS": {"options": "-c search_path=public"}}})
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.contrib.sessions.backends.db import SessionStore
keys = []
for _ in range(4):
    session = SessionStore()
    session["user"] = "Zoë"
    session.create()
    keys.append(session.session_key)
if len(sys.argv) > 2:
    print([SessionStore(key).get("user") for key in sys.argv[2:]])
else:
    print(*keys)
"""


def test_django(database: Database, database_url: str, settings: Settings) -> None:
    new, nearly, over, older = run(DJANGO, database_url).split()
    with database.connection() as connection:
        for key, ago in ((nearly, "23:59:58"), (over, "24:00:00"), (older, "9 days")):
            connection.execute(
                text("""
                    UPDATE django_session SET expire_date = now() + interval '24 hours' - CAST(:ago AS interval)
                     WHERE session_key = :key"""),
                {"ago": ago, "key": key},
            )
    made = store(settings, database, 'name = "shop"\nkind = "django"')
    assert swept(made) == 2
    assert left(database, "django_session", "session_key") == sorted([new, nearly])
    oldest = made.left().oldest_at
    assert oldest is not None
    assert made.left().outlasting == 0
    assert made.count() == 2
    assert swept(made) == 0
    # What is left is what Django reads: the ones that it makes now are four more.
    assert run(DJANGO, database_url, new, older) == "['Zoë', None]"


FLASK = """
import sys, flask
from flask_session import Session
from datetime import timedelta
app = flask.Flask("shop")
app.config.update(SECRET_KEY="x", PERMANENT_SESSION_LIFETIME=timedelta(hours=float(sys.argv[3])))
if sys.argv[1] == "redis":
    import redis
    app.config.update(SESSION_TYPE="redis", SESSION_REDIS=redis.Redis.from_url(sys.argv[2]))
else:
    from flask_sqlalchemy import SQLAlchemy
    app.config.update(SQLALCHEMY_DATABASE_URI=sys.argv[2], SESSION_TYPE="sqlalchemy")
    app.config["SESSION_SQLALCHEMY"] = SQLAlchemy(app)
Session(app)
@app.route("/in")
def log_in():
    flask.session["user"] = "Zoe"
    return "in"
@app.route("/")
def look():
    return flask.session.get("user", "nobody")
client = app.test_client()
if len(sys.argv) > 4:
    client.set_cookie("session", sys.argv[4])
    print(client.get("/").text)
else:
    for _ in range(3):
        each = app.test_client()
        each.get("/in")
        assert each.get("/").text == "Zoe"
        print(each.get_cookie("session").value, end=" ")
"""


def test_flask_session_in_a_table(database: Database, database_url: str, settings: Settings) -> None:
    # In the schema that an application has, which is not ours.
    address = database_url.replace("postgresql://", "postgresql+psycopg://") + "?options=-csearch_path%3Dpublic"
    new, nearly, over = run(FLASK, "table", address, "24").split()
    with database.connection() as connection:
        for cookie, ago in ((nearly, "23:59:58"), (over, "24:00:00")):
            connection.execute(
                text("""
                    UPDATE public.sessions
                       SET expiry = now() AT TIME ZONE 'UTC' + interval '24 hours' - CAST(:ago AS interval)
                     WHERE session_id = :key"""),
                {"ago": ago, "key": f"session:{cookie}"},
            )
    made = store(settings, database, 'name = "shop"\nkind = "flask-session"\ntable = "public.sessions"\nbatch = 2')
    assert swept(made) == 1
    assert left(database, "public.sessions", "session_id") == sorted(f"session:{each}" for each in (new, nearly))
    assert run(FLASK, "table", address, "24", new) == "Zoe"


#: As the documentation of connect-pg-simple gives it (table.sql).
NODE = """
    CREATE TABLE "session" ("sid" varchar NOT NULL COLLATE "default", "sess" json NOT NULL,
                            "expire" timestamp(6) NOT NULL) WITH (OIDS=FALSE);
    ALTER TABLE "session" ADD CONSTRAINT "session_pkey" PRIMARY KEY ("sid") NOT DEFERRABLE INITIALLY IMMEDIATE;
    CREATE INDEX "IDX_session_expire" ON "session" ("expire");
    INSERT INTO session VALUES
        ('new', '{}', to_timestamp(extract(epoch FROM now()) + 86400) AT TIME ZONE 'UTC'),
        ('nearly', '{}', to_timestamp(extract(epoch FROM now()) + 2) AT TIME ZONE 'UTC'),
        ('over', '{}', to_timestamp(extract(epoch FROM now())) AT TIME ZONE 'UTC')"""


def test_connect_pg_simple(database: Database, settings: Settings) -> None:
    with database.connection() as connection:
        connection.connection.cursor().execute(NODE.replace(" WITH (OIDS=FALSE)", ""))
    made = store(settings, database, 'name = "node"\nkind = "connect-pg-simple"')
    assert swept(made) == 1
    assert left(database, "session", "sid") == ["nearly", "new"]


# Tables of any other make.


def a_table(database: Database, column: str, ages: dict[str, str], *, index: bool = True) -> None:
    """A table `web.visits`, with a row of each name; an age is SQL."""
    with database.connection() as connection:
        connection.execute(text("CREATE SCHEMA web"))
        connection.execute(text(f'CREATE TABLE web.visits (id text PRIMARY KEY, "at What?" {column}, other int)'))
        if index:
            connection.execute(text('CREATE INDEX ON web.visits ("at What?")'))
        for name, age in ages.items():
            connection.execute(text(f"INSERT INTO web.visits VALUES ('{name}', {age})"))


VISITS = 'name = "web"\nkind = "sql"\ntable = "web.visits"\nkey = "id"\n'
#: Cut off: a cast would round up, to what is not yet over.
NOW_S, NOW_MS = "floor(extract(epoch FROM now()))::bigint", "floor(extract(epoch FROM now()) * 1000)::bigint"


@dataclass(frozen=True)
class Make:
    """A column of this type, what it holds for a session that lives and for one that is over, and the settings."""

    column: str
    live: str
    over: str
    said: str


@pytest.mark.parametrize("index", [True, False], ids=["index", "no index"])
@pytest.mark.parametrize(
    "make",
    [
        Make("timestamptz", "now() - interval '23:59:57'", "now() - interval '24:00:00'", 'created = "at What?"'),
        Make(
            "timestamp",
            "timezone('UTC', now()) - interval '23:59:57'",
            "timezone('UTC', now()) - interval '24:00:00'",
            'created = "at What?"',
        ),
        Make("bigint", f"{NOW_S} + 5", NOW_S, 'expires = "at What?"\nepoch = "seconds"'),
        Make("bigint", f"{NOW_MS} + 5000", NOW_MS, 'expires = "at What?"\nepoch = "milliseconds"'),
        # An application that gives its sessions two weeks: over when they were written a day ago.
        Make(
            "timestamptz",
            "now() + interval '13 days 00:00:05'",
            "now() + interval '13 days'",
            'expires = "at What?"\nlifetime_hours = 336',
        ),
    ],
    ids=["aware", "naive", "seconds", "milliseconds", "two weeks"],
)
def test_a_table_of_any_make(database: Database, settings: Settings, make: Make, *, index: bool) -> None:
    over, live = make.over, make.live
    a_table(database, make.column, {"a": over, "b": live, "c": over, "d": over, "e": live}, index=index)
    made = store(settings, database, f"{VISITS}{make.said}\nbatch = 2")
    assert swept(made) == 3
    assert left(database, "web.visits", "id") == ["b", "e"]
    assert made.left().outlasting == 0
    assert swept(made) == 0


def test_sqlite(settings: Settings, database: Database, tmp_path: Any) -> None:
    """Through SQLAlchemy, as any database that is not PostgreSQL."""
    address = f"sqlite:///{tmp_path}/sessions.sqlite"
    engine = create_engine(address)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE visits (id TEXT PRIMARY KEY, made DATETIME NOT NULL)"))
        for name, age in (("a", "-24 hours"), ("b", "-86397 seconds"), ("c", "-3 days"), ("d", "0 hours")):
            connection.execute(
                text("INSERT INTO visits VALUES (:name, strftime('%Y-%m-%d %H:%M:%f000', 'now', :age))"),
                {"name": name, "age": age},
            )
    for index in (False, True):
        if index:
            with engine.begin() as connection:
                connection.execute(text("CREATE INDEX i ON visits (made)"))
                connection.execute(text("INSERT INTO visits VALUES ('e', '2020-01-01 00:00:00.000000')"))
        toml = (
            f'name = "lite"\nkind = "sql"\nurl = "{address}"\ntable = "visits"\nkey = "id"\ncreated = "made"\nbatch = 1'
        )
        made = store(settings, database, toml)
        assert swept(made) == (1 if index else 2)
        assert made.count() == 2
    engine.dispose()


def test_rows_that_somebody_holds_are_passed_over(database: Database, settings: Settings) -> None:
    a_table(database, "timestamptz", {"held": "now() - interval '25 hours'", "free": "now() - interval '25 hours'"})
    made = store(settings, database, VISITS + 'created = "at What?"')
    with database.connection() as connection:
        connection.execute(text("UPDATE web.visits SET other = 1 WHERE id = 'held'"))
        assert swept(made) == 1
    assert swept(made) == 1


def test_a_table_that_somebody_locks_is_left_to_the_next_sweep(database: Database, settings: Settings) -> None:
    a_table(database, "timestamptz", {"free": "now() - interval '25 hours'"})
    made = store(settings, database, VISITS + 'created = "at What?"')
    with database.connection() as connection:
        connection.execute(text("LOCK TABLE web.visits"))
        with pytest.raises(Unavailable, match="locked"):
            made.sweep(lambda: False)
        connection.rollback()
    assert swept(made) == 1


def test_sessions_that_outlast_the_day_are_seen(database: Database, settings: Settings) -> None:
    a_table(database, "timestamptz", {"two weeks": "now() + interval '14 days'", "for ever": "NULL"})
    assert store(settings, database, VISITS + 'expires = "at What?"').left().outlasting == 2


# Keys in Valkey.


@pytest.fixture
def cache(valkey: redis.Redis, servers: dict[str, str], settings: Settings, database: Database) -> SessionStore:
    address = servers["TENURE_BROKER_URL"]
    return store(settings, database, f'name = "cache"\nkind = "redis"\nurl = "{address}"\nprefix = "session:"')


def first_seen(valkey: redis.Redis, ago: int) -> None:
    """Set back the clock by which the keys were seen first; in milliseconds."""
    seconds, micros = valkey.time()  # type: ignore[misc]
    for mark in valkey.zrange("tenure:sessions:cache", 0, -1):  # type: ignore[union-attr]
        valkey.zadd("tenure:sessions:cache", {mark: seconds * 1000 + micros // 1000 - ago})


def test_flask_session_in_redis(valkey: redis.Redis, servers: dict[str, str], cache: SessionStore) -> None:
    """Its sessions last for a month as it comes: they are cut to a day, and then to what is left of it."""
    address = servers["TENURE_BROKER_URL"]
    cookies = run(FLASK, "redis", address, "744").split()
    key = f"session:{cookies[0]}"
    assert valkey.pttl(key) > 2 * DAY  # type: ignore[operator]
    cache.check()
    assert cache.sweep(lambda: False).cut == 3
    assert DAY - 60_000 < valkey.pttl(key) <= DAY  # type: ignore[operator]
    # Used again, it gets a month again, and the sweep remembers when it was first seen.
    first_seen(valkey, DAY - 60_000)
    assert run(FLASK, "redis", address, "744", cookies[0]) == "Zoe"
    assert cache.sweep(lambda: False).cut == 3
    assert 0 < valkey.pttl(key) <= 60_000  # type: ignore[operator]
    assert run(FLASK, "redis", address, "0.001", cookies[0]) == "Zoe"


@pytest.mark.parametrize("ttl", [None, 10 * DAY, DAY // 2])
def test_a_key_ends_a_day_after_it_was_seen_to_the_second(
    valkey: redis.Redis, cache: SessionStore, ttl: int | None
) -> None:
    valkey.set("session:a", "x", px=ttl)
    valkey.set("another:a", "x")
    cache.sweep(lambda: False)
    first_seen(valkey, DAY - 1_000)
    cache.sweep(lambda: False)
    assert valkey.get("session:a") == "x"
    assert 0 < valkey.pttl("session:a") <= 1_000  # type: ignore[operator]
    # A program that writes it again and again does not keep it.
    valkey.set("session:a", "x", px=ttl)
    first_seen(valkey, DAY)
    assert cache.sweep(lambda: False).gone == 1
    assert valkey.get("session:a") is None
    assert valkey.ttl("another:a") == -1


def test_a_key_that_ends_by_itself_sooner_is_left_alone_and_forgotten(valkey: redis.Redis, cache: SessionStore) -> None:
    valkey.set("session:a", "x", px=60_000)
    assert cache.sweep(lambda: False).cut == 0
    assert 0 < valkey.pttl("session:a") <= 60_000  # type: ignore[operator]
    assert valkey.zcard("tenure:sessions:cache") == 1
    oldest = cache.left().oldest_at
    assert oldest is not None
    valkey.delete("session:a")
    cache.sweep(lambda: False)
    # No trace of the sweep is left where there are no sessions.
    assert valkey.keys("*") == []
    assert cache.left().oldest_at is None


def test_a_sweep_that_is_broken_off_forgets_no_time(valkey: redis.Redis, cache: SessionStore) -> None:
    for number in range(5_000):
        valkey.set(f"session:{number}", "x")
    stop = iter([False, True])
    assert cache.sweep(lambda: next(stop)).finished is False
    seen = dict(valkey.zrange("tenure:sessions:cache", 0, -1, withscores=True))  # type: ignore[arg-type]
    assert 0 < len(seen) < 5_000
    assert cache.sweep(lambda: False).finished
    after = dict(valkey.zrange("tenure:sessions:cache", 0, -1, withscores=True))  # type: ignore[arg-type]
    assert len(after) == 5_000 == cache.count()
    assert seen.items() <= after.items()


# Refused at start, and nothing is deleted.


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("nonsense", "not TOML"),
        ("store = 1", r"tables \[\[store\]\]"),
        ('[[shop]]\nname = "a"', r"tables \[\[store\]\]"),
        ('[[store]]\nkind = "django"', "has a `name`"),
        ('[[store]]\nname = "tenure"\nkind = "django"', "has a `name`"),
        ('[[store]]\nname = "a"\nkind = "mongo"', "'a': `kind` is one of sql, django"),
        ('[[store]]\nname = "a"\nkind = "sql"', "'a': .*missing required field `table`"),
        ('[[store]]\nname = "a"\nkind = "sql"\ntable = "t"\nkey = "k"', "either `expires` or `created`"),
        (
            '[[store]]\nname = "a"\nkind = "sql"\ntable = "t"\nkey = "k"\nexpires = "e"\ncreated = "c"',
            "either `expires`",
        ),
        ('[[store]]\nname = "a"\nkind = "django"\nbatch = 0', "`batch` is 1 to 30000"),
        ('[[store]]\nname = "a"\nkind = "django"\nlifetime_hours = 0', "more than 0"),
        ('[[store]]\nname = "a"\nkind = "django"\nepoch = "days"', "'a'"),
        ('[[store]]\nname = "a"\nkind = "django"\nbach = 7', "unknown field `bach`"),
        ('[[store]]\nname = "a"\nkind = "django"\nurl = "redis://x"', "no address of this kind"),
        ('[[store]]\nname = "a"\nkind = "django"\nurl_file = "/no/such/file"', "cannot be read"),
        ('[[store]]\nname = "a"\nkind = "redis"\nprefix = "sess:"', "needs `url`"),
        *(
            (
                f'[[store]]\nname = "a"\nkind = "redis"\nurl = "redis://x"\nprefix = "{prefix}"',
                "prefix. (would match|matches)",
            )
            for prefix in ("", "*", "s", "  ", "sess*", "[a-z]:", "tenure", "tenure:sessions:", "celery", "cel")
        ),
        ('[[store]]\nname = "a"\nkind = "django"\n[[store]]\nname = "a"\nkind = "django"', "two session stores"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(servers: dict[str, str], toml: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        parse(servers | {"TENURE_SESSION_STORES": toml})
    assert "TENURE_SESSION_STORES" in str(refused.value)


@pytest.mark.parametrize(
    ("url", "encrypted"),
    [
        ("postgresql://u:geheim@db/x", False),
        ("postgresql://u:geheim@db/x?sslmode=require", False),
        ("postgresql://u:geheim@db/x?sslmode=verify-full", True),
        ("mysql+pymysql://u:geheim@db/x", False),
        ("mysql+pymysql://u:geheim@db/x?ssl_ca=/etc/ca.pem", True),
    ],
)
def test_in_production_a_store_is_reached_over_tls(url: str, encrypted: bool) -> None:
    toml = f'[[store]]\nname = "a"\nkind = "django"\nurl = "{url}"'
    if encrypted:
        assert session_stores.parse(toml, production=True)
    else:
        with pytest.raises(ValueError, match="without TLS") as refused:
            session_stores.parse(toml, production=True)
        assert "geheim" not in str(refused.value)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('table = "web.nothing"\nkey = "id"\ncreated = "at What?"', "there is no table 'web.nothing'"),
        ('table = "visits"\nkey = "id"\ncreated = "at What?"', "there is no table 'visits'"),
        ('table = "web.visits"\nkey = "id"\ncreated = "made"', "no column 'made'; it has id, at What., other"),
        ('table = "web.visits"\nkey = "name"\ncreated = "at What?"', "no column 'name'"),
        ('table = "web.visits"\nkey = "id"\ncreated = "id"', "is TEXT, not a timestamp"),
        ('table = "web.visits"\nkey = "id"\ncreated = "other"', "is INTEGER, not a timestamp; for a whole number say"),
        ('table = "web.visits"\nkey = "id"\ncreated = "at What?"\nepoch = "seconds"', "not a whole number"),
        ('table = "web.visits"\nkey = "other"\ncreated = "at What?"', "two rows may have the same 'other'"),
    ],
)
def test_a_table_that_is_not_what_the_settings_say_is_refused(
    database: Database, settings: Settings, ports: Ports, toml: str, said: str
) -> None:
    a_table(database, "timestamptz", {"old": "now() - interval '9 days'"})
    made = store(settings, database, f'name = "web"\nkind = "sql"\n{toml}')
    with pytest.raises(Permanent, match=said):
        made.check()
    assert sweep.sweep(replace(ports, session_stores=[made])) == {"tenure": 0, "in_trouble": 1}
    assert left(database, "web.visits", "id") == ["old"]


def test_a_user_without_rights_is_refused(
    database: Database, database_url: str, settings: Settings, valkey: redis.Redis, servers: dict[str, str]
) -> None:
    a_table(database, "timestamptz", {"old": "now() - interval '9 days'"})
    role = f"reader_{uuid4().hex[:8]}"
    with database.connection() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'reader'"))
        connection.execute(text(f"GRANT {role} TO CURRENT_USER"))
        connection.execute(text(f"GRANT USAGE ON SCHEMA web TO {role}"))
        connection.execute(text(f"GRANT SELECT ON web.visits TO {role}"))
    address = f"postgresql://{role}:reader@" + database_url.rpartition("@")[2]
    try:
        made = store(settings, database, VISITS + f'created = "at What?"\nurl = "{address}"')
        with pytest.raises(Permanent, match=r"lacks UPDATE, DELETE .*GRANT") as refused:
            made.check()
        assert "reader@" not in str(refused.value)
        made.close()
    finally:
        with database.connection() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))
    valkey.execute_command("ACL SETUSER looker on >looker ~session:* +@read +scan +info")
    try:
        looker = (
            servers["TENURE_BROKER_URL"]
            .replace("://:", "://looker:")
            .replace(servers["TENURE_BROKER_URL"].partition("://:")[2].partition("@")[0], "looker")
        )
        with pytest.raises(Permanent, match="lacks a right"):
            store(settings, database, f'name = "c"\nkind = "redis"\nurl = "{looker}"\nprefix = "session:"').check()
    finally:
        valkey.execute_command("ACL DELUSER looker")


def test_a_store_that_is_away_keeps_no_other_from_being_swept(
    database: Database, settings: Settings, ports: Ports
) -> None:
    a_table(database, "timestamptz", {"old": "now() - interval '9 days'", "new": "now()"})
    web = store(settings, database, VISITS + 'created = "at What?"')
    away = [
        store(settings, database, 'name = "cache"\nkind = "redis"\nurl = "redis://127.0.0.1:1/0"\nprefix = "sess:"'),
        store(settings, database, 'name = "far"\nkind = "django"\nurl = "postgresql://u:geheim@127.0.0.1:1/x"'),
    ]
    told = sweep.sweep(replace(ports, session_stores=[*away, web]))
    assert (told["web"], told["in_trouble"]) == (1, 2)
    with database.connection() as connection:
        rows = connection.execute(text("SELECT store, trouble FROM tenure.session_sweeps"))
        noted = {row.store: row.trouble for row in rows}
    assert "does not answer" in str(noted["cache"])
    assert "does not answer" in str(noted["far"])
    assert "geheim" not in str(noted)
    assert noted["web"] is None


def test_two_sweeps_at_once_of_all_stores(
    database: Database, settings: Settings, ports: Ports, cache: SessionStore, valkey: redis.Redis
) -> None:
    a_table(database, "timestamptz", {f"old {n}": "now() - interval '9 days'" for n in range(100)})
    web = store(settings, database, VISITS + 'created = "at What?"\nbatch = 7')
    for number in range(2_000):
        valkey.set(f"session:{number}", "x")
    start, told = Barrier(2), []

    def race() -> None:
        start.wait(timeout=deadline(30))
        told.append(sweep.sweep(replace(ports, session_stores=[web, cache])))

    threads = [Thread(target=race) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=deadline(60))
    assert [each.get("in_trouble") for each in told] == [None, None]
    assert sum(each["web"] for each in told) + web.sweep(lambda: False).gone == 100
    assert valkey.zcard("tenure:sessions:cache") == 2_000 == cache.count()


# What an operator sees.


def installed(database: Database, settings: Settings) -> Verdict:
    with database.connection() as connection:
        return sessions_end_after_a_day(Installation(settings, connection)).verdict


def test_the_promise_holds_for_every_store_or_is_seen_broken(
    database: Database, settings: Settings, ports: Ports
) -> None:
    a_table(database, "timestamptz", {"new": "now() + interval '1 hour'"})
    configured = msgspec.structs.replace(settings, session_stores="[[store]]\n" + VISITS + 'expires = "at What?"')
    everything = replace(ports, session_stores=bootstrap.session_stores(configured, database))
    assert installed(database, configured) is Verdict.BROKEN  # never swept
    sweep.sweep(everything)
    assert installed(database, configured) is Verdict.KEPT
    with database.connection() as connection:
        connection.execute(text("UPDATE web.visits SET \"at What?\" = now() + interval '14 days'"))
    sweep.sweep(everything)
    assert installed(database, configured) is Verdict.BROKEN
    with database.connection() as connection:
        connection.execute(text("UPDATE web.visits SET \"at What?\" = now()  + interval '1 day'"))
    sweep.sweep(everything)
    assert installed(database, configured) is Verdict.KEPT
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.session_sweeps SET swept_at = now() - interval '2 hours'"))
    assert installed(database, configured) is Verdict.BROKEN


def test_the_commands(database: Database, settings: Settings, tenure: Callable[..., Any]) -> None:
    """What went, from where, and how old the oldest session left is (S7)."""
    a_table(database, "timestamptz", {"old": "now() - interval '9 days'", "new": "now()"})
    toml = "[[store]]\n" + VISITS + 'created = "at What?"'
    before = tenure("sessions", "stats", TENURE_SESSION_STORES=toml)
    assert before.returncode == 1
    assert "its oldest session is over" in before.stdout
    swept = tenure("sessions", "sweep", TENURE_SESSION_STORES=toml)
    assert re.search(r"^web +1$", swept.stdout, re.MULTILINE), swept.stdout
    assert "The oldest that is left began" in swept.stdout
    after = tenure("sessions", "stats", TENURE_SESSION_STORES=toml)
    assert after.returncode == 0, after.stdout + after.stderr
    told = json.loads(tenure("sessions", "stats", "--json", TENURE_SESSION_STORES=toml).stdout)
    assert [(each["store"], each["stored"], each["swept"]) for each in told["stores"]] == [
        ("tenure", 0, 0),
        ("web", 1, 1),
    ]
    assert told["partitions"]["in_default"] == 0
    wrong = tenure("sessions", "sweep", TENURE_SESSION_STORES=toml.replace("web.visits", "web.visitors"))
    assert wrong.returncode == 1
    assert "there is no table 'web.visitors'" in " ".join(wrong.stdout.split())
    assert "not swept" in wrong.stdout
    # Said once, to whoever reads it, and not as a log as well.
    assert wrong.stderr == ""
    unread = tenure("sessions", "sweep", TENURE_SESSION_STORES="[[store]]")
    assert (unread.returncode, "Traceback" in unread.stderr) == (2, False)


def test_a_worker_refuses_to_start_and_deletes_nothing(
    database: Database, database_url: str, servers: dict[str, str]
) -> None:
    a_table(database, "text", {"old": "'2020-01-01'"})
    environment = {"PATH": os.environ["PATH"], **servers, "TENURE_DATABASE_URL": database_url}
    environment["TENURE_SESSION_STORES"] = "[[store]]\n" + VISITS + 'created = "at What?"'
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "--concurrency=1"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=deadline(60),
    )
    assert done.returncode != 0
    assert "tenure: Session store 'web': its column 'at What?' is TEXT, not a timestamp" in done.stderr
    assert "Traceback" not in done.stderr
    assert left(database, "web.visits", "id") == ["old"]
