"""Alembic's entry: migrates over the connection that it is given (see the package's docstring)."""

from __future__ import annotations

from alembic import context

from models.base.base import SCHEMA, Base
from models.schema import migrations
from models.schema.migrations import VERSION_TABLE

connection = context.config.attributes["connection"]
# A role may be called as the schema is; then PostgreSQL takes the schema for its default one, and Alembic, which leaves
# a default schema unnamed, would not find a single table of ours.
connection.dialect.default_schema_name = "public"
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    include_schemas=True,
    include_name=migrations.ours,
    version_table=VERSION_TABLE,
    version_table_schema=SCHEMA,
    compare_server_default=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
