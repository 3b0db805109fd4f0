"""No modules of ours import each other in a circle, nor do folders at any depth.

The contracts of type `layers` in `pyproject.toml` put the rooms of a folder in a line. The contract of type
`acyclic_siblings` says the same of what stands side by side inside a room, files and folders, down to the last one; it
passes over what a package's own `__init__.py` imports. The test of files does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

from tests.architecture.repository import FOLDERS, project

CONTRACT = """
[importlinter]
root_package = {name}
[importlinter:contract:1]
name = no circles
type = acyclic_siblings
ancestors = {name}
"""


def circle(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """Return modules that import each other in a circle, the first one again at the end, or nothing."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph(*FOLDERS, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert sum(map(len, imports.values())) > 1_000, "that there is something to check"
    assert circle(imports) == []


def test_a_contract_forbids_circles_of_folders_everywhere() -> None:
    """`test_layout.py` runs it."""
    contracts = [each for each in project()["tool"]["importlinter"]["contracts"] if each["type"] == "acyclic_siblings"]
    assert [set(each["ancestors"]) for each in contracts] == [set(FOLDERS)]
    assert [each.keys() - {"name", "type", "ancestors"} for each in contracts] == [set()], "nothing is left out"


def test_a_circle_of_files_is_found() -> None:
    assert circle({"a": "bc", "b": "d", "c": "d"}) == []
    assert sorted(circle({"a": "b", "b": "c", "c": "b"})[1:]) == ["b", "c"]


@pytest.mark.parametrize(("name", "found"), [("circle", True), ("line", False)])
def test_a_circle_of_folders_below_a_room_is_found_where_files_have_none(
    name: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mail.smtp` imports `mail.ses`, another file of which imports one of `mail.smtp`."""
    name = f"mail_in_a_{name}"
    files = {
        "mail/smtp/send.py": f"from {name}.mail.ses import reply",
        "mail/smtp/connection.py": "",
        "mail/ses/reply.py": "",
        "mail/ses/send.py": f"from {name}.mail.smtp import connection" if found else "",
    }
    for path, content in files.items():
        (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name / path).write_text(content)
    for folder in [tmp_path / name, *(tmp_path / name).rglob("*")]:
        if folder.is_dir():
            (folder / "__init__.py").touch()
    (tmp_path / "contract.ini").write_text(CONTRACT.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)
    assert lint_imports(config_filename=str(tmp_path / "contract.ini"), no_cache=True) == int(found)
