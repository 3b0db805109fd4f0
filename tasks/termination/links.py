"""Links to the record of an account: one for each letter, its secret in that letter and nowhere else (T18).

Whoever has the link may fetch the record until its window ends, so a link is ended rather than handed on: a re-issue
removes all that were given out before.
"""

from __future__ import annotations

import base64
import secrets
from hashlib import sha256

from sqlalchemy.orm import Session

from models.termination.export_link import ExportLink
from models.termination.termination import Termination
from tasks.cases.correspondence import Correspondent

#: The path of the page below the company's own site; what follows is a link's secret.
PAGE = "/exports"
SECRET_BYTES = 32


def new_link(session: Session, termination: Termination, reader: Correspondent) -> str:
    """Make a link for this reader; returns the path of its page. The caller commits."""
    secret = secrets.token_bytes(SECRET_BYTES)
    session.add(
        ExportLink(
            termination_id=termination.id,
            secret_sha256=sha256(secret).digest(),
            language=reader.language,
            time_zone=reader.time_zone,
        )
    )
    return f"{PAGE}/{base64.urlsafe_b64encode(secret).rstrip(b'=').decode()}"


def named_by(written: str) -> bytes | None:
    """The hash under which the link is known whose secret is written so; None where it cannot be one."""
    try:
        secret = base64.b64decode(written + "=", altchars=b"-_", validate=True)
    except ValueError:
        return None
    return sha256(secret).digest() if len(secret) == SECRET_BYTES else None
