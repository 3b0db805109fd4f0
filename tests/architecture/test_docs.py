"""The documents name what there is, all of it, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import click
import msgspec
import pytest

from tasks.client.requests import KINDS
from tests.architecture.repository import ROOT, project
from workers.commands import cli
from workers.settings.settings import PREFIX, Settings

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINE_WIDTH = 120
#: Named in documents, and no settings: what tests alone read.
NO_SETTINGS = {"TENURE_FAILPOINTS"}


def test_every_setting_is_documented_and_every_documented_one_exists() -> None:
    settings = {f"{PREFIX}{field.name.upper()}" for field in msgspec.structs.fields(Settings)}
    rows = re.findall(rf"^\| `({PREFIX}[A-Z0-9_]+)` \| (.*?) \|", _read("docs/production.md"), flags=re.MULTILINE)
    assert [name for name, _ in rows] == [*dict(rows)], "a setting has two rows"
    assert set(dict(rows)) == settings
    for path in DOCUMENTS:
        named = {name.removesuffix("_FILE") for name in re.findall(rf"\b{PREFIX}[A-Z0-9_]+\b", path.read_text("utf-8"))}
        assert named - NO_SETTINGS <= settings, path.name


def test_the_documented_defaults_are_the_real_ones() -> None:
    documented = dict(
        re.findall(rf"^\| `{PREFIX}([A-Z0-9_]+)` \| (.*?) \|", _read("docs/production.md"), flags=re.MULTILINE)
    )
    for field in msgspec.structs.fields(Settings):
        said = documented[field.name.upper()]
        if field.required:
            assert said == "required", field.name
        elif field.default == "":
            assert said == "empty", field.name
        elif field.default is None:
            assert not said.startswith("`"), field.name
        else:
            assert said == f"`{field.default}`", field.name


def test_every_command_is_documented_and_every_documented_one_exists() -> None:
    commands = set(_commands(cli, ()))
    text = "\n".join(path.read_text("utf-8") for path in DOCUMENTS)
    for command in commands:
        assert f"tenure {' '.join(command)}" in text, f"no document says what `tenure {' '.join(command)}` is for"
    for quoted in re.findall(r"(?:`|^|bin/)tenure ((?:[a-z][a-z-]* ?)+)", text, flags=re.MULTILINE):
        first = quoted.split()
        known = [command for command in commands if tuple(first[: len(command)]) == command]
        assert known or (first[0],) in {command[:1] for command in commands if len(first) == 1}, f"tenure {quoted}"


def _commands(command: click.Command, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        subcommands = {name: command.get_command(context, name) for name in command.list_commands(context)}
        # One that has a command for what is none of its own can be called without its name.
        return ([path] if getattr(command, "default", None) else []) + [
            found
            for name, sub in subcommands.items()
            if sub and not sub.hidden
            for found in _commands(sub, (*path, name))
        ]
    return [path]


def test_every_make_target_that_a_document_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", _read("Makefile"), flags=re.MULTILINE))
    for path in DOCUMENTS:
        assert set(re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text("utf-8"), flags=re.MULTILINE)) <= targets


def test_every_dependency_has_its_line() -> None:
    described = set(
        re.findall(r"^\| ([a-z0-9\[\],-]+) \| \S.* \| \S.* \|$", _read("docs/dependencies.md"), re.MULTILINE)
    )
    groups = [
        project()["project"]["dependencies"],
        *project()["project"]["optional-dependencies"].values(),
        *project()["dependency-groups"].values(),
    ]
    direct = {re.split(r"[><=~!;]", requirement)[0].strip() for group in groups for requirement in group}
    assert described - {"package"} == direct


def test_every_request_is_described() -> None:
    assert set(re.findall(r"^\| `([a-z_.]+)` \|", _read("README.md"), flags=re.MULTILINE)) == set(KINDS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere_and_lines_are_short(path: Path) -> None:
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), target
    for number, line in enumerate(text.splitlines(), 1):
        assert len(line) <= LINE_WIDTH or line.startswith("|"), f"{path.name}:{number} has {len(line)} characters"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_names_a_place_on_somebodys_machine(path: Path) -> None:
    assert not re.search(r"/(home|Users|root|work)/", path.read_text("utf-8"))


def _read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")
