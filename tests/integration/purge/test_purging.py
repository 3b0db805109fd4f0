"""A purge from its first store to its verification: all that is the account's goes, and nothing else (T19 to T24)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import redis
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.data_map.map import AccountKeys, Category, DataMap, ObjectPrefix, RedisKeys
from models.termination.termination import TerminationStep
from models.work import row as work
from tasks.engine.drain import drain
from tasks.failures import Permanent
from tasks.ports.context import BROKER, Estate, Ports
from tasks.ports.objects import ObjectStore
from tasks.purge import checkpoints, rows, tables
from tasks.storage import sealed_objects
from tasks.storage.object_keys import object_keys
from tasks.termination.advancing import PURGE
from tasks.termination.preview import Kind, preview
from tests.support.rows import vault
from tests.support.rows.company import an_account
from tests.support.rows.marked import MARKER, a_marked_customer, freeze
from tests.support.rows.purging import a_delivered_termination, counts, everything, failure, passes
from tests.support.rows.raw_objects import put_raw
from tests.support.rows.terminating import stage, steps
from tests.support.servers.faulty_s3 import Faults, faulty
from tests.support.time.deadlines import deadline
from workers.adapters.objects.s3 import S3ObjectStore
from workers.adapters.payments.stripe import StripeGateway
from workers.adapters.redis_keys import RedisKeyStore
from workers.local.servers.payments import PaymentProvider
from workers.settings.settings import Settings

BUCKETS = ("versioned", "locked")
COMPANY = DataMap(
    (),
    objects=(
        ObjectPrefix("uploads/{account_ref}/", Category.SUBMITTED, bucket="versioned"),
        ObjectPrefix("scans/{account_id}/", Category.SUBMITTED, bucket="locked"),
    ),
    redis=(RedisKeys("cart:{account_ref}:*", Category.SUBMITTED, left_out="gone within the hour"),),
)


@dataclass(frozen=True)
class Company:
    """A company with objects in three buckets, keys in Redis and a payment provider; its customer `acme` leaves."""

    ports: Ports
    database: Database
    leaving: AccountKeys
    staying: AccountKeys
    provider: PaymentProvider
    broker: redis.Redis

    @property
    def s3(self) -> Any:
        assert isinstance(self.ports.objects, S3ObjectStore)
        return self.ports.objects.client

    def purge(self) -> dict[str, int]:
        """Do what is due of it."""
        return drain(PURGE, self.ports)

    def make_due(self) -> None:
        with self.database.connection() as connection:
            connection.execute(text("UPDATE tenure.termination_steps SET due_at = now() WHERE state = 'pending'"))

    def store(self, name: str, pass_number: int = 1) -> Any:
        (found,) = [each for each in passes(self.database) if each.store == name and each.pass_number == pass_number]
        return found


@pytest.fixture
def provider() -> Iterator[PaymentProvider]:
    with PaymentProvider() as provider:
        yield provider


@pytest.fixture
def company(database: Database, ports: Ports, settings: Settings, provider: PaymentProvider) -> Iterator[Company]:
    assert isinstance(ports.objects, S3ObjectStore)
    _make_buckets(ports.objects.client)
    for bucket in ("tenure", *BUCKETS):
        ports.objects.abandon("", bucket=bucket)
        ports.objects.remove(list(ports.objects.versions("", bucket=bucket)), bucket=bucket)
    gateway = StripeGateway(provider.secret_key, provider.webhook_secret, provider.address)
    keys = {BROKER: RedisKeyStore("The broker", settings.broker_url)}
    made = replace(ports, payments=gateway, company=lambda: Estate(COMPANY, {}, keys), quiet=timedelta(0))
    broker = redis.Redis.from_url(settings.broker_url)
    leaving = a_marked_customer(ports, "acme")
    # Names that begin alike.
    staying = a_marked_customer(ports, "acme_corp", "another9")
    for account in (leaving, staying):
        for number in range(5):
            broker.set(f"cart:{account.ref}:{number}", MARKER if account is leaving else "another9")
        for _ in range(3):
            ports.objects.client.put_object(Bucket="versioned", Key=f"uploads/{account.ref}/plan", Body=b"x")
        ports.objects.client.delete_object(Bucket="versioned", Key=f"uploads/{account.ref}/plan")
        ports.objects.client.create_multipart_upload(Bucket="versioned", Key=f"uploads/{account.ref}/unfinished")
        ports.objects.client.create_multipart_upload(Bucket="tenure", Key=f"files/{account.id}/unfinished")
    freeze(database, leaving)
    a_delivered_termination(made, leaving)
    yield Company(made, database, leaving, staying, provider, broker)
    broker.delete(*broker.keys("cart:*") or ["none"])
    gateway.close()


def _make_buckets(client: Any) -> None:
    present = {each["Name"] for each in client.list_buckets()["Buckets"]}
    if "versioned" not in present:
        client.create_bucket(Bucket="versioned")
        client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    if "locked" not in present:
        client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)


def objects(company: Company, account: AccountKeys) -> dict[str, int]:
    """Versions, delete markers and unfinished uploads of the account in all buckets."""
    found: dict[str, int] = {}
    for bucket in ("tenure", *BUCKETS):
        listed = company.s3.list_object_versions(Bucket=bucket)
        uploads = company.s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        for each in [*listed.get("Versions", []), *listed.get("DeleteMarkers", []), *uploads]:
            if each["Key"].split("/")[1] in (account.ref, str(account.id)):
                name = f"{bucket} {each['Key'].split('/')[0]}"
                found[name] = found.get(name, 0) + 1
    return found


def test_there_is_something_in_every_table(company: Company) -> None:
    assert [name for name, rows in counts(company.ports, company.leaving)["main"].items() if not rows] == []


def test_everything_goes_and_the_others_stay_as_they_are(company: Company) -> None:
    before = counts(company.ports, company.leaving)["main"]
    others, their_objects = everything(company.ports, company.leaving), objects(company, company.staying)
    assert objects(company, company.leaving) == their_objects == {
        "tenure files": 4, "tenure statements": 1, "versioned uploads": 5,
    }  # fmt: skip
    while company.purge()["steps"]:
        pass
    assert steps(company.database) == {
        "purge": "done", "purge_again": "done", "verify": "done", "certify": "pending",
    }, failure(company.database)  # fmt: skip
    assert stage(company.database) == ("verifying", None)
    after = counts(company.ports, company.leaving)["main"]
    assert after == {name: int(name == "tenure.accounts") for name in before}
    assert everything(company.ports, company.leaving) == others
    assert objects(company, company.leaving) == {}
    assert objects(company, company.staying) == their_objects
    assert sorted(company.broker.keys("cart:*")) == [f"cart:acme_corp:{n}".encode() for n in range(5)]
    assert company.provider.forgotten == {f"cus_{MARKER}acme"}

    first = {each.store: each for each in passes(company.database) if each.pass_number == 1}
    assert {name: first[name].removed for name in before} == before
    assert all(each.done_at and each.expected == each.removed for each in first.values()), first
    assert first["uploads/{account_ref}/"].removed == 4
    assert first["the key of the account's objects"].method == "destroyed"
    second = [each for each in passes(company.database) if each.pass_number == 2]
    assert {each.removed for each in second if each.method == "deleted"} == {0}
    with company.database.connection() as connection:
        verified = connection.execute(text("SELECT verified_at FROM tenure.terminations")).scalar_one()
    assert verified


def test_no_marker_is_left_anywhere(company: Company, capsys: pytest.CaptureFixture[str]) -> None:
    """One stood in every text, object and key; what says of a purge says nothing of anybody (T24)."""
    while company.purge()["steps"]:
        pass
    said = capsys.readouterr()
    assert MARKER not in said.out + said.err
    assert "purge.passed" in said.out
    assert [key for key in company.broker.keys("cart:*") if MARKER.encode() in (company.broker.get(key) or b"")] == []
    for bucket in ("tenure", *BUCKETS):
        for each in company.ports.objects.versions("", bucket=bucket):
            assert str(company.leaving.id) not in each.key
            assert "/acme/" not in each.key
            body = company.s3.get_object(Bucket=bucket, Key=each.key)["Body"].read() if bucket == "tenure" else b""
            assert MARKER.encode() not in body
    told = [
        f"{table.name}: {row[0]}"
        for table in [*company.ports.estate().map.tables, *company.ports.estate().map.unmapped]
        for row in _rows(company.database, str(table.name))
        if MARKER in row[0]
    ]
    assert told == []


def _rows(database: Database, table: str) -> list[Any]:
    with database.connection() as connection:
        return list(connection.execute(text(f"SELECT t::text FROM {table} AS t")))


def test_nothing_is_known_of_an_account_that_is_missing() -> None:
    for wrong in (None, "", 4711):
        with pytest.raises(Exception, match="one of them is missing"):
            AccountKeys(uuid4(), wrong)  # type: ignore[arg-type]
        with pytest.raises(Exception, match="one of them is missing"):
            AccountKeys(wrong, "acme")  # type: ignore[arg-type]


class Midway:
    """An object store during whose work something happens."""

    def __init__(self, real: ObjectStore, happens: Any) -> None:
        self._real, self._happens = real, happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def remove(self, *arguments: Any, **options: Any) -> Any:
        self._happens()
        return self._real.remove(*arguments, **options)


def place_hold(database: Database) -> None:
    with database.connection() as connection:
        connection.execute(text("SELECT tenure.place_hold('acme', 'case-1', 'a court asks', 'counsel')"))


def release_holds(database: Database) -> None:
    with database.connection() as connection:
        connection.execute(text("SELECT tenure.release_hold(id, 'counsel') FROM tenure.legal_holds"))


def test_a_hold_stops_the_purge_before_it_begins_and_its_release_lets_it_go_on(company: Company) -> None:
    place_hold(company.database)
    before = counts(company.ports, company.leaving)
    company.purge()
    assert stage(company.database)[0] == "held"
    assert counts(company.ports, company.leaving) == before
    assert objects(company, company.leaving) == objects(company, company.staying)
    release_holds(company.database)
    company.make_due()
    assert company.purge()["steps"] == 3, failure(company.database)


def test_a_hold_that_is_placed_in_the_middle_waits_for_the_batch_and_keeps_the_rest(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BATCH", 5)
    placed, batches = Event(), []
    real = checkpoints.Checkpoint.here

    def here(self: Any, act: Any, **options: Any) -> int:
        if self.name == "tenure.usage_events" and not placed.is_set():
            batches.append(self.removed)
            if len(batches) == 3:

                def meanwhile(connection: Any) -> int:
                    # While the batch is being deleted, somebody places a hold: it has to wait.
                    thread = Thread(target=lambda: (place_hold(company.database), placed.set()))
                    thread.start()
                    gone = int(act(connection))
                    assert not placed.wait(0.3)
                    return gone

                return real(self, meanwhile, **options)
            if len(batches) > 3:
                placed.wait(deadline(10))
        return real(self, act, **options)

    monkeypatch.setattr(checkpoints.Checkpoint, "here", here)
    company.purge()
    assert stage(company.database) == ("held", "purging")
    assert company.store("tenure.usage_events").removed == 15
    assert counts(company.ports, company.leaving)["main"]["tenure.usage_events"] == 10
    monkeypatch.undo()
    again = counts(company.ports, company.leaving)
    company.make_due()
    company.purge()
    assert counts(company.ports, company.leaving) == again
    release_holds(company.database)
    company.make_due()
    company.purge()
    assert company.store("tenure.usage_events").removed == 25
    assert stage(company.database) == ("verifying", None), failure(company.database)


def test_a_hold_that_is_placed_while_small_tables_go_waits_for_them_and_keeps_the_rest(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed, asked = Event(), []
    real = rows.Rows.remove_few

    def remove_few(self: Any, connection: Any, most: int) -> tuple[int, bool]:
        if not asked:
            asked.append(Thread(target=lambda: (place_hold(company.database), placed.set())))
            asked[0].start()
            assert not placed.wait(0.3)
        return real(self, connection, most)

    monkeypatch.setattr(rows.Rows, "remove_few", remove_few)
    # What comes after them has as many rows as a batch, and so a transaction of its own.
    monkeypatch.setattr(tables, "BATCH", 25)
    company.purge()
    asked[0].join()
    assert stage(company.database) == ("held", "purging")
    stored = [each for each in passes(company.database) if each.kind == "table"]
    left = counts(company.ports, company.leaving)["main"]
    kept = [each for each in stored if not each.done_at]
    assert 1 < len(stored) - len(kept) < len(stored)
    # One of them may have lost its rows in the last batch, and not have been found empty yet.
    assert all(left[each.store] == each.expected - each.removed for each in kept)
    assert any(each.expected for each in kept)
    release_holds(company.database)
    company.make_due()
    company.purge()
    assert stage(company.database) == ("verifying", None), failure(company.database)


def test_who_was_overtaken_deletes_nothing_more(company: Company) -> None:
    """Two purgers: the one that slept past its lease wakes with an old token, and leaves what a hold protects."""
    before = counts(company.ports, company.leaving)

    def overtaken() -> None:
        with company.database.connection() as connection:
            connection.execute(
                text("UPDATE tenure.termination_steps SET lease_until = now() - interval '1 s' WHERE step = 'purge'")
            )
            work.rescue(connection, TerminationStep)

    store = company.ports.objects
    woken = replace(company.ports, objects=Midway(store, lambda: None), lease=timedelta(hours=1))
    real, happened = checkpoints.Checkpoint.here, []

    def here(self: Any, act: Any, **options: Any) -> int:
        if not happened:
            happened.append(True)
            overtaken()
            place_hold(company.database)
        return real(self, act, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoints.Checkpoint, "here", here)
        drain(PURGE, woken)
    assert happened
    assert counts(company.ports, company.leaving) == before


def test_locked_objects_are_told_and_waited_for(company: Company) -> None:
    until = datetime.now(UTC) + timedelta(days=3)
    kept = f"scans/{company.leaving.id}/1"
    company.s3.put_object(
        Bucket="locked", Key=kept, Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until
    )
    company.s3.put_object(Bucket="locked", Key=f"scans/{company.leaving.id}/2", Body=b"x")
    company.purge()
    assert steps(company.database) == {"purge": "pending"}
    assert f"1 versions below scans/{{account_id}}/ are locked by the object store until {until:%Y-%m-%d}" in failure(
        company.database
    )
    assert (company.store("scans/{account_id}/").removed, company.store("scans/{account_id}/").kept) == (1, 1)
    assert counts(company.ports, company.leaving)["main"]["tenure.contacts"] == 0
    with company.database.connection() as connection:
        wait = connection.execute(
            text("SELECT due_at - now() FROM tenure.termination_steps WHERE step = 'purge'")
        ).scalar_one()
    assert timedelta(hours=23) < wait <= timedelta(days=1)
    for each in company.s3.list_object_versions(Bucket="locked", Prefix=kept)["Versions"]:
        company.s3.delete_object(Bucket="locked", Key=kept, VersionId=each["VersionId"], BypassGovernanceRetention=True)
    company.make_due()
    assert company.purge()["steps"] == 3, failure(company.database)


def test_what_comes_in_behind_the_first_pass_goes_with_the_second(company: Company) -> None:
    later = replace(company.ports, quiet=timedelta(days=1))
    assert drain(PURGE, later) == {"steps": 1}
    put_raw(company.ports.objects, f"files/{company.leaving.id}/late", b"x")
    company.broker.set("cart:acme:late", "x")
    company.make_due()
    assert drain(PURGE, later) == {"steps": 2}, failure(company.database)
    assert company.store("files/{account_id}/", 2).removed == 1
    assert company.store("cart:{account_ref}:*", 2).removed == 1
    assert objects(company, company.leaving) == {}


def until_verified(company: Company) -> None:
    """As far as the end of the second pass: the verification is due."""
    early = replace(company.ports, stopping=lambda: stage(company.database)[0] == "verifying")
    drain(PURGE, early)
    assert steps(company.database) == {"purge": "done", "purge_again": "done", "verify": "pending"}


@pytest.mark.parametrize("late", ["object", "marker", "upload", "key"])
def test_what_a_verification_finds_is_purged_and_verified_again(company: Company, late: str) -> None:
    until_verified(company)
    key = f"uploads/{company.leaving.ref}/late"
    match late:
        case "object":
            company.s3.put_object(Bucket="versioned", Key=key, Body=b"x")
        case "marker":
            company.s3.delete_object(Bucket="versioned", Key=key)
        case "upload":
            begun = company.s3.create_multipart_upload(Bucket="versioned", Key=key)["UploadId"]
            company.s3.upload_part(Bucket="versioned", Key=key, UploadId=begun, PartNumber=1, Body=b"x")
        case "key":
            company.broker.set("cart:acme:late", "x")
    assert company.purge() == {"steps": 3}, failure(company.database)
    assert steps(company.database) == {
        "purge": "done", "purge_again": "done", "verify": "done", "purge_again 1": "done", "verify 1": "done",
        "certify": "pending",
    }  # fmt: skip
    assert objects(company, company.leaving) == {}
    assert company.broker.exists("cart:acme:late") == 0


def test_what_comes_again_and_again_wants_a_person_and_goes_when_it_is_mended(company: Company) -> None:
    """Somebody writes behind each pass. When that was stopped, a retry removes what the last one wrote."""

    class Rewritten(Midway):
        def versions(self, prefix: str, **options: Any) -> Iterator[Any]:
            yield from self._real.versions(prefix, **options)
            if prefix.startswith("uploads/acme/"):
                company.s3.put_object(Bucket="versioned", Key="uploads/acme/again", Body=b"x")

    def go_on(ports: Ports) -> None:
        while drain(PURGE, ports)["steps"]:
            pass

    go_on(replace(company.ports, objects=Rewritten(company.ports.objects, lambda: None)))
    assert stage(company.database) == ("failed", "verifying")
    said = failure(company.database)
    assert "After 6 passes something is left or comes again" in said
    assert "in objects uploads/{account_ref}/" in said
    with company.database.connection() as connection:
        failed = connection.scalars(text("SELECT id FROM tenure.termination_steps WHERE state = 'failed'")).all()
        work.retry(connection, TerminationStep, failed)
    go_on(company.ports)
    assert stage(company.database) == ("verifying", None), failure(company.database)
    assert steps(company.database)["certify"] == "pending"
    assert objects(company, company.leaving) == {}


def test_what_the_dry_run_counts_is_what_goes_store_by_store(company: Company) -> None:
    """T28. A processor is told by its own name, and the key of the objects is none of what a customer has."""
    told = preview(company.ports, company.leaving, "frozen").stores
    while company.purge()["steps"]:
        pass
    gone = {(each.kind, each.store): each.removed for each in passes(company.database) if each.pass_number == 1}
    counted = {(str(each.kind), each.name): each.count for each in told if each.kind is not Kind.PROCESSOR}
    assert counted == {store: removed for store, removed in gone.items() if store[0] not in ("processor", "key")}
    assert sum(each.count or 0 for each in told if each.kind is Kind.PROCESSOR) == sum(
        removed for (kind, _), removed in gone.items() if kind == "processor"
    )


def test_an_object_store_in_trouble_loses_neither_an_object_nor_the_count(company: Company, settings: Settings) -> None:
    """Refusals outlast the client's own retries, on the second page of a listing, too; answers are lost."""
    for number in range(1_100):
        company.s3.put_object(Bucket="versioned", Key=f"uploads/acme/many/{number}", Body=b"x")
    faults, refused = Faults(), 0
    with faulty(str(settings.s3_endpoint), faults) as endpoint:
        ports = replace(company.ports, objects=S3ObjectStore(msgspec.structs.replace(settings, s3_endpoint=endpoint)))
        for good in range(3, 40, 3):
            faults.set(*["pass"] * good, "cut_after", "refuse", "refuse", "refuse")
            refused += drain(PURGE, ports).get("handed_back", 0)
            company.make_due()
    assert refused > 2
    assert steps(company.database)["certify"] == "pending", failure(company.database)
    assert objects(company, company.leaving) == {}
    first = company.store("uploads/{account_ref}/")
    assert (first.expected, first.removed) == (1_104, 1_104)


def test_a_lost_reply_of_the_payment_provider_forgets_a_customer_once(company: Company) -> None:
    company.provider.faults.extend(["lose_after", "busy"])
    while not company.purge()["steps"]:
        company.make_due()
    assert company.provider.forgotten == {f"cus_{MARKER}acme"}
    assert company.store("payment customers").removed == 1


@pytest.mark.parametrize("away", ["objects", "keys", "payments"])
def test_a_store_that_is_away_stops_the_purge_before_it_begins(company: Company, away: str, settings: Settings) -> None:
    keys = {BROKER: RedisKeyStore("The broker", "redis://127.0.0.1:1/0")}
    nowhere: dict[str, dict[str, Any]] = {
        "objects": {"objects": S3ObjectStore(msgspec.structs.replace(settings, s3_endpoint="http://127.0.0.1:1"))},
        "keys": {"company": lambda: Estate(COMPANY, {}, keys)},
        "payments": {"payments": None},
    }
    before = counts(company.ports, company.leaving)
    told = drain(PURGE, replace(company.ports, **nowhere[away]))
    assert told == ({"steps": 0, "failed": 1} if away == "payments" else {"steps": 0, "handed_back": 1})
    assert counts(company.ports, company.leaving) == before
    assert passes(company.database) == []
    assert stage(company.database)[away == "payments"] == "delivered"


def test_a_ref_that_begins_like_anothers_is_not_purged_by_it(company: Company) -> None:
    with company.database.transaction() as session:
        an_account(session, ref="acme/emea")
    assert company.purge() == {"steps": 0, "failed": 1}
    assert "uploads/{account_ref}/ of this account would also find" in failure(company.database)
    assert objects(company, company.leaving) == objects(company, company.staying)


@pytest.mark.parametrize(
    ("pattern", "other", "finds"),
    [
        ("cart:{account_ref}", "acme2", False),
        ("cart:{account_ref}:*", "acme:2", True),
        ("cart:{account_ref}:*", "acme2", False),
        ("cart:{account_ref}*", "acme2", True),
        ("cart:{account_ref}[0-9]", "acme2", True),
        ("cart:*:{account_ref}", "x:acme", True),
        ("cart:*:{account_ref}", "xacme", False),
        ("cart:*{account_ref}", "xacme", True),
        ("cart:?{account_ref}", "xacme", True),
        ("cart:[a-z]{account_ref}:*", "xacme", True),
        ("cart:*:{account_ref}:*", "x:acme:y", True),
        ("cart:*:{account_ref}:*", "x:acmes:y", False),
        ("cart:*{account_ref}*", "xacmey", True),
        ("{account_id}:*{account_ref}:*", "x-acme", True),
        ("cart:*:{account_id}:*", "x:acme:y", False),
    ],
)
def test_a_pattern_that_finds_anothers_keys_is_refused(
    database: Database, ports: Ports, pattern: str, other: str, finds: bool
) -> None:
    with database.transaction() as session:
        account = an_account(session, ref="acme")
        an_account(session, ref=other)
        keys = AccountKeys(account.id, "acme")
    estate = Estate(DataMap((), redis=(RedisKeys(pattern, Category.SUBMITTED, left_out="short-lived"),)), {})
    found = preview(replace(ports, company=lambda: estate), keys, "active").obstacles
    assert any("would also find what belongs to another account" in each for each in found) == finds


def test_ledger_and_invoices_are_deleted_by_a_purge_alone(company: Company) -> None:
    """What may never change goes with its own account, and with no other one's purge."""
    for table in ("ledger_entries", "invoices", "invoice_lines", "invoice_taxes", "allocations", "open_items"):
        alone = table in ("allocations", "invoice_taxes")
        other = "deletes rows of another" if alone else "deletes rows of another|violates foreign key"
        for purging, said in (("", "is refused"), (str(company.leaving.id), other)):
            with pytest.raises(Exception, match=said), company.database.connection() as connection:
                connection.execute(text("SELECT set_config('tenure.purging', :whom, true)"), {"whom": purging})
                connection.execute(text(f"DELETE FROM tenure.{table}"))


def test_copies_of_objects_that_were_kept_aside_cannot_be_read_after_the_purge(company: Company) -> None:
    """A replica or a backup of the bucket has them still; the key is what is gone (T27)."""
    ports, leaving = company.ports, company.leaving
    kept = {each.key: ports.objects.get(each.key) for each in ports.objects.list(f"files/{leaving.id}/")}
    identity = vault.identity(company.database, ports.keyring, leaving.id)
    assert [MARKER.encode() in vault.content(ports, key) for key in kept] == [True] * 3
    company.purge()
    for key, body in kept.items():
        put_raw(ports.objects, key, body)
        with pytest.raises(Permanent, match="was destroyed"):
            vault.content(ports, key)
        # The copy itself is whole: with the key it would open.
        assert MARKER.encode() in sealed_objects.get(ports.objects, key, identity)
    secret = identity.secret
    with company.database.connection() as connection:
        rows = connection.execute(text("SELECT * FROM tenure.account_keys WHERE account_id = :id"), {"id": leaving.id})
        assert [row.wrapped_secret for row in rows] == [None]
    assert secret not in b"".join(kept.values())
    with company.database.transaction() as session:
        keys = object_keys(session, [leaving.id])
    with pytest.raises(Permanent, match="was destroyed"):
        keys.recipient(leaving.id, company.database, ports.keyring)
    staying = next(iter(ports.objects.list(f"files/{company.staying.id}/"))).key
    assert b"another9" in vault.content(ports, staying)
