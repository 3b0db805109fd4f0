"""The declarative base: one schema, one naming convention, and the column types that every table shares."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from sqlalchemy import TIMESTAMP, BigInteger, Enum, MetaData, String, Uuid, text
from sqlalchemy.orm import DeclarativeBase, mapped_column

SCHEMA = "tenure"

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

#: An instant, aware, in UTC.
timestamp = Annotated[datetime, mapped_column(TIMESTAMP(timezone=True))]
#: An instant that the database's clock gives when the row is written.
recorded = Annotated[datetime, mapped_column(TIMESTAMP(timezone=True), server_default=text("now()"))]
#: A primary key that sorts by the time of its making (RFC 9562, version 7).
uuid7 = Annotated[UUID, mapped_column(Uuid, primary_key=True, server_default=text("uuidv7()"))]
#: An amount in the currency's minor units: cents, yen, fils. Never a float, never a Decimal.
minor_units = Annotated[int, mapped_column(BigInteger)]
#: An ISO 4217 code; a check on the table keeps it three capital letters.
currency_code = Annotated[str, mapped_column(String(3))]

CURRENCY_CHECK = "currency ~ '^[A-Z]{3}$'"


class Base(DeclarativeBase):
    metadata = MetaData(schema=SCHEMA, naming_convention=NAMING_CONVENTION)


def one_of(values: type[StrEnum], *, name: str) -> Enum:
    """A text column that holds one of `values`, kept so by a check constraint called `name`."""

    def names(members: Any) -> list[str]:
        return [member.value for member in members]

    return Enum(values, native_enum=False, create_constraint=True, name=name, values_callable=names, length=32)
