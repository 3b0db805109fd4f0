"""Where objects are written: only where the data map looks, so that export and purge find every object (T5, T20).

    AccountPlace(Statement, account_id, f"{statement.id}.pdf")     # below the prefix that the model declares
    FolderPlace(Folder.CERTIFICATES, "000042.json")                # one of Tenure's own folders

The object store takes a place, never a key. A place below a prefix that no model declares cannot be made.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from models.base.base import Base
from models.data_map.map import DataMapError, ObjectPrefix, Personal


class Folder(StrEnum):
    """Folders that belong to no account's prefix. Each says what removes its objects."""

    #: Sealed records of terminations and disclosures: their own steps remove them when the download is over.
    ARCHIVES = "archives"
    #: Copies of signed certificates, which hold no personal data: kept.
    CERTIFICATES = "certificates"
    #: Notes of erasures, which a restored database replays: kept.
    ERASURES = "erasures"

    @property
    def prefix(self) -> str:
        return f"{self.value}/"


@dataclass(frozen=True, slots=True)
class AccountPlace:
    """The object `name` of an account, below the prefix that `model` declares in `__data_map__`.

    Raises DataMapError if the model declares no prefix, more than one, or one that takes the account's ref.
    """

    model: type[Base]
    account_id: UUID
    name: str

    def __post_init__(self) -> None:
        _declared_prefix(self.model)
        _require_plain(self.name)

    @property
    def key(self) -> str:
        return _declared_prefix(self.model).prefix.replace("{account_id}", str(self.account_id)) + self.name


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """The object `name` in one of Tenure's own folders. Raises DataMapError for a name that leaves the folder."""

    folder: Folder
    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.folder, Folder):
            raise DataMapError(f"{self.folder!r} is none of Tenure's own folders: {', '.join(Folder)}")
        _require_plain(self.name)

    @property
    def key(self) -> str:
        return self.folder.prefix + self.name


ObjectPlace = AccountPlace | FolderPlace


def _declared_prefix(model: type[Base]) -> ObjectPrefix:
    declared = model.__dict__.get("__data_map__")
    prefixes = declared.objects if isinstance(declared, Personal) else ()
    if len(prefixes) != 1 or "{account_id}" not in prefixes[0].prefix:
        raise DataMapError(
            f"{model.__name__} stores objects and declares {len(prefixes)} prefixes for them: write "
            f'objects=(ObjectPrefix("NAME/{{account_id}}/", category, sealed=True),) into its __data_map__'
        )
    return prefixes[0]


def _require_plain(name: str) -> None:
    if not name or any(part in {"", ".", ".."} for part in name.split("/")):
        raise DataMapError(f"the object name {name!r} has an empty part or one of dots: use plain names")
