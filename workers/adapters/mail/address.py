"""The transports that `TENURE_MAIL_URL` names, as one mailer."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.ports.mail import Mailer
from workers.adapters.mail.failover import FailoverMailer
from workers.adapters.mail.ses import SESMailer
from workers.adapters.mail.smtp import TIMEOUT, SMTPMailer


def transports(addresses: str, *, timeout: float = TIMEOUT) -> Sequence[SMTPMailer | SESMailer]:
    """One for each address, in the order of preference in which they are written, separated by blanks."""
    return [
        SESMailer(each, timeout=timeout) if each.startswith("ses://") else SMTPMailer(each, timeout=timeout)
        for each in addresses.split()
    ]


def mailer(addresses: str) -> Mailer:
    return FailoverMailer(transports(addresses))
