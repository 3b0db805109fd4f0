"""A restored database is taught again what was erased since its backup (T26); by `tenure purge replay`, by hand.

The ledger and the copies of certificates in the object store say what it does not know. For each erasure the account is
frozen, its termination is made as it was when its purge began, and the purge is done again, both passes and the
verification. Then the certificates that the database lacks are put back, as they were issued, and with them the end of
each termination. An erasure that never got its certificate goes on from there by itself, as any termination does.

A backup from the middle of a purge knows the erasure, and has again what was deleted since: where the certificate says
that it came to its end, it is begun anew, too.

It may be run again at any time, and goes on where it was broken off. Nothing is believed that is not signed with a key
of ours: a forged note stops it before anything is erased.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import Connection, func, insert, select, text, update
from sqlalchemy.orm import Session

from models.customers.account_key import KeyPurpose
from models.termination.certificate import Certificate, CertificateCopy, CertificateKind
from models.termination.termination import Stage, Step, Termination
from tasks.cases.case import Next
from tasks.certificates import erasure_notes, publishing
from tasks.certificates.chain import Signed, document, examine, keys_of
from tasks.certificates.erasure_notes import COLUMNS, Erasure
from tasks.crypto import keyring
from tasks.crypto.signing import PublicKey
from tasks.engine.drain import drain
from tasks.engine.failpoints import failpoint
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tasks.termination import advancing

#: From the first stage to that in which data are erased.
WAY: Final = (
    Stage.REQUESTED, Stage.GRACE, Stage.FROZEN, Stage.EXPORTING, Stage.SEALED, Stage.DELIVERED, Stage.PURGING,
)  # fmt: skip

#: The ref of the tombstone is another one's where the customer had come back under the same ref, and may be so only
#: when that one is purged.
_TOMBSTONE = text("""
    INSERT INTO tenure.accounts (id, ref, name, currency, status)
    SELECT :id, CASE WHEN EXISTS (SELECT FROM tenure.accounts WHERE id <> :id AND :ref IN (ref, tenure.purged_ref(ref)))
                     THEN tenure.purged_ref(CAST(:id AS text)) ELSE :ref END, '', :currency, 'purged'
    ON CONFLICT (id) DO NOTHING""")
_FREEZE = text("UPDATE tenure.accounts SET status = 'frozen' WHERE id = :id AND status = 'active'")
#: What the customer took back later, and is open in the backup.
_OTHERS = text("""
    UPDATE tenure.terminations SET stage = 'cancelled', stage_before = NULL, cancelled_at = now()
     WHERE account_id = :account AND id <> :id AND stage <> 'cancelled'""")
_MAKE = text("""
    INSERT INTO tenure.terminations (id, account_id, requested_by, ends_at, cancel_until)
    VALUES (:id, :account, 'operator', now(), now()) ON CONFLICT DO NOTHING""")
_ASIDE = text("""
    UPDATE tenure.terminations SET stage = stage_before, stage_before = NULL
     WHERE id = :id AND stage IN ('held', 'failed')""")
_FILL = text(f"""
    UPDATE tenure.terminations AS termination SET {", ".join(f"{each} = noted.{each}" for each in COLUMNS)}
      FROM jsonb_populate_record(NULL::tenure.terminations, CAST(:columns AS jsonb)) AS noted
     WHERE termination.id = :id""")
_STOP = text("""
    UPDATE tenure.termination_steps SET state = 'cancelled', finished_at = now(), lease_until = NULL,
           last_error = 'A backup was restored: the erasure begins anew.'
     WHERE termination_id = :id AND state NOT IN ('done', 'cancelled')""")
_BEGIN = text("""
    INSERT INTO tenure.termination_steps (termination_id, step) VALUES (:id, 'purge')
    ON CONFLICT (termination_id, step, number) DO UPDATE
       SET state = 'pending', due_at = now(), attempts = 0, crashes = 0, finished_at = NULL, last_error = NULL""")
#: Of the tombstone nobody learns the ref by which objects, keys and the company's own tables are found.
_REMEMBER = text("""
    UPDATE tenure.terminations AS termination SET correspondence = jsonb_build_object('account_ref', account.ref)
      FROM tenure.accounts AS account
     WHERE account.id = account_id AND termination.id = :id AND correspondence IS NULL
       AND account.status <> 'purged'""")
#: Whose end is certified, and which the backup has in the middle.
_BROKEN_OFF = text("""
    SELECT id FROM tenure.terminations
     WHERE id = ANY (:certified) AND coalesce(stage_before, stage) IN ('purging', 'verifying') AND verified_at IS NULL
       AND id NOT IN (SELECT termination_id FROM tenure.erasure_replays) ORDER BY id FOR UPDATE""")
_BACK = text("UPDATE tenure.terminations SET stage = 'purging' WHERE id = :id AND stage = 'verifying'")
#: How far it was is not how far the stores are that no backup was made of.
_UNDO = (
    text("DELETE FROM tenure.purge_stores WHERE termination_id = :id"),
    text("""
        DELETE FROM tenure.termination_steps
         WHERE termination_id = :id AND step IN ('purge', 'purge_again', 'verify', 'certify')"""),
)
_REPLAYED = text("""
    INSERT INTO tenure.erasure_replays (termination_id, found) VALUES (:id, :found) ON CONFLICT DO NOTHING""")
_GO_ON = text("""
    UPDATE tenure.terminations SET stage = stage_before, stage_before = NULL
     WHERE stage IN ('held', 'failed') AND verified_at IS NULL AND NOT tenure.is_held(account_id)
       AND id IN (SELECT termination_id FROM tenure.erasure_replays)""")
_ONCE_MORE = text("""
    UPDATE tenure.termination_steps SET state = 'pending', due_at = now(), attempts = 0, finished_at = NULL
     WHERE state IN ('pending', 'failed') AND step IN ('purge', 'purge_again', 'verify')
       AND termination_id IN (SELECT termination_id FROM tenure.erasure_replays)""")
_LEFT = text("""
    SELECT termination.id, termination.stage,
           (SELECT last_error FROM tenure.termination_steps AS step
             WHERE step.termination_id = termination.id AND step.state <> 'done' AND last_error IS NOT NULL
               AND step.step IN ('purge', 'purge_again', 'verify') ORDER BY step.id DESC LIMIT 1) AS reason
      FROM tenure.terminations AS termination JOIN tenure.erasure_replays ON termination_id = termination.id
     WHERE termination.verified_at IS NULL ORDER BY termination.id""")
#: A sentence of the step, where it was put back without one of its own.
HELD: Final = "A legal hold keeps the data."


@dataclass
class Replayed:
    """What was done, and what is left to do."""

    erased: int = 0
    #: Accounts that the backup did not know yet.
    absent: int = 0
    certificates: int = 0
    #: Each in a sentence.
    left: list[str] = field(default_factory=list)


def replay(ports: Ports, told: Callable[[str], None] = lambda _: None) -> Replayed:
    """Do all of it. Raises Unavailable or Permanent; what was done until then stays done."""
    chain, keys = _chain(ports)
    unknown = erasure_notes.unknown(ports.database, ports.objects)
    # All are read before the first is believed.
    noted = [erasure_notes.read(ports.objects, each, keys) for each in unknown.erasures]
    retired = {each.content["termination"] for each in chain if each.content["kind"] == CertificateKind.ARCHIVE}
    done = Replayed()
    for number, erasure in enumerate(noted, start=1):
        with ports.database.transaction() as session:
            found = _teach(session, erasure, archive=str(erasure.termination_id) not in retired)
            failpoint("purge.replay", "before_commit")
        failpoint("purge.replay", "after_commit")
        done.absent += not found
        told(f"{number} of {len(noted)} erasures are known again.")
    _begin_anew(ports, [each for each in chain if each.number in set(unknown.certificates)])
    with ports.database.transaction() as session:
        # What a hold stopped that was released since, and what a person has mended.
        session.execute(_GO_ON)
        session.execute(_ONCE_MORE)
        before = len(session.execute(_LEFT).all())
    _erase(ports)
    with ports.database.transaction() as session:
        left = session.execute(_LEFT).all()
    done.erased = before - len(left)
    done.left = [f"Termination {row.id} is {row.stage}: {row.reason or HELD}" for row in left]
    done.certificates = _restore(ports, chain, done.left)
    return done


def _chain(ports: Ports) -> tuple[list[Signed], dict[str, PublicKey]]:
    """All certificates, of the database and of the object store, and the keys of their times. Raises Permanent."""
    with ports.database.transaction() as session:
        rows = session.execute(select(Certificate.body, Certificate.signature)).all()
    found = {each.number: each for each in (Signed.of(row.body, row.signature) for row in rows)}
    for copy in publishing.copies(ports.objects):
        if found.setdefault(copy.number, copy).body != copy.body:
            raise Permanent(
                f"Certificate {copy.number} is another one in the object store than in the database: two databases "
                "added to one chain. Find out which is the right one before anything else."
            )
    chain = [found[number] for number in sorted(found)]
    trusted = [each.public for each in ports.signer.keys]
    _ = ports.signer.current
    if chain:
        problems = examine(document(chain, whole=False), trusted).problems
        if problems:
            raise Permanent(f"The certificates in the object store are not to be believed: {problems[0]}")
    return chain, keys_of(chain, trusted)


def _teach(session: Session, erasure: Erasure, *, archive: bool) -> bool:
    """Make the termination as it was when its purge began; whether the database had the account."""
    account, termination = {"id": erasure.account_id}, {"id": erasure.termination_id}
    connection = session.connection()
    connection.execute(text("SELECT set_config('tenure.purging', :id, true)"), {"id": str(erasure.account_id)})
    made = connection.execute(_TOMBSTONE, account | {"ref": erasure.tombstone, "currency": erasure.currency}).rowcount
    connection.execute(_FREEZE, account)
    both = termination | {"account": erasure.account_id}
    connection.execute(_OTHERS, both)
    connection.execute(_MAKE, both)
    connection.execute(_STOP, termination)
    connection.execute(_ASIDE, termination)
    columns = msgspec.json.encode(erasure.columns).decode()
    connection.execute(_FILL, termination | {"columns": columns})
    connection.execute(_REMEMBER, termination)
    _walk(connection, erasure.termination_id)
    connection.execute(_BEGIN, termination)
    if archive and erasure.columns.get("available_until"):
        until = datetime.fromisoformat(str(erasure.columns["available_until"]))
        advancing.add_steps(session, erasure.termination_id, (Next(Step.RETIRE_ARCHIVE, due=until),))
    connection.execute(_REPLAYED, termination | {"found": not made})
    return not made


def _begin_anew(ports: Ports, lacking: Sequence[Signed]) -> None:
    """Begin the purges anew that are certified, and that the backup has in the middle."""
    certified = [UUID(each.content["termination"]) for each in lacking if each.content["kind"] == CertificateKind.PURGE]
    with ports.database.transaction() as session:
        connection = session.connection()
        for broken_off in connection.scalars(_BROKEN_OFF, {"certified": certified}).all():
            termination = {"id": broken_off}
            for statement in (_ASIDE, _BACK, *_UNDO, _BEGIN):
                connection.execute(statement, termination)
            connection.execute(_REPLAYED, termination | {"found": True})


def _walk(connection: Connection, termination_id: UUID) -> None:
    """From stage to stage, as the trigger demands."""
    table = Termination.__table__
    stage: Stage = connection.execute(select(Termination.stage).where(Termination.id == termination_id)).scalar_one()
    for following in WAY[WAY.index(Stage(stage)) + 1 :]:
        connection.execute(update(table).where(table.c.id == termination_id).values(stage=following))  # type: ignore[arg-type]


def _erase(ports: Ports) -> None:
    """Both passes and the verification of what is taught again, one after the other, without a quiet time between.

    Nothing else works on the database, so there is nothing to wait for.
    """
    job = replace(
        advancing.PURGE,
        where=f"{advancing.PURGE.where} AND termination_id IN (SELECT termination_id FROM tenure.erasure_replays)",
    )
    while drain(job, replace(ports, quiet=timedelta(0)))[job.done]:
        failpoint("purge.replay", "after_step")


def _restore(ports: Ports, chain: Sequence[Signed], left: list[str]) -> int:
    """Put back the certificates that the database lacks, in their order, as far as what they say is true again."""
    restored = 0
    with ports.database.transaction() as session:
        known = set(session.scalars(select(Certificate.number)))
    for each in chain:
        if each.number in known:
            continue
        with ports.database.transaction() as session:
            if not _holds_true(session, each):
                left.append(_waiting(session, each))
                return restored
            _put_back(session, each)
            failpoint("purge.replay", "before_certificate_commit")
        failpoint("purge.replay", "after_certificate")
        restored += 1
    return restored


def _waiting(session: Session, certificate: Signed) -> str:
    name, termination_id = certificate.content["name"], UUID(certificate.content["termination"])
    if session.get(Termination, termination_id) is None:
        return (
            f"Certificate {name} and those after it wait: the erasure that it tells of is not known, since its note "
            f"{erasure_notes.key(termination_id)} is not in the object store. Put it back from a copy, then "
            "run the replay again."
        )
    return f"Certificate {name} and those after it wait until what they say is true again."


def _holds_true(session: Session, certificate: Signed) -> bool:
    if certificate.content["kind"] == CertificateKind.KEY:
        return True
    termination = session.get(Termination, UUID(certificate.content["termination"]))
    return termination is not None and termination.verified_at is not None


def _put_back(session: Session, certificate: Signed) -> None:
    said, kind = certificate.content, CertificateKind(certificate.content["kind"])
    termination_id = None if kind is CertificateKind.KEY else UUID(said["termination"])
    issued_at = datetime.fromisoformat(said["issued_at"])
    values: dict[str, Any] = {
        "number": certificate.number,
        "kind": kind,
        "subject": UUID(said["retention"]) if kind is CertificateKind.RETENTION else termination_id or uuid4(),
        "termination_id": termination_id,
        "body": certificate.body,
        "sha256": bytes.fromhex(certificate.sha256),
        "previous": bytes.fromhex(said["previous"]) if said["previous"] else None,
        "key": said["key"],
        "signature": certificate.signature,
        "issued_at": issued_at,
    }
    session.execute(insert(Certificate).values(**values))
    copied = {"number": certificate.number, "state": "done", "finished_at": func.now()}
    session.execute(insert(CertificateCopy).values(**copied))
    if termination_id is None:
        return
    termination = session.get_one(Termination, termination_id)
    if kind is CertificateKind.PURGE:
        session.execute(_STOP, {"id": termination_id})
        advancing.add_steps(session, termination_id, (Next(Step.FORGET),))
        if termination.available_until is not None and termination.archive_purged_at is None:
            retry = Next(Step.RETIRE_ARCHIVE, due=termination.available_until)
            _again(session, termination_id, retry)
        termination.stage, termination.certified_at = Stage.CERTIFIED, issued_at
    if kind is CertificateKind.ARCHIVE:
        _again(session, termination_id, None)
        keyring.destroy(session, termination.account_id, KeyPurpose.EXPORT, termination_id)
        termination.archive_purged_at = issued_at
    session.flush()


def _again(session: Session, termination_id: UUID, step: Next | None) -> None:
    """The archive's last step is due at its time, or not at all where the archive is gone."""
    if step is None:
        session.execute(
            text("""
                UPDATE tenure.termination_steps SET state = 'cancelled', finished_at = now(), lease_until = NULL
                 WHERE termination_id = :id AND step = 'retire_archive' AND state <> 'done'"""),
            {"id": termination_id},
        )
        return
    session.execute(
        text("""
            UPDATE tenure.termination_steps SET state = 'pending', finished_at = NULL, last_error = NULL
             WHERE termination_id = :id AND step = 'retire_archive' AND state = 'cancelled'"""),
        {"id": termination_id},
    )
    advancing.add_steps(session, termination_id, (step,))
