"""Parties outside are asked to erase, asked whether they have, and never believed without (T21)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from sqlalchemy import select, text

from models.base.unit_of_work import Database
from models.data_map.map import AccountKeys, DataMap, Processor
from models.termination.certificate import Certificate
from tasks.engine.drain import drain
from tasks.failures import Permanent
from tasks.ports.context import Estate, Ports
from tasks.termination.advancing import ADVANCE, PURGE
from tasks.termination.preview import Kind, preview
from tests.integration.conftest import Run
from tests.support.rows.company import a_contact, an_account
from tests.support.rows.marked import freeze
from tests.support.rows.purging import a_delivered_termination, counts, failure, passes
from tests.support.rows.terminating import stage, steps
from tests.support.servers.erasure_server import LOSE_AFTER, LOSE_BEFORE, SILENCE, TOKEN, ErasureServer, erasure_server
from workers.adapters import erasure
from workers.adapters.erasure import ErasureAddress
from workers.settings.settings import Settings
from workers.wiring import bootstrap

LIST = Processor("Mailing list", "names and addresses", "delete the subscriber", "LIST_URL", "LIST_TOKEN")


@dataclass(frozen=True)
class Company:
    """A company whose customer `acme` leaves, and of whom a mailing list outside holds three records."""

    ports: Ports
    database: Database
    server: ErasureServer
    leaving: AccountKeys

    def purge(self) -> dict[str, int]:
        return drain(PURGE, self.ports)

    def make_due(self) -> None:
        with self.database.connection() as connection:
            connection.execute(text("UPDATE tenure.termination_steps SET due_at = now() WHERE state = 'pending'"))

    def finish(self) -> None:
        for _ in range(4):
            self.make_due()
            self.purge()
        assert stage(self.database) == ("verifying", None), failure(self.database)
        assert steps(self.database)["certify"] == "pending"

    @property
    def rows(self) -> dict[str, int]:
        return counts(self.ports, self.leaving)["main"]

    @property
    def evidence(self) -> Any:
        (found,) = [each for each in passes(self.database) if each.kind == "processor" and each.pass_number == 1]
        return found


@pytest.fixture
def company(database: Database, ports: Ports) -> Iterator[Company]:
    with ports.database.transaction() as session:
        accounts = [an_account(session, ref=ref) for ref in ("acme", "acme_corp")]
        for each in accounts:
            a_contact(session, each)
        leaving = AccountKeys(accounts[0].id, "acme")
    freeze(database, leaving)
    with erasure_server(acme=3, acme_corp=5) as server:
        at = ErasureAddress(LIST.name, server.address, TOKEN, encrypted=True)
        estate = Estate(DataMap((), processors=(LIST,)), {}, {}, {LIST.name: at})
        made = replace(ports, company=lambda: estate, quiet=timedelta(0))
        a_delivered_termination(made, leaving)
        yield Company(made, database, server, leaving)


def test_it_erases_and_says_how_much(company: Company) -> None:
    (told,) = [each for each in preview(company.ports, company.leaving, "frozen").stores if each.kind is Kind.PROCESSOR]
    assert (told.name, told.count, told.remark) == (LIST.name, 3, "delete the subscriber")
    company.finish()
    assert company.server.records == {"acme_corp": 5}
    assert company.server.erasures == ["acme"]
    said = company.evidence
    assert (said.place, said.store, said.method, said.expected, said.removed) == (
        "LIST_URL", LIST.name, "deleted", 3, 3,
    )  # fmt: skip
    assert said.done_at


def test_it_stands_in_the_certificate(company: Company) -> None:
    company.finish()
    drain(ADVANCE, company.ports)
    with company.database.connection() as connection:
        content = connection.execute(select(Certificate.body).where(Certificate.kind == "purge")).scalar_one()
    (store,) = [each for each in json.loads(content)["stores"] if each["kind"] == "processor"]
    assert (store["store"], store["found"], store["erased"]) == (LIST.name, 3, 3)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (LOSE_BEFORE, "The processor Mailing list does not answer (RemoteDisconnected)."),
        (SILENCE, "The processor Mailing list does not answer (TimeoutError)."),
        ((500, b"oh"), "The processor Mailing list answers GET with 500; it is asked again."),
        ((429, b""), "The processor Mailing list answers GET with 429; it is asked again."),
        ((401, b""), "The processor Mailing list answers GET with 401; it is asked again."),
    ],
    ids=lambda each: str(each)[:20],
)
def test_a_purge_does_not_begin_before_it_answers(
    company: Company, monkeypatch: pytest.MonkeyPatch, fault: Any, said: str
) -> None:
    monkeypatch.setattr(erasure, "TIMEOUT", 0.3)
    company.server.script[:] = [fault]
    before = company.rows
    company.purge()
    assert (company.rows, company.server.erasures) == (before, [])
    assert stage(company.database)[0] == "delivered"
    assert failure(company.database) == said
    company.finish()
    assert company.evidence.removed == 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, b""), "may mean that the address is wrong"),
        ((405, b""), "answers GET with 405: have it, or its address, mended"),
        ((302, b"http://127.0.0.1:1/elsewhere"), "answers GET with 302"),
        ((200, b"gone"), "does not say how much it holds"),
        ((200, b'{"records": -1}'), "does not say how much it holds"),
        ((200, b'{"records": null}'), "does not say how much it holds"),
        ((200, b"\xff{"), "does not say how much it holds"),
        ((200, b'{"records": 0' + b" " * 100_000 + b"}"), "does not say how much it holds"),
        ((204, b""), "does not say how much it holds"),
    ],
    ids=lambda each: str(each)[:30],
)
def test_what_is_no_answer_stops_the_purge_before_it_begins(company: Company, answer: Any, said: str) -> None:
    company.server.script[:] = [answer]
    before = company.rows
    company.purge()
    assert (company.rows, company.server.erasures) == (before, [])
    assert stage(company.database) == ("failed", "delivered")
    assert said in failure(company.database)
    assert "acme" not in failure(company.database)


@pytest.mark.parametrize(("fault", "erasures"), [(LOSE_BEFORE, 2), (LOSE_AFTER, 1), ((503, b""), 2)], ids=str)
def test_a_lost_answer_counts_nothing_twice(company: Company, fault: Any, erasures: int) -> None:
    # It is asked for the plan, and again when its turn has come; then the answer to DELETE is lost.
    company.server.script[:] = [(200, b'{"records": 3}')] * 2 + [fault]
    company.purge()
    assert [method for method, _ in company.server.requests] == ["GET", "GET", "DELETE"]
    assert company.evidence.in_flight == 3
    company.finish()
    assert len(company.server.erasures) == erasures
    assert (company.evidence.removed, company.evidence.in_flight) == (3, 0)
    assert company.server.records == {"acme_corp": 5}


def test_one_that_erases_later_is_waited_for_and_all_else_goes_on(company: Company) -> None:
    company.server.late = True
    company.purge()
    assert company.rows["tenure.contacts"] == 0
    assert company.evidence.remark == (
        "Mailing list still holds 3 records of the account: it was asked to erase them, and is asked again."
    )
    assert (company.evidence.kept, company.evidence.done_at) == (3, None)
    assert steps(company.database) == {"purge": "pending"}
    company.purge()
    assert company.server.erasures == ["acme"], "not asked before its time"
    company.make_due()
    company.purge()
    assert company.server.erasures == ["acme", "acme"]
    del company.server.records["acme"]
    company.finish()
    assert (company.evidence.kept, company.evidence.removed, company.evidence.remark) == (0, 3, None)


def test_one_that_never_erases_is_for_a_person(company: Company) -> None:
    company.server.late = True
    company.purge()
    with company.database.connection() as connection:
        connection.execute(text("UPDATE tenure.purge_stores SET began_at = began_at - interval '31 days'"))
    company.make_due()
    company.purge()
    assert stage(company.database) == ("failed", "purging")
    assert "30 days after it was first asked to erase them: ask the company that runs it" in failure(company.database)


def test_what_comes_back_is_found_by_the_verification(company: Company) -> None:
    one = (200, b'{"records": 1}')
    # Five requests of the first pass, three of the second; then one is there, and is erased by the third.
    company.server.script[:] = [None] * 8 + [one] * 3
    company.finish()
    assert company.server.script == []
    assert [each.removed for each in passes(company.database) if each.kind == "processor"] == [3, 0, 1]


def test_a_hold_keeps_it_too(company: Company) -> None:
    with company.database.connection() as connection:
        connection.execute(text("SELECT tenure.place_hold('acme', 'case-1', 'a court asks', 'counsel')"))
    company.purge()
    assert stage(company.database)[0] == "held"
    assert (company.server.records["acme"], company.server.erasures) == (3, [])


def test_a_ref_is_one_part_of_the_address_and_no_more() -> None:
    with erasure_server() as server:
        at = ErasureAddress("List", server.address, TOKEN, encrypted=True)
        for ref in ("a/../b", "a b?c=d#e", "é%2F", "..%2f", "x" * 300):
            account = AccountKeys(uuid4(), ref)
            assert at.records(account) == 0
            assert server.requests[-1] == ("GET", ref)
        for ref in (".", ".."):
            with pytest.raises(Permanent, match="cannot be part of the address"):
                at.records(AccountKeys(uuid4(), ref))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("list", "is none"),
        ("file:///{account_ref}", "is none"),
        ("https://[::1/{account_ref}", "is none"),
        ("https://list.example:port/{account_ref}", "is none"),
        ("https://list.example/{account_ref} x", "is none"),
        ("https://list.example/", "names no account"),
        ("https://{account_ref}.list.example/", "names no account"),
        ("https://me:secret@list.example/{account_ref}", "has a password in it"),
        ("http://list.example/{account_ref}", "is a link without TLS"),
    ],
)
def test_an_address_that_is_none_is_said(address: str, said: str) -> None:
    with pytest.raises(Permanent) as raised:
        ErasureAddress("List", address, None, encrypted=True)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)


def test_an_address_or_token_that_is_not_set_is_said(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "datamap.toml"
    file.write_text(
        '[[processor]]\nname = "List"\nreceives = "names"\npurge = "delete"\naddress_from = "LIST_URL"\n'
        'token_from = "LIST_TOKEN"\n'
    )
    company = partial(bootstrap.company, msgspec.structs.replace(settings, datamap=str(file)))
    for missing, others in (("LIST_TOKEN", "LIST_URL"), ("LIST_URL", "LIST_TOKEN")):
        monkeypatch.setenv(missing, "")
        monkeypatch.setenv(others, "https://list.example/{account_id}")
        with pytest.raises(Permanent, match=f"{missing}, which datamap.toml names, is not set"):
            company()
    monkeypatch.setenv("LIST_URL", "https://list.example/{account_id}\n")
    monkeypatch.setenv("LIST_TOKEN", "token\n")
    assert list(company().processors) == ["List"]


def test_the_doctor_asks_each_for_an_account_that_is_none(tenure: Run, tmp_path: Path) -> None:
    file = tmp_path / "datamap.toml"
    file.write_text(
        '[[processor]]\nname = "List"\nreceives = "names"\npurge = "delete"\naddress_from = "LIST_URL"\n'
        'token_from = "LIST_TOKEN"\n'
    )
    with erasure_server(acme=3) as server:
        told = {"TENURE_DATAMAP": str(file), "LIST_URL": server.address, "LIST_TOKEN": TOKEN}
        fine = tenure("doctor", **told)
        assert (fine.returncode, "List answers" in fine.stdout) == (0, True), fine.stdout
        for answer, said in (
            ((404, b""), "answers GET with 404, which may mean that the address is wrong"),
            ((200, b'{"records": 7}'), "The processor List says that it holds 7 records of an account that is none."),
        ):
            server.script[:] = [answer]
            wrong = tenure("doctor", **told)
            assert (wrong.returncode, said in wrong.stdout) == (1, True), wrong.stdout
        assert server.erasures == []
    unset = tenure("doctor", **told | {"LIST_TOKEN": ""})
    assert "LIST_TOKEN, which datamap.toml names, is not set" in unset.stdout


def test_a_token_that_is_none_is_said_and_not_shown() -> None:
    with pytest.raises(Permanent, match="The token for the processor List is none") as raised:
        ErasureAddress("List", "https://list.example/{account_id}", "sec\nret", encrypted=True)
    assert "ret" not in str(raised.value).replace("retry", "")
