"""The company that writes: what stands in every letterhead and footer."""

from __future__ import annotations

import re

import msgspec

_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+", re.ASCII)


class Company(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sender, from the caller's settings.

    `website` is a host name alone (`example.com`): the only link that our messages make is `https://` and this host.
    `registration` is free text such as a register entry and a VAT id, one item a line; `bank_account` is what one needs
    to pay by transfer, such as the bank, the IBAN and the BIC.
    """

    name: str
    address: tuple[str, ...]
    email: str
    website: str
    registration: tuple[str, ...] = ()
    bank_account: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("The company has no name: every message is signed with it, so set one.")
        if not _HOST.fullmatch(self.website):
            raise ValueError(
                f"The company's website is {self.website!r}, which is not a host name. "
                "Give the lower-case host alone, such as 'example.com'."
            )
