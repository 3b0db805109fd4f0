"""CERTIFY says what the evidence says, without personal data, once, and only where all was verified (T25)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from models.base.unit_of_work import Database
from models.data_map.map import Category, DataMap, MappedTable, Path, Retention, table_name
from models.termination.certificate import Certificate
from models.termination.termination import Step, Termination, TerminationStep
from tasks.certificates import certifying
from tasks.crypto.signing import Signer
from tasks.engine.drain import drain
from tasks.ports.context import Estate, Ports
from tasks.termination.advancing import ADVANCE
from tests.integration.conftest import Run
from tests.support.rows.certifying import a_termination

STORES = """
    INSERT INTO tenure.purge_stores (termination_id, pass_number, number, kind, place, store, method, expected, removed,
                                     kept, done_at)
    VALUES (:id, 1, 1, 'processor', '', 'Stripe', 'deleted', 1, 1, 0, now()),
           (:id, 1, 2, 'objects', '', 'files/{account_id}/', 'deleted', 2, 2, 0, now()),
           (:id, 1, 3, 'table', 'main', 'shop.invoice', 'retained', 9, 2, 7, now()),
           (:id, 1, 4, 'table', 'main', 'tenure.contacts', 'deleted', 3, 3, 0, now()),
           (:id, 2, 1, 'objects', '', 'files/{account_id}/', 'deleted', 1, 1, 0, now()),
           (:id, 2, 2, 'table', 'main', 'tenure.contacts', 'deleted', 0, 0, 0, :done)"""
INVOICES = MappedTable(
    table_name("shop.invoice"),
    Category.PLATFORM,
    (Path.parse("customer = account.ref"),),
    key=("id",),
    exported=("id",),
    left_out={},
    retention=Retention("§ 132 BAO", "P7Y", redacted={"street": "NULL"}),
)


@pytest.fixture
def ports(ports: Ports) -> Ports:
    return replace(ports, company=lambda: Estate(DataMap((INVOICES,)), {}))


def prepared(ports: Ports, *, verified: bool = True, done: bool = True) -> UUID:
    with ports.database.transaction() as session:
        termination = a_termination(session, verified=verified)
        session.execute(
            text("INSERT INTO tenure.legal_holds (account_id, reference, reason, placed_by, released_by, released_at)"
                 " VALUES (:id, 'Doe v. Roe', 'A court asked.', 'ines', 'ines', now())"), {"id": termination.account_id}
        )  # fmt: skip
        now = session.execute(text("SELECT now()")).scalar_one()
        session.execute(text(STORES), {"id": termination.id, "done": now if done else None})
        session.add(TerminationStep(termination_id=termination.id, step=Step.CERTIFY))
    return termination.id


def certificate(database: Database) -> dict[str, Any]:
    with database.transaction() as session:
        bodies = session.scalars(select(Certificate.body).where(Certificate.kind == "purge")).all()
    (body,) = bodies
    return dict(json.loads(body))


def test_a_certificate_says_what_was_found_and_erased_in_all_passes(ports: Ports, tenure: Run) -> None:
    termination = prepared(ports)
    drain(ADVANCE, ports)
    said = certificate(ports.database)
    found = {each["store"]: (each["found"], each["erased"], each["kept"]) for each in said["stores"]}
    assert found == {
        "Stripe": (1, 1, 0),
        "files/{account_id}/": (2, 3, 0),
        "shop.invoice": (9, 2, 7),
        "tenure.contacts": (3, 3, 0),
    }
    (exception,) = said["exceptions"]
    assert (exception["store"], exception["rows"], exception["legal_basis"]) == ("shop.invoice", 7, "§ 132 BAO")
    assert exception["redacted"] == ["street"]
    assert len(said["holds"]) == 1
    with ports.database.transaction() as session:
        row = session.get_one(Termination, termination)
        steps = session.execute(select(TerminationStep.step, TerminationStep.state)).all()
    assert row.stage == "certified"
    assert row.certified_at is not None
    assert ("certify", "done") in [tuple(each) for each in steps]
    shown = tenure("certificate", "show", str(termination)).stdout
    for each in (
        "Certificate of erasure",
        "files/{account_id}/",
        "7 rows of shop.invoice stay because of § 132 BAO",
        "valid",
    ):
        assert each in shown


def test_nothing_personal_is_in_a_certificate(ports: Ports) -> None:
    prepared(ports)
    drain(ADVANCE, ports)
    with ports.database.connection() as connection:
        ref, name = connection.execute(text("SELECT ref, name FROM tenure.accounts")).one()
    written = json.dumps(certificate(ports.database))
    for personal in (ref, name, "Doe v. Roe", "A court asked", "ines"):
        assert f'"{personal}' not in written


def test_ten_redeliveries_make_one_certificate(ports: Ports) -> None:
    prepared(ports)
    for _ in range(10):
        drain(ADVANCE, ports)
        with ports.database.connection() as connection:
            connection.execute(text("UPDATE tenure.termination_steps SET state = 'pending' WHERE step = 'certify'"))
    assert certificate(ports.database)["number"] == 2


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"verified": False}, "the termination was not verified"),
        ({"done": False}, "the purge of tenure.contacts has not"),
    ],
)
def test_without_evidence_there_is_no_certificate(ports: Ports, how: dict[str, bool], said: str) -> None:
    prepared(ports, **how)
    drain(ADVANCE, ports)
    with ports.database.transaction() as session:
        assert session.scalars(select(Certificate)).all() == []
        assert said in str(session.scalars(select(TerminationStep.last_error)).one())


def test_without_a_key_it_waits_for_a_person(ports: Ports) -> None:
    prepared(ports)
    drain(ADVANCE, replace(ports, signer=Signer()))
    with ports.database.transaction() as session:
        assert session.scalars(select(Certificate)).all() == []
        assert "TENURE_CERTIFICATE_KEYS is not set" in str(session.scalars(select(TerminationStep.last_error)).one())


def test_the_end_of_the_record_is_certified_once(ports: Ports) -> None:
    termination = prepared(ports)
    for _ in range(2):
        with ports.database.transaction() as session:
            issued = certifying.archive_retired(session, ports.signer, termination)
    assert issued.number == 2
    facts = {"stores": [], "legal_basis": "§ 132 BAO"}
    for _ in range(2):
        with ports.database.transaction() as session:
            issued = certifying.retention_ended(session, ports.signer, termination, termination, facts)
    assert issued.number == 3
