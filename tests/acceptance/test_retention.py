"""What a law keeps is told in the record, stays after the purge, and goes by itself (T8): real processes, no hand."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
from sqlalchemy import text

from models.base.unit_of_work import Database
from tasks.export.manifest import README
from tasks.export.verification import verify
from tests.acceptance.outcome import Outcome
from tests.support.rows.company import a_contact, an_account
from tests.support.servers.processes import Processes, eventually

#: Seconds from the beginning until the last bill's day is over: the purge is done by then, or the test is no test.
LASTS = 60
SHOP = f"""
    CREATE SCHEMA shop;
    CREATE TABLE shop.bill (id int PRIMARY KEY, owner text NOT NULL, paid timestamptz NOT NULL, street text);
    CREATE TABLE shop.deed (id int PRIMARY KEY, owner text NOT NULL);
    CREATE INDEX ON shop.bill (owner); CREATE INDEX ON shop.deed (owner);
    INSERT INTO shop.deed VALUES (1, 'leaving'), (2, 'other');
    INSERT INTO shop.bill SELECT c * 10 + n, CASE c WHEN 1 THEN 'leaving' ELSE 'other' END,
           now() - interval '1 day' + interval '{LASTS} seconds' + n * interval '5 seconds', 'Gasse 1'
      FROM generate_series(1, 2) AS c, generate_series(0, 3) AS n"""
DATAMAP = """
    [[table]]
    name = "shop.bill"
    category = "P2.1c"
    paths = ["owner = account.ref"]
    key = ["id"]
    exported = ["id", "owner", "paid", "street"]
    [table.retention]
    legal_basis = "§ 132 BAO"
    duration = "P1D"
    counted_from = "paid"
    redacted = { street = "NULL" }

    [[table]]
    name = "shop.deed"
    category = "P2.1c"
    paths = ["owner = account.ref"]
    key = ["id"]
    exported = ["id", "owner"]
    [table.retention]
    legal_basis = "§ 30 GBG"
    duration = "P30Y"
"""


@pytest.mark.timeout(300)
def test_what_a_law_keeps_is_told_and_ends_by_itself(
    processes: Processes, outcome: Outcome, database: Database, tmp_path: Path
) -> None:
    with database.transaction() as session:
        a_contact(session, an_account(session, ref="leaving"), language="en")
        an_account(session, ref="other")
        session.execute(text(SHOP))
    (tmp_path / "datamap.toml").write_text(DATAMAP, encoding="utf-8")
    chosen = {"datamap": tmp_path / "datamap.toml", "grace_days": 0, "purge_quiet_hours": 0}
    processes.worker(**chosen)
    processes.relay(**chosen)
    processes.beat(**chosen)
    page = processes.download_page(**chosen)
    outcome.one("""SELECT tenure.request('terminations.request', '{"account": "leaving"}')::text""")
    eventually(lambda: outcome.states("email_messages").get("done", 0) >= 2, "the record is announced")

    # The customer has it in the record, in words and for programs, and it is checked offline.
    with zipfile.ZipFile(io.BytesIO(outcome.fetched(page, "leaving"))) as archive:
        found = verify(archive)
        readme = " ".join(archive.read(README).decode("utf-8-sig").split())
    assert found.problems == []
    retained = {each.table: each for each in found.manifest.retained or ()}
    assert [(name, each.legal_basis, each.duration, each.counted_from, each.redacted)
            for name, each in retained.items()] == [
        ("shop.bill", "§ 132 BAO", "P1D", "paid", ("street",)),
        ("shop.deed", "§ 30 GBG", "P30Y", None, ()),
    ]  # fmt: skip
    assert "shop.bill: § 132 BAO, until " in readme
    assert "Of this we remove at once: street." in readme

    eventually(lambda: outcome.one("SELECT stage FROM tenure.terminations") == "certified", "the purge is certified")
    told = json.loads(outcome.one("SELECT body FROM tenure.certificates WHERE kind = 'purge'"))
    exceptions = {each["store"]: (each["rows"], each["legal_basis"], each["redacted"]) for each in told["exceptions"]}
    assert exceptions == {"shop.bill": (4, "§ 132 BAO", ["street"]), "shop.deed": (1, "§ 30 GBG", [])}
    left = outcome.query(
        "SELECT street, paid + interval '1 day' > now() AS lasts FROM shop.bill WHERE owner = 'leaving'"
    )
    assert any(row.lasts for row in left), f"the purge took more than {LASTS} seconds"
    assert {row.street for row in left} == {None}

    # Row by row, each when its own day is over.
    eventually(
        lambda: outcome.states("retentions") == {"done": 1, "pending": 1}, "the bills' retention is over", seconds=90
    )
    assert outcome.one("SELECT count(*) FROM shop.bill WHERE owner = 'leaving'") == 0
    early = outcome.one("SELECT max(paid) + interval '1 day' > max(finished_at) FROM shop.bill, tenure.retentions")
    assert early is False
    (ended,) = outcome.query("SELECT subject, body FROM tenure.certificates WHERE kind = 'retention'")
    said = json.loads(ended.body)
    assert [(each["store"], each["found"], each["erased"], each["kept"]) for each in said["stores"]] == [
        ("shop.bill", 4, 4, 0)
    ]
    assert said["legal_basis"] == "§ 132 BAO"
    assert "leaving" not in bytes(ended.body).decode()
    # What a law keeps for longer, and whatever is another one's, is as it was.
    assert outcome.query("SELECT owner FROM shop.deed ORDER BY id") == [("leaving",), ("other",)]
    assert outcome.query("SELECT count(*), count(street) FROM shop.bill WHERE owner = 'other'") == [(4, 4)]
