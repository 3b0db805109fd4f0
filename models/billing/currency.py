"""The currencies that a ledger may hold (ISO 4217), as SQL sees them; `models.base.money` lists them."""

from __future__ import annotations

from sqlalchemy import Connection, SmallInteger, String
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models.base.base import Base
from models.base.money import CURRENCIES
from models.data_map.map import Shared


class Currency(Base):
    """Published by `tenure migrate`. Codes that went out of use stay: a ledger may hold them."""

    __tablename__ = "currencies"
    __data_map__ = Shared("ISO 4217")

    code: Mapped[str] = mapped_column(String(3), primary_key=True)
    #: Decimals of the minor unit.
    digits: Mapped[int] = mapped_column(SmallInteger)


def publish(connection: Connection) -> None:
    statement = insert(Currency).values([{"code": code, "digits": digits} for code, digits in CURRENCIES.items()])
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["code"],
            set_={"digits": statement.excluded.digits},
            where=Currency.digits != statement.excluded.digits,
        )
    )
