"""`make revision` writes the next revision from the models, or says that there is nothing to write (W34)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.schema import migrations
from tests.support.time.deadlines import deadline
from workers.local import revision


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """A copy of the revisions."""
    copied = tmp_path / "versions"
    shutil.copytree(migrations.HERE / "versions", copied, ignore=shutil.ignore_patterns("__pycache__"))
    return copied


#: A program in which the models have a table that no revision makes; the argument is the folder of the revisions.
A_NEW_MODEL = """
import sys
from pathlib import Path
from uuid import UUID
from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column
from models.base.base import Base, uuid7
from models.data_map.map import Category, Personal
from workers.local import revision

class UsageDigest(Base):
    __tablename__ = "usage_digests"
    __data_map__ = Personal(Category.MACHINE, exported="id account_id")
    id: Mapped[uuid7]
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"))

print(revision.write("usage_digests", Path(sys.argv[1])))
"""


def test_the_next_revision_makes_what_the_models_say_beyond_the_others(versions: Path) -> None:
    """Of an account's own table, too, before which a fence is to stand that needs the table."""
    earlier = sorted(path.name for path in versions.glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-c", A_NEW_MODEL, str(versions)],
        capture_output=True,
        text=True,
        check=False,
        timeout=deadline(60),
    )
    assert done.returncode == 0, done.stderr

    last = int(earlier[-1][:4])
    written = versions / f"{last + 1:04}_usage_digests.py"
    assert done.stdout.splitlines()[-1] == str(written)
    assert sorted(path.name for path in versions.glob("*.py")) == [*earlier, written.name]
    source = written.read_text()
    assert source.startswith('"""Usage digests."""')
    assert f"revision = '{last + 1:04}'\ndown_revision = '{last:04}'" in source
    assert source.count("op.create_table(") == source.count("op.create_table('usage_digests'") == 1
    assert "op.drop" not in source


def test_nothing_is_written_while_the_models_say_what_the_revisions_make(versions: Path) -> None:
    before = sorted(versions.glob("*.py"))
    with pytest.raises(revision.RevisionError, match="there is nothing to write"):
        revision.write("usage_digests", versions)
    assert sorted(versions.glob("*.py")) == before


@pytest.mark.parametrize("name", ["", "Usage", "usage digests", "../usage", "_usage", "0002_usage", "a" * 41])
def test_a_name_that_is_no_file_name_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert revision.main([name]) == 1
    assert "use small letters" in capsys.readouterr().err


def test_a_revision_without_a_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert revision.main([]) == 2
    assert "make revision NAME=" in capsys.readouterr().err
