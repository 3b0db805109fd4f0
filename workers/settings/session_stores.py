"""The session stores of other programs, as the settings name them (S5): TOML, read once, checked before anything else.

[[store]]
name = "shop"
kind = "django"                            # its table and columns are known; `sql` asks for them
url = "postgresql://tenure@db/shop?sslmode=verify-full"     # without one: Tenure's own database

[[store]]
name = "api"
kind = "redis"
url = "rediss://:password@cache:6379/0"
prefix = "sess:"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qs

import msgspec

from models.sessions.sweep import OWN

#: What the result of a sweep says besides the names of stores.
RESERVED = {OWN, "cut", "unfinished"}
#: A prefix that is shorter matches too much to be meant.
PREFIX_LENGTH = 3
#: Keys that Celery and Tenure keep in the same server.
OURS = ("tenure:", "celery", "_kombu.", "unacked")
#: How long a session lasts, in hours, where nothing else is said.
DAY = 24.0

#: What the libraries write, as they come.
KNOWN: Mapping[str, Mapping[str, Any]] = {
    "sql": {},
    "django": {"table": "django_session", "key": "session_key", "expires": "expire_date"},
    "flask-session": {"table": "sessions", "key": "id", "expires": "expiry"},
    "connect-pg-simple": {"table": "session", "key": "sid", "expires": "expire"},
    "activerecord": {"table": "sessions", "key": "id", "created": "created_at"},
}


class SQLTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sessions in a table, a row each."""

    name: str
    kind: str
    #: `table`, or `schema.table`.
    table: str
    #: A column that no two rows share, by which rows are deleted.
    key: str
    #: When the session ends, or when it began: one of both. A timestamp without a zone is UTC.
    expires: str | None = None
    created: str | None = None
    #: The column is a whole number since 1970.
    epoch: Literal["seconds", "milliseconds"] | None = None
    #: How many hours the application gives a session: what `expires` is counted back by to when it was last written.
    lifetime_hours: float = DAY
    #: Rows deleted in one transaction.
    batch: int = 10_000
    url: str | None = None
    url_file: str | None = None

    def __post_init__(self) -> None:
        if (self.expires is None) == (self.created is None):
            raise ValueError("give either `expires` or `created`, the column that says when a session ends or began")
        if not 0 < self.batch <= 30_000:
            raise ValueError("`batch` is 1 to 30000 rows")
        if self.lifetime_hours <= 0 or (self.created and self.lifetime_hours != DAY):
            raise ValueError("`lifetime_hours` is more than 0, and goes with `expires` alone")

    @property
    def column(self) -> str:
        return self.expires or self.created or ""


class RedisKeys(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sessions in Redis or Valkey, a key each."""

    name: str
    kind: Literal["redis"]
    #: What all their keys begin with, and no others: no pattern.
    prefix: str
    url: str | None = None
    url_file: str | None = None

    def __post_init__(self) -> None:
        if self.url is None and self.url_file is None:
            raise ValueError("a store in Redis needs `url` or `url_file`")
        if len(self.prefix.strip()) < PREFIX_LENGTH or re.search(r"[*?\[\]\\\s]", self.prefix):
            raise ValueError(
                "`prefix` would match keys that are no sessions: write the at least three characters with which the "
                "sessions' keys begin, not a pattern"
            )
        if any(ours.startswith(self.prefix) or self.prefix.startswith(ours) for ours in OURS):
            raise ValueError("`prefix` matches keys of Celery or Tenure: give the sessions a prefix of their own")


Store = SQLTable | RedisKeys
Linked = TypeVar("Linked", SQLTable, RedisKeys)


def parse(toml: str, *, production: bool) -> Sequence[Store]:
    """The stores of the setting. Raises ValueError, which names store and field and quotes no address."""
    try:
        written = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"the session stores are not TOML: {error}") from None
    tables = written.pop("store", [])
    if written or not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise ValueError("the session stores are tables [[store]], and nothing else")
    stores = [_store(each, production) for each in tables]
    names = [store.name for store in stores]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two session stores are called {doubled[0]!r}: each needs a name of its own")
    return stores


def _store(written: Mapping[str, Any], production: bool) -> Store:
    name = written.get("name")
    if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9-]{0,39}", name) or name in RESERVED:
        raise ValueError("a session store has a `name` of a-z, 0-9 and -, which is not " + ", ".join(sorted(RESERVED)))
    kind = written.get("kind")
    if kind != "redis" and kind not in KNOWN:
        raise ValueError(f"session store {name!r}: `kind` is one of {', '.join([*KNOWN, 'redis'])}")
    try:
        if kind == "redis":
            return _linked(msgspec.convert(dict(written), RedisKeys), production)
        filled: dict[str, Any] = {**KNOWN[str(kind)], **written}
        if "expires" in written or "created" in written:
            # What a library is known for does not stand beside what was said instead.
            filled = {
                key: value for key, value in filled.items() if key in written or key not in {"expires", "created"}
            }
        return _linked(msgspec.convert(filled, SQLTable), production)
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(f"session store {name!r}: {error}") from None


def _linked(store: Linked, production: bool) -> Linked:
    """With the address that its file holds, and over TLS where that is demanded (P5.1a)."""
    if store.url_file is not None:
        try:
            store = msgspec.structs.replace(store, url=Path(store.url_file).read_text(encoding="utf-8").strip())
        except OSError as error:
            raise ValueError(f"`url_file` names {store.url_file}, which cannot be read: {error.strerror}") from None
    if store.url is None:
        return store
    scheme, _, rest = store.url.partition(":")
    if (scheme.startswith("redis")) != isinstance(store, RedisKeys) or not rest:
        raise ValueError("`url` is no address of this kind of store")
    asked = parse_qs(store.url.partition("?")[2])
    encrypted = {
        "postgresql": asked.get("sslmode", [""])[0] in {"verify-ca", "verify-full"},
        "rediss": True,
        "redis": False,
        "sqlite": True,
    }.get(scheme.partition("+")[0], "ssl_ca" in asked)
    if production and not encrypted:
        raise ValueError(
            "`url` is a link without TLS, and sessions travel over it: use ?sslmode=verify-full (PostgreSQL), "
            "rediss:// or ?ssl_ca=... (MySQL), or TENURE_MODE=local on your own machine"
        )
    return store
