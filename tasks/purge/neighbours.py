"""Whether what finds one account's objects or keys finds another's, too (T20)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection, text

from models.data_map.map import AccountKeys, DataMap
from tasks.failures import Permanent

_REF: Final = "{account_ref}"
_NEIGHBOUR = text("""
    SELECT EXISTS (SELECT FROM tenure.accounts WHERE id <> :id AND (
        :follows AND starts_with(ref, :ref || :ends)
        OR CAST(:opens AS text) IS NOT NULL AND (
           right(ref, length(:ref) + length(:opens)) = CAST(:opens AS text) || :ref
           OR :follows AND strpos(ref, CAST(:opens AS text) || :ref || :ends) > 0)))""")


def patterns(mapped: DataMap) -> list[str]:
    """All by which a map finds what lies in no table, as it writes them."""
    return [*(each.prefix for each in mapped.objects), *(each.pattern for each in mapped.redis)]


def refuse_neighbours(connection: Connection, patterns: Iterable[str], account: AccountKeys) -> None:
    """Raises Permanent where a prefix or a pattern of this account would find what is another account's.

    `files/{account_ref}/` of an account `a` also begins the keys of an account `a/b`, `cart:*:{account_ref}` of `b`
    matches those of `a:b`, `cart:*:{account_ref}:*` of `b` those of `a:b:c`, and `cart:*{account_ref}` of `b` those of
    `ab`.
    """
    for written in patterns:
        before, found, after = written.partition(_REF)
        if not found:
            continue
        # What goes on after the ref: a literal that ends it, or nothing that does.
        ends = re.split(r"[*?\[{]", after)[0][:1]
        # The same before it: a literal, nothing after a wildcard, and None where only this can stand there.
        opens = re.split(r"[*?\]}]", before)[-1][-1:] if re.search(r"[*?\[]", before) else None
        values = {"id": account.id, "ref": account.ref, "ends": ends, "opens": opens, "follows": bool(after)}
        if connection.execute(_NEIGHBOUR, values).scalar_one():
            raise Permanent(
                f"{written} of this account would also find what belongs to another account, whose ref begins or ends "
                "with this one's: write {account_id} instead of {account_ref}, or keep these apart, then retry."
            )
