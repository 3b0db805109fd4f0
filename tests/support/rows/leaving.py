"""An account whose contract ends: frozen, exported and purged by the real steps, and what is left of it then."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from uuid import UUID

from sqlalchemy import text

from models.customers.account import Account
from models.customers.account_key import KeyPurpose
from models.data_map.map import AccountKeys
from models.termination.termination import Step
from tasks.crypto.age import Sealed
from tasks.engine.drain import drain
from tasks.export.verification import verify
from tasks.ports.context import Ports
from tasks.termination.advancing import ADVANCE, EXPORT, PURGE
from tests.support.rows.purging import counts, failure
from tests.support.rows.terminating import a_termination, steps

#: As if the customer had downloaded the archive: nothing else is due before the purge.
DELIVER = text("""
    UPDATE tenure.terminations SET stage = 'delivered', delivered_at = now(), delivered_by = 'download'
     WHERE id = :id""")
ONLY_THE_PURGE = text("UPDATE tenure.termination_steps SET state = 'cancelled' WHERE state = 'pending'")
ADD_THE_PURGE = text("INSERT INTO tenure.termination_steps (termination_id, step) VALUES (:id, 'purge')")


@dataclass(frozen=True)
class Left:
    """What the archive of an account held, and what is left of the account after the purge."""

    #: By table, those that had rows.
    exported_rows: Mapping[str, int]
    exported_objects: int
    #: By table, those that still have rows of the account, but for its tombstone.
    rows_left: Mapping[str, int]
    #: The keys of objects in the bucket that hold the account's id.
    objects_left: Sequence[str]


def freeze(ports: Ports, account: Account) -> UUID:
    """End the account's contract and freeze it. Return the id of the termination."""
    with ports.database.transaction() as session:
        termination = a_termination(session, account.id, Step.BEGIN).id
    while drain(ADVANCE, ports)["steps"]:
        pass
    assert steps(ports.database)["freeze"] == "done", failure(ports.database)
    return termination


def leave(ports: Ports, account: Account) -> Left:
    """End the account's contract, up to the certificate of its purge."""
    keys = AccountKeys(account.id, account.ref)
    ports = replace(ports, quiet=timedelta(0))
    termination = freeze(ports, account)
    drain(EXPORT, ports)
    assert steps(ports.database)["export"] == "done", failure(ports.database)
    exported_rows, exported_objects = _archive(ports, keys, termination)
    with ports.database.connection() as connection:
        connection.execute(DELIVER, {"id": termination})
        connection.execute(ONLY_THE_PURGE)
        connection.execute(ADD_THE_PURGE, {"id": termination})
    while drain(PURGE, ports)["steps"]:
        pass
    ended = steps(ports.database)
    assert {name: ended.get(name) for name in ("purge", "purge_again", "verify")} == dict.fromkeys(
        ("purge", "purge_again", "verify"), "done"
    ), failure(ports.database)
    left = {name: number for name, number in counts(ports, keys)["main"].items() if number}
    assert left.pop("tenure.accounts") == 1, "the tombstone"
    # Wherever they lie, not only where the data map looks.
    objects = [stored.key for stored in ports.objects.list("") if str(account.id) in stored.key]
    return Left(exported_rows, exported_objects, left, objects)


def _archive(ports: Ports, account: AccountKeys, termination: UUID) -> tuple[Mapping[str, int], int]:
    """Rows by table, and the number of objects, in the archive as it was stored. Fails if the archive is not whole."""
    with ports.database.transaction() as session:
        identity = ports.keyring.identity(session, account.id, KeyPurpose.EXPORT, termination)
        key: str = session.execute(text("SELECT archive_key FROM tenure.terminations")).scalar_one()
    (stored,) = ports.objects.list(key)
    content = b"".join(Sealed(partial(ports.objects.read, key), stored.size, identity).content())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        findings = verify(archive)
    assert findings.problems == []
    files = findings.manifest.files
    return {each.table: each.rows for each in files if each.table and each.rows}, sum(bool(each.key) for each in files)
