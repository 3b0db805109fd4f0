"""Certificates are a chain that only grows, is copied, and is checked by whoever has the key (T25)."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from models.base.unit_of_work import Database
from models.termination.certificate import Certificate, CertificateKind
from tasks.certificates import publishing
from tasks.certificates.chain import Signed, examine
from tasks.certificates.issuing import Issued, issue
from tasks.crypto.signing import Signer
from tasks.engine.drain import drain
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tests.integration.conftest import Run
from tests.support.rows.certifying import a_setting, a_termination
from tests.support.rows.raw_objects import put_raw


@pytest.fixture
def termination(database: Database) -> UUID:
    with database.transaction() as session:
        return a_termination(session).id


def certified(
    ports: Ports, termination: UUID, kind: CertificateKind = CertificateKind.PURGE, subject: UUID | None = None
) -> Issued:
    with ports.database.transaction() as session:
        return issue(
            session,
            ports.signer,
            kind,
            subject or termination,
            termination_id=termination,
            facts={"termination": str(termination), "stores": [], "account": str(uuid4())},
        )


def rows(database: Database) -> list[Certificate]:
    with database.transaction() as session:
        return list(session.scalars(select(Certificate).order_by(Certificate.number)))


def test_the_first_certificate_introduces_the_key_and_the_same_again_is_the_same(
    ports: Ports, termination: UUID
) -> None:
    first, again = certified(ports, termination), certified(ports, termination)
    assert first == again
    assert first.name == f"PC-{first.issued_at:%Y}-00002"
    assert [row.kind for row in rows(ports.database)] == ["key", "purge"]


def test_numbers_have_no_gap_however_many_add_at_once(ports: Ports, termination: UUID) -> None:
    """And whoever rolls back leaves none."""
    subjects = [uuid4() for _ in range(12)]

    def add(subject: UUID) -> None:
        certified(ports, termination, CertificateKind.RETENTION, subject)

    def roll_back(_: int) -> None:
        with ports.database.transaction() as session:
            issue(session, ports.signer, CertificateKind.ARCHIVE, termination, termination_id=termination, facts={})
            session.rollback()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(roll_back, range(4)))
        list(pool.map(add, [*subjects, *subjects]))
    assert [row.number for row in rows(ports.database)] == [*range(1, 14)]
    assert len({row.subject for row in rows(ports.database)}) == 13


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE tenure.certificates SET body = 'x'", "stays as it was issued"),
        ("UPDATE tenure.certificates SET termination_id = NULL", "stays as it was issued"),
        ("DELETE FROM tenure.certificates", "stays as it was issued"),
        ("TRUNCATE tenure.certificates CASCADE", "stays as it was issued"),
        (
            "INSERT INTO tenure.certificates SELECT number + 2, kind, uuidv7(), termination_id, body, sha256, previous,"
            " key, signature, issued_at FROM tenure.certificates WHERE number = 2",
            "the next certificate is number 3, not 4",
        ),
        (
            "INSERT INTO tenure.certificates SELECT number + 1, kind, uuidv7(), termination_id, body, sha256, sha256,"
            " key, signature, issued_at FROM tenure.certificates WHERE number = 2",
            "certificate 3 does not fit",
        ),
    ],
)
def test_the_table_only_grows(ports: Ports, termination: UUID, sql: str, said: str) -> None:
    certified(ports, termination)
    with pytest.raises(IntegrityError, match=said), ports.database.connection() as connection:
        connection.execute(text(sql))
    assert len(rows(ports.database)) == 2


def test_what_was_not_verified_gets_no_certificate(ports: Ports) -> None:
    with ports.database.transaction() as session:
        unverified = a_termination(session, verified=False).id
    with pytest.raises(IntegrityError, match="was not verified: it gets no certificate"):
        certified(ports, unverified)
    assert rows(ports.database) == []


@pytest.mark.parametrize(
    ("setting", "said"), [("", "TENURE_CERTIFICATE_KEYS is not set"), ("secret", "is not base64 of 32 bytes")]
)
def test_without_a_key_nothing_is_certified(ports: Ports, termination: UUID, setting: str, said: str) -> None:
    with pytest.raises(Permanent, match=said) as caught, ports.database.transaction() as session:
        issue(session, Signer(setting), CertificateKind.PURGE, termination, termination_id=termination, facts={})
    assert "secret" not in str(caught.value)
    assert rows(ports.database) == []


def test_a_key_hands_over_to_the_next_one(ports: Ports, termination: UUID, tenure: Run, tmp_path: Path) -> None:
    """Whoever has the old public key goes on checking; and where the old key is lost, that is told."""
    old, new, other = (Signer(a_setting(n)) for n in (1, 2, 3))
    for signer in (old, Signer(a_setting(2, 1)), Signer(a_setting(2))):
        with ports.database.transaction() as session:
            issue(session, signer, CertificateKind.RETENTION, uuid4(), termination_id=termination, facts={"stores": []})
    assert [row.kind for row in rows(ports.database)] == ["key", "retention", "key", "retention", "retention"]
    file = tmp_path / "chain.json"
    made = tenure("certificate", "export", "--out", str(file), TENURE_CERTIFICATE_KEYS=a_setting(2))
    assert made.returncode == 0, made.stderr
    for signer in (old, new):
        assert examine(file.read_bytes(), [signer.current.public]).problems == []
    assert examine(file.read_bytes(), [other.current.public]).problems != []
    with ports.database.transaction() as session:
        issue(session, other, CertificateKind.RETENTION, uuid4(), termination_id=termination, facts={"stores": []})
    assert tenure("certificate", "export", "--out", str(file), TENURE_CERTIFICATE_KEYS=a_setting(3)).returncode == 0
    problems = examine(file.read_bytes(), [old.current.public]).problems
    assert any("nor did one of them hand over" in each for each in problems)


def test_every_certificate_is_copied_once(ports: Ports, termination: UUID) -> None:
    certified(ports, termination)
    assert drain(publishing.PUBLISH, ports)["published"] == 2
    assert drain(publishing.PUBLISH, ports)["published"] == 0
    copies = list(publishing.copies(ports.objects))
    assert [each.body for each in copies] == [row.body for row in rows(ports.database)]
    with ports.database.connection() as connection:
        connection.execute(text("UPDATE tenure.certificate_copies SET state = 'pending'"))
    assert drain(publishing.PUBLISH, ports)["published"] == 2


def test_two_databases_that_add_to_one_chain_are_found_out(ports: Ports, termination: UUID, tenure: Run) -> None:
    certified(ports, termination)
    drain(publishing.PUBLISH, ports)
    (first, second) = publishing.copies(ports.objects)
    other = publishing.document([Signed.of(first.body.replace(b"PC-", b"PX-"), first.signature)], whole=False)
    put_raw(ports.objects, publishing.key(1), other)
    said = tenure("certificate", "verify")
    assert said.returncode == 1
    assert "Certificate 1 is another one in the object store" in said.stderr
    with ports.database.connection() as connection:
        connection.execute(text("UPDATE tenure.certificate_copies SET state = 'pending'"))
    assert drain(publishing.PUBLISH, ports) == {"published": 1, "failed": 1}
    assert second.number == 2


def test_the_database_lacks_what_was_copied(ports: Ports, termination: UUID, tenure: Run) -> None:
    """Its end was cut off by force, or an older backup was restored."""
    certified(ports, termination)
    drain(publishing.PUBLISH, ports)
    assert tenure("certificate", "verify").returncode == 0
    with ports.database.connection() as connection:
        for trigger in ("ALTER TABLE tenure.certificates DISABLE TRIGGER keep", "DELETE FROM tenure.certificate_copies",
                        "DELETE FROM tenure.certificates WHERE number = 2"):  # fmt: skip
            connection.execute(text(trigger))
    said = tenure("certificate", "verify")
    assert said.returncode == 1
    assert "Certificate 2 is in the object store and not in the database" in said.stderr


def test_the_commands(ports: Ports, termination: UUID, tenure: Run, tmp_path: Path) -> None:
    assert "No certificate was issued yet" in tenure("certificate", "list").stdout
    assert tenure("certificate", "export").returncode == 1
    issued = certified(ports, termination)
    listed = tenure("certificate", "list")
    assert issued.name in listed.stdout
    assert str(termination) in listed.stdout
    assert json.loads(tenure("certificate", "list", "--json").stdout)[1]["sha256"] == issued.sha256.hex()
    for which in ("2", issued.name, str(termination)):
        shown = tenure("certificate", "show", which)
        assert (shown.returncode, issued.sha256.hex() in shown.stdout, "valid" in shown.stdout) == (0, True, True)
    assert json.loads(tenure("certificate", "show", "2", "--json").stdout)[0]["number"] == 2
    missing = tenure("certificate", "show", "19")
    assert (missing.returncode, missing.stderr) == (
        2,
        "tenure: there is no certificate '19': tenure certificate list has them.\n",
    )

    file, key = tmp_path / "chain.json", tmp_path / "key.pem"
    assert tenure("certificate", "export", "--out", str(file)).returncode == 0
    printed = tenure("certificate", "key").stdout
    key.write_text(printed[printed.index("-----BEGIN") :])
    offline = dict.fromkeys(("TENURE_DATABASE_URL", "TENURE_S3_ENDPOINT", "TENURE_BROKER_URL"), "")
    sound = tenure("certificate", "verify", str(file), "--key", str(key), **offline)
    assert sound.returncode == 0, sound.stderr
    assert f"2:{issued.sha256.hex()}" in sound.stdout
    assert tenure("certificate", "verify", str(file), **offline).returncode == 2
    file.write_bytes(file.read_bytes().replace(b'"stores":[]', b'"stores":[1]'))
    tampered = tenure("certificate", "verify", str(file), "--key", str(key), **offline)
    assert tampered.returncode == 1
    assert "Certificate 2 was changed" in tampered.stderr
    one = tenure("certificate", "export", "2")
    file.write_text(one.stdout)
    assert "an extract with" in tenure("certificate", "verify", str(file), "--key", str(key), **offline).stdout
    for wrong in (["--head", "19"], ["--key", "abc"], [str(tmp_path / "none.json"), "--key", str(key)]):
        refused = tenure("certificate", "verify", *wrong)
        assert refused.returncode == 2
        assert refused.stderr.startswith("tenure: ")
