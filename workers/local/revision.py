"""Write the next revision of the schema, by comparing the models with a database that all revisions were applied to.

    python -m workers.local.revision usage_digests      # make revision NAME=usage_digests

A local PostgreSQL is started for it in a folder of its own, and stopped and removed at the end.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from alembic import command
from alembic.script import ScriptDirectory

from models.base.unit_of_work import Database
from models.schema import migrations
from workers.local import stack
from workers.local.errors import EmbeddedServerError

#: Alembic cuts a longer one for the name of the file.
LONGEST_NAME = 40


class RevisionError(Exception):
    """No revision was written; the sentence says why and what to do."""


def write(name: str, versions: Path | None = None) -> Path:
    """Write the next revision; return its file. Raises RevisionError, and writes nothing, if there is nothing to write.

    name: words in small letters, joined by underscores, such as `usage_digests`.
    versions: the folder of the revisions, if it is not that of this checkout.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or len(name) > LONGEST_NAME:
        raise RevisionError(
            f"{name!r} is no name for a revision: use small letters, digits and underscores, at most {LONGEST_NAME}"
            " characters, such as usage_digests."
        )
    # A short path that another user may enter: PostgreSQL does not run as root.
    directory = Path(tempfile.mkdtemp(prefix="tenure-"))
    directory.chmod(0o755)
    try:
        with stack.servers(directory, names=["postgres"]) as environment:
            database = Database(environment["TENURE_DATABASE_URL"], pool_size=1)
            try:
                return _write(database, name, versions)
            finally:
                database.engine.dispose()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _write(database: Database, name: str, versions: Path | None) -> Path:
    with database.connection() as connection:
        # Tables alone: triggers and functions of the models' present may need the one that is still to be made.
        migrations.apply_revisions(connection)
    with database.connection() as connection:
        config = migrations.config(connection)
        if versions is not None:
            config.set_main_option("version_locations", str(versions))
        known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
        written = command.revision(
            config,
            message=f"{name.replace('_', ' ').capitalize()}.",
            autogenerate=True,
            rev_id=f"{max(map(int, known), default=0) + 1:04}",
            process_revision_directives=_leave_out_if_empty,
        )
    if not written or isinstance(written, list):
        raise RevisionError("The models say what the revisions make: there is nothing to write. Change a model first.")
    return Path(written.path)


def _leave_out_if_empty(_context: Any, _revision: Any, directives: list[Any]) -> None:
    if all(directive.upgrade_ops.is_empty() for directive in directives):
        directives.clear()


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        click.echo("Name the revision: make revision NAME=usage_digests", err=True)
        return 2
    try:
        path = write(arguments[0])
    except (RevisionError, EmbeddedServerError) as error:
        click.echo(str(error), err=True)
        return 1
    click.echo(f"Wrote {path}. Read it, add what Alembic cannot know, and run tests/architecture/test_migrations.py.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
