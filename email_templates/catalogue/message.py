"""What every message of the catalogue is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Final, Self

import msgspec

_PAGE: Final = re.compile(r"(/[A-Za-z0-9_~-]+(\.[A-Za-z0-9_~-]+)*){1,8}", re.ASCII)


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a context that is a record of its own."""


class Message(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The context of one message to one recipient, and what is true of every such message.

    The fields are what the e-mail row keeps as JSON and what the templates see. Amounts are integers of minor units
    (ISO 4217); instants are aware.
    """

    #: The folder's name; public, and stored in e-mail rows.
    name: ClassVar[str]
    #: The promise of the privacy policy that the message serves.
    promise: ClassVar[str]
    #: Said to whoever audits P3.1e.
    why_not_marketing: ClassVar[str]
    #: Goes out before bulk mail.
    urgent: ClassVar[bool] = False
    #: A copy too many does less harm than none: sent once more where nobody can tell whether it arrived (E10).
    resend_if_unknown: ClassVar[bool] = False
    #: One can do without it: offers List-Unsubscribe (RFC 8058, E8). Never what concerns money, access or an ending.
    optional: ClassVar[bool] = False
    #: Not sent without a final check, which decides at the last moment whether it may leave (B12).
    needs_final_check: ClassVar[bool] = False

    #: Goes to an address that nobody has confirmed: a stranger may have entered it, and names of his choice with it.
    unconfirmed: ClassVar[bool] = False

    @classmethod
    def examples(cls) -> Mapping[str, Self]:
        """Believable contexts by variant; the variant `""` is the one that a preview shows first."""
        raise NotImplementedError(f"The message {cls.name!r} shows no example of itself.")


def check_page(page: str) -> None:
    """ValueError unless `page` is a path of our own site: no query, no fragment, nothing that could count clicks."""
    if not _PAGE.fullmatch(page):
        raise ValueError(f"The page {page!r} is not a plain path of our own site, such as '/exports/4f2a'.")


def check_amounts(what: str, **amounts: int) -> None:
    """ValueError where one of the amounts is negative."""
    for name, minor in amounts.items():
        if minor < 0:
            raise ValueError(f"{what}: {name} is {minor}, and it is never negative.")


def check_sum(what: str, parts: int, whole: int, said: str) -> None:
    """ValueError unless the parts make the whole, exactly (B1). `said` names the sum: "net and tax make the total"."""
    if parts != whole:
        raise ValueError(f"{what} does not add up: {said}, and {parts} is not {whole}.")
