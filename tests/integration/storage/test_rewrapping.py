"""Another key-encryption key: every key is wrapped anew, none that was destroyed comes back, nothing stops (T27)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.customers.account_key import KeyPurpose
from tasks.client.documents import open_file
from tasks.client.files import store_file
from tasks.crypto.keyring import Keyring, WrappedKey, destroy
from tasks.crypto.wrapping import SETTING
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tasks.storage.object_keys import object_keys
from tasks.storage.rewrapping import rewrap, wrapped_by
from tests.integration.conftest import Run
from tests.integration.crypto.test_keyring import a_key
from tests.support.rows.company import an_account
from tests.support.servers.processes import eventually
from tests.support.time.deadlines import deadline

OLD, NEW = a_key(), a_key()
BEFORE, DURING, AFTER = Keyring(OLD), Keyring(f"{NEW}|{OLD}"), Keyring(NEW)


def some_keys(database: Database, number: int, keyring: Keyring = BEFORE) -> list[UUID]:
    """So many accounts with a key each."""
    with database.connection() as connection:
        made = connection.execute(
            text("""
                INSERT INTO tenure.accounts (ref, name, currency)
                SELECT gen_random_uuid()::text, 'x', 'EUR' FROM generate_series(1, :number) RETURNING id"""),
            {"number": number},
        )
        accounts = [UUID(str(each)) for each in made.scalars()]
    with database.transaction() as session:
        keys = object_keys(session, accounts)
    keys.recipient(accounts[0], database, keyring)
    return accounts


def counts(database: Database) -> Mapping[str, int]:
    with database.transaction() as session:
        return wrapped_by(session)


def public(database: Database, account: UUID, keyring: Keyring) -> bytes:
    with database.transaction() as session:
        return object_keys(session, [account]).identity(account, keyring).recipient.public


def end(database: Database, account: UUID) -> bool:
    with database.transaction() as session:
        return destroy(session, account, KeyPurpose.OBJECTS)


def destroyed(database: Database) -> int:
    with database.connection() as connection:
        asked = "SELECT count(*) FROM tenure.account_keys WHERE wrapped_secret IS NULL AND destroyed_at IS NOT NULL"
        return int(connection.execute(text(asked)).scalar_one())


def test_the_same_keys_are_under_the_new_one_and_no_object_is_touched(database: Database, ports: Ports) -> None:
    with database.transaction() as session:
        an_account(session, ref="acme")
    file = store_file(database, ports.objects, BEFORE, account="acme", name="plan", content=[b"the plan"])
    stored = ports.objects.get(file.object_key)
    archive, accounts = uuid4(), some_keys(database, 5)
    with database.transaction() as session:
        recipient = BEFORE.recipient(session, accounts[0], archive).public
    before = [public(database, each, DURING) for each in accounts]
    done = rewrap(database, DURING, batch=2)
    assert (done.rewrapped, done.remaining, done.refused) == (7, {}, {})
    assert counts(database) == {AFTER.current: 7}
    for keyring in (DURING, AFTER):
        assert [public(database, each, keyring) for each in accounts] == before
        with database.transaction() as session:
            assert keyring.identity(session, accounts[0], KeyPurpose.EXPORT, archive).recipient.public == recipient
        opened = open_file(database, ports.objects, keyring, account="acme", file=file.id)
        assert b"".join(opened.content(0, None)) == b"the plan"
    assert ports.objects.get(file.object_key) == stored
    with pytest.raises(Permanent, match="not among those"):
        public(database, accounts[0], BEFORE)
    assert rewrap(database, DURING).rewrapped == 0


def test_one_that_a_purge_destroys_meanwhile_stays_so(database: Database) -> None:
    """The purge is first, and has not committed yet."""
    first, second = some_keys(database, 2)
    with database.transaction() as session:
        assert destroy(session, first, KeyPurpose.OBJECTS)
        done = rewrap(database, DURING)
        assert (done.rewrapped, done.remaining) == (1, {BEFORE.current: 1})
    done = rewrap(database, DURING)
    assert (done.rewrapped, done.remaining, destroyed(database)) == (0, {}, 1)
    with pytest.raises(Permanent, match="was destroyed"):
        public(database, first, DURING)
    assert public(database, second, AFTER)


def test_one_that_is_being_wrapped_anew_is_destroyed_after_that(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The purge comes while the batch is under way: it waits, and has the last word."""
    (account,) = some_keys(database, 1)
    within, go_on, wrap = Event(), Event(), Keyring.rewrapped

    def slowly(keyring: Keyring, row: WrappedKey) -> WrappedKey:
        within.set()
        assert go_on.wait(deadline(20))
        return wrap(keyring, row)

    monkeypatch.setattr(Keyring, "rewrapped", slowly)
    with ThreadPoolExecutor(2) as threads:
        wrapping = threads.submit(rewrap, database, DURING)
        assert within.wait(deadline(20))
        ending = threads.submit(end, database, account)

        def waits() -> bool:
            with database.connection() as connection:
                asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                return bool(connection.execute(text(asked)).scalar_one())

        eventually(waits, "the purge waits for the batch", seconds=20)
        go_on.set()
        assert ending.result(deadline(20)) is True
        assert wrapping.result(deadline(20)).remaining == {}
    assert (destroyed(database), counts(database)) == (1, {})


def test_many_who_wrap_make_and_destroy_at_once(database: Database) -> None:
    accounts = some_keys(database, 600)
    doomed = accounts[::3]
    with ThreadPoolExecutor(8) as threads:
        working = [threads.submit(rewrap, database, DURING, batch=20) for _ in range(3)]
        ending = [threads.submit(end, database, account) for account in doomed]
        making = [threads.submit(some_keys, database, 10, keyring) for keyring in (DURING, BEFORE) * 3]
        assert all(each.result(deadline(60)) for each in ending)
        for wrapping in working:
            wrapping.result(deadline(60))
        for made in making:
            made.result(deadline(60))
    done = rewrap(database, DURING)
    assert done.remaining == {}
    assert counts(database) == {AFTER.current: 600 - len(doomed) + 60}
    assert destroyed(database) == len(doomed)
    kept = next(each for each in accounts if each not in doomed)
    assert public(database, kept, AFTER)


def test_killed_in_the_middle_it_goes_on(
    database: Database, tenure: Run, servers: Mapping[str, str], database_url: str
) -> None:
    number = 12_000
    some_keys(database, number)
    environment = {**os.environ, **servers, "TENURE_DATABASE_URL": database_url, SETTING: f"{NEW}|{OLD}"}
    command = [sys.executable, "-m", "workers.commands", "keys", "rewrap"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        eventually(lambda: counts(database).get(AFTER.current), "some are wrapped anew", seconds=60)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    midway = counts(database)
    assert 0 < midway[BEFORE.current] < number
    assert sum(midway.values()) == number
    run = tenure("keys", "rewrap", **{SETTING: f"{NEW}|{OLD}"})
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"{midway[BEFORE.current]:,} keys wrapped anew by {AFTER.current}.")
    assert f"{SETTING} needs {AFTER.current} alone" in run.stdout
    assert counts(database) == {AFTER.current: number}


def test_what_cannot_be_opened_is_left_and_told(database: Database, tenure: Run) -> None:
    (lost,), (changed,), (good,) = (
        some_keys(database, 1, Keyring(a_key())), some_keys(database, 1), some_keys(database, 1),
    )  # fmt: skip
    with database.connection() as connection:
        connection.execute(
            text("UPDATE tenure.account_keys SET wrapped_secret = '\\x00' || wrapped_secret WHERE account_id = :id"),
            {"id": changed},
        )
    run = tenure("keys", "rewrap", **{SETTING: f"{NEW}|{OLD}"})
    assert run.returncode == 1
    assert run.stdout.startswith("1 key wrapped anew")
    assert "1 key left as before: The account's key was changed in the database" in run.stdout
    assert f"1 key still under {BEFORE.current}." in run.stdout
    assert public(database, good, AFTER)
    shown = tenure("keys", "show", **{SETTING: f"{NEW}|{OLD}"})
    assert (shown.returncode, shown.stdout.count("not set")) == (1, 1)
    assert str(lost) not in run.stdout


def test_the_doctor_says_when_the_old_one_can_go(database: Database, tenure: Run) -> None:
    some_keys(database, 3)
    old, new = BEFORE.current, AFTER.current
    gone = tenure("doctor", **{SETTING: NEW})
    assert gone.returncode == 1
    assert f"Keys of accounts cannot be opened, 3 under {old}: add what is missing to {SETTING}" in gone.stdout
    needed = tenure("doctor", **{SETTING: f"{NEW}|{OLD}"})
    assert needed.returncode == 0
    assert f"0 of accounts under {new}, 3 under {old}, needed until `tenure keys rewrap` is done" in needed.stdout
    assert tenure("keys", "rewrap", **{SETTING: f"{NEW}|{OLD}"}).returncode == 0
    spare = tenure("doctor", **{SETTING: f"{NEW}|{OLD}"})
    assert f"3 of accounts under {new}, none under {old}, which {SETTING} needs no more" in spare.stdout
    alone = tenure("doctor", **{SETTING: NEW})
    assert alone.returncode == 0
    assert f"3 of accounts under {new}\n" in alone.stdout


@pytest.mark.parametrize("setting", ["", "hunter2"])
def test_without_a_key_it_ends_with_a_sentence(tenure: Run, setting: str) -> None:
    run = tenure("keys", "rewrap", **{SETTING: setting})
    assert run.returncode == 2
    assert run.stderr.startswith("tenure: Nothing can be encrypted")
    assert "hunter2" not in run.stderr
    assert "Traceback" not in run.stderr
