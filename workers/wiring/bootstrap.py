"""The one place where the real adapters are built."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from celery import Celery
from redis import ConnectionPool
from sqlalchemy import Engine, create_engine

from models.base.unit_of_work import Database
from models.data_map import file
from models.data_map.map import DataMap, DataMapError
from tasks.crypto.keyring import Keyring
from tasks.crypto.signing import Signer
from tasks.engine import failpoints
from tasks.failures import Permanent
from tasks.ports.audit import Auditor
from tasks.ports.context import BROKER, Estate, Ports
from tasks.ports.keys import KeyStore
from tasks.ports.mail import Letterhead
from tasks.ports.payments import PaymentGateway
from tasks.ports.processors import OutsideProcessor
from tasks.ports.sessions import SessionStore
from workers.adapters.erasure import ErasureAddress
from workers.adapters.mail import address
from workers.adapters.objects.s3 import S3ObjectStore
from workers.adapters.osv import OSV
from workers.adapters.payments.stripe import StripeGateway
from workers.adapters.redis_keys import RedisKeyStore
from workers.adapters.sessions.keys import KeyOwners
from workers.adapters.sessions.redis import RedisSessions
from workers.adapters.sessions.sql import SQLSessions
from workers.celery.identity import dead, identity
from workers.celery.stopping import stopping
from workers.celery.waker import RedisWaker
from workers.settings import session_stores as stores
from workers.settings.session_stores import RedisKeys
from workers.settings.settings import Mode, Settings


def ports(settings: Settings, app: Celery) -> Ports:
    """Ports over real servers. Nothing connects before its first use."""
    failpoints.arm(os.environ)
    database = Database(settings.database_url)
    return Ports(
        database=database,
        objects=S3ObjectStore(settings),
        mailer=address.mailer(settings.mail_url),
        letterhead=letterhead(settings),
        wake=RedisWaker(app),
        worker=identity(),
        dead=dead,
        stopping=stopping,
        auditor=auditor(settings),
        lease=settings.lease,
        budget=settings.budget,
        session_stores=session_stores(settings, database),
        remembered=settings.mail_remembered,
        terms=settings.terms,
        quiet=settings.purge_quiet,
        keyring=Keyring(settings.key_encryption_keys),
        signer=Signer(settings.certificate_keys, issuer=settings.company_name),
        payments=payments(settings),
        company=cache(lambda: company(settings)),
    )


def company(settings: Settings) -> Estate:
    """The company's part of the data map, with the databases that it names. Raises Permanent, with what to mend."""
    if settings.datamap is None:
        return Estate(DataMap(()), {})
    try:
        read = file.load(Path(settings.datamap))
        servers = {each.address_from for each in read.map.redis if each.address_from is not None}
        told = {v for each in read.map.processors for v in (each.address_from, each.token_from) if v is not None}
        missing = sorted(each for each in {*read.databases.values(), *servers, *told} if not os.environ.get(each))
        if missing:
            raise Permanent(f"{missing[0]}, which datamap.toml names, is not set: set it, then retry.")
        if any(each.bucket == settings.s3_bucket for each in read.map.objects):
            raise Permanent(
                f'datamap.toml names the bucket "{settings.s3_bucket}", which is Tenure\'s own: leave the name out, '
                "then retry."
            )
        databases = {name: Database(os.environ[variable]) for name, variable in read.databases.items()}
    except DataMapError as error:
        raise Permanent(f"datamap.toml cannot be used: {error}. Mend it, then retry.") from None
    keys: dict[str, KeyStore] = {name: RedisKeyStore(name, os.environ[name]) for name in servers}
    keys[BROKER] = RedisKeyStore("The broker", settings.broker_url)
    return Estate(read.map, databases, keys, processors(read.map, encrypted=settings.mode is Mode.PRODUCTION))


def processors(mapped: DataMap, *, encrypted: bool) -> Mapping[str, OutsideProcessor]:
    """Those that have an address, by name. Raises Permanent where it is none."""
    return {
        each.name: ErasureAddress(
            each.name,
            os.environ[each.address_from].strip(),
            os.environ[each.token_from].strip() if each.token_from else None,
            encrypted=encrypted,
        )
        for each in mapped.processors
        if each.address_from is not None
    }


def session_stores(settings: Settings, database: Database) -> Sequence[SessionStore]:
    """The stores of other programs; a table without an address of its own is in Tenure's database."""
    made: list[SessionStore] = []
    mapped = cache(lambda: company(settings))
    for store in stores.parse(settings.session_stores, production=settings.mode is Mode.PRODUCTION):
        if isinstance(store, RedisKeys):
            made.append(RedisSessions(store, partial(_key_owners, store, settings, database, mapped)))
        else:
            engine = database.engine if store.url is None else _engine(store.url)
            made.append(SQLSessions(store, engine, tenure=database, company=mapped))
    return made


def _key_owners(
    store: RedisKeys, settings: Settings, database: Database, company: Callable[[], Estate]
) -> KeyOwners | None:
    """The patterns of the data map that lie in the store's server; None where there is none. Raises Permanent."""
    place = _redis_place(str(store.url))
    patterns = [
        each
        for each in company().map.redis
        if _redis_place(settings.broker_url if each.address_from is None else os.environ[each.address_from]) == place
    ]
    return KeyOwners(patterns, database) if patterns else None


def _redis_place(url: str) -> tuple[object, ...]:
    """Which database of which server it is, whoever connects to it."""
    parts: dict[str, object] = ConnectionPool.from_url(url).connection_kwargs
    return parts.get("host", "localhost"), parts.get("port", 6379), parts.get("path"), parts.get("db", 0)


def _engine(url: str) -> Engine:
    """For the database of another program."""
    if url.startswith(("postgresql:", "postgresql+psycopg:")):
        return Database(url, pool_size=1).engine
    return create_engine(url, pool_pre_ping=True, hide_parameters=True)


def auditor(settings: Settings) -> Auditor | None:
    """On in production; elsewhere only where a vulnerability database is named."""
    if settings.mode is Mode.PRODUCTION or settings.osv_url:
        return OSV(settings.osv_url)
    return None


def payments(settings: Settings) -> PaymentGateway | None:
    """None where no provider is configured."""
    if settings.stripe_secret_key is None:
        return None
    return StripeGateway(settings.stripe_secret_key, settings.stripe_webhook_secret, settings.stripe_api)


def letterhead(settings: Settings) -> Letterhead:
    return Letterhead(
        company=settings.company,
        mail_from=settings.mail_from,
        reply_to=settings.mail_reply_to or settings.mail_from,
        mail_domain=settings.mail_from.rpartition("@")[2],
        unsubscribe=settings.unsubscribe_url and settings.unsubscribe_url.rstrip("/"),
    )
