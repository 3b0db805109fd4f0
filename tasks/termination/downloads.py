"""What the download page asks and tells: which record a link leads to, and which bytes of it have left (T2, T18).

The address of the page bears the link's secret and is in a letter; the address of a download is made anew for each,
and is good for minutes. It is signed by a key that is derived from the record's own: every process of the page can
check it, no setting is needed for it, and it ends with the record.
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.orm import Session

from models.customers.account_key import KeyPurpose
from models.termination.export_link import ExportLink
from models.termination.termination import Stage, Termination, TerminationStep
from models.work import row as work
from tasks.ports.context import Ports
from tasks.termination.links import named_by

#: How long the address of a download is good for.
LIFETIME: Final = timedelta(minutes=15)
#: The longest address that is looked at.
_LONGEST: Final = 200

_RECEIVED = text("""
    UPDATE tenure.export_links SET received = received + int8multirange(int8range(:start, :stop))
     WHERE id = :link
    RETURNING downloaded_at IS NULL AND received @> int8range(0, :size) AS whole""")
_WHOLE = text("UPDATE tenure.export_links SET downloaded_at = clock_timestamp() WHERE id = :link")
#: Where it had been given up, it goes on. The step before the termination, as everybody locks them.
_DELIVER = text("""
    UPDATE tenure.termination_steps
       SET state = 'pending', attempts = 0, crashes = 0, due_at = now(), finished_at = NULL, last_error = NULL
     WHERE termination_id = :termination AND step = 'deliver' AND state IN ('pending', 'failed')""")
_DOWNLOADED = text("""
    UPDATE tenure.terminations SET downloaded_at = clock_timestamp()
     WHERE id = :termination AND downloaded_at IS NULL""")


@dataclass(frozen=True, slots=True)
class Found:
    """A link, and the record that it leads to. Both are detached."""

    link: ExportLink
    termination: Termination
    #: By the database's clock.
    now: datetime

    @property
    def is_over(self) -> bool:
        """Whether the record cannot be had any more: its window ended, or the termination was taken back."""
        until = self.termination.available_until
        gone = self.termination.archive_purged_at is not None or self.termination.stage == Stage.CANCELLED
        return gone or until is None or self.now >= until


def find(session: Session, secret: str) -> Found | None:
    """By what stands in the address of a page."""
    named = named_by(secret)
    return None if named is None else _find(session, ExportLink.secret_sha256 == named)


def sign(session: Session, ports: Ports, found: Found) -> str:
    """The name of a download that begins soon. Raises Permanent where the record's key is gone."""
    ends = int((found.now + LIFETIME).timestamp())
    return f"{found.link.id}.{ends}.{_mac(session, ports, found, ends)}"


def check(session: Session, ports: Ports, signed: str) -> tuple[Found | None, bool]:
    """What a download's name leads to, None where it was never given out; and whether its minutes are over."""
    name, _, rest = signed.partition(".")
    written, _, mac = rest.partition(".")
    if len(signed) > _LONGEST or not (written.isascii() and written.isdigit()):
        return None, False
    try:
        found = _find(session, ExportLink.id == UUID(name))
    except ValueError:
        return None, False
    if found is None or found.is_over:
        return found, False
    ends = int(written)
    if not hmac.compare_digest(_mac(session, ports, found, ends).encode(), mac.encode()):
        return None, False
    return found, found.now.timestamp() > ends


def received(session: Session, found: Found, start: int, stop: int) -> bool:
    """Note that these bytes have left; whether the record was thereby downloaded as a whole, for the first time."""
    size = found.termination.content_size
    values = {"link": found.link.id, "start": start, "stop": stop, "size": size}
    if not session.execute(_RECEIVED, values).scalar_one_or_none():
        return False
    session.execute(_WHOLE, values)
    session.execute(_DELIVER, {"termination": found.termination.id})
    session.execute(_DOWNLOADED, {"termination": found.termination.id})
    work.announce(session.connection(), TerminationStep)
    return True


def _find(session: Session, which: ColumnElement[bool]) -> Found | None:
    row = session.execute(
        select(ExportLink, Termination, func.now())
        .join(Termination, Termination.id == ExportLink.termination_id)
        .where(which)
    ).one_or_none()
    return None if row is None else Found(*row)


def _mac(session: Session, ports: Ports, found: Found, ends: int) -> str:
    termination = found.termination
    identity = ports.keyring.identity(session, termination.account_id, KeyPurpose.EXPORT, termination.id)
    key = HKDF(hashes.SHA256(), 32, None, b"tenure download link").derive(identity.secret)
    digest = hmac.digest(key, f"{found.link.id}.{ends}".encode(), sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
