"""How far a termination is, while it is: from the database, store by store, and followed until its end (T28)."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy import text

from models.base.unit_of_work import Database
from models.data_map.map import AccountKeys
from models.termination.termination import Step
from tasks.engine.drain import drain
from tasks.ports.context import Ports
from tasks.termination import progress
from tasks.termination.advancing import PURGE
from tasks.termination.progress import Progress
from tests.integration.conftest import Run
from tests.support.rows.company import a_contact, an_account
from tests.support.rows.purging import a_delivered_termination
from tests.support.rows.terminating import a_termination, go_on
from tests.support.time.deadlines import deadline
from workers.terminal import termination_progress

ROWS = 6_000
TABLE = ("table", "main", "tenure.submitted_records")


@pytest.fixture
def acme(database: Database) -> AccountKeys:
    """A customer whose record takes several pieces to upload."""
    with database.transaction() as session:
        account = an_account(session, ref="acme", name="Acme")
        a_contact(session, account, email="ada@acme.example")
        session.execute(
            text("""
                INSERT INTO tenure.submitted_records (account_id, kind, external_ref, content)
                SELECT :account, 'note', number::text,
                       jsonb_build_object('words', (
                           SELECT string_agg(sha256((number * 1000 + n)::text::bytea)::text, '')
                             FROM generate_series(1, 6) AS n))
                  FROM generate_series(1, :rows) AS number"""),
            {"account": account.id, "rows": ROWS},
        )
        return AccountKeys(account.id, account.ref)


class Watched:
    """An object store that lets somebody look at the database before each piece of an upload."""

    def __init__(self, objects: Any, look: Callable[[], None]) -> None:
        self._objects, self._look = objects, look

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def upload(self, key: str, pieces: Iterable[bytes], **options: Any) -> Any:
        def looked_at() -> Iterator[bytes]:
            for piece in pieces:
                self._look()
                yield piece

        return self._objects.upload(key, looked_at(), **options)


def the_store(seen: Progress, key: tuple[str, str, str] = TABLE) -> progress.Store:
    return next(each for each in seen.stores if (each.kind, each.place, each.store) == key)


def test_an_export_tells_how_far_it_is_until_it_is_over(
    acme: AccountKeys, database: Database, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with database.transaction() as session:
        id = a_termination(session, acme.id, Step.BEGIN).id  # noqa: A001
    seen: list[Progress] = []

    def look() -> None:
        with database.connection() as connection:
            found = progress.progress(connection, id)
            assert found is not None
            seen.append(found)

    go_on(replace(ports, objects=Watched(ports.objects, look)))  # type: ignore[arg-type]

    assert {each.step for each in seen} == {"export"}
    done = [the_store(each).done or 0 for each in seen]
    assert done == sorted(done)
    assert any(0 < each < ROWS for each in done), done
    assert done[-1] == ROWS
    assert {the_store(each).total for each in seen} == {ROWS}
    assert the_store(seen[-1]).over
    # What is written before the largest one is over while that is under way, and what comes after it is not begun.
    middle = next(each for each in seen if 0 < (the_store(each).done or 0) < ROWS)
    assert the_store(middle, ("table", "main", "tenure.accounts")).over
    assert middle.over < seen[-1].over
    assert middle.total("table") == seen[-1].total("table")
    with database.connection() as connection:
        found = "SELECT evidence FROM tenure.termination_steps WHERE step = 'export'"
        evidence = connection.execute(text(found)).scalar_one()
        assert progress.progress(connection, id) is None
    # When it is over its evidence is what it came to, and nothing is under way.
    assert evidence["rows"] >= ROWS and "stores" not in evidence


def test_an_export_that_cannot_tell_how_far_it_is_goes_on(
    acme: AccountKeys, database: Database, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "_NOTE", text("SELECT 1 / 0, :id, :token, :evidence"))
    with database.transaction() as session:
        a_termination(session, acme.id, Step.BEGIN)
    go_on(ports)
    with database.connection() as connection:
        row = connection.execute(text("SELECT * FROM tenure.termination_steps WHERE step = 'export'")).one()
    assert (row.state, row.attempts, row.last_error) == ("done", 1, None)


def test_a_purge_tells_how_far_it_is_from_its_checkpoints(
    acme: AccountKeys, database: Database, ports: Ports, tenure: Run
) -> None:
    id = a_delivered_termination(ports, acme)  # noqa: A001
    seen: list[Progress] = []
    pictures: list[str] = []
    documents: list[dict[str, Any]] = []

    def look() -> bool:
        with database.connection() as connection:
            found = progress.progress(connection, id)
            if found is None:
                return False
            seen.append(found)
            whole = termination_progress.look(connection, "acme")
        if whole is not None and the_store(found).done and not documents:
            pictures.append(drawn(whole, width=80))
            documents.append(json.loads(tenure("terminate", "show", "acme", "--json").stdout))
        return False

    drain(PURGE, replace(ports, stopping=look))

    assert {each.step for each in seen} == {"purge"}
    assert {the_store(each).total for each in seen} == {ROWS}
    assert [each.over for each in seen] == sorted(each.over for each in seen)
    assert the_store(seen[-1]).done == ROWS
    told = documents[0]["progress"]
    assert told["step"] == "purge"
    ours = next(each for each in told["stores"] if each["store"] == TABLE[2])
    assert (ours["done"], ours["total"]) == (ROWS, ROWS)
    assert "tenure.submitted_records" in pictures[0] and f"{ROWS:,} / {ROWS:,}" in pictures[0]
    assert all(len(line) <= 80 for line in pictures[0].splitlines())


def drawn(seen: termination_progress.Seen, *, width: int, height: int = 200) -> str:
    shown = io.StringIO()
    Console(file=shown, width=width, highlight=False).print(termination_progress.picture(seen, height=height))
    return shown.getvalue()


def test_a_pass_that_has_waited_is_no_progress_and_one_that_is_planned_is(
    acme: AccountKeys, database: Database, ports: Ports
) -> None:
    id = a_delivered_termination(ports, acme)  # noqa: A001
    with database.connection() as connection:
        assert progress.progress(connection, id) is None
    drain(PURGE, replace(ports, quiet=timedelta(days=1)))
    with database.connection() as connection:
        assert progress.progress(connection, id) is None


def test_it_is_drawn_in_the_room_that_there_is(database: Database, acme: AccountKeys) -> None:
    stores = [
        progress.Store("table", "main", f"public.table_{number}", number, number * 2, 1.0, over=number % 2 == 0)
        for number in range(1, 60)
    ]
    with database.transaction() as session:
        a_termination(session, acme.id, Step.BEGIN)
    with database.connection() as connection:
        seen = termination_progress.look(connection, "acme")
    assert seen is not None
    whole = replace(seen, progress=Progress("purge", 0, stores))
    assert drawn(whole, width=80).count("public.table_") == 59
    small = drawn(whole, width=80, height=24)
    assert len(small.splitlines()) <= 24
    # What is under way comes first, in the order of the pass.
    assert "public.table_59" in small and "public.table_58" not in small
    assert "more, empty or small" in small


def watching(environment: Mapping[str, str], database_url: str, *options: str) -> subprocess.Popen[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", "workers.commands", "terminate", "show", "acme", "--watch", *options],
        env=kept | dict(environment) | {"TENURE_DATABASE_URL": database_url, "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_is_followed_to_its_end_in_plain_lines_and_in_json(
    acme: AccountKeys, database: Database, database_url: str, ports: Ports, servers: dict[str, str]
) -> None:
    a_delivered_termination(ports, acme)
    lines, documents = watching(servers, database_url), watching(servers, database_url, "--json")
    assert lines.stdout is not None and documents.stdout is not None
    began = [lines.stdout.readline(), documents.stdout.readline()]
    assert began[0].endswith("delivered\n")
    go_on(replace(ports, quiet=timedelta(0)))
    said, wrong = lines.communicate(timeout=deadline(60))
    told, wrong_too = documents.communicate(timeout=deadline(60))

    assert (lines.returncode, wrong, documents.returncode, wrong_too) == (0, "", 0, "")
    assert "\x1b" not in said and "\r" not in said
    assert "purge done: pass 1, removed " in said
    assert said.rstrip().endswith("certified")
    stages = [json.loads(line)["stage"] for line in [began[1], *told.splitlines()]]
    assert (stages[0], stages[-1]) == ("delivered", "certified")


def test_following_ends_where_it_stands_aside_and_says_why(
    acme: AccountKeys, database: Database, ports: Ports, tenure: Run
) -> None:
    a_delivered_termination(ports, acme)
    with database.connection() as connection:
        connection.execute(text("SELECT tenure.place_hold('acme', 'Az. 1 O 2/26', 'court order', 'ada')"))
    drain(PURGE, ports)
    done = tenure("terminate", "show", "acme", "--watch")
    assert done.returncode == 1
    assert "  held\n" in done.stdout and "A legal hold keeps the account's data" in done.stdout
    assert tenure("terminate", "show", "nobody", "--watch").stderr == "tenure: No termination of nobody is known.\n"
