"""Sessions for a web tier written in Python: create, read, revoke (P9.2, P9.3, S2).

    with Session(engine) as session, session.begin():
        cookie = web_session.create(session, account="acme", contact=contact_id, ip=address, user_agent=agent)
    ...
    signed_in = web_session.read(session, cookie)        # None: sign in again
    web_session.revoke(session, cookie)                  # signed out

The cookie's value is the session's id and a secret, of which the database knows the hash alone. Set it as a session
cookie, `Secure` and `HttpOnly`, without `Expires`. From other languages: `tenure.create_session`,
`tenure.live_sessions` and `tenure.revoke_session` (docs/production.md). This module imports no Celery.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models.base.unit_of_work import refusal

ID_BYTES = 16
#: 256 bits: nobody guesses them, so their hash needs neither salt nor stretching.
SECRET_BYTES = 32


class SessionRefused(ValueError):
    """A session that cannot be begun, with the reason in a sentence. Nothing was stored."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session that can be read: whose it is, and since when. It ends 24 hours after `created_at`, used or not."""

    id: UUID
    account_id: UUID
    contact_id: UUID | None
    created_at: datetime


def create(
    session: Session, *, account: str, contact: UUID | None = None, ip: str | None = None, user_agent: str | None = None
) -> str:
    """Begin a session for the active account of this ref, in the caller's transaction; returns the cookie's value.

    Raises `SessionRefused` for an account that is unknown or not active and for a contact of another account; the
    caller's transaction stays usable.
    """
    secret = secrets.token_bytes(SECRET_BYTES)
    try:
        with session.begin_nested():
            made = session.execute(
                text("SELECT tenure.create_session(:account, :secret_sha256, :contact, :ip, :user_agent)"),
                {
                    "account": _storable(account),
                    "secret_sha256": hashlib.sha256(secret).digest(),
                    "contact": contact,
                    "ip": _storable(ip),
                    "user_agent": _storable(user_agent),
                },
            ).scalar_one()
    except DBAPIError as error:
        if (reason := refusal(error)) is None:
            raise
        raise SessionRefused(reason) from None
    return base64.urlsafe_b64encode(UUID(str(made)).bytes + secret).decode()


def read(session: Session, cookie: str) -> SignedIn | None:
    """The session of this cookie; None where it is over, revoked, or not one of ours. One partition is read."""
    parts = _parts(cookie)
    if parts is None:
        return None
    row = session.execute(
        text("""
            SELECT id, account_id, contact_id, created_at, secret_sha256 FROM tenure.live_sessions WHERE id = :id"""),
        {"id": parts[0]},
    ).one_or_none()
    # Compared in constant time: how long it takes tells nothing of how much was right.
    if row is None or not hmac.compare_digest(hashlib.sha256(parts[1]).digest(), row.secret_sha256):
        return None
    return SignedIn(row.id, row.account_id, row.contact_id, row.created_at)


def revoke(session: Session, cookie: str) -> bool:
    """End the session of this cookie, in the caller's transaction; whether there was one."""
    signed_in = read(session, cookie)
    if signed_in is None:
        return False
    return bool(session.execute(text("SELECT tenure.revoke_session(:id)"), {"id": signed_in.id}).scalar_one())


def _parts(cookie: str) -> tuple[UUID, bytes] | None:
    """Id and secret of a cookie's value, which may be anything."""
    try:
        raw = base64.b64decode(cookie, altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    if len(raw) != ID_BYTES + SECRET_BYTES:
        return None
    return UUID(bytes=raw[:ID_BYTES]), raw[ID_BYTES:]


def _storable(value: str | None) -> str | None:
    """What a browser says of itself may hold what PostgreSQL has no text for."""
    return value if value is None else value.encode("utf-8", "replace").decode().replace("\0", "")
