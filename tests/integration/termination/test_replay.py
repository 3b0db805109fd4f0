"""Dumped, purged, restored, erased again: no marker is left, and nobody else is touched (T26)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.data_map.file import parse
from models.data_map.map import AccountKeys
from tasks.certificates import certifying, erasure_notes, publishing
from tasks.engine.drain import drain
from tasks.failures import Permanent
from tasks.ports.context import Estate, Ports
from tasks.termination.advancing import ADVANCE, PURGE
from tasks.termination.replay import replay
from tests.integration.conftest import Run
from tests.support.rows.certifying import a_setting
from tests.support.rows.marked import MARKER, a_marked_customer, freeze
from tests.support.rows.purging import a_delivered_termination, everything
from tests.support.rows.raw_objects import put_raw
from tests.support.servers.restoring import backed_up, removed, restored
from workers.adapters.payments.stripe import StripeGateway
from workers.local.servers.payments import PaymentProvider


@dataclass
class Scene:
    """Two customers; one is purged, after a backup was made."""

    ports: Ports
    address: str
    backup: Path
    leaving: AccountKeys
    made: list[str]

    def restore(self) -> Ports:
        """The same installation on the restored backup."""
        address = restored(self.backup, self.address)
        self.made.append(address)
        return replace(self.ports, database=Database(address))


def purge(ports: Ports, account: AccountKeys) -> UUID:
    """From its delivery to its certificate, which is copied."""
    freeze(ports.database, account)
    termination = a_delivered_termination(ports, account)
    finish(ports)
    return termination


def finish(ports: Ports) -> None:
    quick = replace(ports, quiet=timedelta(0))
    while drain(PURGE, quick)["steps"] + drain(ADVANCE, quick)["steps"]:
        pass
    drain(publishing.PUBLISH, ports)


@pytest.fixture
def provider() -> Iterator[PaymentProvider]:
    with PaymentProvider() as made:
        yield made


@pytest.fixture
def ports(ports: Ports, provider: PaymentProvider) -> Iterator[Ports]:
    gateway = StripeGateway(provider.secret_key, provider.webhook_secret, provider.address)
    yield replace(ports, payments=gateway)
    gateway.close()


@pytest.fixture
def tenure(tenure: Run, provider: PaymentProvider) -> Run:
    return partial(
        tenure,
        TENURE_STRIPE_SECRET_KEY=provider.secret_key,
        TENURE_STRIPE_WEBHOOK_SECRET=provider.webhook_secret,
        TENURE_STRIPE_API=provider.address,
    )


@pytest.fixture
def scene(ports: Ports, database_url: str, tmp_path: Path) -> Iterator[Scene]:
    leaving = a_marked_customer(ports, "acme")
    a_marked_customer(ports, "acme_corp", "another9")
    backup = backed_up(database_url, tmp_path / "backup")
    made: list[str] = []
    yield Scene(ports, database_url, backup, leaving, made)
    for address in made:
        removed(address, database_url)


def markers(ports: Ports) -> int:
    """Rows of any table that have the marker in them."""
    with ports.database.connection() as connection:
        tables = connection.execute(
            text("""
                SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
                 WHERE relkind IN ('r', 'p') AND NOT relispartition AND nspname = 'tenure'""")
        ).scalars()
        return sum(
            connection.execute(text(f"SELECT count(*) FROM {each} AS t WHERE t::text LIKE '%{MARKER}%'")).scalar_one()
            for each in tables.all()
        )


def chain(ports: Ports) -> list[tuple[int, bytes, bytes]]:
    with ports.database.connection() as connection:
        rows = connection.execute(text("SELECT number, body, signature FROM tenure.certificates ORDER BY number"))
        return [(row.number, bytes(row.body), bytes(row.signature)) for row in rows]


def stage(ports: Ports) -> str:
    with ports.database.connection() as connection:
        return str(
            connection.execute(text("SELECT stage FROM tenure.terminations WHERE stage <> 'cancelled'")).scalar()
        )


def test_what_was_erased_is_erased_again_after_a_restore(scene: Scene, tenure: Run) -> None:
    purge(scene.ports, scene.leaving)
    assert markers(scene.ports) == 0
    ports = scene.restore()
    assert markers(ports) > 20
    others = everything(ports, scene.leaving)
    assert "does not know 1 erasure and 2 certificates" in str(erasure_notes.unknown(ports.database, ports.objects))

    address = scene.made[0]
    said = tenure("purge", "replay", TENURE_DATABASE_URL=address)
    assert said.returncode == 0, said.stderr
    assert "1 erasures were done again, 2 certificates put back. Workers may start." in said.stdout

    assert markers(ports) == 0
    assert everything(ports, scene.leaving) == others
    assert not erasure_notes.unknown(ports.database, ports.objects)
    assert chain(ports) == chain(scene.ports)
    assert stage(ports) == "certified"
    assert tenure("certificate", "verify", TENURE_DATABASE_URL=address).returncode == 0
    again = tenure("purge", "replay", TENURE_DATABASE_URL=address)
    assert (again.returncode, "nothing to do again" in again.stdout) == (0, True)


def test_certificates_of_a_record_and_of_a_retention_are_put_back_too(scene: Scene) -> None:
    termination = purge(scene.ports, scene.leaving)
    facts = {"stores": [], "legal_basis": "§ 132 BAO"}
    with scene.ports.database.transaction() as session:
        certifying.retention_ended(session, scene.ports.signer, uuid4(), termination, facts)
        certifying.archive_retired(session, scene.ports.signer, termination)
    drain(publishing.PUBLISH, scene.ports)
    ports = scene.restore()
    done = replay(ports)
    assert (done.certificates, done.left) == (4, [])
    assert chain(ports) == chain(scene.ports)
    with ports.database.connection() as connection:
        again = "SELECT kind, subject FROM tenure.certificates WHERE kind <> 'key' ORDER BY number"
        before = scene.ports.database
        with before.connection() as original:
            assert connection.execute(text(again)).all() == original.execute(text(again)).all()
        assert connection.execute(text("SELECT archive_purged_at FROM tenure.terminations")).scalar_one() is not None


def test_an_account_that_the_backup_did_not_know_leaves_its_tombstone(
    scene: Scene, database_url: str, tmp_path: Path
) -> None:
    """So that a late write for the customer is refused, and the certificate belongs to something."""
    late = a_marked_customer(scene.ports, "late")
    termination = purge(scene.ports, late)
    ports = scene.restore()
    done = replay(ports)
    assert (done.erased, done.absent, done.certificates, done.left) == (1, 1, 2, [])
    with ports.database.connection() as connection:
        row = connection.execute(
            text("SELECT status, name FROM tenure.accounts WHERE ref = tenure.purged_ref('late')")
        ).one()
        found = connection.execute(text("SELECT id, stage FROM tenure.terminations")).one()
    assert tuple(row) == ("purged", "")
    assert tuple(found) == (termination, "certified")


def test_an_erasure_without_a_certificate_goes_on_by_itself(scene: Scene) -> None:
    """The disaster came while it was being purged."""
    freeze(scene.ports.database, scene.leaving)
    a_delivered_termination(scene.ports, scene.leaving)
    drain(PURGE, scene.ports)
    assert stage(scene.ports) == "purging"
    ports = scene.restore()
    done = replay(ports)
    assert (done.erased, done.certificates, done.left) == (1, 0, [])
    assert markers(ports) == 0
    assert stage(ports) == "verifying"
    finish(ports)
    assert stage(ports) == "certified"
    assert len(chain(ports)) == 2


@pytest.mark.parametrize("at", ["requested", "grace", "frozen", "exporting", "sealed", "delivered", "held", "other"])
def test_it_goes_on_from_whatever_stage_the_backup_has(
    ports: Ports, database_url: str, tmp_path: Path, at: str
) -> None:
    leaving = a_marked_customer(ports, "acme")
    freeze(ports.database, leaving)
    termination = a_delivered_termination(ports, leaving)
    with ports.database.connection() as connection:
        connection.execute(text("ALTER TABLE tenure.terminations DISABLE TRIGGER guard"))
        connection.execute(text(ASIDE if at == "held" else STAGE), {"stage": at if at != "other" else "grace"})
        if at == "other":
            connection.execute(text("UPDATE tenure.termination_steps SET termination_id = :id"), {"id": termination})
        connection.execute(text("ALTER TABLE tenure.terminations ENABLE TRIGGER guard"))
    backup = backed_up(database_url, tmp_path / "backup")
    with ports.database.connection() as connection:
        connection.execute(text("ALTER TABLE tenure.terminations DISABLE TRIGGER guard"))
        connection.execute(text("UPDATE tenure.terminations SET stage = 'delivered', stage_before = NULL"))
        if at == "other":
            # The customer took it back, and later ended the contract once more.
            connection.execute(text("DELETE FROM tenure.termination_steps"))
            connection.execute(text("UPDATE tenure.terminations SET id = :id"), {"id": uuid4()})
            connection.execute(
                text("INSERT INTO tenure.termination_steps (termination_id, step) SELECT id, 'purge'"
                     " FROM tenure.terminations")
            )  # fmt: skip
        connection.execute(text("ALTER TABLE tenure.terminations ENABLE TRIGGER guard"))
    finish(ports)
    assert stage(ports) == "certified"
    address = restored(backup, database_url)
    try:
        again = replace(ports, database=Database(address))
        assert replay(again).left == []
        assert (markers(again), stage(again)) == (0, "certified")
        again.database.engine.dispose()
    finally:
        removed(address, database_url)


@pytest.mark.parametrize("at", ["first pass", "quiet", "verify", "failed"])
def test_a_backup_from_the_middle_of_a_purge_is_erased_again(
    ports: Ports, database_url: str, tmp_path: Path, at: str
) -> None:
    """It knows the erasure, and not that it came to its end: what was deleted since is there again."""
    leaving = a_marked_customer(ports, "acme")
    a_marked_customer(ports, "acme_corp", "another9")
    freeze(ports.database, leaving)
    a_delivered_termination(ports, leaving)
    asked: list[str] = []

    def stopping() -> bool:
        asked.append(stage(ports))
        return len(asked) > 12 if at in ("first pass", "failed") else asked[-1] == "verifying"

    drain(PURGE, replace(ports, stopping=stopping, quiet=timedelta(days=1) if at == "quiet" else timedelta(0)))
    assert stage(ports) == ("verifying" if at == "verify" else "purging")
    step = "UPDATE tenure.termination_steps SET state = :state WHERE state <> 'done' AND step = 'purge'"
    with ports.database.connection() as connection:
        if at == "failed":
            connection.execute(text(step), {"state": "failed"})
    backup = backed_up(database_url, tmp_path / "backup")
    with ports.database.connection() as connection:
        connection.execute(text(step), {"state": "pending"})
        connection.execute(text("UPDATE tenure.termination_steps SET due_at = now() WHERE state = 'pending'"))
    finish(ports)
    assert stage(ports) == "certified"
    address = restored(backup, database_url)
    try:
        again = replace(ports, database=Database(address))
        assert (markers(again) > 0) == (at in ("first pass", "failed"))
        assert "2 certificates" in str(erasure_notes.unknown(again.database, again.objects))
        others = everything(again, leaving)
        done = replay(again)
        assert (done.erased, done.certificates, done.left) == (1, 2, [])
        assert (markers(again), stage(again)) == (0, "certified")
        assert everything(again, leaving) == others
        assert chain(again) == chain(ports)
        assert not erasure_notes.unknown(again.database, again.objects), "workers start"
        again.database.engine.dispose()
    finally:
        removed(address, database_url)


@pytest.mark.parametrize("known", ["neither", "first", "first, purged"])
def test_a_customer_who_came_back_and_left_again_is_erased_twice(
    ports: Ports, database_url: str, tmp_path: Path, known: str
) -> None:
    """Under the same ref: both leave their tombstones, whatever the backup has of them."""
    backup = backed_up(database_url, tmp_path / "backup")
    accounts: list[AccountKeys] = []
    for time in ("first", "second"):
        accounts.append(a_marked_customer(ports, "acme"))
        if time == "first" and known == "first":
            backup = backed_up(database_url, tmp_path / "later")
        purge(ports, accounts[-1])
        if time == "first" and known == "first, purged":
            backup = backed_up(database_url, tmp_path / "later")
    address = restored(backup, database_url)
    try:
        again = replace(ports, database=Database(address))
        assert replay(again).left == []
        assert markers(again) == 0
        with again.database.connection() as connection:
            rows = connection.execute(
                text("""
                    SELECT account_id, account.status, stage, ref FROM tenure.terminations
                      JOIN tenure.accounts AS account ON account.id = account_id ORDER BY account.created_at""")
            ).all()
        assert {row.account_id for row in rows} == {each.id for each in accounts}
        assert {(row.status, row.stage) for row in rows} == {("purged", "certified")}
        assert chain(again) == chain(ports)
        again.database.engine.dispose()
    finally:
        removed(address, database_url)


NOTES = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.note (id int PRIMARY KEY, owner text NOT NULL);
    CREATE INDEX ON shop.note (owner);
    INSERT INTO shop.note VALUES (1, 'acme'), (2, 'acme_corp');
    CREATE FUNCTION shop.echo() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO shop.note VALUES (3, 'acme') ON CONFLICT DO NOTHING; RETURN NULL; END $$;
    CREATE TRIGGER echo AFTER UPDATE OF status ON tenure.accounts FOR EACH ROW WHEN (NEW.status = 'purged')
        EXECUTE FUNCTION shop.echo()"""
MAP = """
    [[table]]
    name = "shop.note"
    category = "P2.1c"
    paths = ["owner = account.ref"]
    key = ["id"]
    exported = ["id", "owner"]
"""


def test_all_passes_of_a_replay_know_the_ref_of_the_account(ports: Ports, database_url: str, tmp_path: Path) -> None:
    """The first one makes a tombstone of the account; what comes in behind it is found by the ref all the same."""
    leaving = a_marked_customer(ports, "acme")
    with ports.database.connection() as connection:
        connection.exec_driver_sql(NOTES)
    company = parse(MAP).map
    ports = replace(ports, company=lambda: Estate(company, {}))
    backup = backed_up(database_url, tmp_path / "backup")
    purge(ports, leaving)
    notes = text("SELECT owner FROM shop.note")
    address = restored(backup, database_url)
    try:
        again = replace(ports, database=Database(address))
        assert replay(again).left == []
        for each in (ports, again):
            with each.database.connection() as connection:
                assert connection.scalars(notes).all() == ["acme_corp"]
        finish(again)
        with again.database.connection() as connection:
            kept = connection.execute(text("SELECT stage, correspondence FROM tenure.terminations")).one()
        assert tuple(kept) == ("certified", None), "the ref is forgotten at the end"
        again.database.engine.dispose()
    finally:
        removed(address, database_url)


STAGE = "UPDATE tenure.terminations SET stage = :stage"
ASIDE = "UPDATE tenure.terminations SET stage_before = stage, stage = :stage"


def test_a_hold_of_the_backup_is_to_be_released_first(scene: Scene, database_url: str) -> None:
    purge(scene.ports, scene.leaving)
    ports = scene.restore()
    with ports.database.connection() as connection:
        hold = connection.execute(text("SELECT tenure.place_hold('acme', '12 Cg 34/26x', 'A court.', 'ines')")).scalar()
    done = replay(ports)
    assert (done.erased, done.certificates) == (0, 1)
    assert any("held" in each for each in done.left)
    assert markers(ports) > 0
    assert erasure_notes.unknown(ports.database, ports.objects), "workers do not start"
    with ports.database.connection() as connection:
        connection.execute(text("SELECT tenure.release_hold(:hold, 'ines')"), {"hold": hold})
    assert replay(ports).left == []
    assert (markers(ports), stage(ports)) == (0, "certified")


def test_a_forged_note_stops_it_before_anything_is_erased(scene: Scene) -> None:
    purge(scene.ports, scene.leaving)
    ports = scene.restore()
    forged = uuid4()
    put_raw(ports.objects, erasure_notes.key(forged), b'{"erasure": {}}')
    before = markers(ports)
    with pytest.raises(Permanent, match="look who wrote it"):
        replay(ports)
    assert markers(ports) == before


def test_a_forged_certificate_stops_it_too(scene: Scene) -> None:
    purge(scene.ports, scene.leaving)
    ports = scene.restore()
    name = publishing.key(2)
    read = json.loads(ports.objects.get(name))
    read["certificates"][0]["certificate"]["issuer"] = "another"
    put_raw(ports.objects, name, json.dumps(read).encode())
    before = markers(ports)
    with pytest.raises(Permanent, match="not to be believed"):
        replay(ports)
    assert markers(ports) == before


def test_a_note_that_is_lost_is_named_and_can_be_put_back(scene: Scene) -> None:
    """The certificate's copy tells of it, so that workers do not start all the same."""
    name = erasure_notes.key(purge(scene.ports, scene.leaving))
    ports = scene.restore()
    kept = ports.objects.get(name)
    ports.objects.erase(name)
    (said,) = replay(ports).left
    assert f"its note {name} is not in the object store" in said
    assert erasure_notes.unknown(ports.database, ports.objects), "workers do not start"
    assert markers(ports) > 0
    put_raw(ports.objects, name, kept)
    assert replay(ports).left == []
    assert (markers(ports), stage(ports)) == (0, "certified")


def test_without_the_key_nothing_is_erased(scene: Scene, tenure: Run) -> None:
    purge(scene.ports, scene.leaving)
    ports = scene.restore()
    said = tenure("purge", "replay", TENURE_DATABASE_URL=scene.made[0], TENURE_CERTIFICATE_KEYS=a_setting(3))
    assert said.returncode == 1
    assert "not to be believed" in said.stderr
    assert markers(ports) > 0
