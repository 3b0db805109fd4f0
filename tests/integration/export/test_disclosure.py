"""A lawful disclosure: two approve what a third asked for; it is logged, and leaves nothing behind (P4, T29)."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from models.customers.account import Account
from models.data_map.map import AccountKeys
from tasks.client.files import store_file
from tasks.engine.drain import drain
from tasks.export.disclosure import disclose
from tasks.failures import Permanent
from tasks.ports.context import Ports
from tasks.termination.advancing import PURGE
from tests.integration.conftest import Run
from tests.support.rows.company import a_contact, an_account
from tests.support.rows.purging import a_delivered_termination, counts
from tests.support.rows.terminating import stage


@pytest.fixture
def account(ports: Ports) -> str:
    with ports.database.transaction() as session:
        made = an_account(session, ref="acme")
        a_contact(session, made, name="Luís Gonçalves")
        an_account(session, ref="other")
    return "acme"


def asked(tenure: Run, account: str) -> str:
    said = tenure(
        "disclose", "ask", account, "--reference", "12 Cg 34/26x", "--legal-basis", "§ 76 StPO", "--by", "ines"
    )
    assert said.returncode == 0, said.stderr
    return said.stdout.split("\n")[0]


def test_two_others_approve_and_the_record_is_made(tenure: Run, ports: Ports, account: str, tmp_path: Path) -> None:
    disclosure, out = asked(tenure, account), tmp_path / "record.zip"
    of_others = {each.key for each in ports.objects.list("archives/")}
    for person, said, code in [("Ines", "does not approve it", 2), ("omar", "1 of 2", 0), ("omar", "1 of 2", 0)]:
        noted = tenure("disclose", "approve", disclosure, "--by", person)
        assert (noted.returncode, said in noted.stdout + noted.stderr) == (code, True)
    refused = tenure("disclose", "make", disclosure, "--out", str(out), "--by", "omar")
    assert (refused.returncode, "is approved by 1, and two have to" in refused.stderr) == (1, True)
    assert not out.exists()
    assert "2 of 2" in tenure("disclose", "approve", disclosure, "--by", "yuki").stdout

    made = tenure("disclose", "make", disclosure, "--out", str(out), "--by", "omar")
    assert made.returncode == 0, made.stderr
    assert "sent to nobody" in made.stdout
    assert out.stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(out) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert "12 Cg 34/26x" in archive.read("README.txt").decode()
        names = [name for name in archive.namelist() if "contacts" in name]
        assert "Luís Gonçalves" in archive.read(names[0]).decode()
    assert (manifest["occasion"], manifest["reference"]) == ("disclosure", "12 Cg 34/26x")
    assert tenure("export", "verify", str(out)).returncode == 0

    # Nothing lies in the object store, the key is destroyed, nobody was written to.
    assert {each.key for each in ports.objects.list("archives/")} == of_others
    with ports.database.connection() as connection:
        keys = connection.execute(text("SELECT wrapped_secret FROM tenure.account_keys")).scalars().all()
        mails = connection.execute(text("SELECT count(*) FROM tenure.email_messages")).scalar_one()
    assert (set(keys), mails) == ({None}, 0)
    log = json.loads(tenure("disclose", "list", "--json").stdout)[0]
    assert [(each["action"], each["by"]) for each in log["events"]] == [
        ("approved", "omar"), ("approved", "yuki"), ("made", "omar"),
    ]  # fmt: skip
    assert "made by omar" in tenure("disclose", "list").stdout
    assert tenure("disclose", "make", disclosure, "--out", str(out)).returncode == 2, "a file is not overwritten"


def approved(tenure: Run, account: str) -> str:
    disclosure = asked(tenure, account)
    for person in ("omar", "yuki"):
        tenure("disclose", "approve", disclosure, "--by", person)
    return disclosure


def leave(ports: Ports, account: str) -> AccountKeys:
    """The account's record is delivered: what follows is the purge."""
    with ports.database.transaction() as session:
        found = session.scalars(select(Account).where(Account.ref == account)).one()
        keys = AccountKeys(found.id, found.ref)
        session.execute(text("UPDATE tenure.accounts SET status = 'frozen' WHERE id = :id"), {"id": keys.id})
    a_delivered_termination(ports, keys)
    return keys


def test_from_the_beginning_of_an_erasure_no_record_passes_for_the_whole(
    tenure: Run, ports: Ports, account: str, tmp_path: Path
) -> None:
    store_file(ports.database, ports.objects, ports.keyring, account=account, name="plan", content=[b"x"])
    disclosure = approved(tenure, account)
    keys = leave(ports, account)
    frozen = tenure("disclose", "make", disclosure, "--out", str(tmp_path / "frozen.zip"))
    assert frozen.returncode == 0, frozen.stderr
    asked: list[str] = []

    def stopping() -> bool:
        asked.append(stage(ports.database)[0])
        return asked.count("purging") > 5

    # The purge is broken off when the objects are gone and the rows are not.
    drain(PURGE, replace(ports, stopping=stopping))
    assert stage(ports.database) == ("purging", None)
    assert counts(ports, keys)["main"]["tenure.submitted_files"] == 1
    with ports.database.connection() as connection:
        connection.execute(text("SELECT tenure.place_hold('acme', '12 Cg 34/26x', 'A court asked.', 'ines')"))
    drain(PURGE, ports)
    assert stage(ports.database) == ("held", "purging")
    out = tmp_path / "purging.zip"
    said = tenure("disclose", "make", disclosure, "--out", str(out))
    assert (said.returncode, out.exists()) == (1, False)
    assert "The erasure of the account's data has begun" in said.stderr
    with ports.database.connection() as connection:
        connection.execute(text("SELECT tenure.release_hold(id, 'ines') FROM tenure.legal_holds"))
    drain(PURGE, ports)
    said = tenure("disclose", "make", disclosure, "--out", str(out))
    assert (said.returncode, "were erased" in said.stderr) == (1, True)
    log = json.loads(tenure("disclose", "list", "--json").stdout)[0]
    assert [each["action"] for each in log["events"]].count("made") == 1


def test_an_erasure_that_begins_while_a_record_is_made_stops_it(tenure: Run, ports: Ports, account: str) -> None:
    disclosure = UUID(approved(tenure, account))
    leave(ports, account)
    real = ports.objects

    class Meanwhile:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def upload(self, *arguments: Any, **options: Any) -> None:
            assert drain(PURGE, ports) == {"steps": 1}
            real.upload(*arguments, **options)

    with pytest.raises(Permanent, match="The erasure of the account's data has begun"):
        list(disclose(replace(ports, objects=Meanwhile()), disclosure, "omar"))
    assert json.loads(tenure("disclose", "list", "--json").stdout)[0]["events"][-1]["action"] == "approved"


def test_what_was_refused_is_not_made(tenure: Run, account: str, tmp_path: Path) -> None:
    disclosure = approved(tenure, account)
    assert tenure("disclose", "refuse", disclosure, "--by", "zoë").returncode == 0
    refused = tenure("disclose", "make", disclosure, "--out", str(tmp_path / "record.zip"))
    assert (refused.returncode, "was refused" in refused.stderr) == (1, True)
    assert tenure("disclose", "approve", disclosure, "--by", "mia").returncode == 2


def test_unknown_things_are_told(tenure: Run, account: str, tmp_path: Path) -> None:
    unknown = "01978f2c-6e5a-7c31-9d0e-5b8f3f6a2d10"
    said = tenure("disclose", "ask", "nobody", "--reference", "1", "--legal-basis", "1")
    assert (said.returncode, "is not known" in said.stderr) == (2, True)
    assert tenure("disclose", "approve", unknown, "--by", "omar").returncode == 2
    assert tenure("disclose", "make", unknown, "--out", str(tmp_path / "x.zip")).returncode == 1
    assert "Nothing was ever disclosed" in tenure("disclose", "list").stdout


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE tenure.disclosures SET reference = 'x'",
        "DELETE FROM tenure.disclosure_events",
        "UPDATE tenure.disclosure_events SET person = 'x'",
        "INSERT INTO tenure.disclosure_events (disclosure_id, action, person, manifest_sha256)"
        " SELECT id, 'made', 'ines', sha256('') FROM tenure.disclosures",
    ],
)
def test_the_log_only_grows_and_by_the_rules(tenure: Run, ports: Ports, account: str, sql: str) -> None:
    disclosure = asked(tenure, account)
    tenure("disclose", "approve", disclosure, "--by", "omar")
    with pytest.raises(DBAPIError), ports.database.connection() as connection:
        connection.execute(text(sql))


def test_holds_are_placed_released_and_listed(tenure: Run, account: str) -> None:
    assert "No hold is in force" in tenure("hold", "list").stdout
    placed = tenure(
        "hold", "place", account, "--reference", "12 Cg 34/26x", "--reason", "A court asked.", "--by", "ines"
    )
    assert placed.returncode == 0, placed.stderr
    hold = placed.stdout.split("\n")[0]
    assert "12 Cg 34/26x" in tenure("hold", "list").stdout
    assert json.loads(tenure("hold", "list", "--json", "--account", account).stdout)[0]["id"] == hold
    assert json.loads(tenure("hold", "list", "--json", "--account", "other").stdout) == []
    assert "Released" in tenure("hold", "release", hold, "--by", "omar").stdout
    assert "before" in tenure("hold", "release", hold).stdout
    assert "No hold is in force" in tenure("hold", "list").stdout
    assert "omar" in tenure("hold", "list", "--all").stdout
    unknown = tenure("hold", "place", "nobody", "--reference", "1", "--reason", "1")
    assert (unknown.returncode, "not known" in unknown.stderr) == (2, True)
    assert tenure("hold", "release", "01978f2c-6e5a-7c31-9d0e-5b8f3f6a2d10").returncode == 2
