"""Every table and column of Tenure is in the data map (T5, T7)."""

from __future__ import annotations

from models.base.base import SCHEMA, Base
from models.data_map.map import Name, own_map


def test_every_model_says_what_it_holds() -> None:
    # Raises with all that is missing, and what to write.
    mapped = own_map(Base)
    found = [each.name for each in mapped.tables] + [each.name for each in mapped.unmapped]
    assert sorted(found) == sorted(Name(SCHEMA, table.name) for table in Base.metadata.tables.values())


def test_tables_stand_after_those_that_they_refer_to() -> None:
    names = [each.name.table for each in own_map(Base).tables]
    for position, name in enumerate(names):
        parents = {key.column.table.name for key in Base.metadata.tables[f"{SCHEMA}.{name}"].foreign_keys}
        assert not parents & set(names[position + 1 :]), name
