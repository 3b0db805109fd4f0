"""The one place where the real adapters are built."""

from __future__ import annotations

import os

from celery import Celery

from email_templates.company import Company
from models.unit_of_work import Database
from tasks import failpoints
from tasks.payment_gateway import PaymentGateway
from tasks.ports import Auditor, Letterhead, Ports
from tasks.sealing.keyring import Keyring
from workers import lifecycle
from workers.adapters import mail
from workers.adapters.osv import OSV
from workers.adapters.s3 import S3ObjectStore
from workers.adapters.stripe import StripeGateway
from workers.identity import dead, identity
from workers.settings import Mode, Settings
from workers.waker import RedisWaker


def ports(settings: Settings, app: Celery) -> Ports:
    """Ports over real servers. Nothing connects before its first use."""
    failpoints.arm(os.environ)
    return Ports(
        database=Database(settings.database_url),
        objects=S3ObjectStore(settings),
        mailer=mail.mailer(settings.mail_url),
        letterhead=letterhead(settings),
        wake=RedisWaker(app),
        worker=identity(),
        dead=dead,
        stopping=lifecycle.stopping,
        auditor=auditor(settings),
        lease=settings.lease,
        budget=settings.budget,
        remembered=settings.mail_remembered,
        keyring=Keyring(settings.key_encryption_keys),
        payments=payments(settings),
    )


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
        company=Company(
            name=settings.company_name,
            address=_lines(settings.company_address),
            email=settings.company_email or settings.mail_from,
            website=settings.company_website,
            registration=_lines(settings.company_registration),
            bank_account=_lines(settings.company_bank_account),
            logo=settings.company_logo,
            accent=settings.company_accent,
        ),
        mail_from=settings.mail_from,
        reply_to=settings.mail_reply_to or settings.mail_from,
        mail_domain=settings.mail_from.rpartition("@")[2],
        unsubscribe=settings.unsubscribe_url and settings.unsubscribe_url.rstrip("/"),
    )


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.split("|") if line.strip())
