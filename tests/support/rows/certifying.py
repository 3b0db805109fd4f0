"""Terminations for tests that are about what comes at their end."""

from __future__ import annotations

import base64

from sqlalchemy import text
from sqlalchemy.orm import Session

from models.termination.termination import Termination
from tests.support.rows.company import an_account


def a_termination(session: Session, *, verified: bool = True) -> Termination:
    """One that came as far as its verification, past the trigger that lets no stage be skipped."""
    account = an_account(session)
    termination = Termination(
        account_id=account.id, requested_by="sql", ends_at=account.created_at, cancel_until=account.created_at
    )
    session.add(termination)
    session.flush()
    session.execute(text("ALTER TABLE tenure.terminations DISABLE TRIGGER guard"))
    session.execute(
        text("""
            UPDATE tenure.terminations
               SET stage = 'verifying', archive_key = 'x', archive_sha256 = sha256(''), manifest_sha256 = sha256(''),
                   exported_rows = '{}', sealed_at = now(), delivered_at = now(), delivered_by = 'download',
                   purge_began_at = now(), verified_at = CASE WHEN :verified THEN now() END
             WHERE id = :id"""),
        {"id": termination.id, "verified": verified},
    )
    session.execute(text("ALTER TABLE tenure.terminations ENABLE TRIGGER guard"))
    return termination


def a_setting(*secrets: int) -> str:
    """TENURE_CERTIFICATE_KEYS with these keys."""
    return "|".join(base64.b64encode(bytes([each]) * 32).decode() for each in secrets)
