"""The data map's language: paths, names, and what a model says of its own table (T5)."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import ForeignKey, MetaData, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from models.data_map.map import (
    AccountKey,
    AccountKeys,
    Category,
    Columns,
    DataMapError,
    Hop,
    Name,
    ObjectPrefix,
    Path,
    Personal,
    RedisKeys,
    Shared,
    own_map,
    table_name,
)

ACCOUNT = AccountKeys(UUID("01a00000-0000-7000-8000-000000000000"), "acme")
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
HOPS = st.integers(1, 3).flatmap(
    lambda width: st.builds(
        Hop,
        st.tuples(*[NAMES] * width),
        st.builds(Name, NAMES, NAMES),
        st.tuples(*[NAMES] * width),
    )
)
PATHS = st.builds(Path, st.lists(HOPS, max_size=3).map(tuple), NAMES, st.sampled_from(AccountKey))


@given(PATHS)
def test_a_path_is_read_as_it_was_written(path: Path) -> None:
    assert Path.parse(str(path)) == path


@given(st.builds(Name, NAMES, NAMES))
def test_a_table_name_is_read_as_it_was_written(name: Name) -> None:
    assert table_name(str(name)) == name


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "does not end at the account"),
        ("customer_id", "does not end at the account"),
        ("customer_id = account.name", "does not end at the account"),
        ("invoice_id = invoice.id > customer_id = account.ref", 'the step "invoice_id = invoice.id"'),
        ("(a, b) = public.invoice.id > customer_id = account.ref", "compares 2 columns with 1"),
        ("> customer_id = account.ref >", None),
    ],
)
def test_a_path_that_cannot_be_read_is_an_error_in_a_sentence(written: str, said: str | None) -> None:
    if said is None:
        # Stray separators say nothing.
        assert str(Path.parse(written)) == "customer_id = account.ref"
        return
    with pytest.raises(DataMapError, match=said.replace("(", r"\(")):
        Path.parse(written)


def test_no_account_is_none_at_all() -> None:
    for keys in ((ACCOUNT.id, ""), (None, "acme"), (ACCOUNT.id, None)):
        with pytest.raises(DataMapError, match="one of them is missing"):
            AccountKeys(*keys)  # type: ignore[arg-type]


def test_prefixes_and_patterns_name_one_account() -> None:
    assert ObjectPrefix("files/{account_id}/", Category.SUBMITTED).of(ACCOUNT) == f"files/{ACCOUNT.id}/"
    pattern = RedisKeys("cart:{account_ref}:*", Category.SUBMITTED)
    assert pattern.of(AccountKeys(ACCOUNT.id, "a*[b]?")) == r"cart:a\*\[b\]\?:*"


class Undeclared(DeclarativeBase):
    metadata = MetaData(schema="rogue")


class Brought:
    __data_map_columns__ = Columns(exported="noted", left_out={})

    noted: Mapped[str] = mapped_column(Text)


class Known(Brought, Undeclared):
    __tablename__ = "known"
    __data_map__ = Personal(Category.SETUP, exported="id gone", left_out={"id": "twice"})

    id: Mapped[int] = mapped_column(primary_key=True)
    surplus: Mapped[str] = mapped_column(Text)


class Child(Known):
    """A subclass does not inherit what its parent says of another table."""

    __tablename__ = "child"

    id: Mapped[int] = mapped_column(ForeignKey("rogue.known.id"), primary_key=True)


class Catalogue(Undeclared):
    __tablename__ = "catalogue"
    __data_map__ = Shared("the same for all")

    id: Mapped[int] = mapped_column(primary_key=True)


def test_whatever_a_model_does_not_say_is_an_error_that_says_what_to_write() -> None:
    with pytest.raises(DataMapError) as said:
        own_map(Undeclared)
    assert sorted(str(said.value).split("; ")) == [
        "rogue.child is not in the data map: write __data_map__ = Personal(category, exported, left_out) into "
        f"{__name__}.Child, or Shared(reason) where nothing in it is about a customer",
        "rogue.known has no column gone, which Known.__data_map__ names: take it out",
        "rogue.known has the column surplus, of which the data map says nothing: in Known.__data_map__ name it in "
        'exported, or in left_out as {"surplus": "the reason"}',
        "the column id of rogue.known is both exported and left out in Known.__data_map__: choose one",
    ]
