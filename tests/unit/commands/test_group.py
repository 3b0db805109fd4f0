"""`tenure --help` lists every command without importing one, and each command and option says what it does."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.support.servers.every_command import LOCAL, arguments, commands
from tests.support.time.deadlines import deadline
from workers.commands import overview
from workers.commands.group import cli
from workers.commands.table import COMMANDS
from workers.settings.settings import settings

#: What needs no settings, with its exit code for the arguments that are made up here.
WITHOUT_SETTINGS = {"export show": 1, "export verify": 1, "mail list": 0}

HELP = """
import sys
sys.argv = ["tenure", "--help"]
from workers.commands import main
main()
ours = ("models", "email_templates", "tasks", "scheduler", "workers")
print(sorted(name for name in sys.modules if name.partition(".")[0] in ours), file=sys.stderr)
files = {name.partition(".")[0]: str(getattr(module, "__file__", "")) for name, module in sys.modules.items()}
print(sorted(name for name, file in files.items() if "site-packages" in file and name[0] != "_"), file=sys.stderr)
"""


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("TENURE_DATABASE_URL", raising=False)
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_the_help_lists_every_command_and_imports_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, check=True, timeout=deadline(60)
    )
    assert done.stderr.splitlines() == ["['workers', 'workers.commands', 'workers.commands.table']", "[]"]
    assert done.stdout == overview()


def test_the_help_is_what_click_makes_of_the_commands() -> None:
    context = click.Context(cli, info_name="tenure", terminal_width=78, help_option_names=["-h", "--help"])
    assert overview() == cli.get_help(context) + "\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_and_each_option_says_what_it_does(name: str) -> None:
    for words, command in commands(name):
        assert command.name == words[-1]
        assert command.help, f"tenure {' '.join(words)} has no help"
        # What a list of commands shows of it on a terminal of 80 columns.
        assert command.get_short_help_str(60).endswith("."), f"tenure {' '.join(words)}: no sentence, or a long one"
        assert "..." not in command.get_short_help_str(60), f"tenure {' '.join(words)}: its first sentence is long"
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"tenure {' '.join(words)} {parameter.opts[0]} has no help"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_needs_no_settings(name: str) -> None:
    for words, command in commands(name):
        done = CliRunner().invoke(cli, [*words, "--help"])
        assert (done.exit_code, done.stderr) == (0, "")
        assert "Usage:" in done.stdout
        first = " ".join(str(command.help).partition("\n\n")[0].split())
        assert first in " ".join(done.stdout.split())
        assert not re.search(r"\S {2,}\S", done.stdout.partition("\nOptions:")[0]), done.stdout


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - LOCAL))
def test_a_missing_setting_is_reported_in_a_sentence(name: str, tmp_path: Path) -> None:
    for words, command in commands(name):
        if isinstance(command, click.Group):
            continue
        done = CliRunner().invoke(cli, [*words, *arguments(command, str(tmp_path))])
        assert isinstance(done.exception, SystemExit | None), (words, done.exception)
        if " ".join(words) in WITHOUT_SETTINGS:
            assert done.exit_code == WITHOUT_SETTINGS[" ".join(words)], words
        else:
            assert done.exit_code == 2, words
        assert done.exit_code == 0 or done.stderr.startswith("tenure: "), (words, done.stderr)
