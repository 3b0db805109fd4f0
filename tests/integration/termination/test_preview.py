"""The dry run tells what the export and the purge would find, and what would stop them, and changes nothing (T28)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
import redis
from sqlalchemy import event, text

from models.base.unit_of_work import Database
from models.data_map.file import parse
from models.data_map.map import AccountKeys, Category, DataMap, ObjectPrefix
from tasks.client import sessions
from tasks.client.files import store_file
from tasks.crypto.signing import Signer
from tasks.ports.context import BROKER, Estate, Ports
from tasks.termination.preview import Fate, Preview, Store, find, preview
from tests.support.rows.company import a_contact, an_account, an_entry
from workers.adapters.objects.s3 import S3ObjectStore
from workers.adapters.redis_keys import RedisKeyStore
from workers.settings.settings import Settings

SHOP = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.customer (id int PRIMARY KEY, code text UNIQUE NOT NULL, name text);
    CREATE TABLE shop.invoice (id int PRIMARY KEY, customer int REFERENCES shop.customer, paid_on date);
    CREATE INDEX ON shop.invoice (customer);
    INSERT INTO shop.customer VALUES (1, 'acme', 'Acme'), (2, 'acme_corp', 'Acme Corp');
    INSERT INTO shop.invoice VALUES (1, 1, '2020-01-01'), (2, 1, NULL), (3, 2, NULL);
"""
MAP = """
    [[table]]
    name = "shop.customer"
    category = "P2.1b"
    paths = ["code = account.ref"]
    key = ["id"]
    exported = ["id", "code", "name"]
    [[table]]
    name = "shop.invoice"
    category = "platform"
    paths = ["customer = shop.customer.id > code = account.ref"]
    key = ["id"]
    exported = ["id", "customer", "paid_on"]
    [table.retention]
    legal_basis = "§ 132 BAO"
    duration = "P7Y"
    counted_from = "paid_on"
    [[redis]]
    pattern = "cart:{account_ref}:*"
    category = "P2.1c"
    left_out = "what was in a cart is no record"
    [[processor]]
    name = "Stripe"
    receives = "names and cards"
    purge = "delete the customer"
"""


@pytest.fixture
def acme(ports: Ports) -> AccountKeys:
    with ports.database.transaction() as session:
        account = an_account(session, ref="acme")
        other = an_account(session, ref="acme_corp")
        for each in (account, account, other):
            a_contact(session, each)
        an_entry(session, account, 5_000)
    store_file(ports.database, ports.objects, ports.keyring, account="acme", name="plan.pdf", content=[b"x" * 100])
    store_file(ports.database, ports.objects, ports.keyring, account="acme_corp", name="plan.pdf", content=[b"x" * 100])
    return AccountKeys(account.id, "acme")


@pytest.fixture
def shop(ports: Ports, database_url: str, settings: Settings, acme: AccountKeys) -> Iterator[Ports]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(SHOP)
    company = parse(MAP)
    with redis.Redis.from_url(settings.broker_url) as broker:
        broker.flushall()
        for key in ("cart:acme:1", "cart:acme:2", "cart:acme_corp:1", "cart:acme"):
            broker.set(key, "x")
        keys = {BROKER: RedisKeyStore("The broker", settings.broker_url)}
        yield replace(ports, company=lambda: Estate(company.map, {}, keys))
        broker.flushall()


def stores(found: Preview) -> dict[str, Store]:
    return {each.name: each for each in found.stores}


def test_it_counts_what_is_the_accounts_and_nothing_of_others(shop: Ports, acme: AccountKeys) -> None:
    found = preview(shop, acme, "active")
    told = stores(found)
    assert found.obstacles == []
    assert (told["tenure.contacts"].count, told["tenure.ledger_entries"].count) == (2, 1)
    assert (told["shop.customer"].count, told["shop.invoice"].count) == (1, 2)
    assert (told["tenure.accounts"].fate, told["shop.invoice"].fate) == (Fate.REDACTED, Fate.RETAINED)
    assert told["shop.invoice"].remark == "§ 132 BAO: P7Y from paid_on"
    files = told["files/{account_id}/"]
    assert (files.count, files.exported) == (1, True)
    assert files.size is not None
    assert files.size >= 100
    carts = told["cart:{account_ref}:*"]
    assert (carts.count, carts.exported, told["Stripe"].remark) == (2, False, "delete the customer")


def test_sessions_that_the_freeze_ends_are_not_promised_for_the_record(ports: Ports, acme: AccountKeys) -> None:
    """They go at once (S6); those of an account that a hold names are kept, and are in the record."""
    with ports.database.transaction() as session:
        sessions.create(session, account=acme.ref)
    ended = stores(preview(ports, acme, "active"))["tenure.sessions"]
    assert (ended.count, ended.exported, ended.fate) == (1, False, Fate.DELETED)
    assert ended.remark == "by the freeze, before the record"
    with ports.database.transaction() as session:
        session.execute(text("SELECT tenure.place_hold('acme', 'case-7', 'a lawsuit', 'counsel')"))
    kept = stores(preview(ports, acme, "active"))["tenure.sessions"]
    assert (kept.count, kept.exported, kept.remark) == (1, True, "")


def test_keys_that_cannot_be_counted_stop_it(shop: Ports, acme: AccountKeys) -> None:
    away = {BROKER: RedisKeyStore("The broker", "redis://127.0.0.1:1/0")}
    for keys, said in ((away, "does not answer"), ({}, "is not set")):
        estate = replace(shop.company(), keys=keys)
        found = preview(replace(shop, company=lambda estate=estate: estate), acme, "active")
        assert stores(found)["cart:{account_ref}:*"].count is None
        (obstacle,) = found.obstacles
        assert said in obstacle


def test_a_prefix_that_finds_a_neighbours_keys_stops_it(shop: Ports, acme: AccountKeys) -> None:
    with shop.database.transaction() as session:
        an_account(session, ref="acme:west")
    (obstacle,) = preview(shop, acme, "active").obstacles
    assert "would also find what belongs to another account" in obstacle


def test_all_versions_of_an_object_are_counted(ports: Ports, acme: AccountKeys) -> None:
    objects = ports.objects
    assert isinstance(objects, S3ObjectStore)
    if "versioned" not in {each["Name"] for each in objects.client.list_buckets()["Buckets"]}:
        objects.client.create_bucket(Bucket="versioned")
        objects.client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    key = f"scans/{acme.id}/a"
    for body in (b"one", b"two"):
        objects.client.put_object(Bucket="versioned", Key=key, Body=body)
    objects.client.delete_object(Bucket="versioned", Key=key)
    prefix = ObjectPrefix("scans/{account_id}/", Category.SUBMITTED, bucket="versioned")
    estate = Estate(DataMap((), objects=(prefix,)), {})
    try:
        found = stores(preview(replace(ports, company=lambda: estate), acme, "active"))["scans/{account_id}/"]
        # Two versions and the marker; of the object itself there is nothing to export.
        assert (found.count, found.size) == (3, 0)
    finally:
        objects.remove(list(objects.versions(f"scans/{acme.id}/", bucket="versioned")), bucket="versioned")


def test_each_database_is_asked_once_for_all_its_tables_and_nothing_is_written(shop: Ports, acme: AccountKeys) -> None:
    said: list[str] = []
    event.listen(shop.database.engine, "before_cursor_execute", lambda *args: said.append(str(args[2])))
    preview(shop, acme, "active")
    assert sum("UNION ALL" in each and "tenure.contacts" in each for each in said) == 1
    assert len(said) < 15
    assert not [each for each in said if each.lstrip().split()[0] not in {"SELECT", "SET", "WITH"}]


def test_what_would_stop_it_is_told(shop: Ports, acme: AccountKeys, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE shop.rogue (id int PRIMARY KEY)")
        connection.execute("ALTER TABLE shop.invoice ADD COLUMN note text")
        connection.execute("SELECT tenure.place_hold('acme', '12 Cg 34/26x', 'A court asked.', 'ines')")
    elsewhere = Estate(shop.company().map, {"crm": Database("postgresql://nobody@127.0.0.1:1/nothing")})
    found = preview(replace(shop, signer=Signer(), company=lambda: elsewhere), acme, "active")
    for said in (
        "shop.rogue",
        "the column note",
        "12 Cg 34/26x",
        "The database crm cannot be read",
        "CERTIFICATE_KEYS",
    ):
        assert any(said in each for each in found.obstacles), said
    assert stores(found)["shop.customer"].count == 1
    assert stores(found)["shop.invoice"].count is None


def test_a_bucket_that_is_away_is_an_obstacle(ports: Ports, acme: AccountKeys) -> None:
    elsewhere = DataMap((), objects=(ObjectPrefix("x/{account_id}/", Category.SUBMITTED, bucket="no-such-bucket"),))
    found = preview(replace(ports, company=lambda: Estate(elsewhere, {})), acme, "active")
    assert stores(found)["x/{account_id}/"].count is None
    assert any("x/{account_id}/" in each for each in found.obstacles)


def test_an_account_is_found_by_its_ref(ports: Ports, acme: AccountKeys) -> None:
    with ports.database.transaction() as session:
        assert find(session, "acme") == (acme, "active")
        assert find(session, "acm") is None
