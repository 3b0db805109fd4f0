"""Settings: `TENURE_*` of the environment, parsed once into a frozen object. What is wrong is named at start.

Every setting may come from a file instead: `TENURE_DATABASE_URL_FILE=/run/secrets/database` (W22). In production, the
default, a link that could be read on its way stops the process (P5.1a).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec

from email_templates.language.company import Company
from tasks.crypto.wrapping import wrapping_keys, written_secrets
from tasks.engine import failpoints
from tasks.ports.durations import Terms
from workers.settings import session_stores

PREFIX = "TENURE_"
MAIL_SCHEMES = ("smtps://", "smtp+starttls://", "ses://", "smtp://")
#: What does not leave the machine.
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
#: What has a default, and must be set all the same where customers are real.
PRODUCTION_NEEDS = frozenset({"TENURE_KEY_ENCRYPTION_KEYS", "TENURE_CERTIFICATE_KEYS"})


class SettingsError(Exception):
    """A setting is missing or wrong; the text names it and says what to do."""


class Mode(StrEnum):
    PRODUCTION = "production"
    LOCAL = "local"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. The field `database_url` is set by `TENURE_DATABASE_URL`."""

    database_url: str
    broker_url: str
    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: str
    #: Addresses of transports in order of preference, separated by blanks.
    mail_url: str
    mail_from: str
    mode: Mode = Mode.PRODUCTION
    s3_bucket: str = "tenure"
    s3_region: str = "us-east-1"
    #: The file with the company's own part of the data map; without one only Tenure's own tables belong to accounts.
    datamap: str | None = None
    mail_reply_to: str | None = None
    #: A page of the company's that takes one-click unsubscriptions (RFC 8058).
    unsubscribe_url: str | None = None
    #: Days after sending that a message's data are kept (E12).
    mail_data_days: int = 30
    #: Hours after a purge after which all its stores are looked at again (T23).
    purge_quiet_hours: float = 24
    company_name: str = "Example Company"
    #: Lines, separated by `|`.
    company_address: str = ""
    company_email: str | None = None
    #: A host name.
    company_website: str = "example.com"
    company_registration: str = ""
    company_bank_account: str = ""
    company_tax_id: str = ""
    #: ISO 3166-1 alpha-2.
    company_country: str = ""
    #: An SVG picture; `TENURE_COMPANY_LOGO_FILE` names its file.
    company_logo: str = ""
    company_accent: str = "#1f5f5b"
    flower_address: str = "127.0.0.1"
    flower_port: int = 5555
    flower_user: str | None = None
    flower_password: str | None = None
    #: Days from a contract's end until its account is frozen (T3).
    grace_days: float = 14
    #: Days that the record of an account can be fetched, and how many days before their end those are reminded who did
    #: not, separated by blanks (T2).
    export_days: float = 30
    export_reminders: str = "14 3"
    metrics_address: str = "127.0.0.1"
    metrics_port: int = 9750
    #: Where `tenure download-page` listens; a certificate and its key, as names of PEM files, make that HTTPS.
    download_address: str = "127.0.0.1"
    download_port: int = 9760
    download_certificate: str | None = None
    download_key: str | None = None
    #: Of the OSV service that `security.audit_dependencies` asks; in production the public one by default.
    osv_url: str | None = None
    #: Without a key nothing is collected.
    stripe_secret_key: str | None = None
    #: What Stripe signs events with; without it, events are taken by their ids alone.
    stripe_webhook_secret: str | None = None
    stripe_api: str = "https://api.stripe.com"
    #: The session stores of other programs, as TOML; `TENURE_SESSION_STORES_FILE` names its file.
    session_stores: str = ""
    #: Seconds that a claim is held without renewal, and that one drain goes on.
    lease_seconds: float = 60
    drain_seconds: float = 10
    #: Seconds after which a task is told to stop, and after which its process is killed.
    soft_time_limit: int = 240
    time_limit: int = 300
    log_format: str | None = None
    #: base64 of 32 bytes each, separated by `|`: the first wraps new keys of accounts, all open old ones (T17).
    key_encryption_keys: str = ""
    #: The same form, Ed25519: the first signs certificates, the others hand over to it (T25).
    certificate_keys: str = ""

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)

    @property
    def company(self) -> Company:
        """Who signs. Raises ValueError where the company's settings make none."""
        return Company(
            name=self.company_name,
            address=_lines(self.company_address),
            email=self.company_email or self.mail_from,
            website=self.company_website,
            registration=_lines(self.company_registration),
            bank_account=_lines(self.company_bank_account),
            tax_id=self.company_tax_id,
            country=self.company_country,
            logo=self.company_logo,
            accent=self.company_accent,
        )

    @property
    def terms(self) -> Terms:
        """Raises ValueError where they make no sense."""
        try:
            reminders = tuple(timedelta(days=float(each)) for each in self.export_reminders.split())
        except ValueError:
            raise ValueError(f"{PREFIX}EXPORT_REMINDERS are days before the end: write them as in '14 3'") from None
        window = timedelta(days=self.export_days)
        if self.grace_days < 0 or window <= timedelta(0):
            raise ValueError(f"{PREFIX}GRACE_DAYS cannot be negative, and {PREFIX}EXPORT_DAYS must be more than none")
        if not reminders or not all(timedelta(0) < each < window for each in reminders):
            raise ValueError(
                f"{PREFIX}EXPORT_REMINDERS must name at least one day, each before the end of the "
                f"{self.export_days:g} days of {PREFIX}EXPORT_DAYS"
            )
        return Terms(
            grace=timedelta(days=self.grace_days), window=window, reminders=tuple(sorted(reminders, reverse=True))
        )

    @property
    def budget(self) -> timedelta:
        return timedelta(seconds=self.drain_seconds)

    @property
    def purge_quiet(self) -> timedelta:
        return timedelta(hours=self.purge_quiet_hours)

    @property
    def mail_remembered(self) -> timedelta:
        return timedelta(days=self.mail_data_days)

    def __post_init__(self) -> None:
        # What is wrong with it is told at start, and not when the first statement is due.
        try:
            _ = self.company
        except ValueError as error:
            raise ValueError(str(error).removesuffix(".")) from None
        if not self.broker_url.startswith(("redis://", "rediss://")):
            raise ValueError(
                f"{PREFIX}BROKER_URL is no address of a Redis or Valkey server, and Tenure runs on no other broker, "
                "because waking tasks needs keys that expire: begin it with redis:// or rediss://"
            )
        addresses = self.mail_url.split()
        if not addresses or not all(each.startswith(MAIL_SCHEMES) for each in addresses):
            raise ValueError(
                f"{PREFIX}MAIL_URL has an address of no known kind: begin each with one of {', '.join(MAIL_SCHEMES)}"
            )
        for each in addresses:
            _require_mail_options(each)
        for name in ("mail_from", "mail_reply_to", "company_email"):
            _require_address(name, getattr(self, name))
        if self.unsubscribe_url is not None and not re.fullmatch(r"https://[!-;=?-~]+", self.unsubscribe_url):
            raise ValueError(f"{PREFIX}UNSUBSCRIBE_URL must be an https:// address (RFC 8058)")
        _ = self.terms
        if self.mail_data_days < 1:
            raise ValueError(f"{PREFIX}MAIL_DATA_DAYS must be 1 or more")
        if not 0 <= self.purge_quiet_hours <= 24 * 365:
            raise ValueError(f"{PREFIX}PURGE_QUIET_HOURS must be 0 or more, and a year at most")
        try:
            session_stores.parse(self.session_stores, production=self.mode is Mode.PRODUCTION)
        except ValueError as error:
            raise ValueError(f"{PREFIX}SESSION_STORES: {error}") from None
        if self.mode is Mode.PRODUCTION:
            _refuse_plaintext(self)
            wrapping_keys(self.key_encryption_keys)
            written_secrets(self.certificate_keys, f"{PREFIX}CERTIFICATE_KEYS")


def _require_mail_options(address: str) -> None:
    """Raise ValueError for what an address of an SMTP server says behind its question mark, and nobody reads."""
    if address.startswith("ses://"):
        return
    options = parse_qs(address.partition("?")[2], keep_blank_values=True)
    if set(options) - {"helo", "source"}:
        raise ValueError(f"{PREFIX}MAIL_URL has an option of no known name: an SMTP server takes helo and source")
    if not re.fullmatch(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f.:]+\]", options.get("helo", ["localhost"])[0]):
        raise ValueError(f"{PREFIX}MAIL_URL: helo must be a host name, or an address in brackets")
    try:
        ip_address(options.get("source", ["127.0.0.1"])[0])
    except ValueError:
        raise ValueError(f"{PREFIX}MAIL_URL: source must be an IP address of this machine") from None


def _require_address(name: str, address: str | None) -> None:
    if address is None:
        return
    # Not at the top: whoever only reads other settings need not wait for the tables of Unicode.
    from tasks.mail.addresses import NotAnAddress, checked  # noqa: PLC0415

    try:
        checked(address)
    except NotAnAddress as error:
        raise ValueError(f"{PREFIX}{name.upper()} is not an e-mail address. {str(error).removesuffix('.')}") from None


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.split("|") if line.strip())


def _refuse_plaintext(settings: Settings) -> None:
    # Not by urlsplit, which quotes an address that it does not understand, password and all.
    database = [*_option(settings.database_url, "sslmode"), ""][0]
    checks = {
        "DATABASE_URL": (database in {"verify-ca", "verify-full"}, "?sslmode=verify-full"),
        "BROKER_URL": (settings.broker_url.startswith("rediss://"), "a rediss:// address"),
        "S3_ENDPOINT": (settings.s3_endpoint.startswith("https://"), "an https:// address"),
        "MAIL_URL": (
            all(_is_encrypted(address) for address in settings.mail_url.split()),
            "smtps://, smtp+starttls:// or ses:// addresses",
        ),
        "STRIPE_API": (settings.stripe_api.startswith("https://"), "an https:// address"),
        "DOWNLOAD_ADDRESS": (
            (settings.download_certificate is not None and settings.download_key is not None)
            or settings.download_address in LOOPBACK,
            f"127.0.0.1 behind a web server of the same machine, or set {PREFIX}DOWNLOAD_CERTIFICATE and "
            f"{PREFIX}DOWNLOAD_KEY",
        ),
    }
    for name, (encrypted, remedy) in checks.items():
        if not encrypted:
            raise ValueError(
                f"{PREFIX}{name} is a link without TLS, and personal data travels over it: use {remedy}, "
                f"or {PREFIX}MODE=local on your own machine"
            )
    if settings.stripe_secret_key and "_test_" in settings.stripe_secret_key:
        raise ValueError(
            f"{PREFIX}STRIPE_SECRET_KEY is a test key, with which nobody is charged and invoices count as paid: use a "
            f"live one, or {PREFIX}MODE=local on your own machine"
        )


def _is_encrypted(mail: str) -> bool:
    return mail.startswith(("smtps://", "smtp+starttls://")) or (
        mail.startswith("ses://") and not any(each.startswith("http:") for each in _option(mail, "endpoint"))
    )


def _option(address: str, name: str) -> list[str]:
    return parse_qs(address.partition("?")[2]).get(name, [])


def parse(environment: Mapping[str, str]) -> Settings:
    """Settings from `TENURE_*` variables; raises SettingsError, never quoting a value."""
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        name = f"{PREFIX}{field.name.upper()}"
        file = environment.get(f"{name}_FILE")
        if file:
            try:
                values[field.name] = Path(file).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise SettingsError(f"{name}_FILE names {file}, which cannot be read: {error.strerror}.") from None
        elif environment.get(name):
            values[field.name] = environment[name]
        elif field.required or (name in PRODUCTION_NEEDS and values.get("mode", Mode.PRODUCTION) == Mode.PRODUCTION):
            raise SettingsError(
                f"{name} is not set. For a try on your own machine run `tenure up`, then `set -a; . var/tenure.env`; "
                "docs/production.md lists what production needs."
            )
    try:
        made = msgspec.convert(values, Settings, strict=False)
        if made.mode is Mode.PRODUCTION and environment.get(failpoints.VARIABLE):
            raise SettingsError(f"{failpoints.VARIABLE} is set, which makes processes fail on purpose: unset it.")
        return made
    except msgspec.ValidationError as error:
        # Of a choice msgspec quotes what was given, which may be a secret in the wrong place.
        text = re.sub(
            r"Invalid enum value .*(?= - at `)", f"Expected one of {', '.join(Mode)}", str(error), flags=re.DOTALL
        )
        for name in values:
            text = text.replace(f" - at `$.{name}`", f", in {PREFIX}{name.upper()}")
        raise SettingsError(f"A setting is wrong: {text}.") from None


@cache
def settings() -> Settings:
    """The settings of this process."""
    return parse(os.environ)
