"""The command of `docs/add-a-command.md`, declared as it stands there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from models.base.unit_of_work import Database
from tests.architecture.repository import ROOT
from tests.support.rows.company import an_account
from workers.commands import hold as module
from workers.commands.group import cli
from workers.settings.settings import settings


@pytest.fixture
def added(servers: Mapping[str, str], database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[CliRunner]:
    for name, value in {**servers, "TENURE_DATABASE_URL": database_url}.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/add-a-command.md").read_text("utf-8"), re.DOTALL)
    exec(block, dict(vars(module)))  # noqa: S102 - it is our own document
    yield CliRunner()
    del module.hold.commands["count"]
    settings.cache_clear()


def test_the_command_of_the_document_works_as_it_stands_there(added: CliRunner, database: Database) -> None:
    listed = added.invoke(cli, ["hold", "--help"])
    assert re.search(r"^  count +Count the holds in force\.$", listed.stdout, re.MULTILINE)
    none = added.invoke(cli, ["hold", "count"])
    assert (none.exit_code, none.stdout, none.stderr) == (0, "Holds in force: 0\n", "")
    with database.transaction() as session:
        an_account(session, ref="acme")
        session.execute(text("SELECT tenure.place_hold('acme', 'Case 7', 'A court asked.', 'ops')"))
    one = added.invoke(cli, ["hold", "count", "--json"])
    assert (one.exit_code, one.stdout) == (1, '{\n  "holds": 1\n}\n')
