"""An object is written only where the data map looks (T5, T20): every other place is refused before it is one (W31)."""

from __future__ import annotations

from uuid import uuid4

import pytest

from models.base.base import Base
from models.billing.statement import Statement
from models.customers.account import Account
from models.data_map.map import AccountKeys, DataMapError, own_map
from models.data_map.places import AccountPlace, Folder, FolderPlace


def test_an_account_place_lies_below_the_prefix_that_its_model_declares() -> None:
    account = uuid4()
    place = AccountPlace(Statement, account, "4f2a.pdf")
    assert place.key == f"statements/{account}/4f2a.pdf"
    (declared,) = (each for each in own_map(Base).objects if each.prefix.startswith("statements/"))
    assert place.key.startswith(declared.of(AccountKeys(account, "acme")))


def test_a_model_that_declares_no_prefix_has_no_place() -> None:
    with pytest.raises(DataMapError, match=r"Account stores objects and declares 0 prefixes.*write objects="):
        AccountPlace(Account, uuid4(), "4f2a.pdf")


@pytest.mark.parametrize("name", ["", "/x", "../statements/x", "a/../b", "a//b", "."])
def test_a_name_cannot_leave_its_place(name: str) -> None:
    with pytest.raises(DataMapError, match="use plain names"):
        AccountPlace(Statement, uuid4(), name)
    with pytest.raises(DataMapError, match="use plain names"):
        FolderPlace(Folder.CERTIFICATES, name)


def test_a_folder_that_is_not_ours_is_no_place() -> None:
    with pytest.raises(DataMapError, match="none of Tenure's own folders: archives, certificates, erasures"):
        FolderPlace("digests", "4f2a.pdf")  # type: ignore[arg-type]
