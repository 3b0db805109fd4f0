"""The five folders and what may be in them (W29)."""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from zipfile import ZipFile

import pytest
from importlinter.cli import lint_imports
from ruamel.yaml import YAML

from tests.architecture.repository import FOLDERS, ROOT, files, modules, project

TOP_LEVEL = {
    *FOLDERS,
    ".ci",
    ".dockerignore",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Dockerfile",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "benchmarks",
    "docker-compose.yml",
    "docs",
    "pyproject.toml",
    "requirements",
    "tests",
}
DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc", "shared", "lib"}
#: In two halves, so that this file does not name them.
REGISTRIES = [
    f"{name}.{end}"
    for name, end in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("deb.debian", "org"),
        ("docker", "io"),
        ("ghcr", "io"),
        ("quay", "io"),
        ("gcr", "io"),
    ]
]


def test_the_import_contracts_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_there_is_a_contract_for_each_folder_that_is_imported() -> None:
    forbidden = {
        contract["source_modules"][0]: set(contract["forbidden_modules"])
        for contract in project()["tool"]["importlinter"]["contracts"]
        if contract["type"] == "forbidden"
    }
    assert set(forbidden) == set(FOLDERS) - {"workers"}
    assert all("workers" in names for names in forbidden.values()), "nothing imports the edge"
    assert forbidden["models"] == set(FOLDERS) - {"models"}
    assert forbidden["email_templates"] == set(FOLDERS) - {"email_templates"}


def test_the_top_level_is_as_given() -> None:
    present = {path.relative_to(ROOT).parts[0] for path in files()}
    assert present <= TOP_LEVEL, "what is new here belongs into one of the folders"
    assert TOP_LEVEL - present <= {"benchmarks"}, "the layout lacks something"


def test_no_drawer_holds_what_has_no_subject() -> None:
    for path in files():
        names = {part.partition(".")[0].lower().strip("_") for part in path.relative_to(ROOT).parts}
        assert not names & DRAWERS, path


@pytest.mark.parametrize("path", modules(*FOLDERS), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert docstring, f"{path.relative_to(ROOT)} has no docstring"


def test_a_commit_is_checked_by_what_make_lint_runs() -> None:
    """The hooks of pre-commit are the commands of `make lint`, in its order, and come from nowhere else."""
    repos = YAML(typ="safe").load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    recipe = re.search(r"^lint:.*\n\t@(.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert recipe
    commands = recipe[1].replace("$(BIN)", ".venv/bin").split(" && ")
    assert [hook["entry"] for repo in repos for hook in repo["hooks"]] == commands
    assert all(hook["pass_filenames"] is False and hook["language"] == "system" for hook in repos[0]["hooks"])


def test_the_wheel_is_typed_for_all_who_install_it(tmp_path: Path) -> None:
    """Each package holds its own marker, and the wheel takes it along."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        marked = {name.removesuffix("/py.typed") for name in archive.namelist() if name.endswith("/py.typed")}
    assert marked == set(FOLDERS)


def test_no_file_names_a_registry() -> None:
    hosts = {*REGISTRIES, *_configured_registries()}
    pattern = re.compile("|".join(re.escape(host) for host in hosts))
    for path in files():
        try:
            content = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        found = pattern.search(content)
        assert found is None, f"{path.relative_to(ROOT)} names {found[0] if found else ''}"


def _configured_registries() -> set[str]:
    """Where this machine happens to get its packages from."""
    addresses = [value for name, value in os.environ.items() if "INDEX" in name and "://" in value]
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read(
        [Path("/etc/pip.conf"), Path("~/.config/pip/pip.conf").expanduser(), Path("~/.pip/pip.conf").expanduser()]
    )
    for section in parser.sections():
        addresses += [value for key, value in parser[section].items() if "index" in key]
    found = {urlsplit(address).hostname for value in addresses for address in value.split()}
    return {host for host in found if host and host not in {"localhost", "127.0.0.1"}}
