"""The documents name what there is, all of it, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import click
import msgspec
import pytest

from tasks.client.requests import KINDS
from tests.architecture.repository import FOLDERS, ROOT, files, modules, project
from workers.commands.group import cli
from workers.settings.settings import PREFIX, Settings

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINE_WIDTH = 120
#: The folders whose files documents may name, as paths in backticks.
NAMED = re.compile(
    r"`((?:tests|docs|benchmarks|requirements)/[\w./-]+|(?:models|email_templates|tasks|scheduler|workers)/[\w./-]+\.\w+)`"
)
#: Named in documents, and no settings: what tests alone read.
NO_SETTINGS = {"TENURE_FAILPOINTS", "TENURE_TEST_SERVERS"}
#: Files that a document has one make, and code that it has one write: there for who follows it.
MADE = re.compile(r"^New file `([^`]+)`:$", re.MULTILINE)
WRITTEN = re.compile(r"^```(?!sh$)[a-z]+\n.*?^```$", re.MULTILINE | re.DOTALL)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


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
    text = "\n".join(WRITTEN.sub("", path.read_text("utf-8")) for path in DOCUMENTS)
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


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_links_lead_somewhere_and_lines_are_short(path: Path) -> None:
    text = path.read_text("utf-8")
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
        linked = path.parent / target if target else path
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), f"{target}#{anchor}"
    for number, line in enumerate(text.splitlines(), 1):
        assert len(line) <= LINE_WIDTH or line.startswith("|"), f"{path.name}:{number} has {len(line)} characters"


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_no_document_names_a_place_on_somebodys_machine(path: Path) -> None:
    assert not re.search(r"(?<!\w)/(home|Users|root|work)/", path.read_text("utf-8"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_every_file_that_a_document_names_exists(path: Path) -> None:
    text = path.read_text("utf-8")
    gone = {name for name in NAMED.findall(text) if not (ROOT / name).exists()}
    assert gone <= {name for document in DOCUMENTS for name in MADE.findall(document.read_text("utf-8"))}


def test_every_page_that_code_names_exists() -> None:
    """In docstrings, comments, messages, the compose file: `docs/production.md` and the like."""
    named = {
        (path.relative_to(ROOT), page)
        for path in files()
        if path.suffix in {".py", ".sql", ".yml", ".toml", ""} and "golden" not in path.parts
        for page in re.findall(r"\bdocs/[\w/-]+\.(?:md|json)\b", path.read_text("utf-8", errors="replace"))
    }
    assert named
    assert not {(path, page) for path, page in named if not (ROOT / page).exists()}


def test_each_room_and_decision_can_be_reached() -> None:
    rooms = {f"rooms/{path.name}" for path in (ROOT / "docs" / "rooms").glob("*.md")}
    assert rooms <= _links("docs/architecture.md")
    decisions = {path.name for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md")}
    assert decisions == _links("docs/decisions/README.md")


def test_every_package_below_the_five_folders_is_a_room_with_its_line() -> None:
    packages = {
        (path.relative_to(ROOT).parts[0], path.relative_to(ROOT).parts[1])
        for path in modules(*FOLDERS)
        if len(path.relative_to(ROOT).parts) > 2
    }
    assert packages == _rooms()


def _rooms() -> set[tuple[str, str]]:
    sections = re.split(r"^## (\w+)$", _read("docs/rooms/README.md"), flags=re.MULTILINE)[1:]
    return {
        (folder, room)
        for folder, table in zip(sections[::2], sections[1::2], strict=True)
        for room in re.findall(r"^\| (\w+) \| .+\? ?.*\|$", table, re.MULTILINE)
    }


def test_a_decision_has_its_date_and_three_sections() -> None:
    numbers = []
    for path in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        text = path.read_text("utf-8")
        assert re.match(r"# (\d+)\. \S.*\n\nDate: \d{4}-\d{2}-\d{2}\n", text), path.name
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequence"], path.name
        numbers.append(int(path.name[:4]))
    assert numbers == list(range(1, len(numbers) + 1))


def _links(name: str) -> set[str]:
    return set(re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", _read(name)))


def _anchors(path: Path) -> set[str]:
    """The names by which the headings of a page can be linked to."""
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")
