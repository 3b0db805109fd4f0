"""The company that writes: what stands in every letterhead and footer."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import msgspec

_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+", re.ASCII)
_COUNTRY = re.compile("[A-Z]{2}", re.ASCII)
_COLOUR = re.compile("#[0-9a-fA-F]{6}", re.ASCII)
#: It is kept with each version of the letterhead.
_LOGO_LENGTH = 100_000


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
    #: The seller's tax number, such as a VAT id, and ISO 3166-1 alpha-2 country, kept with each invoice for e-invoices
    #: (B10); what a reader is shown of it stands in `registration`.
    tax_id: str = ""
    country: str = ""
    #: An SVG picture that stands for the name in documents, and their colour as `#rrggbb`.
    logo: str = ""
    accent: str = "#1f5f5b"

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("The company has no name: every message is signed with it, so set one.")
        if not _HOST.fullmatch(self.website):
            raise ValueError(
                "The company's website is not a host name. Give the lower-case host alone, such as 'example.com'."
            )
        if self.country and not _COUNTRY.fullmatch(self.country):
            raise ValueError(f"The company's country is {self.country!r}: write its two capital letters, such as 'AT'.")
        if not _COLOUR.fullmatch(self.accent):
            raise ValueError("The company's colour is not one: write it as six hex digits, such as '#1f5f5b'.")
        if self.logo and (len(self.logo) > _LOGO_LENGTH or not _is_svg(self.logo)):
            raise ValueError(
                f"The company's logo is not an SVG picture of {_LOGO_LENGTH:,} characters at the most: "
                "give the text of an .svg file."
            )


def _is_svg(picture: str) -> bool:
    try:
        # The operator's own file, and no document type in it: nothing to expand.
        return "<!" not in picture and ElementTree.fromstring(picture).tag.endswith("svg")  # noqa: S314
    except ElementTree.ParseError:
        return False
