"""`tenure doctor`: is everything that Tenure needs there, and if not, what to do (W16)."""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import click
import redis
from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from models.base.base import SCHEMA
from models.base.server_version import too_old
from models.base.unit_of_work import SESSION_SETTINGS, Database, outage_reason
from models.data_map.map import AccountKeys
from models.schema import migrations
from tasks.certificates import erasure_notes as ledger
from tasks.crypto.keyring import Keyring
from tasks.crypto.wrapping import SETTING
from tasks.failures import Failure, Permanent
from tasks.storage import rewrapping
from workers.adapters.mail.address import transports
from workers.adapters.mail.ses import SESMailer
from workers.adapters.mail.smtp import SMTPMailer
from workers.adapters.objects.s3 import S3ObjectStore
from workers.settings.settings import Settings, settings
from workers.terminal.output import reports_errors
from workers.wiring import bootstrap

#: One of the settings with which every connection begins, in milliseconds.
IDLE = text("SELECT setting FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'")
POOLER = (
    "TENURE_DATABASE_URL leads to a pooler, such as PgBouncer, that drops the settings with which connections begin. "
    "Tenure has a pool of its own, and listens for notifications: give it PostgreSQL's own address."
)
#: Seconds that this machine's clock and the database's may differ.
CLOCKS = 5.0
ENCRYPTED = "over TLS"
PLAIN = "without TLS"
#: Where a broker does not tell its maxmemory-policy.
UNSEEN = "unseen"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, and what was found; `trouble` says what is wrong and what to do."""

    what: str
    fine: str = ""
    trouble: str = ""


def _database_link(connection: Connection) -> str:
    """Whether this very connection is encrypted, as its own end of it says: behind a pooler the server's is another."""
    driver: Any = connection.connection.driver_connection
    return ENCRYPTED if driver.pgconn.ssl_in_use else PLAIN


#: The tables of our schema in which this role may not do what workers do: read and add to all of them.
FORBIDDEN = text(f"""
    SELECT c.relname, string_agg(p.privilege, ', ' ORDER BY p.position) AS lacking
      FROM pg_class AS c, unnest(ARRAY['SELECT', 'INSERT']) WITH ORDINALITY AS p (privilege, position)
     WHERE c.relnamespace = '{SCHEMA}'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
       AND NOT has_table_privilege(c.oid, p.privilege)
     GROUP BY c.relname ORDER BY c.relname""")


def _lacking(connection: Connection) -> str:
    """What this role may not do in the schema, as a sentence; empty where it may do all that workers do."""
    role = connection.execute(text("SELECT current_user")).scalar_one()
    schema = connection.execute(
        text("SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = :schema"), {"schema": SCHEMA}
    ).scalar_one_or_none()
    if schema is False:
        return f"The role {role!r} may not use the schema {SCHEMA!r}: GRANT USAGE ON SCHEMA {SCHEMA} TO {role}."
    tables = connection.execute(FORBIDDEN).all() if schema else []
    if not tables:
        return ""
    first, more = tables[0], len(tables) - 1
    others = f" and {more} more" if more else ""
    return (
        f"The role {role!r} lacks {first.lacking} on {SCHEMA}.{first.relname}{others}: "
        f"GRANT {first.lacking} ON ALL TABLES IN SCHEMA {SCHEMA} TO {role}."
    )


def database(chosen: Settings) -> Finding:
    if (trouble := too_old(chosen.database_url)) is not None:
        return Finding("PostgreSQL", trouble=trouble)
    made = Database(chosen.database_url, pool_size=1)
    try:
        with made.connection() as connection:
            version = int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10_000
            now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            idle = str(connection.execute(IDLE).scalar_one())
            link = _database_link(connection)
            lacking = _lacking(connection)
            missing = None if lacking else migrations.missing(connection)
    except DBAPIError as error:
        reason = outage_reason(error)
        refused = "startup parameter" in reason
        return Finding("PostgreSQL", trouble=POOLER if refused else f"TENURE_DATABASE_URL does not answer: {reason}")
    finally:
        made.engine.dispose()
    apart = abs((datetime.now(UTC) - now).total_seconds())
    pooled = POOLER if idle != SESSION_SETTINGS["idle_in_transaction_session_timeout"] else ""
    if pooled or lacking or missing:
        return Finding("PostgreSQL", trouble=pooled or lacking or missing or "")
    if apart > CLOCKS:
        return Finding("PostgreSQL", trouble=f"Its clock and this machine's differ by {apart:.0f} s: set both by NTP.")
    return Finding(
        "PostgreSQL", fine=f"version {version}, schema is current, role may work in it, clocks agree, {link}"
    )


def broker(chosen: Settings) -> Finding:
    try:
        client = redis.Redis.from_url(chosen.broker_url, socket_connect_timeout=5, socket_timeout=5)
        connection = client.connection_pool.get_connection()
        version = getattr(getattr(connection, "_sock", None), "version", None)
        link = ENCRYPTED if version else PLAIN
        client.connection_pool.release(connection)
        info = client.info()
        key = f"tenure:doctor:{uuid4()}"
        with client.pipeline(transaction=True) as commands:
            commands.lpush(key, "")
            commands.delete(key)
            commands.publish("/0.celeryev/tenure.doctor", "")
            commands.execute()
        policy = _eviction(client)
        client.close()
    except redis.exceptions.AuthenticationError:
        return Finding("Broker", trouble="It refuses the user or the password of TENURE_BROKER_URL.")
    except redis.exceptions.NoPermissionError:
        return Finding(
            "Broker",
            trouble="The user of TENURE_BROKER_URL lacks rights: docs/production.md has its ACL (The least rights).",
        )
    except (redis.RedisError, OSError, ValueError) as error:
        return Finding("Broker", trouble=f"TENURE_BROKER_URL does not answer: {str(error).rstrip('.')}.")
    if policy not in {"noeviction", UNSEEN}:
        return Finding(
            "Broker",
            trouble=f"It may throw messages away (maxmemory-policy {policy}): set maxmemory-policy noeviction.",
        )
    keeps = "does not say whether it evicts" if policy == UNSEEN else "keeps what it is given"
    name, release = info.get("server_name", "redis"), info.get("valkey_version") or info.get("redis_version")
    return Finding("Broker", fine=f"{name} {release}, {keeps}, {link}")


def _eviction(client: redis.Redis) -> str:
    """What it does when it is full. Hosted brokers do not let one ask."""
    try:
        return str(client.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction"))
    except redis.ResponseError:
        return UNSEEN


def objects(chosen: Settings) -> Finding:
    store = S3ObjectStore(chosen)
    where: dict[str, Any] = {"Bucket": chosen.s3_bucket}
    key = f"tenure-doctor/{uuid4()}"
    steps: Sequence[tuple[str, Callable[[], object]]] = (
        ("s3:ListBucket", lambda: store.client.list_objects_v2(**where, MaxKeys=1)),
        ("s3:PutObject", lambda: store.client.put_object(**where, Key=key, Body=b"doctor")),
        ("s3:GetObject", lambda: store.client.get_object(**where, Key=key)),
        ("s3:DeleteObject", lambda: store.client.delete_object(**where, Key=key)),
    )
    action = ""
    try:
        for action, step in steps:  # noqa: B007 - the one that failed is named below
            step()
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in {"404", "NoSuchBucket"}:
            return Finding(
                "Object store", trouble=f"It has no bucket {chosen.s3_bucket!r}: make it, or set TENURE_S3_BUCKET."
            )
        return Finding(
            "Object store",
            trouble=f"It refuses {action} in {chosen.s3_bucket!r} ({code}): allow it to the owner of "
            "TENURE_S3_ACCESS_KEY, or check that key.",
        )
    except (BotoCoreError, ValueError) as error:
        return Finding("Object store", trouble=f"TENURE_S3_ENDPOINT does not answer ({type(error).__name__}).")
    link = ENCRYPTED if chosen.s3_endpoint.startswith("https://") else PLAIN
    return Finding("Object store", fine=f"bucket {chosen.s3_bucket!r} can be listed, written, read and cleared, {link}")


def mail(chosen: Settings) -> Finding:
    """Every transport, in the order in which they are asked; one that is away is trouble, though others may serve."""
    findings = [
        _smtp(address) if isinstance(made, SMTPMailer) else _ses(made)
        for address, made in zip(chosen.mail_url.split(), transports(chosen.mail_url, timeout=5), strict=True)
    ]
    wrong = [finding.trouble for finding in findings if finding.trouble]
    return Finding("Mail server", fine="; ".join(finding.fine for finding in findings), trouble=" ".join(wrong))


def _smtp(address: str) -> Finding:
    mailer = SMTPMailer(address, timeout=5)
    try:
        extensions = mailer.greet()
    except smtplib.SMTPAuthenticationError:
        return Finding("Mail server", trouble="It refuses the user or the password of TENURE_MAIL_URL.")
    except (OSError, smtplib.SMTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        return Finding("Mail server", trouble=f"TENURE_MAIL_URL does not answer: {reason}.")
    finally:
        mailer.close()
    # The adapter gives up where the server offers no TLS that holds: what answered is encrypted.
    link = PLAIN if address.startswith("smtp://") else ENCRYPTED
    return Finding("Mail server", fine=f"answers, with {', '.join(sorted(extensions)) or 'no extensions'}, {link}")


def _ses(mailer: SESMailer) -> Finding:
    try:
        account = mailer.client.get_account()
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        return Finding("Mail server", trouble=f"Amazon SES refuses ({code}): check the credentials and ses:GetAccount.")
    except (BotoCoreError, ValueError) as error:
        return Finding("Mail server", trouble=f"Amazon SES does not answer ({type(error).__name__}).")
    finally:
        mailer.close()
    if not account.get("SendingEnabled"):
        return Finding("Mail server", trouble="Amazon SES has paused sending for this account: see its console.")
    rate = account.get("SendQuota", {}).get("MaxSendRate", 0)
    return Finding("Mail server", fine=f"Amazon SES answers, at most {rate:g} messages a second, {ENCRYPTED}")


def sessions(chosen: Settings) -> Finding:
    """The session stores of other programs; nothing, where none is named."""
    stores = bootstrap.session_stores(chosen, Database(chosen.database_url, pool_size=1))
    for store in stores:
        try:
            store.check()
        except Failure as failure:
            return Finding("Session stores", trouble=str(failure))
    return Finding("Session stores", fine=", ".join(f"{store.name} may be swept" for store in stores))


def erasures(chosen: Settings) -> Finding:
    """Whether the database knows all that was erased; nothing, where nothing was, or a server is in trouble anyway."""
    made = Database(chosen.database_url, pool_size=1)
    try:
        unknown = ledger.unknown(made, S3ObjectStore(chosen))
        with made.connection() as connection:
            known = connection.execute(
                text("SELECT count(*) FROM tenure.terminations WHERE purge_began_at IS NOT NULL")
            ).scalar_one()
    except (Failure, DBAPIError, ValueError):
        return Finding("Erasures")
    finally:
        made.engine.dispose()
    if unknown:
        return Finding("Erasures", trouble=str(unknown))
    return Finding("Erasures", fine=f"{known} noted in the object store, all known to the database" if known else "")


def keys(chosen: Settings) -> Finding:
    """Whether every key of an account can be opened, and which key-encryption key is needed no more (T27)."""
    made = Database(chosen.database_url, pool_size=1)
    try:
        names = Keyring(chosen.key_encryption_keys).names
        with made.transaction() as session:
            held = rewrapping.wrapped_by(session)
    except Permanent as failure:
        return Finding("Keys", trouble=str(failure))
    except DBAPIError:
        # PostgreSQL's own line says it.
        return Finding("Keys")
    finally:
        made.engine.dispose()
    lost = [f"{keys:,} under {name}" for name, keys in held.items() if name not in names]
    if lost:
        return Finding(
            "Keys",
            trouble=f"Keys of accounts cannot be opened, {', '.join(lost)}: add what is missing to {SETTING}, behind "
            "the first.",
        )
    old = [f"{held[name]:,} under {name}" for name in names[1:] if name in held]
    spare = [name for name in names[1:] if name not in held]
    said = [f"{held.get(names[0], 0):,} of accounts under {names[0]}"] if names and (held or spare) else []
    if old:
        said.append(f"{', '.join(old)}, needed until `tenure keys rewrap` is done")
    if spare:
        said.append(f"none under {', '.join(spare)}, which {SETTING} needs no more once it is first nowhere")
    return Finding("Keys", fine=", ".join(said))


def processors(chosen: Settings) -> Finding:
    """Whether each processor outside tells what it holds, by asking for an account that cannot be (T21)."""
    nobody = AccountKeys(uuid4(), f"tenure-doctor-{uuid4()}")
    try:
        asked = bootstrap.company(chosen).processors
    except Permanent as failure:
        return Finding("Data map", trouble=str(failure))
    wrong = []
    for name, processor in asked.items():
        try:
            if held := processor.records(nobody):
                wrong.append(f"The processor {name} says that it holds {held:,} records of an account that is none.")
        except Failure as failure:
            wrong.append(str(failure))
    return Finding("Processors", fine=", ".join(f"{name} answers" for name in asked), trouble=" ".join(wrong))


CHECKS: Sequence[Callable[[Settings], Finding]] = (
    database,
    broker,
    objects,
    mail,
    sessions,
    erasures,
    keys,
    processors,
)


@click.command()
@reports_errors
def doctor() -> int:
    """Exits with 1 if something is wrong, and with 2 if a setting is."""
    chosen = settings()
    findings = [finding for check in CHECKS if (finding := check(chosen)).fine or finding.trouble]
    for finding in findings:
        mark, colour = ("✗", "red") if finding.trouble else ("✓", "green")
        click.echo(f"{click.style(mark, fg=colour)} {finding.what:<14} {finding.trouble or finding.fine}")
    return int(any(finding.trouble for finding in findings))
