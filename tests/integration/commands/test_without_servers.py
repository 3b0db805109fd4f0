"""Every command, with settings that are right and servers that are away: a sentence and an exit code, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.architecture.test_tasks import NOWHERE
from tests.support.servers import every_command
from tests.support.servers.commands import Commands
from tests.support.servers.every_command import LOCAL, arguments
from workers.commands.group import cli
from workers.commands.table import COMMANDS
from workers.settings.settings import settings

#: They serve until they are stopped, and the relay waits for a server that is away.
SERVE = {"download-page", "metrics", "relay"}
#: They set up the logs of their process, so not in the tests' own.
LOGS = {"sessions sweep"}
NOTICE = ("--set=kind=maintenance", "--set=topic=Database upgrade", "--set=starts_at=2101-12-04T22:00:00Z")
#: Arguments of commands that check theirs before they ask PostgreSQL.
GIVEN = {
    "invoices credit": ["INV-1", "--all"],
    "invoices issue": ["--all-due"],
    "mail preview": ["service-notice"],
    "mail send": ["service-notice", "--to=jane@example.com", *NOTICE],
    "work limit": ["emails.send"],
    "work pause": ["emails.send"],
    "work resume": ["emails.send"],
    "work retry": ["--failed=statements"],
}
#: Commands that ask no PostgreSQL, or another server first: the exit code.
OTHERWISE = {
    "certificate key": 0,
    "datamap check": 2,
    "datamap discover": 2,
    "datamap fence": 0,
    "export show": 1,
    "export verify": 1,
    "mail list": 0,
    "mail preview": 0,
    "payments reconcile": 1,
    "security audit": 2,
}


@pytest.fixture(autouse=True)
def servers_are_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - LOCAL - SERVE))
def test_it_ends_in_a_sentence(name: str, tmp_path: Path) -> None:
    for words, command in every_command.commands(name):
        if isinstance(command, click.Group) or " ".join(words) in LOGS:
            continue
        called = " ".join(words)
        done = CliRunner().invoke(cli, [*words, *GIVEN.get(called, arguments(command, str(tmp_path)))])
        assert isinstance(done.exception, SystemExit | None), (called, done.exception)
        assert done.exit_code == OTHERWISE.get(called, 1), (called, done.output)
        if called not in OTHERWISE:
            assert "port 1 failed: Connection refused" in done.output, called
        if done.exit_code and called != "doctor":
            assert done.stderr.startswith("tenure: "), (called, done.stderr)
            assert done.stderr.count("\n") == 1, (called, done.stderr)


@pytest.mark.parametrize("called", sorted(LOGS))
def test_it_ends_in_a_sentence_in_a_process_of_its_own(called: str, commands: Commands) -> None:
    done = commands.run(*called.split(), environment=NOWHERE)
    assert done.returncode == 1
    assert done.stderr.startswith("tenure: PostgreSQL (TENURE_DATABASE_URL) cannot be used: connection failed")
    assert done.stderr.count("\n") == 1
