"""`tenure doctor`: is everything that Tenure needs there, and if not, what to do (W16)."""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import click
import redis
from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from models import migrations
from models.unit_of_work import Database, outage_reason
from workers.adapters.s3 import S3ObjectStore
from workers.adapters.smtp import SMTPMailer
from workers.settings import Settings, SettingsError, settings

OLDEST_POSTGRESQL = 18
#: Seconds that this machine's clock and the database's may differ.
CLOCKS = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, and what was found; `trouble` says what is wrong and what to do."""

    what: str
    fine: str = ""
    trouble: str = ""


def database(chosen: Settings) -> Finding:
    made = Database(chosen.database_url, pool_size=1)
    try:
        with made.connection() as connection:
            version = int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10_000
            now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            missing = migrations.missing(connection)
    except DBAPIError as error:
        return Finding("PostgreSQL", trouble=f"TENURE_DATABASE_URL does not answer: {outage_reason(error)}")
    finally:
        made.engine.dispose()
    apart = abs((datetime.now(UTC) - now).total_seconds())
    if version < OLDEST_POSTGRESQL:
        return Finding(
            "PostgreSQL", trouble=f"Version {version} is too old: Tenure needs {OLDEST_POSTGRESQL} or later."
        )
    if missing:
        return Finding("PostgreSQL", trouble=missing)
    if apart > CLOCKS:
        return Finding("PostgreSQL", trouble=f"Its clock and this machine's differ by {apart:.0f} s: set both by NTP.")
    return Finding("PostgreSQL", fine=f"version {version}, schema is current, clocks agree")


def broker(chosen: Settings) -> Finding:
    try:
        client = redis.Redis.from_url(chosen.broker_url, socket_connect_timeout=5, socket_timeout=5)
        info = client.info()
        policy = client.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction")
        client.close()
    except (redis.RedisError, OSError, ValueError) as error:
        return Finding("Broker", trouble=f"TENURE_BROKER_URL does not answer: {str(error).rstrip('.')}.")
    if policy != "noeviction":
        return Finding(
            "Broker",
            trouble=f"It may throw messages away (maxmemory-policy {policy}): set maxmemory-policy noeviction.",
        )
    version = info.get("valkey_version") or info.get("redis_version")
    return Finding("Broker", fine=f"{info.get('server_name', 'redis')} {version}, keeps what it is given")


def objects(chosen: Settings) -> Finding:
    store = S3ObjectStore(chosen)
    key = f"tenure-doctor/{uuid4()}"
    try:
        store.client.head_bucket(Bucket=chosen.s3_bucket)
        store.client.put_object(Bucket=chosen.s3_bucket, Key=key, Body=b"doctor")
        store.client.delete_object(Bucket=chosen.s3_bucket, Key=key)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in {"404", "NoSuchBucket"}:
            return Finding(
                "Object store", trouble=f"It has no bucket {chosen.s3_bucket!r}: make it, or set TENURE_S3_BUCKET."
            )
        return Finding(
            "Object store", trouble=f"It refuses to write to {chosen.s3_bucket!r} ({code}): check TENURE_S3_ACCESS_KEY."
        )
    except (BotoCoreError, ValueError) as error:
        return Finding("Object store", trouble=f"TENURE_S3_ENDPOINT does not answer ({type(error).__name__}).")
    return Finding("Object store", fine=f"bucket {chosen.s3_bucket!r} can be written")


def mail(chosen: Settings) -> Finding:
    mailer = SMTPMailer(chosen.smtp_url, timeout=5)
    try:
        extensions = mailer.greet()
    except smtplib.SMTPAuthenticationError:
        return Finding("Mail server", trouble="It refuses the user or the password of TENURE_SMTP_URL.")
    except (OSError, smtplib.SMTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        return Finding("Mail server", trouble=f"TENURE_SMTP_URL does not answer: {reason}.")
    finally:
        mailer.close()
    return Finding("Mail server", fine=f"answers, with {', '.join(sorted(extensions)) or 'no extensions'}")


CHECKS: Sequence[Callable[[Settings], Finding]] = (database, broker, objects, mail)


def main() -> int:
    """Print a line for each link; 0 where all are fine, 1 where one is not, 2 where settings are wrong."""
    try:
        chosen = settings()
    except SettingsError as error:
        click.echo(f"tenure: {error}", err=True)
        return 2
    findings = [check(chosen) for check in CHECKS]
    for finding in findings:
        mark, colour = ("✗", "red") if finding.trouble else ("✓", "green")
        click.echo(f"{click.style(mark, fg=colour)} {finding.what:<13} {finding.trouble or finding.fine}")
    return int(any(finding.trouble for finding in findings))
