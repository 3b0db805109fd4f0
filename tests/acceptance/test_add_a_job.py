"""The documents on adding a job, a request, a command and a message, followed literally in a copy of the repository.

What they say works as it stands, touches as many places as they say, and what a job stores is exported and purged with
its account (T5, T11, T19, T20).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT, files
from tests.conftest import GIVEN
from tests.support.time.deadlines import deadline

JOB, MESSAGE = "docs/add-a-job.md", "docs/add-a-message.md"
VERSIONS = "models/schema/migrations/versions"

BLOCK = re.compile(
    r"^(?P<how>New file|At the end of|In) `(?P<path>[^`\n]+)`"
    r"(?:, (?P<where>after|before|in place of) the line with `(?P<line>[^`\n]+)`)?:\n\n"
    r"```[a-z]+\n(?P<content>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)

#: What `make revision` does with a database: bring its tables to the newest revision, and write what the models have
#: besides. SQL functions and triggers are for the models as they will be, and have to wait.
REVISION = """
import sys
from alembic import command
from models.base.unit_of_work import Database
from models.schema import migrations

address, number, name = sys.argv[1:]
with Database(address, pool_size=1).connection() as connection:
    command.upgrade(migrations.config(connection), "head")
    command.revision(migrations.config(connection), name, autogenerate=True, rev_id=number)
"""

#: The request, the message and the command, used as their users do.
USED = '''
"""What was added works from the request to the inbox."""

from __future__ import annotations

from email import message_from_bytes
from email.policy import default

from sqlalchemy import text

from tasks.client.requests import UsageRequestDigest, submit
from tasks.customers.usage_digests import MAKE
from tasks.engine.drain import drain
from tasks.mail.send import SEND
from tasks.requests.handle import HANDLE
from tests.support.rows.company import a_contact, an_account

import pytest

pytestmark = pytest.mark.clock("2020-10-20 12:00")


def request(database, ports):
    with database.transaction() as session:
        account = an_account(session, ref="acme")
        contact = a_contact(session, account, language="fr").id
        session.execute(
            text("INSERT INTO tenure.usage_events (account_id, action) VALUES (:a, 'invoice.viewed')"),
            {"a": account.id},
        )
        session.execute(text("UPDATE tenure.usage_events SET occurred_at = now() - interval '3 days'"))
    for _ in range(2):
        with database.transaction() as session:
            submit(session, UsageRequestDigest(account="acme"))
    assert drain(HANDLE, ports) == {"handled": 2}
    assert drain(MAKE, ports) == {"made": 1}
    return contact


def test_a_request_leads_to_one_digest_and_one_mail(database, ports, inbox):
    request(database, ports)
    assert drain(SEND, ports) == {"sent": 1}
    (received,) = inbox.glob("*.eml")
    subject = message_from_bytes(received.read_bytes(), policy=default)["Subject"]
    assert subject == "Votre utilisation du 1 octobre 2020 au 19 octobre 2020"


def test_the_final_check_asks_the_contact_once_more(database, ports, inbox):
    contact = request(database, ports)
    with database.connection() as connection:
        connection.execute(text("UPDATE tenure.contacts SET optional_mail = false WHERE id = :id"), {"id": contact})
    drain(SEND, ports)
    assert list(inbox.glob("*.eml")) == []
    with database.connection() as connection:
        assert connection.execute(text("SELECT state FROM tenure.email_messages")).scalars().all() == ["cancelled"]


def test_the_command_lists_digests(database, ports, addresses, commands):
    request(database, ports)
    done = commands.run("statements", "usage", "acme", environment=addresses)
    assert (done.returncode, done.stdout) == (0, "2020-10-01 to 2020-10-20  done\\n"), done.stderr
    assert "List the usage digests of an account" in commands.run(
        "statements", "usage", "--help", environment=addresses
    ).stdout
'''

#: Tests of the repository that find what a document has forgotten.
FINDING = (
    "tests/architecture/test_circles.py::test_no_files_import_each_other_in_a_circle",
    "tests/architecture/test_data_map.py",
    "tests/architecture/test_docs.py::test_every_command_is_documented_and_every_documented_one_exists",
    "tests/architecture/test_docs.py::test_every_request_is_described",
    "tests/architecture/test_layout.py::test_the_import_contracts_hold",
    "tests/architecture/test_migrations.py::test_alembic_finds_nothing_to_migrate",
    "tests/architecture/test_migrations.py::test_migrations_make_what_the_models_say",
    "tests/architecture/test_tasks.py",
    "tests/integration/data_map/test_fence.py::test_every_mapped_table_has_its_fence",
    "tests/integration/purge/test_purging.py::test_everything_goes_and_the_others_stay_as_they_are",
    "tests/integration/purge/test_purging.py::test_there_is_something_in_every_table",
    "tests/integration/observe/test_query_bounds.py::test_every_table_that_grows_is_filled",
    "tests/unit/catalogue/test_catalogue.py",
    "tests/unit/language/test_locales.py",
    "tests/unit/mail/test_lint.py",
)


@dataclass(frozen=True)
class Block:
    """One piece of code of a document, and what the document says is to be done with it."""

    section: str
    path: str
    content: str
    new: bool
    #: The one line that holds this; None is the end of the file.
    line: str | None
    #: "before", "after" or "in place of" that line.
    where: str | None

    def write(self, copy: Path) -> None:
        file = copy / self.path
        if self.new:
            assert not file.exists(), f"{self.path} exists already"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self.content, "utf-8")
            return
        lines = file.read_text("utf-8").splitlines(keepends=True)
        first = last = len(lines)
        if self.line is not None:
            found = [number for number, line in enumerate(lines) if self.line in line]
            assert len(found) == 1, f"{len(found)} lines of {self.path} hold {self.line}"
            first, last = found[0] + (self.where == "after"), found[0] + (self.where != "before")
        lines[first:last] = [self.content]
        file.write_text("".join(lines), "utf-8")


def blocks(document: str) -> Iterator[Block]:
    """Yield what a document gives to write, in its order. Fails if it has code and does not say where that belongs."""
    text = (ROOT / document).read_text("utf-8")
    found = list(BLOCK.finditer(text))
    fences = re.findall(r"^```([a-z]+)$", text, re.MULTILINE)
    assert len(found) == len([kind for kind in fences if kind != "sh"]), "code without a file and a place"
    for match in found:
        heading = [each[1] for each in HEADING.finditer(text, 0, match.start())][-1]
        assert (match["how"] == "In") == (match["line"] is not None), match[0]
        yield Block(
            section=heading,
            path=match["path"],
            content=match["content"],
            new=match["how"] == "New file",
            line=match["line"],
            where=match["where"],
        )


def places(document: str, *sections: str) -> set[str]:
    """The places of the program that these sections touch. The files of a message's folder are one."""
    return {
        str(Path(block.path).parent) if "/messages/" in block.path else block.path
        for block in blocks(document)
        if block.section in sections and not block.path.endswith(".md")
    }


def run(copy: Path, *command: str, **variables: str) -> str:
    """Run a program in the copy, and return its output. Fails with all of it if the program does."""
    environment: Mapping[str, str] = os.environ | {"PYTHONPATH": str(copy)} | variables
    done = subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=deadline(400),
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    return done.stdout


def git(copy: Path, *arguments: str) -> str:
    author = ("-c", "user.name=x", "-c", "user.email=x@company.example")
    return subprocess.run(["git", *author, *arguments], cwd=copy, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository as git knows it, committed."""
    made = tmp_path / "copy"
    for file in files():
        (made / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, made / file.relative_to(ROOT))
    git(made, "init", "--quiet")
    git(made, "add", "--all")
    git(made, "commit", "--quiet", "--message", "As it was")
    return made


def changed(copy: Path) -> Sequence[str]:
    return [line[3:] for line in git(copy, "status", "--porcelain", "--untracked-files=all").splitlines()]


def test_the_documents_touch_as_many_places_as_they_say() -> None:
    revision = {VERSIONS} if "make revision NAME=usage_digests" in (ROOT / JOB).read_text("utf-8") else set()
    assert places(JOB, "A job") | revision == {
        "models/customers/usage_digest.py", VERSIONS, "tasks/customers/usage_digests.py", "scheduler/timetable.py",
    }  # fmt: skip
    assert places(JOB, "A request") == {"tasks/client/requests.py", "tasks/customers/usage_digests.py"}
    assert places(JOB, "A command") == {"workers/commands/statements.py"}
    assert places(MESSAGE, "1. The class", "2. The folder") == {
        "email_templates/catalogue/service.py", "email_templates/messages/usage-digest-ready",
    }  # fmt: skip
    assert places(MESSAGE, "Send it", "A final check") == {"tasks/customers/usage_digests.py"}


@pytest.mark.timeout(900)
def test_what_the_documents_say_works_as_it_stands(copy: Path, servers: Mapping[str, str], database_url: str) -> None:
    written = [*blocks(JOB), *blocks(MESSAGE)]
    for document in (JOB, MESSAGE):
        for block in blocks(document):
            block.write(copy)
        # What a document says is whole without the next one.
        python = [path for path in changed(copy) if path.endswith(".py")]
        run(copy, "-m", "ruff", "format", *python)
        run(copy, "-m", "ruff", "check", *python)
    run(copy, "-m", "mypy", *(path for path in python if not path.startswith("tests/")))
    number = 1 + max(int(file.name[:4]) for file in (copy / VERSIONS).glob("[0-9]*.py"))
    run(copy, "-c", REVISION, database_url, f"{number:04}", "usage_digests")
    revision = f"{VERSIONS}/{number:04}_usage_digests.py"
    assert sorted(changed(copy)) == sorted({revision, *(block.path for block in written)})

    (copy / "tests/integration/customers/test_what_was_added.py").write_text(USED)
    pytest_here = ("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider")
    ours = ("tests/integration/customers/test_usage_digests.py", "tests/integration/customers/test_what_was_added.py")
    given = {GIVEN: json.dumps(servers)}
    assert "6 passed" in run(copy, *pytest_here, *ours, **given)
    run(copy, *pytest_here, *FINDING, **given)
