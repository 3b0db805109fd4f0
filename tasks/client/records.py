"""What a web tier in Python calls to keep a customer's JSON records (P2.1c). It imports no Celery.

    from tasks.client.records import discard_record, save_record

    with Session(engine) as session, session.begin():
        save_record(session.connection(), account="acme", kind="note", ref="4711", content={"text": "..."})

Everything happens in the caller's transaction. Saved again under its key, a record is replaced.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, text

from tasks.storage.text import as_json


def save_record(connection: Connection, *, account: str, kind: str, ref: str, content: object) -> UUID:
    """Keep `content` (JSON) as the account's record `ref` of its `kind`, and give the row's id.

    Raises ValueError where the account is not active or the content is no JSON.
    """
    stored = connection.execute(
        text("""
            INSERT INTO tenure.submitted_records AS record (account_id, kind, external_ref, content)
            SELECT id, :kind, :ref, CAST(:content AS jsonb) FROM tenure.accounts
             WHERE ref = :account AND status = 'active'
            ON CONFLICT (account_id, kind, external_ref)
            DO UPDATE SET content = excluded.content, updated_at = now() RETURNING id"""),
        {"account": account, "kind": kind, "ref": ref, "content": as_json(content)},
    ).scalar_one_or_none()
    if stored is None:
        raise ValueError("the record's account is not known, or no longer active: use the ref of an active account")
    made: UUID = stored
    return made


def discard_record(connection: Connection, *, account: str, kind: str, ref: str) -> bool:
    """Remove a record; whether there was one."""
    gone = connection.execute(
        text("""
            DELETE FROM tenure.submitted_records WHERE kind = :kind AND external_ref = :ref
               AND account_id = (SELECT id FROM tenure.accounts WHERE ref = :account)"""),
        {"account": account, "kind": kind, "ref": ref},
    )
    return gone.rowcount > 0
